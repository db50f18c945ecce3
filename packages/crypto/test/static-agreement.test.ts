/** Static agreement: a car and a gateway, the vectors of an independent implementation, and what each theft is worth. */
import { concat, fromHex, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { agreePointG1, agreePointG2, encodeName, IdCore, isServerName } from '@milagro-ts/crypto/identity'
import { deriveKey } from '@milagro-ts/crypto/kdf'
import { clientProve, DeviceProven } from '@milagro-ts/crypto/mpin'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import { joinPin } from '@milagro-ts/crypto/pin'
import { G1, G2, pairing } from '@milagro-ts/crypto/points'
import type { Scalar } from '@milagro-ts/crypto/scalar'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import {
  AgreeClientKey,
  AgreeSlotKey,
  AgreeStaticKey,
  ClientAgreement,
  clientAgreeStatic,
  PskIdentity,
  type SlotParty,
  type SlotPskKind,
  type StaticParty,
  serverAgree,
  serverAgreeStatic,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { describe, expect, expectTypeOf, test } from 'vitest'
import { hexOf, point1, point2, readVectors } from './vector-files.js'
import {
  alphaOf,
  binding,
  car,
  digestOf,
  driven,
  frozen,
  groupId,
  keysOf,
  makeCar,
  masters,
  mustBe,
  nonceTerms,
  RIGHT_PIN,
  scalarOf,
  seeded,
} from './world.js'

const SLOT = 100
const EPOCH = 5
const s = scalarOf('master agree')
const ivk = G1.generator.mulSecret(s)
const gateway = { kind: 2, name: 'gw.example', generation: 1 } as const satisfies SlotParty
const broker: StaticParty = { kind: 3, name: 'gw.example', generation: 1 }

const pointOf = (idCore: IdCore) => agreePointG1(encodeName(groupId, { kind: 1, idCore }))
const keyOf = (idCore: IdCore, master = s, epoch = EPOCH) =>
  AgreeClientKey.of({ groupId, idCore, epoch }, pointOf(idCore).mulSecret(master))
const secretOf = (party: SlotParty, slot: number) => agreePointG2(slotName(groupId, party, slot)).mulSecret(s)
const slotKey = (party: SlotParty = gateway, slot = SLOT, epoch = EPOCH) =>
  mustBe(AgreeSlotKey.verify({ groupId, party, slot, epoch }, ivk, secretOf(party, slot)))
const begin = (idCore = car, party: SlotParty = gateway, slot = SLOT, random = seeded('r')) =>
  ClientAgreement.begin(keyOf(idCore), { party, slot }, random)
const atServer = (identity: string, key = slotKey()) => toHex(serverAgree(key, PskIdentity.decode(identity)))

test.each<SlotPskKind>(['m1', 'm2'])('%s: a gateway that knows no car agrees with one on 32 bytes', kind => {
  const { identity, psk } = begin().psk(kind)
  expect(identity).toMatch(new RegExp(`^${kind}\\.[A-Za-z0-9_-]{122}$`))
  expect(psk).toHaveLength(32)
  expect(atServer(identity)).toBe(toHex(psk))
})

test('s1: a broker’s file holds what the car computes', () => {
  const static_ = agreePointG2(encodeName(groupId, broker)).mulSecret(s)
  const key = mustBe(AgreeStaticKey.verify({ groupId, party: broker, epoch: EPOCH }, ivk, static_))
  const made = clientAgreeStatic(keyOf(car), broker)
  expect(made.identity).toBe(`s1.${car.mpinId}`)
  expect(serverAgreeStatic(key, car)).toEqual(made)
})

test('two cars, and no server: the one that answers is a party of kind 1', () => {
  const peer: SlotParty = { kind: 1, idCore: makeCar(6) }
  const { identity, psk } = begin(car, peer).psk('m1')
  expect(atServer(identity, slotKey(peer))).toBe(toHex(psk))
})

test('r is drawn once for a party and slot: the identity stays the same, so a server may keep its PSK', () => {
  const agreement = begin()
  expect(agreement.psk('m1')).toBe(agreement.psk('m1'))
  const again = begin(car, gateway, SLOT, seeded('another r'))
  expect(again.psk('m1').identity).not.toBe(agreement.psk('m1').identity)
})

describe('the vectors, byte for byte', () => {
  type Texts<K extends string> = Readonly<Record<K, string>>
  interface Vector {
    readonly identity: Texts<'groupId' | 'idCore'>
    readonly tls: Texts<'C' | 'D_C' | 'serverName'> & {
      readonly agreeEpoch: number
      readonly serverGeneration: number
      readonly slot: number
      readonly m1: Texts<
        | 'B'
        | 'Hk2_B'
        | 'S_B'
        | 'random_r'
        | 'fixed_r'
        | 'r'
        | 'R'
        | 'hInput'
        | 'h'
        | 'ikm'
        | 'info'
        | 'psk'
        | 'identity'
      >
      readonly s1: Texts<'B' | 'Hk2_B' | 'S_B' | 'ikm' | 'info' | 'psk' | 'identity'>
    }
    readonly shares: { readonly masters: { readonly agree: { readonly IVK: string } } }
  }
  const { identity, tls, shares } = readVectors<Vector>('v1.json')
  const group = fromHex(identity.groupId)
  const idCore = IdCore.decode(fromHex(identity.idCore))
  const key = AgreeClientKey.of({ groupId: group, idCore, epoch: tls.agreeEpoch }, point1(tls.D_C))
  const named = { name: tls.serverName, generation: tls.serverGeneration }
  const owner = { groupId: group, epoch: tls.agreeEpoch }
  const vectorIvk = point1(shares.masters.agree.IVK)

  test('m1', () => {
    const { m1, slot } = tls
    const party: SlotParty = { kind: 2, ...named }
    expect(toHex(key.C)).toBe(tls.C)
    expect(toHex(slotName(group, party, slot))).toBe(m1.B)
    expect(hexOf(agreePointG2(fromHex(m1.B)))).toBe(m1.Hk2_B)
    const r = hedgedNonce(NONCE_ROLE.rTls, () => fromHex(m1.random_r), fromHex(tls.D_C), fromHex(m1.fixed_r))
    expect(hexOf(r)).toBe(m1.r)
    expect(hexOf(agreePointG1(fromHex(tls.C)).mulSecret(r))).toBe(m1.R)
    expect(hexOf(hashToScalar('PSK', fromHex(m1.hInput)))).toBe(m1.h)
    expect(toHex(deriveKey('PSK-M1', fromHex(m1.ikm), fromHex(m1.info)))).toBe(m1.psk)

    const made = ClientAgreement.begin(key, { party, slot }, () => fromHex(m1.random_r)).psk('m1')
    expect(made.identity).toBe(m1.identity)
    expect(toHex(made.psk)).toBe(m1.psk)
    const server = mustBe(AgreeSlotKey.verify({ ...owner, party, slot }, vectorIvk, point2(m1.S_B)))
    expect(toHex(serverAgree(server, PskIdentity.decode(m1.identity)))).toBe(m1.psk)
  })

  test('s1', () => {
    const { s1 } = tls
    const party: StaticParty = { kind: 3, ...named }
    expect(toHex(encodeName(group, party))).toBe(s1.B)
    expect(hexOf(agreePointG2(fromHex(s1.B)))).toBe(s1.Hk2_B)
    expect(toHex(pairing(point1(tls.D_C), point2(s1.Hk2_B)).toBytes())).toBe(s1.ikm)
    expect(toHex(deriveKey('PSK-S1', fromHex(s1.ikm), fromHex(s1.info)))).toBe(s1.psk)
    const made = clientAgreeStatic(key, party)
    expect([made.identity, toHex(made.psk)]).toEqual([s1.identity, s1.psk])
    const server = mustBe(AgreeStaticKey.verify({ ...owner, party }, vectorIvk, point2(s1.S_B)))
    expect(serverAgreeStatic(server, idCore)).toEqual(made)
  })
})

describe('an identity has one spelling', () => {
  const { identity } = begin().psk('m1')
  const bytes = concat(car.bytes, Uint8Array.of(0, 0, 0, SLOT), new Uint8Array(48).fill(9))
  test.each([identity, `m2.${toBase64Url(bytes)}`, `s1.${car.mpinId}`])('%s', text => {
    expect(PskIdentity.decode(text).toString()).toBe(text)
  })
  const last = identity.at(-1) as string
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const nextLetter = alphabet[alphabet.indexOf(last) + 1] as string
  test.each([
    ['nothing', ''],
    ['a prefix alone', 'm1.'],
    ['an unknown prefix', identity.replace('m1', 'm3')],
    ['capitals in the prefix', identity.replace('m1', 'M1')],
    ['a character less', identity.slice(0, -1)],
    ['a character more', `${identity}A`],
    ['padding', `${identity}==`],
    ['bits beyond the last byte', identity.slice(0, -1) + nextLetter],
    ['base64 that isn’t url', identity.replace(/.$/, '+')],
    ['a space', ` ${identity}`],
    ['unknown factors', `s1.${toBase64Url(car.bytes.fill(3, 6, 7))}`],
    ['m1 with s1’s length', `m1.${car.mpinId}`],
  ])('refused: %s', (_, text) => {
    expect(() => PskIdentity.decode(text)).toThrow(DecodeError)
  })
  test('an R that is no point is refused by whoever computes with it', () => {
    const read = PskIdentity.decode(`m1.${toBase64Url(bytes)}`)
    expect(() => serverAgree(slotKey(), read)).toThrow(DecodeError)
  })
  test('neither another slot’s identity nor s1 goes with a slot key', () => {
    const next = begin(car, gateway, SLOT + 1).psk('m1')
    for (const text of [next.identity, `s1.${car.mpinId}`])
      expect(() => serverAgree(slotKey(), PskIdentity.decode(text))).toThrow(RangeError)
  })
})

describe('no common key', () => {
  const { identity, psk } = begin().psk('m1')
  const expected = toHex(psk)

  test.each<[string, AgreeSlotKey]>([
    ['another server’s slot key', slotKey({ ...gateway, name: 'other.example' })],
    ['the next generation of the server’s name', slotKey({ ...gateway, generation: 2 })],
    ['another key epoch', slotKey(gateway, SLOT, EPOCH + 1)],
    ['the key that the car has as a peer', slotKey({ kind: 1, idCore: car })],
  ])('with %s', (_, key) => {
    expect(atServer(identity, key)).not.toBe(expected)
  })

  test('a device whose name spells a server’s is no server: kinds are in the name', () => {
    // No idCore spells a server's name, since its factors are no letter. If one did, the kind alone would tell them apart.
    const spelt = 'a-gateway-with-a-name-of-39.example.org'
    expect(isServerName(spelt)).toBe(true)
    expect(() => IdCore.decode(utf8(spelt))).toThrow('unknown factors')
    const { name, generation } = gateway
    const idCore = { bytes: utf8(name), generation } as unknown as IdCore
    const server = slotName(groupId, gateway, SLOT)
    const device = slotName(groupId, { kind: 1, idCore }, SLOT)
    expect(withoutKind(device)).toEqual(withoutKind(server))
    expect(device).not.toEqual(server)
    const S = agreePointG2(device).mulSecret(s)
    const claim = { groupId, slot: SLOT, epoch: EPOCH }
    expect(AgreeSlotKey.verify({ ...claim, party: { kind: 1, idCore } }, ivk, S)).not.toBeNull()
    expect(AgreeSlotKey.verify({ ...claim, party: gateway }, ivk, S)).toBeNull()
  })

  test('a static server is told from a server by its kind, not by the slot alone', () => {
    const { name, generation } = gateway
    const server = encodeName(groupId, { kind: 2, name, generation })
    expect(withoutKind(encodeName(groupId, broker))).toEqual(withoutKind(server))
    expect(encodeName(groupId, broker)).not.toEqual(server)
  })

  test('a slot key that was stolen plays nothing in the next slot', () => {
    const next = begin(car, gateway, SLOT + 1).psk('m1')
    // The thief runs the server's side over the next slot's identity, with yesterday's key in its place.
    const { R } = PskIdentity.decode(next.identity)
    const h = hOf(car, SLOT + 1, mustBe(R), slotName(groupId, gateway, SLOT + 1))
    const sum = G1.decode(mustBe(R)).add(pointOf(car).mulPublic(h))
    const stolen = pskOf(pairing(sum, secretOf(gateway, SLOT)), SLOT + 1, mustBe(R))
    expect(stolen).not.toBe(toHex(next.psk))
    // And as a slot key of the next slot it isn't taken.
    const claim = { groupId, party: gateway, slot: SLOT + 1, epoch: EPOCH }
    expect(AgreeSlotKey.verify(claim, ivk, secretOf(gateway, SLOT))).toBeNull()
  })

  test('between TLS 1.3 and 1.2', () => {
    const m2 = begin().psk('m2')
    expect(toHex(m2.psk)).not.toBe(expected)
    expect(atServer(identity.replace('m1', 'm2'))).toBe(toHex(m2.psk))
  })

  test('when a field of the identity was changed on the way', () => {
    const read = PskIdentity.decode(identity)
    const R = G1.decode(mustBe(read.R))
    const changed = [
      PskIdentity.ofSlot('m1', makeCar(6), SLOT, R),
      PskIdentity.ofSlot('m1', car, SLOT, R.add(G1.generator)),
      PskIdentity.ofSlot('m1', car, SLOT, R.negate()),
    ]
    for (const other of changed) expect(atServer(other.toString())).not.toBe(expected)
  })

  test('a thief of the car’s key doesn’t play the gateway to the car', () => {
    const D = keyOf(car).point
    const Hk2 = agreePointG2(slotName(groupId, gateway, SLOT))
    const R = mustBe(PskIdentity.decode(identity).R)
    const h = hOf(car, SLOT, R, slotName(groupId, gateway, SLOT))
    // All that D, the public values and what the car sent combine to, without r.
    const made = [
      pairing(D, Hk2),
      pairing(D.mulPublic(h), Hk2),
      pairing(D.add(G1.decode(R)), Hk2),
      pairing(G1.decode(R).add(pointOf(car).mulPublic(h)), Hk2),
      pairing(ivk.add(D.mulPublic(h)), Hk2),
    ].map(shared => pskOf(shared, SLOT, R))
    expect(made).not.toContain(expected)
    const withServerKey = pairing(G1.decode(R).add(pointOf(car).mulPublic(h)), secretOf(gateway, SLOT))
    expect(pskOf(withServerKey, SLOT, R)).toBe(expected)
    // The static key has no r, and there the thief does: why s1 is for brokers that can't do better.
    const victim = clientAgreeStatic(keyOf(car), broker)
    const static_ = mustBe(
      AgreeStaticKey.verify(
        { groupId, party: broker, epoch: EPOCH },
        ivk,
        agreePointG2(encodeName(groupId, broker)).mulSecret(s),
      ),
    )
    const thief = pairing(D, agreePointG2(encodeName(groupId, broker)))
    expect(pairing(pointOf(car), static_.lines).equals(thief)).toBe(true)
    expect(serverAgreeStatic(static_, car)).toEqual(victim)
  })
})

test('a gateway that holds its slot key logs nobody in at the RPS', () => {
  // The one equation that it could meet is e(V, Q)·e(X, S) = 1 with the S that it has; the RPS goes by its own.
  const S = secretOf(gateway, SLOT)
  const honest = clientProve({
    terms: nonceTerms,
    binding,
    deviceKey: keysOf(car).D_dev,
    random: seeded('login'),
  })
  expect(DeviceProven.verify(honest, binding, masters.device.serverKey)).not.toBeNull()
  // Its key is none of `device`: the check of every server key refuses it under that IVK, as under its own.
  expect(ServerKey.verify(masters.device.ivk, S)).toBeNull()
  expect(ServerKey.verify(ivk, S)).toBeNull()
})

test('h binds R: without it anybody poses as any car', () => {
  const x = scalarOf('x of a stranger')
  const B = slotName(groupId, gateway, SLOT)
  const computable = pairing(ivk.mulSecret(x), agreePointG2(B))
  // What h would be without R: its tag left out, or all that follows numbered anew.
  const entries = hEntries(car, SLOT, undefined, B)
  const runs = [entries, entries.filter(entry => entry !== undefined)].map(left => {
    // R = xP1 − h·Hk1(C) cancels the car's part. Where h is known before R, the server's value is e(xIVK, Hk2(B)).
    const fixed = hashToScalar('PSK', tlv(left))
    const forged = G1.generator.mulSecret(x).subtract(pointOf(car).mulPublic(fixed))
    const sharedBy = (h: Scalar) => pairing(forged.add(pointOf(car).mulPublic(h)), secretOf(gateway, SLOT))
    expect(sharedBy(fixed).equals(computable)).toBe(true)
    const R = forged.encode()
    const psk = atServer(PskIdentity.ofSlot('m1', car, SLOT, forged).toString())
    const right = pskOf(sharedBy(hOf(car, SLOT, R, B)), SLOT, R)
    return { psk, forged: pskOf(computable, SLOT, R), right }
  })
  // The protocol's h is another for each R, so the same R gives the stranger nothing.
  for (const { psk, forged } of runs) expect(forged).not.toBe(psk)
  for (const { psk, right } of runs) expect(right).toBe(psk)
})

test('ρA_pin mixed into R tests no PIN: `agree` has a master secret of its own', () => {
  const { A_pin, token } = driven()
  const rho = scalarOf('rho')
  const r = scalarOf('r of the thief')
  const B = slotName(groupId, gateway, SLOT)
  const D = keyOf(car).point
  const R = pointOf(car).mulSecret(r).add(A_pin.mulSecret(rho))
  const h = hOf(car, SLOT, R.encode(), B)
  const guess = (pin: string, pinKey = joinPin(token, alphaOf(pin), A_pin)) =>
    pairing(D.mulSecret(r.add(h)).add(pinKey.mulSecret(rho)), agreePointG2(B))
  const server = pairing(R.add(pointOf(car).mulPublic(h)), secretOf(gateway, SLOT))
  expect(guess(RIGHT_PIN).equals(server)).toBe(false)
  // Under one master secret a handshake would say which PIN is right, without a strike.
  expect(guess(RIGHT_PIN, A_pin.mulSecret(s)).equals(server)).toBe(true)
})

test('a random source that gives the same for ever draws other values for another party and slot', () => {
  const Rs = [begin(car, gateway, SLOT, frozen), begin(car, gateway, SLOT + 1, frozen)]
    .concat(begin(car, { ...gateway, name: 'other.example' }, SLOT, frozen))
    .concat(begin(makeCar(6), gateway, SLOT, frozen))
    .map(agreement => toHex(mustBe(PskIdentity.decode(agreement.psk('m1').identity).R)))
  expect(new Set(Rs).size).toBe(4)
})

describe('a server key is taken only for what it is', () => {
  const claim = { groupId, party: gateway, slot: SLOT, epoch: EPOCH }
  const S = secretOf(gateway, SLOT)
  test.each([
    ['another name', { ...claim, party: { ...gateway, name: 'other.example' } }, ivk, S],
    ['another slot', { ...claim, slot: SLOT + 1 }, ivk, S],
    ['another group', { ...claim, groupId: digestOf('another group') }, ivk, S],
    ['another master secret', claim, G1.generator.mulSecret(scalarOf('another')), S],
    ['sQ, the shape of a server key of another purpose', claim, ivk, G2.generator.mulSecret(s)],
    ['the identity', claim, ivk, G2.identity],
  ])('not for %s', (_, owner, issuer, point) => {
    expect(AgreeSlotKey.verify(owner, issuer, point)).toBeNull()
  })
  test('nor a slot key for a static one', () => {
    expect(AgreeStaticKey.verify({ groupId, party: broker, epoch: EPOCH }, ivk, S)).toBeNull()
  })
})

test('keys of `agree` are types of their own', () => {
  // The compiler says so; at run time these lines do nothing.
  type DeviceKey = Parameters<typeof clientProve>[0]['deviceKey']
  expectTypeOf<AgreeClientKey>().not.toExtend<DeviceKey>()
  expectTypeOf<DeviceKey>().not.toExtend<Parameters<typeof ClientAgreement.begin>[0]>()
  expectTypeOf<AgreeStaticKey>().not.toExtend<Parameters<typeof serverAgree>[0]>()
  expectTypeOf<AgreeSlotKey>().not.toExtend<Parameters<typeof serverAgreeStatic>[0]>()
  expectTypeOf<ServerKey>().not.toExtend<AgreeSlotKey>()
  // And the values differ: a login by the car's key of `agree` is nobody's, whatever the types say.
  const proof = { terms: nonceTerms, binding, random: seeded('login') }
  const logIn = (deviceKey: G1) =>
    DeviceProven.verify(clientProve({ ...proof, deviceKey }), binding, masters.device.serverKey)
  expect(logIn(keysOf(car).D_dev)).not.toBeNull()
  expect(logIn(keyOf(car).point)).toBeNull()
})

/** h and PSK, spelt out here so that an impostor may put anything in. */
function hOf(idCore: IdCore, slot: number, R: Uint8Array, B: Uint8Array) {
  return hashToScalar('PSK', tlv(hEntries(idCore, slot, R, B)))
}
function hEntries(idCore: IdCore, slot: number, R: Uint8Array | undefined, B: Uint8Array) {
  return [utf8('BLS12381-SHA256-V1'), idCore.bytes, be(slot, 4), R, B, be(0x0304, 2), be(EPOCH, 4)]
}
function pskOf(shared: ReturnType<typeof pairing>, slot: number, R: Uint8Array): string {
  const info = tlv([
    utf8('BLS12381-SHA256-V1'),
    utf8('client'),
    encodeName(groupId, { kind: 1, idCore: car }),
    utf8('server'),
    slotName(groupId, gateway, slot),
    be(slot, 4),
    R,
    be(0x0304, 2),
    be(EPOCH, 4),
  ])
  return toHex(deriveKey('PSK-M1', shared.toBytes(), info))
}
const be = (value: number, size: number) =>
  Uint8Array.from({ length: size }, (_, i) => value >>> (8 * (size - 1 - i)))
const tlv = (entries: readonly (Uint8Array | undefined)[]) =>
  concat(
    ...entries.flatMap((value, i) =>
      value === undefined ? [] : [concat(Uint8Array.of(i + 1), be(value.length, 4), value)],
    ),
  )
/** A name TLV less the byte of its kind, behind groupId and the kind's own tag and length. */
const withoutKind = (name: Uint8Array) => name.filter((_, at) => at !== 5 + 32 + 5)
