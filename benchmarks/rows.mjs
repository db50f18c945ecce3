/**
 * What each row times. `make(i)` draws fresh inputs for the i-th round, outside the time, and returns one run per side:
 * from wire bytes to bytes or to a verdict; `right` looks at what came out, outside the time again. `forged` is the
 * row's control, where the outcome is a verdict: every side must refuse it.
 */

import { PublicKey } from '@chainsafe/blst'
import { be32, concat, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import * as ourHash from '@milagro-ts/crypto/hash-to-curve'
import { issueIdCore } from '@milagro-ts/crypto/identity'
import { IdentityPoints } from '@milagro-ts/crypto/identity-points'
import { clientProve, DeviceProven, LoginMessage, MODE } from '@milagro-ts/crypto/mpin'
import { G1, G2, PreparedG2, pairing, pairingProductIsOne } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { normalizeZ } from '@noble/curves/abstract/curve.js'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { loginBy } from './login.mjs'
import { mclWasm, noble, nobleHash } from './references.mjs'

/** @typedef {'ours' | 'mcl-wasm' | 'mcl-wasm-batched' | 'noble' | 'blst'} Side */
/** @typedef {{run: () => unknown, right: (result: unknown) => boolean}} Work */
/** @typedef {Partial<Record<Side, Work>>} Round */
/**
 * @typedef {object} Row
 * @property {number} [per]  by how many the time is divided
 * @property {(i: number) => Round} make
 * @property {() => Round} [forged]
 */

/** A stream of SHA-256 blocks: rounds differ, runs don't. @param {string} seed */
export function seeded(seed) {
  let counter = 0
  return (/** @type {number} */ length) => {
    const blocks = []
    for (let made = 0; made < length; made += 32) blocks.push(sha256(utf8(seed), be32(counter++)))
    return concat(...blocks).slice(0, length)
  }
}

/** noble, where it is slow, takes part in every fourth round, the second being the first. */
const SPARSE = 4

const P1 = bls12_381.G1.Point.BASE
const P2 = bls12_381.G2.Point.BASE
const { Fr } = bls12_381.fields

/** @param {Uint8Array} expected @returns {(result: unknown) => boolean} */
const is = expected => result => toHex(/** @type {Uint8Array} */ (result)) === toHex(expected)
/** @param {() => boolean} verdict @returns {Work} */
const accepts = verdict => ({ run: verdict, right: result => result === true })
/** Refused: false, or an exception for bytes that are no point. @param {() => boolean} verdict @returns {Work} */
const refuses = verdict => ({
  run() {
    try {
      return verdict()
    } catch {
      return false
    }
  },
  right: result => result === false,
})

/** @returns {Record<string, Row>} */
export function makeRows() {
  const random = seeded('benchmark')
  const integer = () => Fr.create(BigInt(`0x${toHex(random(48))}`)) || 1n
  const scalarBytes = (/** @type {bigint} */ k) => Scalar.fromBigInt(k).encode()
  const g1 = (/** @type {bigint} */ k) => P1.multiply(k).toBytes(true)
  const g2 = (/** @type {bigint} */ k) => P2.multiply(k).toBytes(true)
  /** The fixed points of every check: Q and S = sQ. */
  const s = integer()
  const S = g2(s)
  const ours = {
    S: /** @type {ServerKey} */ (ServerKey.verify(G1.decode(g1(s)), G2.decode(S))),
  }
  const lines = {
    noble: { Q: noble.prepare(noble.decode2(P2.toBytes(true))), S: noble.prepare(noble.decode2(S)) },
    mcl: { Q: mclWasm.prepare(mclWasm.decode2(P2.toBytes(true))), S: mclWasm.prepare(mclWasm.decode2(S)) },
  }

  /**
   * V and X by each side.
   *
   * @param {Uint8Array} V
   * @param {Uint8Array} X
   * @returns {Record<'ours' | 'mcl-wasm' | 'noble', () => boolean>}
   */
  const checks = (V, X) => ({
    ours: () =>
      pairingProductIsOne([
        [G1.decode(V), PreparedG2.generator],
        [G1.decode(X), ours.S.lines],
      ]),
    'mcl-wasm': () => mclWasm.productIsOne(mclWasm.decode(V), lines.mcl.Q, mclWasm.decode(X), lines.mcl.S),
    noble: () => noble.productIsOne(noble.decode(V), lines.noble.Q, noble.decode(X), lines.noble.S),
  })
  /**
   * @param {Partial<Record<Side, () => boolean>>} verdicts
   * @param {(verdict: () => boolean) => Work} judged
   */
  const all = (verdicts, judged) =>
    /** @type {Round} */ (
      Object.fromEntries(
        Object.entries(verdicts).map(([side, verdict]) => [
          side,
          judged(/** @type {() => boolean} */ (verdict)),
        ]),
      )
    )

  /** @param {'mulSecret' | 'mulPublic'} method @returns {Row} */
  const multiplication = method => ({
    make() {
      const [a, k] = [integer(), integer()]
      const [point, scalar] = [g1(a), scalarBytes(k)]
      const right = is(g1(Fr.mul(a, k)))
      return {
        ours: { run: () => G1.decode(point)[method](Scalar.decode(scalar)).encode(), right },
        'mcl-wasm': {
          run: () => mclWasm.encode(mclWasm.multiply(mclWasm.decode(point), mclWasm.scalar(scalar))),
          right,
        },
        noble: {
          run: () => noble.encode(noble.multiply(noble.decode(point), noble.scalar(scalar))),
          right,
        },
      }
    },
  })

  /** @param {number} n @returns {Row} */
  const sum = n => ({
    make(i) {
      // Points a + j·b, so that the sum is known without being worked out.
      const [a, b] = [integer(), integer()]
      const step = P1.multiply(b)
      const made = [P1.multiply(a)]
      while (made.length < n) made.push(/** @type {typeof P1} */ (made.at(-1)).add(step))
      const points = normalizeZ(bls12_381.G1.Point, made).map(point => point.toBytes(true))
      const factors = points.map(integer)
      const total = factors.reduce((sum, k, j) => Fr.add(sum, Fr.mul(k, Fr.add(a, Fr.mul(b, BigInt(j))))), 0n)
      const scalars = factors.map(scalarBytes)
      const right = is(g1(total))
      /**
       * @template P, P2, N, L
       * @param {import('./references.mjs').Reference<P, P2, N, L>} reference
       * @returns {Work}
       */
      const by = reference => ({
        run: () =>
          reference.encode(
            reference.sumOfProducts(points.map(reference.decode), scalars.map(reference.scalar)),
          ),
        right,
      })
      return {
        ours: {
          run: () =>
            G1.sumOfProducts(
              points.map(point => G1.decode(point)),
              scalars.map(scalar => Scalar.decode(scalar)),
            ).encode(),
          right,
        },
        'mcl-wasm': by(mclWasm),
        ...(i % SPARSE === 1 ? { noble: by(noble) } : {}),
      }
    },
  })

  const groupId = sha256(utf8('benchmark'))
  const binding = { groupId }
  const logins = { noble: loginBy(noble, binding), mcl: loginBy(mclWasm, binding) }
  let leaf = 0
  /** A new car each time, its keys as our side and noble hash it, and as mcl-wasm does. */
  function car() {
    const idCore = issueIdCore({
      groupId,
      attributes: { brand: 'Acme', model: 'Roadster', variant: 'S' },
      instance: `VIN${leaf}`,
      issueDate: '2026-04-11',
      enrolmentKeyHash: enrolmentKeyHash(random(32)),
      salt: random(16),
      leaf: leaf++,
      generation: 1,
      factors: 0,
    })
    const key = {
      noble: logins.noble.identityPoint(idCore).multiply(s).toBytes(true),
      mcl: mclWasm.encode(mclWasm.multiply(logins.mcl.identityPoint(idCore), mclWasm.scalar(scalarBytes(s)))),
    }
    const terms = {
      mode: MODE.nonce,
      audience: 'https://rps.example',
      deviceEpoch: 3,
      slot: 100,
      idCore,
      nonce: random(32),
    }
    return { idCore, key, terms }
  }
  /** @param {ReturnType<typeof car>} one */
  const messagesOf = ({ key, terms }) => ({
    noble: clientProve({ terms, binding, deviceKey: G1.decode(key.noble), random }).encode(),
    mcl: logins.mcl.prove(terms, key.mcl, random),
  })
  /** @param {Uint8Array} message */
  const oursAccepts = message => DeviceProven.verify(LoginMessage.decode(message), binding, ours.S) !== null

  /** @param {ReturnType<typeof messagesOf>} messages */
  const singleVerdicts = messages => ({
    ours: () => oursAccepts(messages.noble),
    'mcl-wasm': () => logins.mcl.verify(messages.mcl, lines.mcl),
    noble: () => logins.noble.verify(messages.noble, lines.noble),
  })
  /** With another's nonce in it: the bytes decode, the proof doesn't hold. @param {Uint8Array} bytes */
  const withOtherNonce = bytes => {
    const wrong = bytes.slice()
    const nonceTag = wrong.findIndex(
      (byte, i) =>
        byte === 5 && wrong[i + 1] === 0 && wrong[i + 2] === 0 && wrong[i + 3] === 0 && wrong[i + 4] === 32,
    )
    wrong[nonceTag + 5] = /** @type {number} */ (wrong[nonceTag + 5]) ^ 1
    return wrong
  }

  const BATCH = 64
  /**
   * Known identities: their cars, the points that each side remembers, and our cache, filled by proofs that held.
   */
  function fleet() {
    const cars = Array.from({ length: BATCH }, car)
    const cache = new IdentityPoints(groupId, BATCH)
    const known = {
      mcl: new Map(cars.map(({ idCore }) => [idCore.mpinId, logins.mcl.identityPoint(idCore)])),
      noble: new Map(cars.map(({ idCore }) => [idCore.mpinId, logins.noble.identityPoint(idCore)])),
    }
    const items = cars.map(one => ({ message: LoginMessage.decode(messagesOf(one).noble), binding }))
    DeviceProven.verifyBatch(items, ours.S, random, cache)
    if (cache.size !== BATCH) throw new Error('the cache is not filled')
    return { cars, cache, known }
  }
  /** @type {ReturnType<typeof fleet> | undefined} */
  let knownFleet

  /** @param {boolean} cached @returns {Row} */
  const batch = cached => {
    const parts = () => {
      if (cached) knownFleet ??= fleet()
      const cars = cached && knownFleet ? knownFleet.cars : Array.from({ length: BATCH }, car)
      const messages = cars.map(one => messagesOf({ ...one, terms: { ...one.terms, nonce: random(32) } }))
      return {
        messages,
        cache: cached ? knownFleet?.cache : undefined,
        known: cached ? knownFleet?.known : undefined,
      }
    }
    /**
     * @param {ReturnType<typeof parts>} of
     * @param {boolean} withNoble
     */
    const verdicts = ({ messages, cache, known }, withNoble) => ({
      ours: () => {
        const items = messages.map(message => ({ message: LoginMessage.decode(message.noble), binding }))
        return DeviceProven.verifyBatch(items, ours.S, random, cache).every(proven => proven !== null)
      },
      'mcl-wasm': () => messages.every(({ mcl }) => logins.mcl.verify(mcl, lines.mcl, known?.mcl)),
      'mcl-wasm-batched': () =>
        logins.mcl.verifyBatch(
          messages.map(({ mcl }) => mcl),
          lines.mcl,
          random,
          known?.mcl,
        ),
      ...(withNoble
        ? {
            noble: () =>
              messages.every(message => logins.noble.verify(message.noble, lines.noble, known?.noble)),
          }
        : {}),
    })
    return {
      per: BATCH,
      make: i => all(verdicts(parts(), i % SPARSE === 1), accepts),
      forged() {
        const made = parts()
        const last = /** @type {(typeof made.messages)[number]} */ (made.messages.at(-1))
        made.messages[BATCH - 1] = { noble: withOtherNonce(last.noble), mcl: withOtherNonce(last.mcl) }
        return all(verdicts(made, false), refuses)
      },
    }
  }

  return {
    'mpin-check': {
      make() {
        const k = integer()
        return all(checks(g1(Fr.neg(Fr.mul(s, k))), g1(k)), accepts)
      },
      forged: () => all(checks(g1(integer()), g1(integer())), refuses),
    },

    'hash-g1': {
      make() {
        const message = random(80)
        return {
          ours: {
            run: () => ourHash.hashToG1('device', message).encode(),
            right: is(noble.encode(noble.hash(message))),
          },
          'mcl-wasm': {
            run: () => mclWasm.encode(mclWasm.hash(message)),
            right: is(noble.encode(nobleHash(mclWasm.dst)(message))),
          },
          noble: {
            run: () => noble.encode(noble.hash(message)),
            right: is(ourHash.hashToG1('device', message).encode()),
          },
        }
      },
    },

    'mul-g1-secret': multiplication('mulSecret'),
    'mul-g1-public': multiplication('mulPublic'),
    'msm-32': sum(32),
    'msm-256': sum(256),

    'subgroup-g1': {
      make: () => all(decoders(g1(integer())), accepts),
      forged: () => all(decoders(outsideSubgroup()), refuses),
    },

    'mul-g2-secret': {
      make() {
        const [a, k] = [integer(), integer()]
        const [point, scalar] = [g2(a), scalarBytes(k)]
        const right = is(g2(Fr.mul(a, k)))
        return {
          ours: { run: () => G2.decode(point).mulSecret(Scalar.decode(scalar)).encode(), right },
          'mcl-wasm': {
            run: () => mclWasm.encode2(mclWasm.multiply2(mclWasm.decode2(point), mclWasm.scalar(scalar))),
            right,
          },
          noble: {
            run: () => noble.encode2(noble.multiply2(noble.decode2(point), noble.scalar(scalar))),
            right,
          },
        }
      },
    },

    pairing: {
      make() {
        const [a, b] = [integer(), integer()]
        const [A, B, AB] = [g1(a), g2(b), g1(Fr.mul(a, b))]
        const Q = P2.toBytes(true)
        // e(aP, bQ) = e(abP, Q), each side by itself.
        /**
         * @template P, P2, N, L
         * @param {import('./references.mjs').Reference<P, P2, N, L>} reference
         * @returns {Work}
         */
        const by = reference => ({
          run: () => reference.pairing(reference.decode(A), reference.decode2(B)),
          right: value =>
            reference.equalGT(value, reference.pairing(reference.decode(AB), reference.decode2(Q))),
        })
        return {
          ours: {
            run: () => pairing(G1.decode(A), G2.decode(B)),
            right: value =>
              /** @type {import('@milagro-ts/crypto/points').GT} */ (value).equals(
                pairing(G1.decode(AB), G2.generator),
              ),
          },
          'mcl-wasm': by(mclWasm),
          noble: by(noble),
        }
      },
    },

    'login-single': {
      make: () => all(singleVerdicts(messagesOf(car())), accepts),
      forged() {
        const { noble, mcl } = messagesOf(car())
        return all(singleVerdicts({ noble: withOtherNonce(noble), mcl: withOtherNonce(mcl) }), refuses)
      },
    },
    'login-batch-64': batch(true),
    'login-batch-64-cold': batch(false),

    'login-client': {
      make() {
        const { key, terms } = car()
        const verified = (/** @type {unknown} */ bytes) => oursAccepts(/** @type {Uint8Array} */ (bytes))
        return {
          ours: {
            run: () => clientProve({ terms, binding, deviceKey: G1.decode(key.noble), random }).encode(),
            right: verified,
          },
          'mcl-wasm': {
            run: () => logins.mcl.prove(terms, key.mcl, random),
            right: bytes => logins.mcl.verify(/** @type {Uint8Array} */ (bytes), lines.mcl),
          },
          noble: { run: () => logins.noble.prove(terms, key.noble, random), right: verified },
        }
      },
    },
  }
}

/** @param {Uint8Array} bytes @returns {Record<'ours' | 'mcl-wasm' | 'noble' | 'blst', () => boolean>} */
const decoders = bytes => ({
  ours: () => G1.decode(bytes) !== undefined,
  'mcl-wasm': () => mclWasm.decode(bytes) !== undefined,
  noble: () => noble.decode(bytes) !== undefined,
  blst: () => PublicKey.fromBytes(bytes, true) !== undefined,
})

/** A point of the curve with x = 4, in no subgroup of interest. */
function outsideSubgroup() {
  const bytes = new Uint8Array(48)
  bytes[0] = 0x80
  bytes[47] = 4
  return bytes
}
