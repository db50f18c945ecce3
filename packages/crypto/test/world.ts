/**
 * A small world for the tests: three authorities (2 of 3), a car, its driver, a server. Everything is drawn from a
 * seed, so that a failure comes back.
 */
import { be32, concat, utf8 } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import {
  deviceIdentityPoint,
  type Factors,
  type IdCore,
  issueIdCore,
  pinIdentityPoint,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { type Binding, clientProve, type LoginTerms, MODE, type PinTerms } from '@milagro-ts/crypto/mpin'
import { joinPin, pinScalar, splitPin } from '@milagro-ts/crypto/pin'
import { G1, G2, pairingProductIsOne } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { type ScalarShare, splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Purpose } from '@milagro-ts/crypto/suite'
import type { SlotRule } from '@milagro-ts/crypto/time-permit'

/** A stream of SHA-256 blocks: the same for the same seed. */
export function seeded(seed: string): Random {
  let counter = 0
  return length => {
    const blocks: Uint8Array[] = []
    for (let made = 0; made < length; made += 32) blocks.push(sha256(utf8(seed), be32(counter++)))
    return concat(...blocks).slice(0, length)
  }
}

/** A source that broke: the same bytes, always. */
export const frozen: Random = length => new Uint8Array(length).fill(7)

/** 32 bytes that stand for something. */
export const digestOf = (text: string): Uint8Array => sha256(utf8(text))

export const groupId = digestOf('a group of three authorities')
export const rule: SlotRule = { origin: 1_767_225_600, length: 86_400 }
export const SLOT = 100
export const EPOCH = { device: 3, pin: 2, permit: 4 } as const
export const binding: Binding = { groupId }

export interface Master {
  readonly s: Scalar
  readonly shares: readonly ScalarShare[]
  /** C_j, by place. */
  readonly commitments: readonly G1[]
  readonly ivk: G1
  /** sQ: S of `device` and `pin`, the public key of `permit`. */
  readonly sQ: G2
  readonly serverKey: ServerKey
}

function master(purpose: Purpose): Master {
  const random = seeded(`master ${purpose}`)
  const s = Scalar.random(random)
  const shares = splitSecret(s, { t: 2, n: 3 }, random)
  const ivk = G1.generator.mulSecret(s)
  const sQ = G2.generator.mulSecret(s)
  return {
    s,
    shares,
    commitments: shares.map(share => G1.generator.mulSecret(share.scalar)),
    ivk,
    sQ,
    serverKey: mustBe(ServerKey.verify(ivk, sQ)),
  }
}

export function mustBe<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) throw new Error('expected a value')
  return value
}

export const masters = { device: master('device'), pin: master('pin'), permit: master('permit') }

/** `leaf` tells cars apart. */
export function makeCar(leaf: number, factors: Factors = 2): IdCore {
  return issueIdCore({
    groupId,
    attributes: { brand: 'Acme', model: 'Roadster', variant: 'S' },
    instance: `VIN${leaf}`,
    issueDate: '2026-04-11',
    enrolmentKeyHash: enrolmentKeyHash(digestOf(`hpke key of car ${leaf}`)),
    salt: digestOf(`salt ${leaf}`).slice(0, 16),
    leaf,
    generation: 1,
    factors,
  })
}

export const car = makeCar(5)
export const driver = userCoreOf({
  groupId,
  attributes: { driverName: 'Jörg' },
  salt: digestOf('salt of the driver').slice(0, 16),
})
export const pinTerms: PinTerms = { userCore: driver, pinGen: 1, pinEpoch: EPOCH.pin }

/** One car's keys, made at once from the masters: how they come about in shares is the story's matter. */
export function keysOf(idCore: IdCore, pin: PinTerms = pinTerms) {
  const A_dev = deviceIdentityPoint(groupId, idCore)
  const A_pin = pinIdentityPoint(groupId, idCore, pin.userCore, pin.pinGen)
  return {
    A_dev,
    A_pin,
    D_dev: A_dev.mulSecret(masters.device.s),
    D_pin: A_pin.mulSecret(masters.pin.s),
  }
}

/** α of a PIN. The stretching by PBKDF2 is the platform's; a hash stands for it here. */
export const alphaOf = (pin: string): Scalar => pinScalar(digestOf(`stretched ${pin}`))

export const RIGHT_PIN = '1234'

/** The car with its driver, as the device stores it. */
export function driven(idCore: IdCore = car, pin: PinTerms = pinTerms) {
  const keys = keysOf(idCore, pin)
  const token = splitPin(keys.D_pin, alphaOf(RIGHT_PIN), keys.A_pin)
  return { ...keys, token, typed: (text: string) => joinPin(token, alphaOf(text), keys.A_pin) }
}

export const nonceTerms: LoginTerms = {
  mode: MODE.nonce,
  audience: 'https://rps.example',
  deviceEpoch: EPOCH.device,
  slot: SLOT,
  idCore: car,
  nonce: digestOf('a nonce'),
}
const { nonce: _, ...withoutNonce } = nonceTerms
export const timeTerms: LoginTerms = { ...withoutNonce, mode: MODE.time, clientTime: 1_775_869_200 }
export const signTerms: LoginTerms = { ...timeTerms, mode: MODE.sign, payloadHash: digestOf('a position') }

/** An honest login of the device alone. */
export const loginAlone = (terms: LoginTerms = nonceTerms, random: Random = seeded('login')) =>
  clientProve({ terms, binding, deviceKey: keysOf(terms.idCore).D_dev, random })

/** A login with a PIN as it was typed. */
export const loginWithPin = (
  typed = RIGHT_PIN,
  terms: LoginTerms = nonceTerms,
  random: Random = seeded('login with a PIN'),
) => {
  const { D_dev, typed: join } = driven(terms.idCore)
  return clientProve({
    terms,
    binding,
    deviceKey: D_dev,
    pin: { terms: pinTerms, pinKey: join(typed) },
    random,
  })
}

/** e(V, Q)·e(X, S) = 1, the bare equation, for showing what an attack would do to a weaker protocol. */
export const bareEquation = (V: G1, X: G1, S: G2): boolean =>
  pairingProductIsOne([
    [V, G2.generator],
    [X, S],
  ])

export const scalarOf = (text: string): Scalar => Scalar.random(seeded(text))
