// Holds a lock until it is ended, and never lets go by itself: node hold-lock.mjs FILE
import { writeSync } from 'node:fs'
import { withFileLock } from '@milagro-ts/store/file-lock'

await withFileLock(process.argv[2], () => {
  writeSync(1, 'held\n')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
})
