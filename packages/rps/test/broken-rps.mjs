/**
 * An RPS that verifies wrongly, as a process: BROKEN_RPS=accepts-everything or ignores-permits, and the arguments of
 * the real one. Wants the built packages.
 */
import { runRps } from '@milagro-ts/rps/rps-process'
import { acceptsEverything, ignoresPermits } from './broken-verification.mjs'

const faults = { 'accepts-everything': acceptsEverything, 'ignores-permits': ignoresPermits }
const name = process.env.BROKEN_RPS ?? ''
if (!(name in faults)) throw new Error(`BROKEN_RPS is one of ${Object.keys(faults).join(', ')}`)
await runRps({ verify: faults[/** @type {keyof typeof faults} */ (name)] })
