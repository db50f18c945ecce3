/** Standard input and output of the process, as the commands that move bytes want them. */
import { fstatSync } from 'node:fs'
import { Readable } from 'node:stream'
import type { ByteStreams } from './io.js'

export function processStreams(): ByteStreams {
  return {
    input: () => Readable.toWeb(process.stdin) as ReadableStream<Uint8Array>,
    close: () => {
      process.stdin.destroy()
    },
    get inputSize() {
      const stat = fstatSync(process.stdin.fd)
      return stat.isFile() ? stat.size : undefined
    },
    output: bytes =>
      new Promise((resolve, reject) => {
        process.stdout.write(bytes, error => (error == null ? resolve() : reject(error)))
      }),
    isWatched: process.stderr.isTTY === true,
  }
}
