/** BLS signatures: published vectors, noble and blst as oracles, aggregates, possession, t of n, and what must fail. */
import {
  aggregateSignatures,
  aggregateVerify,
  fastAggregateVerify,
  PublicKey,
  SecretKey,
  Signature,
} from '@chainsafe/blst'
import { type BlsScheme, BlsSecretKey, blsMinPk, blsMinSig, ProvenKey } from '@milagro-ts/crypto/bls'
import { be64, concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/curve'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { describe, expect, test } from 'vitest'
import { readVectors } from './vector-files.js'
import { seeded } from './world.js'

interface Vectors {
  readonly possession: {
    readonly keys: readonly { readonly secretKey: string; readonly publicKey: string }[]
    readonly signed: readonly { readonly key: number; readonly message: string; readonly signature: string }[]
    readonly aggregates: readonly { readonly message: string; readonly signature: string }[]
    readonly ofDistinctMessages: { readonly messages: readonly string[]; readonly signature: string }
  }
  readonly beacons: readonly {
    readonly layout: 'minSig' | 'minPk'
    readonly publicKey: string
    readonly round: number
    readonly previous: string
    readonly signature: string
  }[]
  readonly keyGeneration: { readonly ikm: string; readonly secretKey: string }
}
const vectors = readVectors<Vectors>('bls.json')
const SCHEMES: readonly BlsScheme[] = ['basic', 'augmentation', 'possession']
const random = seeded('bls')
const key = (name: string): BlsSecretKey => BlsSecretKey.derive(seeded(name)(32))
const message = utf8('a message')

describe('published vectors', () => {
  const { keys, signed, aggregates, ofDistinctMessages } = vectors.possession
  const secret = (i: number): BlsSecretKey => BlsSecretKey.decode(fromHex(keys[i]?.secretKey as string))
  const publicKeys = keys.map(({ publicKey }) => blsMinPk.decodeKey(fromHex(publicKey)))

  test('keys', () => {
    expect(keys.map((_, i) => toHex(blsMinPk.publicKey(secret(i)).encode()))).toEqual(
      keys.map(one => one.publicKey),
    )
    const { ikm, secretKey } = vectors.keyGeneration
    expect(toHex(BlsSecretKey.derive(fromHex(ikm)).encode())).toBe(secretKey)
  })
  test.each(signed)('signature of key $key', ({ key: i, message: hex, signature }) => {
    const made = blsMinPk.sign('possession', secret(i), fromHex(hex))
    expect(toHex(made.encode())).toBe(signature)
    const holds = (at: number) => blsMinPk.verify('possession', publicKeys[at] as G1, fromHex(hex), made)
    expect(keys.map((_, at) => holds(at))).toEqual(keys.map((_, at) => at === i))
  })
  test.each(aggregates)('the aggregate of one message', ({ message: hex, signature }) => {
    const parts = signed
      .filter(one => one.message === hex)
      .map(one => blsMinPk.decodeSignature(fromHex(one.signature)))
    const sum = blsMinPk.aggregate(parts)
    expect(toHex(sum.encode())).toBe(signature)
    const proven = publicKeys.map(ProvenKey.known)
    expect(blsMinPk.fastAggregateVerify(proven, fromHex(hex), sum)).toBe(true)
    expect(blsMinPk.fastAggregateVerify(proven.slice(1), fromHex(hex), sum)).toBe(false)
    expect(blsMinPk.fastAggregateVerify([...proven, proven[0] as ProvenKey<G1>], fromHex(hex), sum)).toBe(
      false,
    )
  })
  test('the aggregate of distinct messages', () => {
    const list = ofDistinctMessages.messages.map((hex, i) => ({
      key: publicKeys[i] as G1,
      message: fromHex(hex),
    }))
    const signature = blsMinPk.decodeSignature(fromHex(ofDistinctMessages.signature))
    expect(blsMinPk.aggregateVerify('possession', list, signature)).toBe(true)
    expect(blsMinPk.aggregateVerify('basic', list, signature)).toBe(false)
    expect(blsMinPk.aggregateVerify('possession', list.slice(1), signature)).toBe(false)
  })
  test.each(vectors.beacons)(
    'a beacon, $layout, of t of n',
    ({ layout, publicKey, round, previous, signature }) => {
      const of = (at: number): Uint8Array => sha256(concat(fromHex(previous), be64(at)))
      const verify = (at: number): boolean =>
        layout === 'minSig'
          ? blsMinSig.verify(
              'basic',
              blsMinSig.decodeKey(fromHex(publicKey)),
              of(at),
              blsMinSig.decodeSignature(fromHex(signature)),
            )
          : blsMinPk.verify(
              'basic',
              blsMinPk.decodeKey(fromHex(publicKey)),
              of(at),
              blsMinPk.decodeSignature(fromHex(signature)),
            )
      expect(verify(round)).toBe(true)
      expect(verify(round + 1)).toBe(false)
    },
  )
})

describe('other libraries', () => {
  const { longSignatures, shortSignatures } = bls12_381
  const dst = (group: 1 | 2, tag: string): string => `BLS_SIG_BLS12381G${group}_XMD:SHA-256_SSWU_RO_${tag}_`

  test('noble signs the same, in both layouts', () => {
    for (let i = 0; i < 5; i++) {
      const secret = key(`noble ${i}`)
      const said = random(1 + 20 * i)
      const [long, short] = [
        longSignatures.sign(longSignatures.hash(said, dst(2, 'NUL')), secret.encode()),
        shortSignatures.sign(shortSignatures.hash(said, dst(1, 'POP')), secret.encode()),
      ]
      expect(toHex(blsMinPk.sign('basic', secret, said).encode())).toBe(toHex(long.toBytes()))
      expect(toHex(blsMinSig.sign('possession', secret, said).encode())).toBe(toHex(short.toBytes()))
      expect(toHex(blsMinSig.publicKey(secret).encode())).toBe(
        toHex(shortSignatures.getPublicKey(secret.encode()).toBytes()),
      )
      const pk = blsMinPk.publicKey(secret)
      const augmented = longSignatures.sign(
        longSignatures.hash(concat(pk.encode(), said), dst(2, 'AUG')),
        secret.encode(),
      )
      expect(toHex(blsMinPk.sign('augmentation', secret, said).encode())).toBe(toHex(augmented.toBytes()))
    }
  })
  test('blst takes ours, and gives ours', () => {
    const ikm = random(32)
    const secrets = [0, 1, 2].map(i => BlsSecretKey.derive(ikm, { info: utf8(`${i}`) }))
    const theirs = [0, 1, 2].map(i => SecretKey.fromKeygen(ikm, utf8(`${i}`)))
    expect(secrets.map(secret => `0x${toHex(secret.encode())}`)).toEqual(theirs.map(secret => secret.toHex()))
    const messages = secrets.map((_, i) => random(32 + i))
    const signatures = secrets.map((secret, i) =>
      blsMinPk.sign('possession', secret, messages[i] as Uint8Array),
    )
    const sum = blsMinPk.aggregate(signatures)
    const theirSum = aggregateSignatures(signatures.map(one => Signature.fromBytes(one.encode())))
    expect(toHex(sum.encode())).toBe(theirSum.toHex(true).slice(2))
    const theirKeys = secrets.map(secret => PublicKey.fromBytes(blsMinPk.publicKey(secret).encode(), true))
    expect(aggregateVerify(messages, theirKeys, theirSum)).toBe(true)
    const one = blsMinPk.aggregate(secrets.map(secret => blsMinPk.sign('possession', secret, message)))
    expect(fastAggregateVerify(message, theirKeys, Signature.fromBytes(one.encode()))).toBe(true)
  })
})

/** Both layouts, under one name for each of their methods. */
describe.each([
  ['minPk', blsMinPk as unknown as typeof blsMinSig],
  ['minSig', blsMinSig],
] as const)('%s', (_, bls) => {
  const secret = key('one')
  const publicKey = bls.publicKey(secret)

  test.each(SCHEMES)('%s: signs, verifies, and nothing else verifies', scheme => {
    const signature = bls.sign(scheme, secret, message)
    const decoded = bls.decodeSignature(signature.encode())
    expect(bls.verify(scheme, bls.decodeKey(publicKey.encode()), message, decoded)).toBe(true)
    expect(bls.verify(scheme, publicKey, utf8('another'), signature)).toBe(false)
    expect(bls.verify(scheme, bls.publicKey(key('two')), message, signature)).toBe(false)
    expect(bls.verify(scheme, publicKey, message, signature.negate())).toBe(false)
    for (const other of SCHEMES.filter(one => one !== scheme))
      expect(bls.verify(other, publicKey, message, signature)).toBe(false)
    expect(toHex(bls.sign(scheme, secret, new Uint8Array()).encode())).not.toBe(toHex(signature.encode()))
  })

  test.each(SCHEMES)('%s: an aggregate of three', scheme => {
    const list = ['a', 'b', 'c'].map(name => ({ secret: key(name), message: utf8(`of ${name}`) }))
    const signed = list.map(one => ({ key: bls.publicKey(one.secret), message: one.message }))
    const sum = bls.aggregate(list.map(one => bls.sign(scheme, one.secret, one.message)))
    expect(bls.aggregateVerify(scheme, signed, sum)).toBe(true)
    expect(bls.aggregateVerify(scheme, [...signed].reverse(), sum)).toBe(true)
    expect(bls.aggregateVerify(scheme, signed.slice(0, 2), sum)).toBe(false)
    expect(bls.aggregateVerify(scheme, [...signed, ...signed.slice(0, 1)], sum)).toBe(false)
    expect(bls.aggregateVerify(scheme, [], sum)).toBe(false)
    expect(() => bls.aggregate([])).toThrow(RangeError)
  })

  test('a key that cancels another’s is kept out by each scheme', () => {
    const victim = publicKey
    const y = key('the thief')
    // PK = y·P1 − PK': the sum of both keys is the thief's own.
    const rogue = bls.publicKey(y).add(victim.negate())
    const proven = [victim, rogue].map(one => ProvenKey.known(one))
    const forged = bls.sign('possession', y, message)
    // Whoever believes in keys that nobody has proven:
    expect(bls.fastAggregateVerify(proven, message, forged)).toBe(true)
    // The thief has no proof: the secret of that key isn't known to anybody.
    for (const attempt of [y, secret])
      expect(bls.possessionVerify(rogue, bls.possessionProve(attempt))).toBe(null)
    expect(
      bls.possessionVerify(rogue, bls.possessionProve(y).add(bls.possessionProve(secret).negate())),
    ).toBe(null)
    const both = [
      { key: victim, message },
      { key: rogue, message },
    ]
    expect(bls.aggregateVerify('possession', both, forged)).toBe(true)
    expect(bls.aggregateVerify('basic', both, bls.sign('basic', y, message))).toBe(false)
    expect(bls.aggregateVerify('augmentation', both, bls.sign('augmentation', y, message))).toBe(false)
  })

  test('possession: proven once, for this key alone, and no signature is a proof', () => {
    const proof = bls.possessionProve(secret)
    expect(bls.possessionVerify(publicKey, proof)?.key).toBe(publicKey)
    expect(bls.possessionVerify(bls.publicKey(key('two')), proof)).toBe(null)
    expect(bls.possessionVerify(publicKey, bls.sign('possession', secret, publicKey.encode()))).toBe(null)
    expect(bls.verify('possession', publicKey, publicKey.encode(), proof)).toBe(false)
  })

  test('keys that cancel sign nothing together', () => {
    const proven = [ProvenKey.known(publicKey), ProvenKey.known(publicKey.negate())]
    expect(bls.fastAggregateVerify(proven, message, bls.sign('possession', secret, message))).toBe(false)
    expect(bls.fastAggregateVerify([], message, bls.sign('possession', secret, message))).toBe(false)
  })

  describe('by t of n', () => {
    const [t, n] = [3, 5]
    const shares = splitSecret(secret.toScalar(), { t, n }, random).map(({ index, scalar }) => ({
      index,
      secret: BlsSecretKey.ofScalar(scalar),
    }))
    const keyOf = (index: number) => {
      const share = shares.find(one => one.index === index)
      return share && bls.publicKey(share.secret)
    }
    const signed = shares.map(({ index, secret: x }) => ({ index, signature: bls.sign('basic', x, message) }))
    const whole = toHex(bls.sign('basic', secret, message).encode())
    const combined = (list: typeof signed) => {
      const { signature, bad } = bls.combine('basic', { t, keyOf }, message, list)
      return { signature: signature && toHex(signature.encode()), bad }
    }

    test('any t give the signature of the whole key', () => {
      for (const picked of [
        [0, 1, 2],
        [4, 2, 0],
        [1, 3, 4],
        [0, 1, 2, 3, 4],
      ])
        expect(combined(picked.map(i => signed[i] as (typeof signed)[number]))).toEqual({
          signature: whole,
          bad: [],
        })
    })
    test('t − 1 give none', () => {
      expect(combined(signed.slice(0, t - 1))).toEqual({ signature: null, bad: [] })
      expect(combined([])).toEqual({ signature: null, bad: [] })
    })
    test('a bad share is named and does no harm', () => {
      const lie = { index: 2, signature: bls.sign('basic', secret, message) }
      const stranger = { index: 9, signature: bls.sign('basic', secret, message) }
      const [a, , c, d] = signed as [
        (typeof signed)[number],
        unknown,
        (typeof signed)[number],
        (typeof signed)[number],
      ]
      expect(combined([lie, stranger, a, c, d])).toEqual({ signature: whole, bad: [2, 9] })
      expect(combined([lie, a, c])).toEqual({ signature: null, bad: [2] })
    })
    test('an index that stands twice, and augmentation, are mistakes', () => {
      const [a] = signed
      expect(() => combined([a, a] as typeof signed)).toThrow(RangeError)
      expect(() => bls.combine('augmentation', { t, keyOf }, message, signed)).toThrow(RangeError)
    })
  })
})

describe('doors', () => {
  test('secret keys', () => {
    const order = Scalar.fromBigInt(ORDER - 1n).encode()
    expect(BlsSecretKey.decode(order).encode()).toEqual(order)
    const above = order.slice().fill(1, 31)
    expect(toHex(above).endsWith('01')).toBe(true)
    for (const bytes of [new Uint8Array(32), above, new Uint8Array(31), new Uint8Array(32).fill(255)])
      expect(() => BlsSecretKey.decode(bytes)).toThrow(DecodeError)
    expect(() => BlsSecretKey.derive(random(31))).toThrow(RangeError)
    expect(() => BlsSecretKey.ofScalar(Scalar.fromNumber(0))).toThrow(RangeError)
  })
  test('keys and signatures: the identity, other lengths, other groups', () => {
    for (const bytes of [G1.identity.encode(), G2.generator.encode(), new Uint8Array(48), new Uint8Array()]) {
      expect(() => blsMinPk.decodeKey(bytes)).toThrow(DecodeError)
      expect(() => blsMinSig.decodeSignature(bytes)).toThrow(DecodeError)
    }
    for (const bytes of [G2.identity.encode(), G1.generator.encode(), new Uint8Array(96), new Uint8Array()]) {
      expect(() => blsMinPk.decodeSignature(bytes)).toThrow(DecodeError)
      expect(() => blsMinSig.decodeKey(bytes)).toThrow(DecodeError)
    }
  })
})
