/**
 * Two cars on a road without a network: they have prepared while there was one, and from then on nobody is asked. One answers, the
 * other opens a channel to it by its name. Refused on the channel: a banned car that shows a permit which isn't its own, one
 * that takes a car's name without a key of the group, and one that isn't expected.
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { createLog } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import type { DeviceEnrolment } from '@milagro-ts/client/enrolling'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { connectPeer, createPeerServer, type PeerIdentity } from '@milagro-ts/tls/peer'

const HELLO = 'ice on the bridge'
const PATIENCE = 60_000
/** What the log of the one that answers says of it. */
const NOT_ITS_PERMIT = 'no permit of this device for this slot'

interface Scene {
  readonly probeStore: TokenStore
  readonly deviceOptions: (store: TokenStore) => DeviceOptions
  readonly clearOfSlotEnd: () => Promise<void>
}
interface Others {
  /** For another car: its code, and what it is. */
  readonly neighbour: DeviceEnrolment
  /** Of a car that is banned. */
  readonly banned: TokenStore
}

export async function peerChannel(
  story: Scene,
  { neighbour, banned: bannedStore }: Others,
): Promise<Readonly<Record<string, unknown>>> {
  let hasNetwork = true
  let asked = 0
  const optionsOf = (store: TokenStore): DeviceOptions => {
    const options = story.deviceOptions(store)
    const { fetch: online = globalThis.fetch } = options
    const fetch: typeof globalThis.fetch = (...request) => {
      if (hasNetwork) return online(...request)
      asked++
      return Promise.reject(new TypeError('there is no network here'))
    }
    return { ...options, fetch }
  }
  const car = await Device.open(optionsOf(story.probeStore))
  const other = await Device.enrol({ ...optionsOf(memoryTokenStore()), ...neighbour })
  const banned = await Device.open(optionsOf(bannedStore))
  const prepare = () => Promise.all([car.preparePeers(), other.preparePeers()])
  await prepare()
  // A slot may have ended meanwhile.
  await story.clearOfSlotEnd()
  const [slots] = await prepare()
  const prepared = await refusedBy(() => banned.preparePeers())
  if (!(prepared instanceof Refused) || prepared.code !== 'BANNED')
    throw new Error(`the banned car prepares: ${prepared.message}`)

  hasNetwork = false
  const allowed = [car.mpinId, banned.mpinId]
  const told: string[] = []
  const heard: string[] = []
  const server = createPeerServer(
    {
      identity: other,
      allow: ({ mpinId }) => allowed.includes(mpinId),
      log: createLog('peer', { level: 'warn', destination: { write: line => void told.push(line) } }),
      warnBefore: 0,
    },
    (socket, { mpinId }) => {
      socket.on('error', () => undefined)
      socket.on('data', (data: Buffer) => {
        heard.push(`${mpinId}: ${data}`)
        socket.end(`${mpinId} said: ${data}`)
      })
    },
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const open = (identity: PeerIdentity, peer = other.idCore) =>
    connectPeer({ identity, peer, host: '127.0.0.1', port, warnBefore: 0 })
  try {
    const begin = performance.now()
    const answer = await said(await open(car))
    const milliseconds = Math.round(performance.now() - begin)
    if (answer !== `${car.mpinId} said: ${HELLO}`) throw new Error(`the other car answers '${answer}'`)

    // Its key still opens TLS. That it isn't banned a permit would say; it shows another car's.
    const liar = as(banned, { permitInHand: slot => car.permitInHand(slot) })
    const silence = await open(liar).then(said, (error: Error) => error)
    if (typeof silence === 'string' && silence !== '') throw new Error(`the banned car hears '${silence}'`)
    if (!told.some(line => line.includes(NOT_ITS_PERMIT)))
      throw new Error('the other car has not seen whose permit it is shown')

    const stranger = as(car, {
      peerPsk: async peer => ({ ...(await car.peerPsk(peer)), psk: systemRandom(32) }),
    })
    const withoutKey = await endedByTls(() => open(stranger), 'a name without its key')
    // At this address there is another car than the one that it wants to speak to.
    const otherPeer = await endedByTls(() => open(car, banned.idCore), 'another car than the expected one')
    allowed.length = 0
    const notExpected = await endedByTls(() => open(car), 'a car that nobody expects')

    if (heard.length !== 1) throw new Error(`the other car heard ${heard.length} cars`)
    if (asked > 0) throw new Error('somebody was asked')
    return {
      cars: [car.mpinId, other.mpinId],
      slots,
      channel: { answered: true, milliseconds },
      banned: { prepares: prepared.code, othersPermit: NOT_ITS_PERMIT },
      withoutKey,
      otherPeer,
      notExpected,
      asked,
    }
  } finally {
    server.close()
  }
}

/** Says hello; what comes until the channel ends. */
async function said(socket: TLSSocket): Promise<string> {
  let text = ''
  socket.setTimeout(PATIENCE, () => socket.destroy(new Error('the channel is silent')))
  socket.on('data', (data: Buffer) => {
    text += data
  })
  // One that is refused may break instead of ending.
  const ended = new Promise<void>(resolve => socket.once('close', () => resolve()))
  socket.on('error', () => undefined)
  socket.write(HELLO)
  await ended
  return text
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
  const { code, message } = (await refusedBy(attempt)) as NodeJS.ErrnoException
  if (code?.startsWith('ERR_SSL_') !== true) throw new Error(`${who}: ${message}`)
  return code
}
