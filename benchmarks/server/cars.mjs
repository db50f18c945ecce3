/**
 * Cars that log in, a process of their own: a nonce, a proof, a login, as a device does. What they are told with
 * RETRY_LATER they do after Retry-After; any other refusal is wrong here, since they are all enrolled.
 */
import { Agent, request } from 'node:http'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { deviceIdentityPoint } from '@milagro-ts/crypto/identity'
import { clientProve, MODE } from '@milagro-ts/crypto/mpin'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { AUDIENCE, carOf } from './world.mjs'

/**
 * @typedef {object} Task
 * @property {string} url
 * @property {string} groupId
 * @property {string} secret   s of `device`
 * @property {number} from     the first car
 * @property {number} cars
 * @property {number} logins   altogether
 * @property {number} parallel cars at once; 0: each car by itself, all at once
 */
const task = /** @type {Task} */ (JSON.parse(process.argv[2] ?? '{}'))
const groupId = fromBase64Url(task.groupId, 'groupId', 32)
const secret = Scalar.decode(fromBase64Url(task.secret, 'secret', 32))
const agent = new Agent({ keepAlive: true, maxSockets: 256 })

/** @param {string} path @param {object} body @returns {Promise<{status: number, retryAfter: number, json: any}>} */
function post(path, body) {
  return new Promise((resolve, reject) => {
    const text = JSON.stringify(body)
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
    const call = request(`${task.url}${path}`, { method: 'POST', agent, headers }, answer => {
      let received = ''
      answer.setEncoding('utf8')
      answer.on('data', part => {
        received += part
      })
      answer.on('end', () =>
        resolve({
          status: answer.statusCode ?? 0,
          retryAfter: Number(answer.headers['retry-after'] ?? 1),
          json: JSON.parse(received),
        }),
      )
    })
    call.on('error', reject)
    call.end(text)
  })
}
const later = (/** @type {number} */ seconds) => new Promise(resolve => setTimeout(resolve, seconds * 1000))

const keys = Array.from({ length: task.cars }, (_, i) => {
  const idCore = carOf(groupId, task.from + i)
  return { idCore, deviceKey: deviceIdentityPoint(groupId, idCore).mulSecret(secret) }
})

/** Milliseconds from the first request to the token. @type {number[]} */
const times = []
let retries = 0
/** @type {Record<string, number>} */
const wrong = {}
let begun = 0
/** Unix milliseconds after which nothing is begun. */
let until = 0
let broken = 0

async function logIn(/** @type {(typeof keys)[number]} */ { idCore, deviceKey }) {
  const start = performance.now()
  while (Date.now() < until) {
    const answer = await attempt(idCore, deviceKey)
    if (answer.status === 200) {
      times.push(performance.now() - start)
      return
    }
    if (answer.json.code !== 'RETRY_LATER') {
      wrong[answer.json.code] = (wrong[answer.json.code] ?? 0) + 1
      return
    }
    retries++
    await later(answer.retryAfter)
  }
}

async function attempt(
  /** @type {(typeof keys)[number]['idCore']} */ idCore,
  /** @type {(typeof keys)[number]['deviceKey']} */ deviceKey,
) {
  const asked = await post('/v1/nonces', {})
  if (asked.status !== 200) return asked
  const { nonce, slot, deviceEpoch } = asked.json
  const terms = {
    mode: MODE.nonce,
    audience: AUDIENCE,
    deviceEpoch,
    slot,
    idCore,
    nonce: fromBase64Url(nonce, 'nonce', 32),
  }
  const message = clientProve({ terms, binding: { groupId }, deviceKey, random: systemRandom })
  return post('/v1/logins', { login: message.toJson() })
}

/** One after the other, until all logins are begun. */
async function drive() {
  while (begun < task.logins && Date.now() < until) {
    const key = keys[begun++ % keys.length]
    if (key === undefined) return
    await logIn(key).catch(() => {
      broken++
    })
  }
}

process.once('message', async message => {
  until = /** @type {{until: number}} */ (message).until
  const before = process.cpuUsage()
  await Promise.all(Array.from({ length: task.parallel === 0 ? task.logins : task.parallel }, drive))
  const { user, system } = process.cpuUsage(before)
  process.send?.({ times, retries, wrong, broken, cpuMs: (user + system) / 1000 })
  process.disconnect()
  agent.destroy()
})
process.send?.('ready')
