/**
 * What `--check` sees of two cars that speak to each other with no server between them (car-peers.ts), and what it tries on
 * the one that answers: a car without a network that has prepared is let in, by its name alone. Refused are a banned car that shows a
 * permit which isn't its own, one that takes a car's name without a key of the group, and one that isn't expected (any more).
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { Refused } from '@milagro-ts/api/problem'
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import type { TokenStore } from '@milagro-ts/client/token-store'
import { IdCore } from '@milagro-ts/crypto/identity'
import { connectPeer, type PeerIdentity } from '@milagro-ts/tls/peer'
import type { Cars } from './cars.js'
import type { ManagedProcess, ProcessEvent } from './processes.js'
import type { Position } from './track-chain.js'

const HELLO: Position = { at: 1, latE7: 593_300_000, lonE7: 180_700_000, speed: 0, heading: 0 }
const PATIENCE = 60_000
/** What the log of the one that answers says of it. */
const NOT_ITS_PERMIT = 'no permit of this device for this slot'

interface Scene {
  readonly folder: string
  readonly cars: Pick<Cars, 'introduce' | 'answering'>
  readonly probeStore: TokenStore
  deviceOptions(store: TokenStore): DeviceOptions
  clearOfSlotEnd(): Promise<void>
  told(
    name: string,
    event: string,
    from?: number,
    fits?: (event: ProcessEvent) => boolean,
  ): Promise<ProcessEvent>
  eventually<T>(what: string, look: () => Promise<T | undefined>): Promise<T>
}
interface Speaker {
  readonly car: ManagedProcess
  readonly idCore: string
}
interface Others {
  /** The car that answers. */
  readonly answers: Speaker
  /** The car that connects to it. */
  readonly calls: Speaker
  /** Of a car that is banned. */
  readonly banned: TokenStore
}

export async function peerChannel(
  story: Scene,
  { answers, calls, banned: bannedStore }: Others,
): Promise<Readonly<Record<string, unknown>>> {
  let hasNetwork = true
  let asked = 0
  const { fetch: online = globalThis.fetch, ...options } = story.deviceOptions(story.probeStore)
  const fetch: typeof globalThis.fetch = (...request) => {
    if (hasNetwork) return online(...request)
    asked++
    return Promise.reject(new TypeError('there is no network here'))
  }
  const probe = await Device.open({ ...options, fetch })
  const banned = await Device.open(story.deviceOptions(bannedStore))
  await probe.preparePeers()
  // A slot may have ended meanwhile.
  await story.clearOfSlotEnd()
  const slots = await probe.preparePeers()
  const prepared = await refusedBy(() => banned.preparePeers())
  if (!(prepared instanceof Refused) || prepared.code !== 'BANNED')
    throw new Error(`the banned car prepares: ${prepared.message}`)

  hasNetwork = false
  const hears = ({ car }: Speaker, peer: string, from = car.events.length) =>
    story.told(car.name, 'peer-heard', from, event => event.peer === peer)
  const [{ metresAway }] = await Promise.all([hears(answers, calls.idCore), hears(calls, answers.idCore)])

  const knows = (...others: string[]) =>
    story.cars.introduce({ answers: answers.idCore, calls: calls.idCore, others })
  const open = (identity: PeerIdentity, peer = IdCore.fromBase64Url(answers.idCore)) =>
    connectPeer({ identity, peer, ...story.cars.answering, warnBefore: 0 })
  const from = answers.car.events.length
  await knows(probe.mpinId, banned.mpinId)
  // The car looks into its address book again and again.
  const { answer, milliseconds } = await story.eventually(
    'the car answers a car that is new in its book',
    () => answered(() => open(probe)),
  )
  if (typeof answer.latE7 !== 'number') throw new Error('the car that answers does not say where it is')
  await hears(answers, probe.mpinId, from)

  // Its key still opens TLS. That it isn't banned a permit would say; it shows another car's.
  const liar = as(banned, { permitInHand: slot => probe.permitInHand(slot) })
  const silence = await open(liar).then(firstLine, (error: Error) => error)
  if (typeof silence === 'string' && silence !== '') throw new Error(`the banned car hears '${silence}'`)
  await story.eventually('the car that answers sees whose permit it is shown', async () => {
    const log = await readFile(join(story.folder, 'logs', `${answers.car.name}.log`), 'utf8')
    return log.includes(NOT_ITS_PERMIT) ? true : undefined
  })

  const stranger = as(probe, {
    peerPsk: async peer => ({ ...(await probe.peerPsk(peer)), psk: systemRandom(32) }),
  })
  const withoutKey = await endedByTls(() => open(stranger), 'a name without its key')
  // At this address there is another car than the one that it wants to speak to.
  const otherPeer = await endedByTls(() => open(probe, banned.idCore), 'another car than the expected one')
  await knows()
  const notExpected = await story.eventually(
    'the car answers nobody whom its book does not name',
    async () => {
      if ((await answered(() => open(probe)).catch(() => undefined)) !== undefined) return undefined
      return endedByTls(() => open(probe), 'a car that nobody expects')
    },
  )

  const spoke = answers.car.events.slice(from).filter(({ event }) => event === 'peer-connected')
  const strangers = spoke.filter(({ peer }) => peer !== probe.mpinId && peer !== calls.idCore)
  if (strangers.length > 0) throw new Error(`the car that answers spoke to ${strangers.length} strangers`)
  if (asked > 0) throw new Error('somebody was asked')
  return {
    cars: [answers, calls].map(({ car, idCore }) => ({ car: car.name, pid: car.pid, idCore })),
    metresAway,
    slots,
    channel: { answered: true, milliseconds },
    banned: { prepares: prepared.code, othersPermit: NOT_ITS_PERMIT },
    withoutKey,
    otherPeer,
    notExpected,
    asked,
  }
}

/** What the other end says first; undefined where TLS doesn't let this one in. */
async function answered(
  open: () => Promise<TLSSocket>,
): Promise<{ answer: Position; milliseconds: number } | undefined> {
  const begin = performance.now()
  let socket: TLSSocket
  try {
    socket = await open()
  } catch (error) {
    if (isOfTls(error)) return undefined
    throw error
  }
  const line = await firstLine(socket)
  if (line === '') throw new Error('the channel has ended before an answer')
  return { answer: JSON.parse(line) as Position, milliseconds: Math.round(performance.now() - begin) }
}

/** Says where it is; the first line that comes, or what has come when the channel ends. */
async function firstLine(socket: TLSSocket): Promise<string> {
  let text = ''
  socket.setTimeout(PATIENCE, () => socket.destroy(new Error('the channel is silent')))
  socket.on('data', (data: Buffer) => {
    text += data
    if (text.includes('\n')) socket.end()
  })
  // One that is refused may break instead of ending.
  const ended = new Promise<void>(resolve => socket.once('close', () => resolve()))
  socket.on('error', () => undefined)
  socket.write(`${JSON.stringify(HELLO)}\n`)
  await ended
  return text.split('\n')[0] ?? ''
}

/** A device with something of it replaced: what its thief could make of it. */
function as(device: Device, changed: Partial<PeerIdentity>): PeerIdentity {
  return {
    idCore: device.idCore,
    group: device.group,
    peerPsk: peer => device.peerPsk(peer),
    answerPeer: identity => device.answerPeer(identity),
    permitInHand: slot => device.permitInHand(slot),
    ...changed,
  }
}

async function refusedBy(attempt: () => Promise<unknown>): Promise<Error> {
  try {
    await attempt()
  } catch (error) {
    return error as Error
  }
  return new Error('it was not refused')
}

async function endedByTls(attempt: () => Promise<unknown>, who: string): Promise<string> {
  const error = await refusedBy(attempt)
  if (!isOfTls(error)) throw new Error(`${who}: ${error.message}`)
  return error.code
}

function isOfTls(error: unknown): error is Error & { readonly code: string } {
  return (error as NodeJS.ErrnoException).code?.startsWith('ERR_SSL_') === true
}
