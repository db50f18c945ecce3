/**
 * A worker for the tests of the pool: it computes nothing. A device proof holds unless its message begins with 0, a
 * permit unless it is empty; messages that begin with 66 end the thread, 13 is what an engine would throw. An IVK in shared memory is
 * a gate: who comes second waits there.
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
  } else if (job === 'permits') parentPort?.postMessage({ id, result: items.map(isPermit) })
  else if (job === 'externalPsks')
    parentPort?.postMessage({ id, result: items.map(() => new Uint8Array(32)) })
  else if (job === 'serverKeys') {
    waitAtGate(items[0]?.ivk)
    parentPort?.postMessage({ id, result: items.map(() => true) })
  } else if (job === 'pin') parentPort?.postMessage({ id, result: true })
  else parentPort?.postMessage({ id, error: 'nothing like it' })
})

/** @param {{ permit?: Uint8Array }} item */
function isPermit({ permit }) {
  return permit?.length !== 0
}

/** @param {Uint8Array | undefined} ivk */
function waitAtGate(ivk) {
  if (!(ivk?.buffer instanceof SharedArrayBuffer)) return
  const gate = new Int32Array(ivk.buffer)
  if (Atomics.add(gate, 1, 1) === 1) Atomics.wait(gate, 0, 0)
}
