/**
 * Where a device keeps what it must not lose and nobody else may read: one text, replaced whole. Adapters: memory
 * (here), a file (file-token-store.ts); a browser's IndexedDB does as well. What stands in the text is record.ts.
 */

/**
 * `replace` is compare and swap: of two that start from the same text one gets true, and the other one's change is
 * made again on top of it or not at all. This is what keeps one PIN key from being split twice by two processes.
 */
export interface TokenStore {
  /** The text last written; null when there is none. */
  read(): Promise<string | null>
  /**
   * Writes `next` if the text is still `former`. True: it is durable, and the former text is gone. False: somebody
   * else has written. A throw: one of both texts is there, whole.
   */
  replace(former: string | null, next: string): Promise<boolean>
}

/** For tests, and for devices that enrol at every start. */
export function memoryTokenStore(): TokenStore {
  let kept: string | null = null
  return {
    read: () => Promise.resolve(kept),
    replace: (former, next) => {
      if (kept !== former) return Promise.resolve(false)
      kept = next
      return Promise.resolve(true)
    },
  }
}
