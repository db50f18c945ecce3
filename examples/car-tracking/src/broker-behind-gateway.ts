/**
 * What `--check` sees of the cars' positions at the broker: a subscriber hears each car under its own name, and a position under another's
 * name is not taken.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Compile } from '@milagro-ts/api/typebox'
import { connectAsync, type MqttClient } from 'mqtt'
import { mosquittoPid } from './broker.js'
import { brokerClient, type Publisher, topicOf } from './live-positions.js'
import type { ManagedProcess } from './processes.js'
import { GATEWAY, type Servers } from './servers.js'
import { PositionField } from './tracking-routes.js'

const position = Compile(PositionField)
const PATIENCE = 60_000
/** Positions of each car, so that they come again and again. */
const EACH = 2
/** MQTT 5, reason code 0x87. */
const NOT_AUTHORIZED = 0x87

interface Scene {
  readonly servers: Pick<Servers, 'mqtt' | 'mqttLeftOut' | 'broker' | 'brokerSocket' | 'process'>
  readonly probe: Publisher
  clearOfSlotEnd(): Promise<void>
}
interface Publishing {
  readonly car: ManagedProcess
  readonly idCore: string
}

/** Without mosquitto on this machine it says that it was skipped. */
export async function brokerBehindGateway(
  story: Scene,
  cars: readonly Publishing[],
): Promise<Readonly<Record<string, unknown>>> {
  const { servers, probe } = story
  const { mqtt, broker } = servers
  if (mqtt === undefined || broker === undefined) return { skipped: servers.mqttLeftOut }
  const { brokerSocket: path } = servers
  const local = { protocol: 'mqtt+unix', path, protocolVersion: 5, reconnectPeriod: 0 } as const
  const subscriber = await connectAsync(local)
  const heard = new Map<string, string[]>()
  subscriber.on('message', (topic, payload) => {
    heard.set(topic, [...(heard.get(topic) ?? []), String(payload)])
  })
  await story.clearOfSlotEnd()
  const thief = brokerClient(probe, mqtt)
  try {
    await subscriber.subscribeAsync('#', { qos: 1 })
    await until('the probe is connected', thief)
    const [first] = cars
    const othersName = await thief.publishAsync(topicOf(first?.idCore ?? ''), 'I am you', { qos: 1 }).then(
      () => 'taken',
      (error: Error & { code?: number }) => error.code ?? error.message,
    )
    if (othersName !== NOT_AUTHORIZED) throw new Error(`a position under another’s name is ${othersName}`)

    const topics = cars.map(({ idCore }) => topicOf(idCore))
    const isHeard = () => topics.every(topic => (heard.get(topic)?.length ?? 0) >= EACH)
    for (let waited = 0; !isHeard() && waited < PATIENCE; waited += 20) await sleep(20)
    for (const [at, topic] of topics.entries()) {
      const said = heard.get(topic) ?? []
      const { name } = (cars[at] as Publishing).car
      if (said.length < EACH) throw new Error(`the subscriber hears ${said.length} positions of ${name}`)
      for (const text of said)
        if (!position.Check(JSON.parse(text))) throw new Error(`${name} publishes '${text}'`)
    }
    const others = [...heard.keys()].filter(topic => !topics.includes(topic))
    if (others.length > 0) throw new Error(`the subscriber hears ${others.join(', ')}`)
    return {
      cars: cars.map(({ car }, at) => ({ car: car.name, pid: car.pid, heard: topics[at] })),
      othersName,
      gatewayPid: servers.process(GATEWAY).pid,
      brokerPid: mosquittoPid(broker),
    }
  } finally {
    thief.end(true)
    await subscriber.endAsync(true)
  }
}

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
