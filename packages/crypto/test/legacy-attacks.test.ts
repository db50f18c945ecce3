/** The retired wire forms: one run through the octets, then what must be refused, and the arithmetic against twins. */
import { concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { BLS381, BN254CX, type LegacyCurve } from '@milagro-ts/crypto/legacy/curve'
import * as dvs from '@milagro-ts/crypto/legacy/dvs'
import { hashId, identityPoint, mapit2 } from '@milagro-ts/crypto/legacy/hash-to-curve'
import {
  authorityIssueClientSecret,
  authorityIssuePermit,
  authorityIssueServerSecret,
  type Commitment,
  clientBegin,
  clientProveOnePass,
  joinPin,
  type Login,
  serverAnswer,
  serverVerifyOnePass,
  splitPin,
} from '@milagro-ts/crypto/legacy/mpin'
import * as full from '@milagro-ts/crypto/legacy/mpin-full'
import { i2os } from '@milagro-ts/crypto/legacy/octets'
import { GT } from '@milagro-ts/crypto/legacy/pairing'
import { pinError, pinErrorTerms } from '@milagro-ts/crypto/legacy/pin-error'
import { G1, G2 } from '@milagro-ts/crypto/legacy/points'
import { Scalar } from '@milagro-ts/crypto/legacy/scalar'
import { type Fp2, type Fp12, power } from '@milagro-ts/crypto/legacy/tower'
import * as wcc from '@milagro-ts/crypto/legacy/wcc'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { twinPairing, twinQ } from './bigint-twin.js'
import { mustBe, seeded } from './world.js'

const DAY = 20_000
const alice = utf8('{"userID":"alice@example.org"}')
const empty = new Uint8Array()

/** Two authorities, a server, and a client with the PIN 1234. */
function world(curve: LegacyCurve) {
  const random = seeded(`legacy ${curve.name}`)
  const masters = [Scalar.random(curve, random), Scalar.random(curve, random)]
  const hashedId = hashId(curve, alice)
  const SS = G2.sum(masters.map(authorityIssueServerSecret))
  const secret = G1.sum(masters.map(s => authorityIssueClientSecret(s, hashedId)))
  const permitOf = (day: number) => G1.sum(masters.map(s => authorityIssuePermit(s, hashedId, day)))
  const token = splitPin(secret, 1234, identityPoint(curve, hashedId))
  const login: Login = { curve, hashedId }
  return {
    curve,
    random,
    masters,
    hashedId,
    SS,
    secret,
    token,
    permitOf,
    login,
    today: { ...login, day: DAY },
  }
}
const worlds = [world(BN254CX), world(BLS381)]
const [bn, bls] = worlds as [ReturnType<typeof world>, ReturnType<typeof world>]

/** What arrives is what was sent, by way of octets. */
function sent<T extends Commitment>(commitment: T): T {
  const again = (point: G1): G1 => G1.decode(point.curve, point.encode())
  const { U, UT } = commitment
  return { ...commitment, U: again(U), ...(UT !== undefined && { UT: again(UT) }) }
}

describe.each(worlds)(
  '$curve.name',
  ({ curve, random, masters, hashedId, SS, secret, token, permitOf, login, today }) => {
    const permit = permitOf(DAY)
    /** A run whose client and server need not agree; the verdict and what the server learns. */
    const run = (
      client: { login?: Login; pin?: number; token?: G1; permit?: G1 },
      server: { login?: Login; SS?: G2 } = {},
    ) => {
      const clientLogin = client.login ?? today
      const [commitment, awaiting] = clientBegin(clientLogin, random)
      const serverLogin = server.login ?? clientLogin
      const received = sent(commitment)
      const [challenge, awaitingV] = serverAnswer(serverLogin, received, random)
      const y = Scalar.decode(curve, challenge.encode())
      const secrets = { token: client.token ?? token, pin: client.pin ?? 1234 }
      const V = awaiting.prove(
        y,
        clientLogin.day === undefined ? secrets : { ...secrets, permit: client.permit ?? permit },
      )
      const accepted = awaitingV.accept(G1.decode(curve, V.encode()), server.SS ?? SS) !== null
      expect(() => awaitingV.accept(V, SS)).toThrow(TypeError)
      return {
        accepted,
        delta: () => pinError(pinErrorTerms(serverLogin, server.SS ?? SS, received, y, V)),
      }
    }

    test('a client logs in with a permit, and without', () => {
      expect(run({}).accepted).toBe(true)
      expect(run({ login }).accepted).toBe(true)
      const proof = clientProveOnePass(
        today,
        { token, pin: 1234, permit },
        { time: 1_700_000_000, message: empty },
        random,
      )
      expect(serverVerifyOnePass(today, SS, sent(proof), empty)?.login).toBe(today)
    })

    test.each([1233, 1235, 0, 9999])('PIN %d is refused, and the server learns the difference', pin => {
      const { accepted, delta } = run({ pin })
      expect(accepted).toBe(false)
      expect(delta()).toBe(pin - 1234)
    })
    test('yesterday’s permit, another token and another server secret are refused, and are no PIN', () => {
      for (const failed of [
        run({ permit: permitOf(DAY - 1) }),
        run({ token: token.add(secret) }),
        run({}, { SS: authorityIssueServerSecret(masters[0] as Scalar) }),
      ]) {
        expect(failed.accepted).toBe(false)
      }
      expect(run({ permit: permitOf(DAY - 1) }).delta()).toBe(null)
    })
    test('a run for another identity or another day is refused', () => {
      const bob = { ...today, hashedId: hashId(curve, utf8('bob')) }
      expect(run({}, { login: bob }).accepted).toBe(false)
      expect(run({}, { login: { ...today, day: DAY + 1 } }).accepted).toBe(false)
    })
    test('one share of two is no key', () => {
      const half = authorityIssueClientSecret(masters[0] as Scalar, hashedId)
      expect(run({ token: splitPin(half, 1234, identityPoint(curve, hashedId)) }).accepted).toBe(false)
    })

    test('one pass: another message or time is refused', () => {
      const said = { time: 1_700_000_000, message: utf8('open') }
      const proof = sent(clientProveOnePass(login, { token, pin: 1234 }, said, random))
      expect(serverVerifyOnePass(login, SS, proof, utf8('open'))).not.toBe(null)
      expect(serverVerifyOnePass(login, SS, proof, utf8('shut'))).toBe(null)
      expect(serverVerifyOnePass(login, SS, { ...proof, time: said.time + 1 }, utf8('open'))).toBe(null)
    })

    test('a client answers one challenge', () => {
      const [, awaiting] = clientBegin(login, random)
      awaiting.prove(Scalar.random(curve, random), { token, pin: 1234 })
      expect(() => awaiting.prove(Scalar.random(curve, random), { token, pin: 1234 })).toThrow(TypeError)
    })

    test('Full: one key after the right PIN, none after a wrong one or at a wrong server', () => {
      const keys = (pin: number, at = SS) => {
        const [commitment, awaitingT] = full.clientBegin(today, random)
        const [answer, awaitingV] = full.serverAnswer(today, sent(commitment), random)
        const [V, K] = awaitingT.prove(answer, { token, pin, permit })
        const accepted = awaitingV.accept(G1.decode(curve, V.encode()), at)
        expect(() => awaitingT.prove(answer, { token, pin, permit })).toThrow(TypeError)
        expect(() => awaitingV.accept(V, at)).toThrow(TypeError)
        return accepted && toHex(accepted[1]) === toHex(K)
      }
      expect(keys(1234)).toBe(true)
      expect(keys(1235)).toBe(null)
      expect(keys(1234, SS.add(SS))).toBe(null)
    })

    test('DVS: another message, identity or public key is refused, and the authority can’t sign', () => {
      const { z, Pa } = dvs.signerKeyPair(curve, random)
      const signer = dvs.signerLogin(alice, Pa)
      const CS = G1.sum(masters.map(s => authorityIssueClientSecret(s, signer.hashedId)))
      const signerToken = dvs.signerToken(signer, z, CS, 1234)
      const said = { time: 1_700_000_000, message: utf8('pay 5') }
      const signature = dvs.sign(signer, { token: signerToken, pin: 1234 }, said, random)
      expect(dvs.verify(alice, G2.decode(curve, Pa.encode()), SS, signature, said.message)).toBe(true)
      expect(dvs.verify(alice, Pa, SS, signature, utf8('pay 500'))).toBe(false)
      expect(dvs.verify(utf8('bob'), Pa, SS, signature, said.message)).toBe(false)
      expect(dvs.verify(alice, dvs.signerKeyPair(curve, random).Pa, SS, signature, said.message)).toBe(false)
      expect(
        dvs.verify(
          alice,
          Pa,
          SS,
          dvs.sign(signer, { token: signerToken, pin: 1235 }, said, random),
          said.message,
        ),
      ).toBe(false)
      // Who has CS and not z:
      const forged = dvs.sign(signer, { token: CS, pin: 0 }, said, random)
      expect(dvs.verify(alice, Pa, SS, forged, said.message)).toBe(false)
    })

    test('WCC: one key for the two named, none with another’s key or name', () => {
      const [s] = masters as [Scalar]
      const names = { curve, IdA: alice, IdB: utf8('gateway') }
      const keys = (
        at: { names?: wcc.Names; key?: G2; change?: (move: wcc.ReceiverMove) => wcc.ReceiverMove } = {},
      ) => {
        const [move, awaiting] = wcc.senderBegin(names, wcc.authorityIssueSenderKey(s, alice), random)
        const key = at.key ?? wcc.authorityIssueReceiverKey(s, names.IdB)
        const received = { PaG1: G1.decode(curve, move.PaG1.encode()) }
        const [reply, K] = wcc.receiverAgree(at.names ?? names, key, received, random)
        const change = at.change ?? (same => same)
        const atSender = awaiting.agree(
          change({
            PbG2: G2.decode(curve, reply.PbG2.encode()),
            PgG1: G1.decode(curve, reply.PgG1.encode()),
          }),
        )
        expect(() => awaiting.agree(reply)).toThrow(TypeError)
        return toHex(atSender) === toHex(K)
      }
      expect(keys()).toBe(true)
      expect(keys({ key: wcc.authorityIssueReceiverKey(s, utf8('other')) })).toBe(false)
      expect(keys({ names: { ...names, IdA: utf8('mallory') } })).toBe(false)
      expect(keys({ change: move => ({ ...move, PgG1: move.PgG1.add(move.PgG1) }) })).toBe(false)
    })

    describe('the door', () => {
      const { size, tower } = curve
      const { p } = tower.fp
      const point = permit.encode()
      const point2 = SS.encode()
      const refused = (decode: () => unknown, why: string): void => {
        expect(decode).toThrow(DecodeError)
        expect(decode).toThrow(why)
      }
      const g1 = (x: bigint, y: bigint): Uint8Array => concat(Uint8Array.of(4), i2os(x, size), i2os(y, size))
      const g2 = (x: Fp2, y: Fp2): Uint8Array =>
        concat(...[x.re, x.im, y.re, y.im].map(part => i2os(part, size)))

      test('a length or a prefix of something else', () => {
        for (const bytes of [
          empty,
          point.subarray(1),
          point.subarray(0, -1),
          concat(point, Uint8Array.of(0)),
        ])
          refused(() => G1.decode(curve, bytes), 'bytes expected')
        for (const prefix of [0, 2, 3, 5])
          refused(() => G1.decode(curve, point.slice().fill(prefix, 0, 1)), 'not an uncompressed point')
        for (const bytes of [empty, point2.subarray(1), concat(Uint8Array.of(4), point2)])
          refused(() => G2.decode(curve, bytes), 'bytes expected')
      })
      test('the identity, as zeros', () => {
        refused(() => G1.decode(curve, g1(0n, 0n)), 'not on the curve')
        refused(() => G2.decode(curve, new Uint8Array(4 * size)), 'not on the curve')
        expect(() => secret.subtract(secret).encode()).toThrow(RangeError)
        expect(() => SS.subtract(SS).encode()).toThrow(RangeError)
      })
      test('a second spelling: a coordinate of p and more', () => {
        const { x, y } = curve.g1.toAffine(permit.toProjective())
        const { x: x2, y: y2 } = curve.g2.toAffine(SS.toProjective())
        refused(() => G1.decode(curve, g1(x + p, y)), 'a coordinate not below p')
        refused(() => G1.decode(curve, g1(x, y + p)), 'a coordinate not below p')
        refused(() => G2.decode(curve, g2(x2, { ...y2, im: y2.im + p })), 'a coordinate not below p')
      })
      test('a point off the curve, and one of another curve of the same field', () => {
        const { x, y } = curve.g1.toAffine(permit.toProjective())
        const { x: x2, y: y2 } = curve.g2.toAffine(SS.toProjective())
        refused(() => G1.decode(curve, g1(x, y === 0n ? 1n : y - 1n)), 'not on the curve')
        // (0, 1) is on y² = x³ + 1, whose order has small factors.
        refused(() => G1.decode(curve, g1(0n, 1n)), 'not on the curve')
        refused(() => G2.decode(curve, g2(x2, { re: y2.im, im: y2.re })), 'not on the curve')
      })
      test('a point of the twist outside the group of order r', () => {
        for (let k = 1n, found = 0; found < 2; k++) {
          const x = { re: k, im: 0n }
          const y = tower.fp2.root(curve.g2.rightSide(x))
          if (y === null) continue
          found++
          refused(() => G2.decode(curve, g2(x, tower.fp2.canonical(y))), 'not in the group of order r')
        }
      })
      test('a scalar of r and more, or of another length', () => {
        for (const value of [curve.r, curve.r + 1n, 256n ** BigInt(size) - 1n])
          refused(() => Scalar.decode(curve, i2os(value, size)), 'not below the group order')
        refused(() => Scalar.decode(curve, new Uint8Array(size - 1)), 'bytes expected')
        expect(toHex(Scalar.decode(curve, i2os(curve.r - 1n, size)).encode())).toBe(
          toHex(i2os(curve.r - 1n, size)),
        )
      })
      test('any change of a point is refused, or is another point in its one spelling', () => {
        const at = fc.record({ place: fc.nat(point2.length - 1), by: fc.integer({ min: 1, max: 255 }) })
        fc.assert(
          fc.property(at, fc.boolean(), ({ place, by }, second) => {
            const bytes = (second ? point2 : point).slice()
            bytes[place % bytes.length] = (bytes[place % bytes.length] as number) ^ by
            try {
              const decoded = second ? G2.decode(curve, bytes) : G1.decode(curve, bytes)
              expect(toHex(decoded.encode())).toBe(toHex(bytes))
            } catch (error) {
              expect(error).toBeInstanceOf(DecodeError)
            }
          }),
          { numRuns: Math.min(fc.readConfigureGlobal()?.numRuns ?? 60, 200) },
        )
      })
    })

    test('a message without the UT that permits need, or with one too many, or of no time', () => {
      const said = { time: 1_700_000_000, message: empty }
      const without = clientProveOnePass(login, { token, pin: 1234 }, said, random)
      const withUT = clientProveOnePass(today, { token, pin: 1234, permit }, said, random)
      expect(() => serverVerifyOnePass(today, SS, without, empty)).toThrow(
        new DecodeError('UT', 'with permits, and only then'),
      )
      expect(() => serverVerifyOnePass(login, SS, withUT, empty)).toThrow(DecodeError)
      for (const time of [0, -1, 1.5, 2 ** 32, Number.NaN])
        expect(() => serverVerifyOnePass(login, SS, { ...without, time }, empty)).toThrow('time: seconds')
    })

    test('what a caller can’t mean', () => {
      const A = identityPoint(curve, hashedId)
      for (const pin of [-1, 10_000, 1.5]) expect(() => joinPin(token, pin, A)).toThrow(RangeError)
      expect(() => permitOf(0)).toThrow(RangeError)
      expect(() =>
        clientProveOnePass(today, { token, pin: 1234 }, { time: 1, message: empty }, random),
      ).toThrow(TypeError)
      expect(() => identityPoint(curve, hashedId.subarray(1))).toThrow(RangeError)
      expect(() => clientBegin(login, length => new Uint8Array(length))).toThrow(RangeError)
      expect(() => clientBegin(login, () => new Uint8Array(8))).toThrow(RangeError)
      expect(() => Scalar.fromNumber(curve, 0).invert()).toThrow(RangeError)
    })

    describe('the arithmetic', () => {
      const { tower } = curve
      const { fp, fp2: field2 } = tower
      const elements: Fp12[] = [1, 2].map(n => {
        const draws = seeded(`element ${n}`)
        const integer = () => Scalar.random(curve, draws).toInteger()
        const part = (): Fp2 => ({ re: integer(), im: -integer() })
        return [part(), part(), part(), part(), part(), part()]
      })
      const [a, b] = elements as [Fp12, Fp12]
      const same = (x: Fp12, y: Fp12) => expect(tower.canonical(x)).toEqual(tower.canonical(y))

      test('squares, inverses and Frobenius agree with products and powers', () => {
        same(tower.square(a), tower.multiply(a, a))
        same(tower.multiply(a, tower.invert(a)), tower.one)
        same(tower.frobenius(a), power(tower, a, fp.p))
        same(tower.frobenius(tower.multiply(a, b)), tower.multiply(tower.frobenius(a), tower.frobenius(b)))
        expect(field2.canonical(field2.square(a[0]))).toEqual(field2.canonical(field2.multiply(a[0], a[0])))
        expect(() =>
          tower.invert(
            tower.multiply(a, [field2.zero, field2.zero, field2.zero, field2.zero, field2.zero, field2.zero]),
          ),
        ).toThrow(RangeError)
      })
      test('roots are roots, and there is none of a number that is no square', () => {
        const square = field2.square(a[1])
        expect(field2.canonical(field2.square(mustBe(field2.root(square))))).toEqual(field2.canonical(square))
        expect(field2.root(field2.multiply(square, field2.xi))).toBe(null)
        expect(fp.root(-4n)).toBe(null)
      })
      test('hashes and generators are of order r', () => {
        const B = mapit2(curve, hashId(curve, alice))
        for (const one of [identityPoint(curve, hashedId), G1.generator(curve)])
          expect(curve.g1.isIdentity(curve.g1.multiply(one.toProjective(), curve.r))).toBe(true)
        for (const one of [B, G2.generator(curve)]) {
          expect(curve.g2.isIdentity(curve.g2.multiply(one.toProjective(), curve.r))).toBe(true)
          // ψ is multiplication by p there.
          expect(
            curve.g2.equals(
              curve.psi(one.toProjective()),
              curve.g2.multiply(one.toProjective(), fp.p % curve.r),
            ),
          ).toBe(true)
        }
      })
      test('the pairing is bilinear, of order r and not trivial', () => {
        const P = G1.generator(curve)
        const Q = G2.generator(curve)
        const k = Scalar.random(curve, random)
        const value = GT.pairing(curve, [[P, Q]])
        expect(value.isOne()).toBe(false)
        expect(GT.pairing(curve, [[P.multiply(k), Q]]).equals(value.power(k))).toBe(true)
        expect(GT.pairing(curve, [[P, Q.multiply(k)]]).equals(value.power(k))).toBe(true)
        expect(
          value
            .multiply(
              value.power(
                Scalar.fromNumber(curve, 0).add(Scalar.reduce(curve, i2os(curve.r - 1n, curve.size))),
              ),
            )
            .isOne(),
        ).toBe(true)
        expect(
          GT.pairing(curve, [
            [P, Q],
            [P.negate(), Q],
          ]).isOne(),
        ).toBe(true)
        expect(
          GT.pairing(curve, [
            [P.subtract(P), Q],
            [P, Q.subtract(Q)],
          ]).isOne(),
        ).toBe(true)
      })
    })
  },
)

test('points, scalars and values of two curves don’t mix', () => {
  const mixed: (() => unknown)[] = [
    () => bn.secret.add(bls.secret),
    () => bn.secret.equals(bls.secret),
    () => bn.secret.multiply(bls.masters[0] as Scalar),
    () => bn.masters[0]?.add(bls.masters[0] as Scalar),
    () => GT.pairing(BN254CX, [[bn.secret, bls.SS]]),
    () => GT.one(BN254CX).multiply(GT.one(BLS381)),
    () => GT.one(BN254CX).power(bls.masters[0] as Scalar),
  ]
  for (const mix of mixed) expect(mix).toThrow(TypeError)
  expect(() => G1.decode(BLS381, bn.secret.encode())).toThrow(DecodeError)
  expect(() => G2.decode(BN254CX, bls.SS.encode())).toThrow(DecodeError)
})

test('BLS381 has points of the curve outside G1, and they are refused', () => {
  const { fp } = BLS381.tower
  let found = 0
  for (let x = 1n; found < 3; x++) {
    const y = fp.root(BLS381.g1.rightSide(x))
    if (y === null) continue
    found++
    const bytes = concat(fromHex('04'), i2os(x, 48), i2os(y, 48))
    expect(() => G1.decode(BLS381, bytes)).toThrow('not in the group of order r')
  }
})

test('the pairing of BLS381 is the textbook’s', () => {
  const P = G1.generator(BLS381)
  const [w0, w1, w2, w3, w4, w5] = twinPairing([[BLS381.g1.toAffine(P.toProjective()), twinQ]])
  const bytes = [w0, w3, w1, w4, w2, w5].flatMap(({ c0, c1 }) => [i2os(c0, 48), i2os(c1, 48)])
  const value = GT.pairing(BLS381, [[P, G2.generator(BLS381)]])
  expect(toHex(value.encode())).toBe(toHex(concat(...bytes)))
})
