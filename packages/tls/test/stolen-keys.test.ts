/** What a thief of a server's slot key can do to a car, and what it can't: over real TLS, the thief with node:tls alone. */
import { createServer as rawServer, type TLSSocket } from 'node:tls'
import { agreePointG2 } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { AgreeSlotKey, PskIdentity, serverAgree } from '@milagro-ts/crypto/static-agreement'
import { connect, createServer } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { NAME, outcome, RULE, SLOT, World } from './world.js'

let world: World
let port: number
beforeEach(async () => {
  world = await World.start()
  port = await world.listen(thief())
})
afterEach(() => world.close())

/** Plays whatever server a car asks for, with the key of NAME in SLOT. */
function thief() {
  const owner = {
    groupId: world.groupId,
    party: { kind: 2, name: NAME, generation: 1 },
    epoch: 1,
    slot: SLOT,
  } as const
  const ivk = G1.generator.mulSecret(world.s)
  const stolen = AgreeSlotKey.verify(
    owner,
    ivk,
    agreePointG2(world.B(SLOT)).mulSecret(world.s),
  ) as AgreeSlotKey
  const server = rawServer(
    {
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256',
      pskCallback: (_: TLSSocket, text: string) => {
        const { idCore, R } = PskIdentity.decode(text)
        const asOfThen = PskIdentity.ofSlot('m1', idCore, SLOT, G1.decode(R as Uint8Array, 'R'))
        return Buffer.from(serverAgree(stolen, asOfThen))
      },
    },
    socket => {
      socket.on('error', () => undefined)
      socket.write('welcome')
    },
  )
  return server.on('tlsClientError', () => undefined)
}
const dial = (servername: string) =>
  outcome(connect({ host: '127.0.0.1', port, servername, identity: world.car(1) }))

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
  const owner = {
    groupId: world.groupId,
    party: { kind: 2, name: NAME, generation: 1 },
    epoch: 1,
    slot: SLOT,
  } as const
  const S = agreePointG2(world.B(SLOT)).mulSecret(world.s)
  const stolen = AgreeSlotKey.verify(owner, G1.generator.mulSecret(world.s), S) as AgreeSlotKey
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
  const server = rawServer(
    { minVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256', pskCallback: () => Buffer.from(psk) },
    socket => socket.on('error', () => undefined).write('welcome'),
  )
  const at = await world.listen(server.on('tlsClientError', () => undefined))
  const dialled = (identity: typeof car) =>
    outcome(connect({ host: '127.0.0.1', port: at, servername: NAME, identity }))
  expect(await dialled(other)).not.toBe('in')
  // Its r is drawn anew: the PSK that a thief of its key alone computes is another one.
  expect(await dialled(world.car(1))).not.toBe('in')
})
