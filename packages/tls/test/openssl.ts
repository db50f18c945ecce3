/** OpenSSL's own client and server, where the program is here. */
import { spawn, spawnSync } from 'node:child_process'

/** Its version, or undefined: then the suites that need it are skipped, with this one line. */
export const opensslVersion = versionOf()
function versionOf(): string | undefined {
  const { status, stdout } = spawnSync('openssl', ['version'], { encoding: 'utf8' })
  if (status === 0) return stdout.trim()
  console.log('openssl is not here: no handshake with a stranger is tested')
  return undefined
}

export const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

/** Runs it until it ends, or until its output has `until`; both outputs in one text. */
export function openssl(args: readonly string[], { until }: { until?: RegExp } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('openssl', args, { stdio: ['pipe', 'pipe', 'pipe'] })
    let text = ''
    const heard = (chunk: Buffer) => {
      text += chunk.toString('latin1')
      if (until?.test(text) === true) child.kill()
    }
    child.stdout.on('data', heard)
    child.stderr.on('data', heard)
    child.on('error', reject)
    child.on('close', () => resolve(text))
  })
}

/** A server of its own that answers each line backwards (`-rev`), until `end`. */
export async function opensslServer(
  args: readonly string[],
): Promise<{ readonly port: number; readonly output: () => string; end(): Promise<void> }> {
  const child = spawn('openssl', ['s_server', '-accept', '127.0.0.1:0', '-nocert', '-rev', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  const ended = new Promise<void>(resolve => child.on('close', () => resolve()))
  const port = await new Promise<number>((resolve, reject) => {
    const heard = (chunk: Buffer) => {
      text += chunk.toString('latin1')
      const at = /ACCEPT 127\.0\.0\.1:(\d+)/.exec(text)?.[1]
      if (at !== undefined) resolve(Number(at))
    }
    child.stdout.on('data', heard)
    child.stderr.on('data', heard)
    child.on('error', reject)
    child.on('close', () => reject(new Error(`openssl s_server ended: ${text}`)))
  })
  return {
    port,
    output: () => text,
    async end() {
      child.kill()
      await ended
    },
  }
}
