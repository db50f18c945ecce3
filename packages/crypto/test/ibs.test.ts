/** Cha–Cheon signatures: a signed position, the vector of an independent implementation, and what must fail. */
import { fromHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import {
  Signature,
  type SignatureClaim,
  type SignatureTerms,
  sign,
  signaturesVerify,
  signatureVerify,
} from '@milagro-ts/crypto/ibs'
import { IdCore, signIdentityPoint } from '@milagro-ts/crypto/identity'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { describe, expect, test } from 'vitest'
import { hexOf, point1, point2, readVectors } from './vector-files.js'
import { car, digestOf, frozen, groupId, makeCar, scalarOf, seeded } from './world.js'

const s = scalarOf('master sign')
const Ppub = G2.generator.mulSecret(s)
const keyOf = (idCore: IdCore) => signIdentityPoint(groupId, idCore).mulSecret(s)
const terms: SignatureTerms = { groupId, idCore: car, slot: 100, context: 'telemetry', signEpoch: 6 }
const message = utf8('{"pos":[48.1,11.5]}')
const signed = () => sign(terms, keyOf(car), message, seeded('signature'))

test('a car signs a position; anybody checks it with the group document alone', () => {
  const bytes = signed().encode()
  expect(bytes).toHaveLength(96)
  expect(signatureVerify(terms, Ppub, message, Signature.decode(bytes))).toBe(true)
})

test('the vector, byte for byte', () => {
  interface Vector {
    readonly identity: { readonly groupId: string }
    readonly ibs: Readonly<
      Record<
        'idCore' | 'D' | 'Ppub' | 'context' | 'message' | 'random_x' | 'cInput' | 'c' | 'signature',
        string
      >
    > & { readonly slot: number; readonly signEpoch: number }
  }
  const { identity, ibs } = readVectors<Vector>('v1.json')
  const vectorTerms: SignatureTerms = {
    groupId: fromHex(identity.groupId),
    idCore: IdCore.decode(fromHex(ibs.idCore)),
    slot: ibs.slot,
    context: ibs.context,
    signEpoch: ibs.signEpoch,
  }
  const made = sign(vectorTerms, point1(ibs.D), fromHex(ibs.message), () => fromHex(ibs.random_x))
  expect(hexOf(made)).toBe(ibs.signature)
  expect(hexOf(hashToScalar('SIGN', fromHex(ibs.cInput)))).toBe(ibs.c)
  const read = Signature.decode(fromHex(ibs.signature))
  expect(signatureVerify(vectorTerms, point2(ibs.Ppub), fromHex(ibs.message), read)).toBe(true)
})

describe('refused', () => {
  const { U, V } = signed()
  test.each<[string, Partial<SignatureTerms>]>([
    ['another identity', { idCore: makeCar(6) }],
    ['another group', { groupId: digestOf('another group') }],
    ['another slot', { slot: 101 }],
    ['another context', { context: 'telemetry2' }],
    ['another key epoch', { signEpoch: 7 }],
  ])('%s', (_, change) => {
    expect(signatureVerify({ ...terms, ...change }, Ppub, message, Signature.of(U, V))).toBe(false)
  })
  test('another message, and an empty one', () => {
    for (const other of [utf8('{"pos":[48.1,11.6]}'), new Uint8Array()]) {
      expect(signatureVerify(terms, Ppub, other, Signature.of(U, V))).toBe(false)
    }
  })
  test('another public key', () => {
    expect(signatureVerify(terms, G2.generator, message, Signature.of(U, V))).toBe(false)
  })
  test('U and V that were swapped, negated or mixed from two signatures', () => {
    const other = sign(terms, keyOf(car), message, seeded('another'))
    for (const [u, v] of [
      [V, U],
      [U, V.negate()],
      [U.negate(), V],
      [U, other.V],
      [other.U, V],
    ] as const) {
      expect(signatureVerify(terms, Ppub, message, Signature.of(u, v))).toBe(false)
    }
  })
  test('U chosen from V: c hashes U, so the equation can’t be solved backwards', () => {
    // With any c' fixed beforehand, U = t·A − c'·A and V = t·D' need D'; without it V = t·P1 fits no Ppub.
    const A = signIdentityPoint(groupId, car)
    const t = scalarOf('t')
    const guessed = scalarOf('c')
    const forged = Signature.of(A.mulSecret(t).subtract(A.mulPublic(guessed)), G1.generator.mulSecret(t))
    expect(signatureVerify(terms, Ppub, message, forged)).toBe(false)
  })
  test('a signature with another car’s key', () => {
    const forged = sign(terms, keyOf(makeCar(6)), message, seeded('forged'))
    expect(signatureVerify(terms, Ppub, message, forged)).toBe(false)
  })
  test.each(['', 'x'.repeat(257)])('a context of a length that is none: %j', context => {
    expect(() => sign({ ...terms, context }, keyOf(car), message, seeded('context'))).toThrow(DecodeError)
    expect(() => signatureVerify({ ...terms, context }, Ppub, message, Signature.of(U, V))).toThrow(
      DecodeError,
    )
  })
  test('bytes that are no signature', () => {
    const bytes = signed().encode()
    for (const wrong of [
      bytes.subarray(0, 95),
      new Uint8Array([...bytes, 0]),
      new Uint8Array(96),
      new Uint8Array([...G1.identity.encode(), ...bytes.subarray(48)]),
      new Uint8Array([...bytes.subarray(0, 48), ...G1.identity.encode()]),
    ]) {
      expect(() => Signature.decode(wrong)).toThrow(DecodeError)
    }
  })
})

test('a random source that gives the same for ever draws another x for another message', () => {
  const one = sign(terms, keyOf(car), message, frozen)
  const other = sign(terms, keyOf(car), utf8('another'), frozen)
  // With one x and two challenges, (V − V')/(c − c') would be the key.
  expect(one.U.equals(other.U)).toBe(false)
})

describe('in a batch', () => {
  const random = seeded('the verifier’s weights')
  const COUNT = 24
  const good = Array.from({ length: COUNT }, (_, i): SignatureClaim => {
    const idCore = makeCar(i % 7)
    const own = { ...terms, idCore }
    const position = utf8(`{"pos":[48.1,${i}]}`)
    return {
      terms: own,
      message: position,
      signature: sign(own, keyOf(idCore), position, seeded(`position ${i}`)),
    }
  })
  /** Another one's words under the signature. */
  const forged = good.map((claim, i) => ({ ...claim, message: good[(i + 1) % COUNT]?.message as Uint8Array }))
  const mixed = (bad: (i: number) => boolean) =>
    good.map((claim, i) => (bad(i) ? (forged[i] as SignatureClaim) : claim))

  test.each([
    ['none is bad', () => false],
    ['one is bad', (i: number) => i === 17],
    ['the first and the last are bad', (i: number) => i === 0 || i === COUNT - 1],
    ['all of one car are bad', (i: number) => i % 7 === 3],
    ['all are bad', () => true],
  ])('%s: each is decided as one by one', (_, bad) => {
    const claims = mixed(bad)
    const verdicts = signaturesVerify(claims, Ppub, random)
    expect(verdicts).toEqual(claims.map((__, i) => !bad(i)))
    expect(verdicts).toEqual(
      claims.map(({ terms, message, signature }) => signatureVerify(terms, Ppub, message, signature)),
    )
  })

  test('none, one, the same twice; by prepared lines, too', () => {
    const [one] = good as [SignatureClaim]
    const [other] = forged as [SignatureClaim]
    const lines = PreparedG2.of(Ppub)
    expect(signaturesVerify([], lines, random)).toEqual([])
    expect(signaturesVerify([one], lines, random)).toEqual([true])
    expect(signaturesVerify([other], lines, random)).toEqual([false])
    expect(signaturesVerify([one, one, other, one], lines, random)).toEqual([true, true, false, true])
  })

  test('two whose faults cancel out are refused: the weights are the verifier’s own', () => {
    const [a, b] = good as [SignatureClaim, SignatureClaim]
    const fault = G1.generator.mulPublic(scalarOf('fault'))
    const shifted = [
      { ...a, signature: Signature.of(a.signature.U, a.signature.V.add(fault)) },
      { ...b, signature: Signature.of(b.signature.U, b.signature.V.subtract(fault)) },
    ]
    expect(signaturesVerify(shifted, Ppub, random)).toEqual([false, false])
  })

  test('one car’s signature under another’s name, among its own', () => {
    const [a] = good as [SignatureClaim]
    const renamed = { ...a, terms: { ...a.terms, idCore: makeCar(1) } }
    expect(signaturesVerify([a, renamed, a], Ppub, random)).toEqual([true, false, true])
  })

  test('a context of a length that is none', () => {
    const [a] = good as [SignatureClaim]
    expect(() => signaturesVerify([{ ...a, terms: { ...terms, context: '' } }], Ppub, random)).toThrow(
      DecodeError,
    )
  })
})
