/**
 * A relay between a device and the RPS that puts its own enrolment key into registrations, to receive the shares
 * itself: `node dist/relay-main.js --target http://rps`. Part of `--check`.
 */
import { parseArgs } from 'node:util'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { forward } from './forwarding.js'

const { values } = parseArgs({ options: { target: { type: 'string' } } })
const hpkeKey = toBase64Url((await generateHpkeKey(systemRandom)).publicKey)
const url = await forward({
  port: 0,
  target: values.target ?? '',
  onRequest: async request => {
    if (request.url !== '/v1/registrations') return request
    const registration = JSON.parse(request.body.toString()) as Record<string, unknown>
    return { ...request, body: Buffer.from(JSON.stringify({ ...registration, hpkeKey })) }
  },
})
process.stdout.write(`${JSON.stringify({ event: 'ready', url, pid: process.pid })}\n`)
