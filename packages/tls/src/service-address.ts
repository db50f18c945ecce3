/** Where the service behind a gateway is: at a TCP port, or at a Unix domain socket, which only those reach who may enter its folder. */
export type ServiceAddress =
  | { readonly host: string; readonly port: number }
  /** Absolute. */
  | { readonly path: string }

/**
 * Bytes of the longest path of a socket: `sun_path` without its NUL, which has 108 on Linux, 104 on macOS and the BSDs. Node cuts a
 * longer path off without a word, and would reach another file.
 */
export const LONGEST_SOCKET_PATH = process.platform === 'linux' ? 107 : 103

export function isSocketPathTooLong(path: string): boolean {
  return Buffer.byteLength(path) > LONGEST_SOCKET_PATH
}
