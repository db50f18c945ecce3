/** An RPS that believes every message. `npm start -- --check` must notice. */
import { runRps } from '@milagro-ts/rps/rps-process'

/** What a verification would have made of the message, had it verified it. */
const believed = message => ({
  idCore: message.idCore,
  userCore: message.pin?.userCore ?? new Uint8Array(),
  amr: message.pin === undefined ? ['device'] : ['device', 'pin'],
  slot: message.slot,
  mode: message.mode,
  audience: message.audience,
  payloadHash: message.payloadHash,
})

await runRps({
  verify: {
    device: async (_ports, { message }) => ({ proven: { message }, permit: undefined }),
    identity: async (_ports, { message }) => ({ authenticated: believed(message), permit: undefined }),
  },
})
