/** What holds for all terms, secrets, sharings and contexts, not only for the ones that other tests picked. */
import { equalBytes, toHex } from '@milagro-ts/crypto/bytes'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { deviceIdentityPoint, IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import {
  Authenticated,
  challengeTlv,
  clientProve,
  DeviceProven,
  LoginMessage,
  type LoginTerms,
  MODE,
  type PinTerms,
} from '@milagro-ts/crypto/mpin'
import { joinPin, splitPin } from '@milagro-ts/crypto/pin'
import { G1 } from '@milagro-ts/crypto/points'
import { possessionProve, possessionVerify } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, recombineSecret, splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue, KeyShare, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { Permit, type PermitTarget } from '@milagro-ts/crypto/time-permit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { binding, groupId, keysOf, masters, mustBe, scalarOf, seeded } from './world.js'

/** A pairing costs a test some 15 ms: few cases here, ten times as many in the campaigns of `npm run test:long`. */
const runs = (cases: number) => ({ numRuns: process.env.MILAGRO_LONG === '1' ? 10 * cases : cases })

const bytes32 = fc.uint8Array({ minLength: 32, maxLength: 32 })
const uint32 = fc.integer({ min: 0, max: 2 ** 32 - 1 })
const scalars = bytes32.map(bytes => Scalar.random(seeded(toHex(bytes))))
const idCores = fc
  .tuple(fc.uint8Array({ minLength: 39, maxLength: 39 }), fc.constantFrom(0, 1, 2))
  .map(([bytes, factors]) => IdCore.decode(bytes.with(6, factors)))
const audiences = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 40 })
  .map(text => text.normalize('NFC'))
  .filter(text => new TextEncoder().encode(text).length <= 256)

const common = { audience: audiences, deviceEpoch: uint32, slot: uint32, idCore: idCores }
const clientTime = fc.integer({ min: 0, max: 2 ** 53 - 1 })
const anyTerms: fc.Arbitrary<LoginTerms> = fc.oneof(
  fc.record({ mode: fc.constant(MODE.nonce), ...common, nonce: bytes32 }),
  fc.record({ mode: fc.constant(MODE.time), ...common, clientTime }),
  fc.record({ mode: fc.constant(MODE.sign), ...common, nonce: bytes32, payloadHash: bytes32 }),
  fc.record({ mode: fc.constant(MODE.sign), ...common, clientTime, payloadHash: bytes32 }),
)
const anyPin: fc.Arbitrary<PinTerms> = fc.record({
  userCore: fc.oneof(bytes32, fc.constant(NO_USER)),
  pinGen: uint32,
  pinEpoch: uint32,
})
const anyTarget: fc.Arbitrary<PermitTarget> = fc.oneof(
  idCores.map(idCore => ({ type: 'id' as const, idCore })),
  fc
    .integer({ min: 0, max: 32 })
    .chain(depth =>
      fc.integer({ min: 0, max: 2 ** depth - 1 }).map(index => ({ type: 'node' as const, depth, index })),
    ),
)
const anyPermit = fc
  .tuple(uint32, anyTarget, scalars)
  .map(([slot, target, k]) => Permit.of(slot, target, G1.generator.mulPublic(k)))

describe('a login', () => {
  test('with any terms, PIN, permit and connection is accepted in each of its spellings', () => {
    fc.assert(
      fc.property(
        anyTerms,
        fc.option(anyPin, { nil: undefined }),
        fc.option(anyPermit, { nil: undefined }),
        fc.option(bytes32, { nil: undefined }),
        bytes32,
        (terms, pinTerms, permit, tlsExporter, seed) => {
          const random = seeded(toHex(seed))
          const bound = { groupId, tlsExporter }
          const { D_dev, D_pin } = keysOf(terms.idCore, pinTerms)
          const pin = pinTerms && { terms: pinTerms, pinKey: D_pin }
          const made = clientProve({ terms, binding: bound, deviceKey: D_dev, pin, permit, random })
          const message = LoginMessage.decode(made.encode())
          expect(equalBytes(LoginMessage.fromJson(made.toJson()).encode(), made.encode())).toBe(true)
          const proven = mustBe(DeviceProven.verify(message, bound, masters.device.serverKey))
          if (pin !== undefined && terms.idCore.factors !== 0) {
            const who = Authenticated.byPin(proven, masters.pin.serverKey, random)
            expect(who?.userCore).toEqual(pin.terms.userCore)
          }
          expect(proven.message.permit?.encode()).toEqual(permit?.encode())
        },
      ),
      runs(40),
    )
  })

  test('two that differ in any term differ in c', () => {
    const c = (terms: LoginTerms, pin: PinTerms | undefined) => toHex(challengeTlv(terms, pin, binding, {}))
    const option = fc.option(anyPin, { nil: undefined })
    fc.assert(
      fc.property(anyTerms, option, anyTerms, option, (a, pinA, b, pinB) => {
        const same = (x: unknown, y: unknown) => JSON.stringify(x) === JSON.stringify(y)
        const plain = (terms: LoginTerms) => ({ ...terms, idCore: terms.idCore.mpinId })
        expect(c(a, pinA) === c(b, pinB)).toBe(same(plain(a), plain(b)) && same(pinA, pinB))
      }),
    )
  })

  test('shows another U each time, and never one that another key, term or source gives', () => {
    const seen = new Set<string>()
    let made = 0
    fc.assert(
      fc.property(idCores, bytes32, bytes32, (idCore, nonce, seed) => {
        const terms = { mode: MODE.nonce, audience: 'a', deviceEpoch: 1, slot: 1, idCore, nonce }
        const { A_dev, D_dev } = keysOf(idCore)
        for (const random of [seeded(toHex(seed)), seeded('another'), (n: number) => new Uint8Array(n)]) {
          const { U_dev } = clientProve({ terms, binding, deviceKey: D_dev, random })
          expect(U_dev.equals(A_dev)).toBe(false)
          seen.add(toHex(U_dev.encode()))
          made++
        }
      }),
      runs(15),
    )
    expect(seen.size).toBe(made)
  })
})

describe('PINs', () => {
  test('splitting and joining undo each other; another α gives another key', () => {
    const { A_pin, D_pin } = keysOf(IdCore.zero)
    fc.assert(
      fc.property(scalars, scalars, (alpha, other) => {
        const token = splitPin(D_pin, alpha, A_pin)
        expect(joinPin(token, alpha, A_pin).equals(D_pin)).toBe(true)
        expect(joinPin(token, other, A_pin).equals(D_pin)).toBe(alpha.equals(other))
      }),
      runs(20),
    )
  })
})

describe('sharing', () => {
  const sizes = fc
    .integer({ min: 1, max: 9 })
    .chain(n => fc.record({ n: fc.constant(n), t: fc.integer({ min: 1, max: n }) }))

  test('any t of n give the secret, in any order; fewer do not', () => {
    fc.assert(
      fc.property(sizes, scalars, bytes32, ({ t, n }, secret, seed) => {
        const random = seeded(toHex(seed))
        const shares = splitSecret(secret, { t, n }, random)
        const shuffled = shares
          .map(share => ({ share, key: toHex(random(8)) }))
          .sort((a, b) => (a.key < b.key ? -1 : 1))
          .map(({ share }) => share)
        expect(recombineSecret(shuffled.slice(0, t)).equals(secret)).toBe(true)
        expect(recombineSecret(shuffled).equals(secret)).toBe(true)
        if (t > 1) expect(recombineSecret(shuffled.slice(0, t - 1)).equals(secret)).toBe(false)
      }),
      runs(60),
    )
  })

  test('combining points is combining secrets', () => {
    const A = deviceIdentityPoint(groupId, IdCore.zero)
    fc.assert(
      fc.property(sizes, scalars, bytes32, ({ t, n }, secret, seed) => {
        const shares = splitSecret(secret, { t, n }, seeded(toHex(seed))).slice(n - t)
        const points = shares.map(({ index, scalar }) => ({ index, point: A.mulSecret(scalar) }))
        expect(combineG1(points).equals(A.mulSecret(secret))).toBe(true)
      }),
      runs(12),
    )
  })

  test('any n secrets are an n-of-n sharing: founding needs no dealing', () => {
    fc.assert(
      fc.property(fc.array(scalars, { minLength: 1, maxLength: 7 }), secrets => {
        const shares = secrets.map((scalar, i) => ({ index: i + 1, scalar }))
        const s = recombineSecret(shares)
        const commitments = shares.map(({ index, scalar }) => ({
          index,
          point: G1.generator.mulSecret(scalar),
        }))
        expect(combineG1(commitments).equals(G1.generator.mulSecret(s))).toBe(true)
      }),
      runs(10),
    )
  })
})

describe('proofs', () => {
  test('of a share: hold for every context, identity and secret, and for no other', () => {
    const contexts = fc.record({
      purpose: fc.constantFrom(...PURPOSES),
      index: fc.integer({ min: 1, max: 255 }),
      shareEpoch: uint32,
      identity: fc.uint8Array({ minLength: 1, maxLength: 100 }),
      jti: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    })
    fc.assert(
      fc.property(contexts, contexts, idCores, scalars, bytes32, (one, other, idCore, s, seed) => {
        const of = (context: typeof one) => ({
          ctx: shareContext({ groupId, ...context }),
          commitment: G1.generator.mulSecret(s),
          A: deviceIdentityPoint(groupId, idCore),
        })
        const share = KeyShare.decode(authorityIssue(of(one), s, seeded(toHex(seed))).encode())
        expect(shareVerify(of(one), share)).toBe(true)
        const same = equalBytes(of(one).ctx, of(other).ctx)
        expect(shareVerify(of(other), share)).toBe(same)
      }),
      runs(15),
    )
  })

  test('of possession: hold for their member, session and purpose', () => {
    const contexts = fc.record({
      session: bytes32,
      purpose: fc.constantFrom(...PURPOSES),
      index: fc.integer({ min: 1, max: 255 }),
    })
    fc.assert(
      fc.property(contexts, contexts, scalars, bytes32, (one, other, a, seed) => {
        const proof = possessionProve(one, a, seeded(toHex(seed)))
        const aP1 = G1.generator.mulSecret(a)
        expect(possessionVerify(one, aP1, proof)).toBe(true)
        expect(possessionVerify(other, aP1, proof)).toBe(JSON.stringify(one) === JSON.stringify(other))
      }),
      runs(20),
    )
  })
})

test('Hq is spread over the whole field: no value twice, every top byte that q allows', () => {
  const values = Array.from({ length: 600 }, (_, i) =>
    hashToScalar('CHAL', scalarOf(`${i}`).encode()).encode(),
  )
  expect(new Set(values.map(toHex)).size).toBe(values.length)
  const tops = values.map(value => value[0] as number)
  expect(Math.max(...tops)).toBeGreaterThan(0x6f)
  expect(Math.max(...tops)).toBeLessThanOrEqual(0x73)
  expect(Math.min(...tops)).toBeLessThan(4)
})
