/**
 * A broker that knows nothing of the group: mosquitto on the loopback, `milagro tls gateway` in front of it, and a car that
 * publishes its position by MQTT.js. The broker's user name is the car's M-Pin ID, so that its own rules say who writes where:
 * a subscriber at the broker hears the car under its name, and under another's name nothing is taken. A ban ends the connection.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Device } from '@milagro-ts/client/device'
import { connect } from '@milagro-ts/tls/mqtt'
import { connectAsync, type MqttClient } from 'mqtt'
import { banLimit, CLEAR_FOR_BAN, tooLong } from './ban-limit.js'
import { GATEWAY, type Servers } from './servers.js'

const POSITION = JSON.stringify({ lat: 59.33, lon: 18.07 })
const PATIENCE = 60_000
/** Debian has servers where an ordinary user's PATH doesn't look. */
const FOLDERS = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']

interface Scene {
  readonly folder: string
  readonly servers: Pick<Servers, 'startOne' | 'url'>
  readonly probe: Device
  readonly broker: number
  readonly others: { end(): Promise<void> }[]
  readonly clearOfSlotEnd: (clear: number) => Promise<void>
}
interface Ban {
  /** Bans the car. */
  readonly ban: () => Promise<void>
}

/** Without mosquitto on this machine it says that it was skipped. */
export async function brokerBehindGateway(
  story: Scene,
  { ban }: Ban,
): Promise<Readonly<Record<string, unknown>>> {
  const program = mosquittoFile()
  if (program === undefined) return { skipped: 'there is no mosquitto on this machine' }
  const mosquitto = await startMosquitto(story, program)
  const gateway = await story.servers.startOne(GATEWAY)
  const { probe } = story
  const topic = `cars/${probe.mpinId}/position`
  const othersTopic = 'cars/another/position'

  const local = { host: '127.0.0.1', port: story.broker, protocolVersion: 5, reconnectPeriod: 0 } as const
  const subscriber = await connectAsync(local)
  const heard: string[] = []
  subscriber.on('message', (name, payload) => void heard.push(`${name} ${payload}`))
  await subscriber.subscribeAsync('cars/#', { qos: 1 })

  await story.clearOfSlotEnd(CLEAR_FOR_BAN)
  const { hostname: host, port } = new URL(story.servers.url(GATEWAY))
  const connection = () => {
    const to = { identity: probe, servername: GATEWAY, host, port: Number(port), warnBefore: 0 }
    return connect({ ...to, clientId: probe.mpinId, protocolVersion: 5, reconnectPeriod: 0 })
  }
  const car = connection()
  try {
    await until('the car is connected', car)
    await car.publishAsync(topic, POSITION, { qos: 1 })
    const othersName = await car.publishAsync(othersTopic, POSITION, { qos: 1 }).then(
      () => 'taken',
      (error: Error & { code?: number }) => error.code ?? error.message,
    )
    if (othersName !== NOT_AUTHORIZED) throw new Error(`a position under another’s name is ${othersName}`)
    for (let waited = 0; heard.length === 0 && waited < PATIENCE; waited += 20) await sleep(20)
    if (heard.length !== 1 || heard[0] !== `${topic} ${POSITION}`)
      throw new Error(`the subscriber hears ${heard.length === 0 ? 'nothing' : heard.join(', ')}`)

    const closed = new Promise<number>(resolve => car.once('close', () => resolve(performance.now())))
    if (!car.connected) throw new Error('the connection has ended before the ban')
    const limit = banLimit()
    const begin = performance.now()
    await ban()
    const ended = await Promise.race([closed, sleep(PATIENCE, undefined, { ref: false })])
    if (ended === undefined) throw new Error('the connection of the banned car has not ended')
    const endedAfter = Math.round(ended - begin)
    const limits = limit()
    if (endedAfter > limits.allowed)
      throw new Error(`the connection of the banned car ended only after ${tooLong(endedAfter, limits)}`)
    const again = connection()
    const refused = await until('the banned car is not let in', again).then(
      () => 'connected',
      (error: NodeJS.ErrnoException) => error.code,
    )
    again.end(true)
    // MQTT.js writes before the handshake is over: then node says EPROTO for what TLS refuses.
    if (!/^(ERR_SSL_|EPROTO$)/.test(refused ?? ''))
      throw new Error(`the banned car at the gateway: ${refused}`)
    return {
      heard: topic,
      othersName,
      ...limits,
      connection: { endedAfter, again: refused },
      gatewayPid: gateway.pid,
      brokerPid: mosquitto.pid,
    }
  } finally {
    car.end(true)
    await subscriber.endAsync(true)
    await gateway.end()
    await mosquitto.end()
  }
}

/** MQTT 5, reason code 0x87. */
const NOT_AUTHORIZED = 0x87

function until(what: string, client: MqttClient): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not within ${PATIENCE} ms: ${what}`)), PATIENCE)
    client.once('connect', () => {
      clearTimeout(timer)
      resolve()
    })
    client.on('error', error => {
      clearTimeout(timer)
      reject(error)
    })
  })
}

function mosquittoFile(): string | undefined {
  return FOLDERS.map(folder => join(folder, 'mosquitto')).find(file => {
    try {
      accessSync(file, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

interface Mosquitto {
  readonly pid: number
  end(): Promise<void>
}

/** On the loopback: who is in the group writes under its own name, and everybody on this machine may listen. */
async function startMosquitto({ folder, broker, others }: Scene, program: string): Promise<Mosquitto> {
  const data = join(folder, 'mosquitto')
  await mkdir(data, { mode: 0o700 })
  const acl = join(data, 'acl')
  const config = join(data, 'mosquitto.conf')
  await writeFile(acl, 'topic read cars/#\n\npattern write cars/%u/#\n', { mode: 0o600 })
  await writeFile(
    config,
    [
      `listener ${broker} 127.0.0.1`,
      'allow_anonymous true',
      `acl_file ${acl}`,
      `user ${userInfo().username}`,
      '',
    ].join('\n'),
  )
  const child = spawn(program, ['-c', config], { stdio: ['ignore', 'ignore', 'pipe'] })
  const isOver = new Promise<void>(resolve => {
    child.once('close', () => resolve())
    child.once('error', () => resolve())
  })
  const mosquitto = {
    pid: child.pid ?? 0,
    async end() {
      child.kill()
      await isOver
    },
  }
  others.push(mosquitto)
  await said(child, /mosquitto version .* running/, isOver)
  return mosquitto
}

async function said(child: ChildProcess, what: RegExp, isOver: Promise<void>): Promise<void> {
  let text = ''
  const running = new Promise<true>(resolve => {
    child.stderr?.on('data', (chunk: Buffer) => {
      text += chunk
      if (what.test(text)) resolve(true)
    })
  })
  if ((await Promise.race([running, isOver])) !== true) throw new Error(`mosquitto has ended: ${text}`)
}
