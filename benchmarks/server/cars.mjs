/**
 * Cars that log in, a process of their own: a nonce, a proof, a login, as a device does. What they are told with
 * RETRY_LATER they do after Retry-After; any other refusal is wrong here, since they are all enrolled.
 *
 * Connections carry one car's login after another's, as those of a proxy before the server do. HTTP is written by hand,
 * since the load shares the machine with what it loads.
 */
import { connect } from 'node:net'
import { Es256PublicKey } from '@milagro-ts/api/keys'
import { verifyAccessToken } from '@milagro-ts/api/statements'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { deviceIdentityPoint } from '@milagro-ts/crypto/identity'
import { clientProve, MODE } from '@milagro-ts/crypto/mpin'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { AUDIENCE, carOf, ISSUER } from './world.mjs'

/** Of so many tokens one is verified as a service does it, once the load is over. */
const SAMPLE = 50

/**
 * @typedef {object} Task
 * @property {string} url
 * @property {string} groupId
 * @property {string} secret       s of `device`
 * @property {number} from         the first car
 * @property {number} cars
 * @property {number} logins       altogether
 * @property {number} connections
 * @property {'next' | 'at once' | number} begin  a login when a connection is free; all at once; so many a second
 */
const task = /** @type {Task} */ (JSON.parse(process.argv[2] ?? '{}'))
const groupId = fromBase64Url(task.groupId, 'groupId', 32)
const secret = Scalar.decode(fromBase64Url(task.secret, 'secret', 32))
const { hostname, port } = new URL(task.url)

/**
 * What the RPS answers, of which one part is there at a time: the nonce and its terms, the token, or the refusal's code.
 *
 * @typedef {{nonce: string, slot: number, deviceEpoch: number, code: string, accessToken: string}} Json
 */
/** @typedef {{status: number, retryAfter: number, json: Json}} Answer */

/** One request at a time. */
class Connection {
  /** @type {import('node:net').Socket | undefined} */
  #socket
  #received = ''
  /** @type {{resolve: (answer: Answer) => void, reject: (error: Error) => void} | undefined} */
  #asked

  /** @param {string} path @param {object} body @returns {Promise<Answer>} */
  post(path, body) {
    const text = JSON.stringify(body)
    return new Promise((resolve, reject) => {
      this.#asked = { resolve, reject }
      this.#socket ??= this.#open()
      this.#socket.write(
        `POST ${path} HTTP/1.1\r\nhost: ${hostname}:${port}\r\ncontent-type: application/json\r\n` +
          `content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
      )
    })
  }

  close() {
    this.#socket?.destroy()
  }

  #open() {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true })
    const end = (/** @type {Error} */ error) => {
      if (this.#socket === socket) this.#socket = undefined
      this.#received = ''
      this.#asked?.reject(error)
      this.#asked = undefined
    }
    socket.setEncoding('latin1')
    socket.on('data', part => this.#read(String(part)))
    socket.on('error', end)
    socket.on('close', () => end(new Error('the server closed the connection')))
    return socket
  }

  #read(/** @type {string} */ part) {
    this.#received += part
    const end = this.#received.indexOf('\r\n\r\n')
    if (end < 0) return
    const head = this.#received.slice(0, end)
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1])
    if (!(this.#received.length >= end + 4 + length)) return
    const body = this.#received.slice(end + 4, end + 4 + length)
    this.#received = this.#received.slice(end + 4 + length)
    const asked = this.#asked
    this.#asked = undefined
    asked?.resolve({
      status: Number(head.slice(9, 12)),
      retryAfter: Number(/\r\nretry-after: (\d+)/i.exec(head)?.[1] ?? 1),
      json: JSON.parse(body),
    })
  }
}

const keys = Array.from({ length: task.cars }, (_, i) => {
  const idCore = carOf(groupId, task.from + i)
  return { idCore, deviceKey: deviceIdentityPoint(groupId, idCore).mulSecret(secret) }
})

/** @typedef {{key: (typeof keys)[number], since: number}} Due */
/** Logins that wait for a connection. @type {Due[]} */
const due = []
/** Connections that wait for a login. @type {(() => void)[]} */
const idle = []
let begun = 0
let ended = 0
/** Unix milliseconds after which nothing is begun. */
let until = 0

/** Milliseconds from when a login was due to its token. @type {number[]} */
const times = []
/** @type {{token: string, mpinId: string, at: number}[]} */
const sample = []
let retries = 0
/** @type {Record<string, number>} */
const wrong = {}
let broken = 0

const isOver = () => ended === task.logins || Date.now() >= until
const wakeAll = () => {
  for (const wake of idle.splice(0)) wake()
}
const begin = () => {
  const key = /** @type {(typeof keys)[number]} */ (keys[begun++ % keys.length])
  due.push({ key, since: performance.now() })
  idle.shift()?.()
}

/** @returns {Promise<Due | undefined>} */
async function next() {
  while (!isOver()) {
    if (due.length === 0 && task.begin === 'next' && begun < task.logins) begin()
    const first = due.shift()
    if (first !== undefined) return first
    await new Promise(resolve => idle.push(() => resolve(undefined)))
  }
  return undefined
}

/** @param {Connection} connection @param {Due} one */
async function logIn(connection, one) {
  const answer = await attempt(connection, one.key)
  if (answer.json.code === 'RETRY_LATER') {
    retries++
    setTimeout(() => {
      due.push(one)
      idle.shift()?.()
    }, answer.retryAfter * 1000)
    return
  }
  ended++
  if (answer.status === 200) {
    if (times.length % SAMPLE === 0)
      sample.push({ token: answer.json.accessToken, mpinId: one.key.idCore.mpinId, at: systemClock() })
    times.push(performance.now() - one.since)
  } else wrong[answer.json.code] = (wrong[answer.json.code] ?? 0) + 1
}

/** @param {Connection} connection @param {(typeof keys)[number]} key */
async function attempt(connection, { idCore, deviceKey }) {
  const asked = await connection.post('/v1/nonces', {})
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
  return connection.post('/v1/logins', { login: message.toJson() })
}

async function work() {
  const connection = new Connection()
  for (let one = await next(); one !== undefined; one = await next())
    await logIn(connection, one).catch(() => {
      ended++
      broken++
    })
  connection.close()
  wakeAll()
}

/** How many tokens of the sample are the RPS' own, for the car that asked and for this audience. */
async function goodTokens() {
  const { keys } = /** @type {{keys: {kid: string, kty: string}[]}} */ (
    await (await fetch(new URL('/v1/jwks', task.url))).json()
  )
  const known = new Map(keys.map(jwk => [jwk.kid, Es256PublicKey.fromJwk(jwk)]))
  const terms = { keys: known, issuer: ISSUER, audience: AUDIENCE }
  let good = 0
  for (const { token, mpinId, at: now } of sample)
    if ((await verifyAccessToken({ token, now, ...terms })).idCore.mpinId === mpinId) good++
  return good
}

process.once('message', async message => {
  until = /** @type {{until: number}} */ (message).until
  setTimeout(wakeAll, until - Date.now()).unref()
  const before = process.cpuUsage()
  if (task.begin === 'at once') while (begun < task.logins) begin()
  const start = performance.now()
  const rate = typeof task.begin === 'number' ? task.begin : 0
  const ticks = setInterval(() => {
    while (begun < task.logins && begun < ((performance.now() - start) / 1000) * rate) begin()
  }, 2)
  await Promise.all(Array.from({ length: task.connections }, work))
  clearInterval(ticks)
  const { user, system } = process.cpuUsage(before)
  // Disconnecting would throw away what of it is still on its way.
  const tokens = { verified: await goodTokens(), of: sample.length }
  const cpuMs = (user + system) / 1000
  process.send?.({ times, retries, wrong, broken, tokens, cpuMs }, () => process.disconnect())
})
process.send?.('ready')
