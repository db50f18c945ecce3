/** An RPS that tells services of a ban only after 20 seconds. `npm start -- --check` must notice. */
import { SseWriter } from '@milagro-ts/api/sse'
import { runRps } from '@milagro-ts/rps/rps-process'

const LATE = 20_000
const { send } = SseWriter.prototype
const isBan = ({ data }) => JSON.parse(Buffer.from(data.split('.')[1], 'base64url')).kind === 'ban'

SseWriter.prototype.send = function (event) {
  if (isBan(event)) setTimeout(() => send.call(this, event), LATE)
  else send.call(this, event)
}

await runRps()
