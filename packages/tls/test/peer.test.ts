/** Two cars and no server: who gets in, who doesn't, and what each theft is worth. Sockets on 127.0.0.1. */
import type { Socket } from 'node:net'
import { type TLSSocket, connect as tlsConnect, createServer as tlsServer } from 'node:tls'
import { agreePointG1, agreePointG2, encodeName, type IdCore } from '@milagro-ts/crypto/identity'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import {
  AgreeClientKey,
  AgreeSlotKey,
  ClientAgreement,
  PskIdentity,
  serverAgree,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { Permit, permitInput, permitPoint, slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import type { TlsPeer } from '@milagro-ts/tls/door'
import {
  connectPeer,
  createPeerServer,
  PeerDoor,
  type PeerIdentity,
  PeerRefused,
  type PeerServer,
} from '@milagro-ts/tls/peer'
import { peerOf } from '@milagro-ts/tls/server'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { closed, GRACE, RULE, SLOT, World, wrongKeyAlert } from './world.js'

const EPOCH = 1
const PERMIT_EPOCH = 1
const random: Random = length => crypto.getRandomValues(new Uint8Array(length))
const sPermit = Scalar.random(random)
const permitKeys = { epoch: PERMIT_EPOCH, pub: G2.generator.mulSecret(sPermit) }

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

/** A car that has prepared: its keys, its permits, no network. */
class Peer implements PeerIdentity {
  readonly idCore: IdCore
  readonly group: PeerIdentity['group']
  readonly key: AgreeClientKey
  /** What it shows; its own permit unless a test says otherwise. */
  shown: (slot: number) => Permit | null = slot => permitOf(this.idCore, slot)
  /** What it answers by; its own slot key unless a test says otherwise. */
  answers: (identity: PskIdentity) => Uint8Array | null = identity =>
    serverAgree(slotKeyOf(this.idCore, identity.slot as number), identity)

  constructor(leaf: number) {
    const { groupId, s } = world
    this.idCore = world.car(leaf).idCore
    const policy = { lead: 1, grace: GRACE, permits: 'identity' as const }
    const keysAt = () => permitKeys as unknown as ReturnType<PeerIdentity['group']['keysAt']>
    this.group = { groupId, slotRule: RULE, policy, keysAt }
    const C = encodeName(groupId, { kind: 1, idCore: this.idCore })
    this.key = AgreeClientKey.of({ groupId, idCore: this.idCore, epoch: EPOCH }, agreePointG1(C).mulSecret(s))
  }

  async peerPsk(peer: IdCore, slot = now()) {
    const party = { kind: 1, idCore: peer } as const
    const psk = ClientAgreement.begin(this.key, { party, slot }, random).psk('m1')
    return { ...psk, slot, endsAt: slotStart(RULE, slot + 1) * 1000 }
  }
  async answerPeer(identity: PskIdentity) {
    return this.answers(identity)
  }
  permitInHand(slot: number) {
    return this.shown(slot)
  }
}

const now = () => slotAt(RULE, Math.floor(world.now / 1000))

function slotKeyOf(idCore: IdCore, slot: number): AgreeSlotKey {
  const { groupId, s } = world
  const party = { kind: 1, idCore } as const
  const S = agreePointG2(slotName(groupId, party, slot)).mulSecret(s)
  const key = AgreeSlotKey.verify({ groupId, party, slot, epoch: EPOCH }, G1.generator.mulSecret(s), S)
  if (key === null) throw new Error('no key of the group')
  return key
}

function permitOf(idCore: IdCore, slot: number, by = sPermit): Permit {
  const target = { type: 'id', idCore } as const
  const terms = { groupId: world.groupId, permitEpoch: PERMIT_EPOCH, rule: RULE }
  return Permit.of(slot, target, permitPoint(permitInput(terms, slot, target)).mulSecret(by))
}

interface Listening {
  readonly port: number
  /** Whom a handler ran for. */
  readonly met: TlsPeer[]
  readonly sockets: TLSSocket[]
  readonly server: PeerServer
}
/** Says its name's first letters to whoever comes in, and echoes. */
async function listening(
  identity: Peer,
  allow: (idCore: IdCore) => boolean = () => true,
): Promise<Listening> {
  const met: TlsPeer[] = []
  const sockets: TLSSocket[] = []
  const ports = { log: world.log, clock: () => world.now, timers: world.timers }
  const server = createPeerServer({ identity, allow, ...ports }, (socket, peer) => {
    met.push(peer)
    sockets.push(socket)
    socket.on('error', () => undefined)
    socket.write('welcome ')
    socket.pipe(socket)
  })
  server.on('tlsClientError', () => undefined)
  return { port: await world.listen(server), met, sockets, server }
}

const connecting = (identity: Peer, peer: IdCore, port: number) =>
  connectPeer({
    identity,
    peer,
    host: '127.0.0.1',
    port,
    clock: () => world.now,
    timers: world.timers,
  })

/** What the other says, up to `length` bytes. */
async function heard(socket: Socket, length: number): Promise<string> {
  let text = ''
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    text += String(chunk)
    if (text.length >= length) return text
  }
  return text
}
/** Once it is closed; what was said before is read, since a socket isn't closed before. */
function gone(socket: Socket): Promise<void> {
  socket.resume()
  return closed(socket)
}
/** `open`, or how it ended. */
const outcomeOf = (attempt: Promise<Socket>): Promise<string> =>
  attempt.then(
    socket => {
      socket.destroy()
      return 'open'
    },
    (error: { code?: string; message: string }) =>
      error instanceof PeerRefused ? `refused: ${error.message}` : String(error.code ?? error.message),
  )

test('two cars speak, each knowing who the other is', async () => {
  const [one, other] = [new Peer(1), new Peer(2)]
  const { port, met, sockets } = await listening(other, idCore => idCore.equals(one.idCore))
  const socket = await connecting(one, other.idCore, port)
  expect(socket.getProtocol()).toBe('TLSv1.3')
  socket.write('from car to car')
  expect(await heard(socket, 23)).toBe('welcome from car to car')
  expect(met.map(({ idCore, slot }) => [idCore.mpinId, slot])).toEqual([[one.idCore.mpinId, SLOT]])
  expect(peerOf(sockets[0] as TLSSocket).idCore.equals(one.idCore)).toBe(true)
})

test('each in both parts at the same time', async () => {
  const [one, other] = [new Peer(1), new Peer(2)]
  const [atOne, atOther] = [await listening(one), await listening(other)]
  const channels = await Promise.all([
    connecting(one, other.idCore, atOther.port),
    connecting(other, one.idCore, atOne.port),
  ])
  for (const channel of channels) expect(await heard(channel, 8)).toBe('welcome ')
  expect(atOne.met[0]?.idCore.equals(other.idCore)).toBe(true)
  expect(atOther.met[0]?.idCore.equals(one.idCore)).toBe(true)
})

describe('nobody else comes in', () => {
  test('another car than the one that was meant', async () => {
    const [one, other, third] = [new Peer(1), new Peer(2), new Peer(3)]
    const { port, met } = await listening(other)
    expect(await outcomeOf(connecting(one, third.idCore, port))).toBe(await wrongKeyAlert())
    expect(met).toEqual([])
  })

  test('a car that the one that answers doesn’t expect fails as with a wrong key', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const { port, met } = await listening(other, () => false)
    expect(await outcomeOf(connecting(one, other.idCore, port))).toBe(await wrongKeyAlert())
    expect(met).toEqual([])
  })

  test('who has no key of the slot to answer by', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    other.answers = () => null
    const { port } = await listening(other)
    expect(await outcomeOf(connecting(one, other.idCore, port))).toBe(await wrongKeyAlert())
  })

  test('a stolen slot key plays no other car, and nothing in the next slot', async () => {
    const [one, victim, thief] = [new Peer(1), new Peer(2), new Peer(3)]
    const stolen = slotKeyOf(victim.idCore, SLOT)
    thief.answers = identity => serverAgree(stolen, sameIn(SLOT, identity))
    const { port, met } = await listening(thief)
    // As long as its slot lasts, whoever has it is the victim, up to the permit: that is public.
    thief.shown = slot => permitOf(victim.idCore, slot)
    expect(await outcomeOf(connecting(one, victim.idCore, port))).toBe('open')
    expect(await outcomeOf(connecting(one, thief.idCore, port))).toBe(await wrongKeyAlert())
    expect(await outcomeOf(connecting(one, new Peer(4).idCore, port))).toBe(await wrongKeyAlert())
    world.turn((RULE.length + GRACE) * 1000)
    expect(now()).toBe(SLOT + 1)
    met.length = 0
    expect(await outcomeOf(connecting(one, victim.idCore, port))).toBe(await wrongKeyAlert())
    expect(met).toEqual([])
  })
  /** The same words as of another slot, so that a key of that one computes with them. */
  const sameIn = (slot: number, { idCore, R }: PskIdentity) =>
    PskIdentity.ofSlot('m1', idCore, slot, G1.decode(R as Uint8Array))

  test('a stolen key of `agree` answers for nobody: kinds and groups of keys differ', async () => {
    const [one, victim] = [new Peer(1), new Peer(2)]
    const { groupId } = world
    const D = victim.key
    // What the thief can make of it: its own connection to the caller, and the pairing of D with each name.
    const party = { kind: 1, idCore: one.idCore } as const
    const asClient = ClientAgreement.begin(D, { party, slot: SLOT }, random).psk('m1').psk
    const asSlotKey = AgreeSlotKey.verify(
      { groupId, party: { kind: 1, idCore: victim.idCore }, slot: SLOT, epoch: EPOCH },
      G1.generator.mulSecret(world.s),
      agreePointG2(encodeName(groupId, { kind: 1, idCore: victim.idCore })).mulSecret(world.s),
    )
    expect(asSlotKey).toBeNull()
    victim.answers = () => asClient
    const { port } = await listening(victim)
    expect(await outcomeOf(connecting(one, victim.idCore, port))).toBe(await wrongKeyAlert())
  })

  test('a car whose words are played back to it, and its own name', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    // Somebody in between leads its connection to its own door.
    const { port, met } = await listening(one)
    expect(await outcomeOf(connecting(one, other.idCore, port))).toBe(await wrongKeyAlert())
    expect(met).toEqual([])
    await expect(connecting(one, one.idCore, port)).rejects.toThrow(RangeError)
    // Even with its own slot key in its place, the identity is its own.
    const own = await one.peerPsk(one.idCore)
    const socket = tlsConnect({
      host: '127.0.0.1',
      port,
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256',
      pskCallback: () => ({ psk: own.psk, identity: own.identity }),
      checkServerIdentity: () => new Error('no certificate'),
    })
    const code = await new Promise(resolve =>
      socket.once('error', error => resolve((error as { code?: string }).code)),
    )
    expect(code).toBe(await wrongKeyAlert())
  })

  test('an identity of TLS 1.2, of a broker’s file, or none', async () => {
    const other = new Peer(2)
    const { met, port } = await listening(other)
    const { identity, psk } = await new Peer(1).peerPsk(other.idCore)
    for (const text of [identity.replace('m1.', 'm2.'), `s1.${new Peer(1).idCore.mpinId}`, 'nonsense']) {
      const socket = tlsConnect({
        host: '127.0.0.1',
        port,
        minVersion: 'TLSv1.3',
        ciphers: 'TLS_AES_128_GCM_SHA256',
        pskCallback: () => ({ psk, identity: text }),
        checkServerIdentity: () => new Error('no certificate'),
      })
      await closed(socket)
    }
    expect(met).toEqual([])
  })
})

describe('a banned car', () => {
  const shows: [string, (idCore: IdCore, slot: number) => Permit | null][] = [
    ['the permit of the former slot', (idCore, slot) => permitOf(idCore, slot - 1)],
    ['another car’s', (_, slot) => permitOf(new Peer(9).idCore, slot)],
    ['another car’s point under its own name', (idCore, slot) => renamed(idCore, slot)],
    ['one by other authorities', (idCore, slot) => permitOf(idCore, slot, Scalar.random(random))],
  ]
  const renamed = (idCore: IdCore, slot: number) =>
    Permit.of(slot, { type: 'id', idCore }, permitOf(new Peer(9).idCore, slot).point)

  test.each(shows)('that connects with %s is put out before a handler runs', async (_, shown) => {
    const [banned, other] = [new Peer(1), new Peer(2)]
    banned.shown = slot => shown(banned.idCore, slot)
    const { port, met } = await listening(other)
    // The other's permit may have come before the end, or not.
    await connecting(banned, other.idCore, port).then(gone, error =>
      expect(error).toBeInstanceOf(PeerRefused),
    )
    expect(met).toEqual([])
  })

  test.each(shows)('that answers with %s is refused by who connects', async (_, shown) => {
    const [one, banned] = [new Peer(1), new Peer(2)]
    banned.shown = slot => shown(banned.idCore, slot)
    const { port } = await listening(banned)
    expect(await outcomeOf(connecting(one, banned.idCore, port))).toBe(
      'refused: no permit of this device for this slot',
    )
  })

  test('that has none says so to itself', async () => {
    const [banned, other] = [new Peer(1), new Peer(2)]
    banned.shown = () => null
    const { port } = await listening(other)
    expect(await outcomeOf(connecting(banned, other.idCore, port))).toBe(
      'refused: no permit of this slot to show',
    )
  })

  test('of whom the one that answers hears in the middle is out within a second', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const banned = new Set<string>()
    const { port } = await listening(other, ({ mpinId }) => !banned.has(mpinId))
    const socket = await connecting(one, other.idCore, port)
    banned.add(one.idCore.mpinId)
    world.turn(1_000)
    await gone(socket)
    expect(await outcomeOf(connecting(one, other.idCore, port))).toBe(await wrongKeyAlert())
  })
})

describe('what is shown is for this channel', () => {
  /** Has the right slot key and says something else than a car would. */
  async function liar(other: Peer, say: (socket: TLSSocket, heard: Buffer) => void): Promise<number> {
    const server = tlsServer({
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256',
      pskCallback: (_, identity) =>
        Buffer.from(serverAgree(slotKeyOf(other.idCore, SLOT), PskIdentity.decode(identity))),
    })
    server.on('secureConnection', socket => {
      socket.on('error', () => undefined)
      socket.once('data', data => say(socket, data))
    })
    return world.listen(server)
  }

  test('a car’s own words, played back', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const port = await liar(other, (socket, words) => socket.write(words))
    expect(await outcomeOf(connecting(one, other.idCore, port))).toBe('refused: it speaks in our own part')
  })

  test('words of another channel', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const honest = await listening(other)
    const { identity, psk } = await one.peerPsk(other.idCore)
    const recorded = await new Promise<Buffer>(resolve => {
      const socket = tlsConnect({
        host: '127.0.0.1',
        port: honest.port,
        minVersion: 'TLSv1.3',
        ciphers: 'TLS_AES_128_GCM_SHA256',
        pskCallback: () => ({ psk, identity }),
        checkServerIdentity: () => new Error('no certificate'),
      })
      socket.once('data', (words: Buffer) => {
        socket.destroy()
        resolve(words)
      })
    })
    const port = await liar(other, socket => socket.write(recorded))
    expect(await outcomeOf(connecting(one, other.idCore, port))).toBe('refused: it speaks of another channel')
  })

  test.each([
    ['nonsense', Buffer.from('0004ffffffff', 'hex'), /^refused: what it shows doesn’t decode/],
    ['more than it takes', Buffer.from('ffff00', 'hex'), /^refused: what it shows is too long/],
  ])('%s', async (_, words, expected) => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const port = await liar(other, socket => socket.write(words))
    expect(await outcomeOf(connecting(one, other.idCore, port))).toMatch(expected)
  })

  test('nothing: the end of the channel, or of the wait', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const ending = await liar(other, socket => socket.destroy())
    expect(await outcomeOf(connecting(one, other.idCore, ending))).toMatch(/^refused: it closed|ECONNRESET/)
    const silent = await liar(other, () => world.turn(10_000))
    expect(await outcomeOf(connecting(one, other.idCore, silent))).toBe('refused: it shows no permit in time')
  })
})

test('permit-ending at both ends; at slot end and grace both close; the former slot’s identity within grace alone', async () => {
  const [one, other] = [new Peer(1), new Peer(2)]
  const { port, sockets, met } = await listening(other)
  const socket = await connecting(one, other.idCore, port)
  await heard(socket, 8)
  const told: string[] = []
  socket.once('permit-ending', () => told.push('connects'))
  sockets[0]?.once('permit-ending', () => told.push('answers'))
  const end = slotStart(RULE, SLOT + 1) * 1000
  world.turn(end - 60_001 - world.now)
  expect(told).toEqual([])
  world.turn(1)
  expect(told.sort()).toEqual(['answers', 'connects'])

  world.turn(60_000)
  one.peerPsk = peer => Peer.prototype.peerPsk.call(one, peer, SLOT)
  expect(await outcomeOf(connecting(one, other.idCore, port))).toBe('open')
  expect(met.at(-1)?.slot).toBe(SLOT)
  expect(socket.destroyed).toBe(false)
  world.turn(GRACE * 1000)
  expect(socket.destroyed).toBe(true)
  await closed(sockets[0] as TLSSocket)
  expect(await outcomeOf(connecting(one, other.idCore, port))).toBe(await wrongKeyAlert())
})

test('the one that answers closes at slot end and grace by itself, and asks `allow` again when the handshake ends', async () => {
  const [one, other] = [new Peer(1), new Peer(2)]
  const asked: boolean[] = []
  let isAllowed = true
  const { port, sockets, met } = await listening(other, () => {
    asked.push(isAllowed)
    return isAllowed
  })
  // Of one whose clock stands still.
  const { now: begun, timers } = world
  const to = { identity: one, peer: other.idCore, host: '127.0.0.1', port }
  const socket = await connectPeer({ ...to, clock: () => begun, timers })
  await expect.poll(() => sockets.length).toBe(1)
  const end = slotStart(RULE, SLOT + 1) * 1000
  world.turn(end + GRACE * 1000 - 1 - world.now)
  expect(sockets[0]?.destroyed).toBe(false)
  world.turn(1_000)
  expect(sockets[0]?.destroyed).toBe(true)
  socket.destroy()

  isAllowed = true
  const answers = other.answers
  other.answers = identity => {
    isAllowed = false
    return answers(identity)
  }
  expect(await outcomeOf(connecting(one, other.idCore, port))).not.toBe('open')
  expect(met).toHaveLength(1)
  expect(asked.slice(-2)).toEqual([true, false])
})

test('permit-ending is told at both ends to who opens a channel in the last minute, however long the permits take', async () => {
  const [one, other] = [new Peer(1), new Peer(2)]
  world.turn(slotStart(RULE, SLOT + 1) * 1000 - 30_000 - world.now)
  const told: string[] = []
  const ports = { log: world.log, clock: () => world.now, timers: world.timers }
  const server = createPeerServer({ identity: other, allow: () => true, ...ports }, socket => {
    socket.on('permit-ending', () => told.push('answers'))
  })
  const port = await world.listen(server)
  // What is due comes before the permits do.
  for (const each of [one, other]) {
    const { shown } = each
    each.shown = slot => {
      world.turn(1)
      return shown(slot)
    }
  }
  const socket = await connecting(one, other.idCore, port)
  socket.on('permit-ending', () => told.push('connects'))
  await expect
    .poll(() => {
      world.turn(1_000)
      return told.sort()
    })
    .toEqual(['answers', 'connects'])
  socket.destroy()
})

describe('each PSK is a pairing on a device’s one thread', () => {
  const doorOf = (own: Peer) => {
    const { timers } = world
    const clock = () => world.now
    return new PeerDoor({ identity: own, allow: () => true, clock, timers, random, warnBefore: 0 })
  }
  const refused = { code: 'RETRY_LATER' }

  test('a source whose handshakes come to nothing has fifty, and who comes in pays nothing', async () => {
    const own = new Peer(1)
    let answered = 0
    own.answers = () => {
      answered++
      return new Uint8Array(32)
    }
    const door = doorOf(own)
    const { identity } = await new Peer(2).peerPsk(own.idCore)
    for (let i = 0; i < 60; i++) {
      const psk = await door.psk(identity, '192.0.2.1')
      expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
    }
    for (let i = 0; i < 50; i++) await door.psk(`nobody ${i}`, '192.0.2.1')
    await expect(door.psk('nobody', '192.0.2.1')).rejects.toMatchObject(refused)
    expect(answered).toBe(110)
    await door.psk('nobody', '192.0.2.2')
    world.now += 1_000
    for (let i = 0; i < 5; i++) await door.psk(`nobody ${i}`, '192.0.2.1')
    await expect(door.psk('nobody', '192.0.2.1')).rejects.toMatchObject(refused)
  })

  test('whoever repeats another’s identity pays for itself, and the other gets back its own', async () => {
    const own = new Peer(1)
    own.answers = () => new Uint8Array(32)
    const door = doorOf(own)
    const { identity } = await new Peer(2).peerPsk(own.idCore)
    for (let i = 0; i < 60; i++) {
      const psk = await door.psk(identity, '192.0.2.1')
      const repeated = door.psk(identity, '198.51.100.1')
      if (i < 50) await repeated
      else await expect(repeated).rejects.toMatchObject(refused)
      expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
    }
  })

  test('a car that comes in more often than that comes in', async () => {
    const [one, other] = [new Peer(1), new Peer(2)]
    const { port } = await listening(other)
    for (let i = 0; i < 51; i++) expect(await outcomeOf(connecting(one, other.idCore, port))).toBe('open')
  })
})

test('closing a device’s door ends its channels', async () => {
  const [one, other] = [new Peer(1), new Peer(2)]
  const { port, server } = await listening(other)
  const socket = await connecting(one, other.idCore, port)
  server.close()
  await gone(socket)
})
