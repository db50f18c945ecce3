/** An RPS that verifies everything but the time permit. `npm start -- --check` must notice. */
import { runRps } from '@milagro-ts/rps/rps-process'
import { verification } from '@milagro-ts/rps/verification'

const withoutPermit = attempt => ({ ...attempt, needsPermit: false })

await runRps({
  verify: {
    device: (ports, attempt) => verification.device(ports, withoutPermit(attempt)),
    identity: (ports, attempt) => verification.identity(ports, withoutPermit(attempt)),
  },
})
