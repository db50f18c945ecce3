/** What a thief of a server's slot key can do to a car, and what it can't: over real TLS, the thief with node:tls alone. */
import { createServer as rawServer, type TLSSocket } from 'node:tls'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { agreePointG2, type IdCore } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import {
  AgreeSlotKey,
  PskIdentity,
  type SlotParty,
  serverAgree,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { connect, createServer } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { NAME, outcome, RULE, SLOT, World, wrongKeyAlert } from './world.js'

let world: World
let port: number
beforeEach(async () => {
  world = await World.start()
  port = await world.listen(thief())
})
afterEach(() => world.close())

const gateway = { kind: 2, name: NAME, generation: 1 } as const satisfies SlotParty
/** s·Hk2(B) of this party in SLOT, as the authorities would give it, taken for `as`: null where it isn't that one's. */
const keyOf = (party: SlotParty, as = party) =>
  AgreeSlotKey.verify(
    { groupId: world.groupId, party: as, epoch: 1, slot: SLOT },
    G1.generator.mulSecret(world.s),
    agreePointG2(slotName(world.groupId, party, SLOT)).mulSecret(world.s),
  )

/** Plays whatever server a car asks for, with the key of NAME in SLOT. */
function thief() {
  const stolen = keyOf(gateway) as AgreeSlotKey
  return playing(({ idCore, R }) =>
    serverAgree(stolen, PskIdentity.ofSlot('m1', idCore, SLOT, G1.decode(R as Uint8Array, 'R'))),
  )
}
/** A server of node:tls with this PSK for whoever comes. */
function playing(psk: (identity: PskIdentity) => Uint8Array) {
  const server = rawServer(
    {
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256',
      pskCallback: (_: TLSSocket, text: string) => Buffer.from(psk(PskIdentity.decode(text))),
    },
    socket => {
      socket.on('error', () => undefined)
      socket.write('welcome')
    },
  )
  return server.on('tlsClientError', () => undefined)
}
const dial = (servername: string, at = port) =>
  outcome(connect({ host: '127.0.0.1', port: at, servername, identity: world.car(1) }))

test('it plays its server in its slot: what was stolen is stolen', async () => {
  expect(await dial(NAME)).toBe('in')
})

test('it plays no other name', async () => {
  expect(await dial('other.example')).not.toBe('in')
})

test('it plays nothing in the next slot, nor in the one before', async () => {
  world.turn(RULE.length * 1000)
  expect(await dial(NAME)).not.toBe('in')
  world.turn(-2 * RULE.length * 1000)
  expect(await dial(NAME)).not.toBe('in')
})

test('it poses as a car to that server alone, and as none to the next slot’s', async () => {
  const { door, timers, log } = world
  const inside: string[] = []
  const server = createServer({ door, timers, log }, (socket, peer) => {
    inside.push(peer.mpinId)
    socket.on('error', () => undefined)
    socket.write('welcome')
  })
  const at = await world.listen(server.on('tlsClientError', () => undefined))
  const stolen = keyOf(gateway) as AgreeSlotKey
  const victim = world.car(1)
  const posing = (slot: number) => {
    const known = PskIdentity.ofSlot('m1', victim.idCore, SLOT, G1.generator)
    const identity = PskIdentity.ofSlot('m1', victim.idCore, slot, G1.generator).toString()
    const externalPsk = async () => ({ identity, psk: serverAgree(stolen, known), slot, endsAt: 0 })
    return outcome(connect({ host: '127.0.0.1', port: at, servername: NAME, identity: { externalPsk } }))
  }
  expect(await posing(SLOT)).toBe('in')
  world.turn(RULE.length * 1000)
  await world.holdKeys(SLOT, SLOT + 1)
  expect(await posing(SLOT + 1)).not.toBe('in')
  world.turn(300_000)
  expect(await posing(SLOT)).not.toBe('in')
  expect(inside).toEqual([victim.mpinId])
})

test('a car’s own key plays no server to another car, nor to itself', async () => {
  const [car, other] = [world.car(1), world.car(2)]
  const { psk } = await car.externalPsk(NAME)
  const at = await world.listen(playing(() => psk))
  const dialled = (identity: typeof car) =>
    outcome(connect({ host: '127.0.0.1', port: at, servername: NAME, identity }))
  expect(await dialled(other)).not.toBe('in')
  // Its r is drawn anew: the PSK that a thief of its key alone computes is another one.
  expect(await dialled(world.car(1))).not.toBe('in')
})

test('a device’s slot key plays no server of the same spelling: kinds are in the name', async () => {
  // No idCore spells NAME. As if one did, the authorities give its device a key to answer other devices with.
  const idCore = { bytes: utf8(NAME), generation: gateway.generation } as unknown as IdCore
  const device: SlotParty = { kind: 1, idCore }
  // It speaks by the very name that cars hash: only the key is another's.
  const posing = ({ owner, slot, lines }: AgreeSlotKey) => {
    const key = { owner, slot, lines, name: world.B(SLOT) } as AgreeSlotKey
    return world.listen(playing(identity => serverAgree(key, identity)))
  }
  expect(await dial(NAME, await posing(keyOf(device) as AgreeSlotKey))).toBe(await wrongKeyAlert())
  expect(await dial(NAME, await posing(keyOf(gateway) as AgreeSlotKey))).toBe('in')
  // And the library takes that key for no server's.
  expect(keyOf(device, gateway)).toBeNull()
})
