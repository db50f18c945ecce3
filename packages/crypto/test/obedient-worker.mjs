/**
 * A worker for the tests of the pool: it computes nothing. A device proof holds unless its message begins with 0, a
 * permit always; messages that begin with 66 end the thread, 13 is what an engine would throw.
 */
import { parentPort } from 'node:worker_threads'

parentPort?.on('message', ({ id, job, input }) => {
  const [items] = input
  if (job === 'devices') {
    if (items.some((/** @type {{ message: Uint8Array }} */ { message }) => message[0] === 66)) process.exit(1)
    const outcomes = items.map((/** @type {{ message: Uint8Array }} */ { message }) =>
      message[0] === 1 ? { field: 'uDev', why: 'not a point of G1' } : message[0] !== 0,
    )
    parentPort?.postMessage({ id, result: outcomes })
  } else if (job === 'permits') parentPort?.postMessage({ id, result: items.map(() => true) })
  else if (job === 'serverKeys') parentPort?.postMessage({ id, result: items.map(() => true) })
  else if (job === 'pin') parentPort?.postMessage({ id, result: true })
  else parentPort?.postMessage({ id, error: 'nothing like it' })
})
