/** Identity-based encryption: a key for a name, the vectors of an independent implementation, and what must fail. */
import { fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { decapsulate, ENCAPSULATION_LENGTH, encapsulate } from '@milagro-ts/crypto/ibe'
import { encodeName, encryptPoint } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { describe, expect, test } from 'vitest'
import { point1, point2, readVectors } from './vector-files.js'
import { groupId, mustBe, scalarOf, seeded } from './world.js'

const s = scalarOf('master encrypt')
const Ppub = G2.generator.mulSecret(s)
const named = (name: string, slot?: number) =>
  encodeName(groupId, { kind: 4, name, generation: 0, ...(slot === undefined ? {} : { slot }) })
const keyOf = (name: Uint8Array) => encryptPoint(name).mulSecret(s)
const workshop = named('workshop@example.org')
const made = (name = workshop) => encapsulate({ name, Ppub }, seeded('encapsulation'))

test('a key for a name that has no key yet; its owner gets one later and opens it', () => {
  const { encapsulation, key } = made()
  expect(encapsulation).toHaveLength(ENCAPSULATION_LENGTH)
  const opened = mustBe(decapsulate({ name: workshop, Ppub }, keyOf(workshop), encapsulation))
  expect(toHex(opened)).toBe(toHex(key))
})

test.each(['name', 'nameWithSlot', 'other'] as const)('the vector, byte for byte: %s', which => {
  interface Vector {
    readonly ibe: Readonly<
      Record<string, Readonly<Record<'ID' | 'key' | 'Ppub' | 'sigma' | 'M' | 'ciphertext', string>>>
    >
  }
  const vector = mustBe(readVectors<Vector>('v1.json').ibe[which])
  const terms = { name: fromHex(vector.ID), Ppub: point2(vector.Ppub) }
  const draws = [vector.sigma, vector.M]
  const { encapsulation, key } = encapsulate(terms, () => fromHex(mustBe(draws.shift())))
  expect(toHex(encapsulation)).toBe(vector.ciphertext)
  expect(toHex(key)).toBe(vector.M)
  const opened = mustBe(decapsulate(terms, point1(vector.key), fromHex(vector.ciphertext)))
  expect(toHex(opened)).toBe(vector.M)
})

describe('refused', () => {
  const { encapsulation } = made()
  const terms = { name: workshop, Ppub }

  test('another name’s key, the same name at a slot, a key of yesterday', () => {
    const today = named('workshop@example.org', 101)
    const forToday = made(today).encapsulation
    const yesterday = keyOf(named('workshop@example.org', 100))
    expect(decapsulate(terms, keyOf(named('thief@example.org')), encapsulation)).toBeNull()
    expect(decapsulate(terms, keyOf(today), encapsulation)).toBeNull()
    expect(decapsulate({ name: today, Ppub }, yesterday, forToday)).toBeNull()
    expect(decapsulate({ name: today, Ppub }, keyOf(today), forToday)).not.toBeNull()
  })
  test('the right key under another name or public key', () => {
    expect(decapsulate({ ...terms, name: named('x') }, keyOf(workshop), encapsulation)).toBeNull()
    expect(decapsulate({ ...terms, Ppub: G2.generator }, keyOf(workshop), encapsulation)).toBeNull()
  })
  test('any flipped bit of V and W', () => {
    for (let at = 96; at < ENCAPSULATION_LENGTH; at += 7) {
      const changed = encapsulation.slice()
      changed[at] = (changed[at] as number) ^ (1 << (at % 8))
      expect(decapsulate(terms, keyOf(workshop), changed)).toBeNull()
    }
  })
  test('U that was replaced by another point: r is checked, so the owner is no oracle', () => {
    const changed = encapsulation.slice()
    changed.set(G2.decode(encapsulation.subarray(0, 96)).add(G2.generator).encode())
    expect(decapsulate(terms, keyOf(workshop), changed)).toBeNull()
    // Negated, it is still in the group and still refused.
    changed.set(G2.decode(encapsulation.subarray(0, 96)).negate().encode())
    expect(decapsulate(terms, keyOf(workshop), changed)).toBeNull()
  })
  test('parts of two encapsulations put together', () => {
    const other = encapsulate(terms, seeded('other')).encapsulation
    for (const cut of [96, 128]) {
      const mixed = new Uint8Array([...encapsulation.subarray(0, cut), ...other.subarray(cut)])
      expect(decapsulate(terms, keyOf(workshop), mixed)).toBeNull()
    }
  })
  test('another length, and a U that is no point', () => {
    const key = keyOf(workshop)
    const identity = new Uint8Array([...G2.identity.encode(), ...encapsulation.subarray(96)])
    for (const wrong of [
      encapsulation.subarray(1),
      new Uint8Array([...encapsulation, 0]),
      new Uint8Array(160),
      identity,
    ]) {
      expect(() => decapsulate(terms, key, wrong)).toThrow(DecodeError)
    }
  })
})

test('encapsulations to one name differ, and so do those of one draw to two names', () => {
  const one = encapsulate({ name: workshop, Ppub }, seeded('1'))
  const two = encapsulate({ name: workshop, Ppub }, seeded('2'))
  expect(toHex(one.encapsulation)).not.toBe(toHex(two.encapsulation))
  const elsewhere = encapsulate({ name: named('other'), Ppub }, seeded('1'))
  expect(toHex(elsewhere.encapsulation.subarray(96))).not.toBe(toHex(one.encapsulation.subarray(96)))
})
