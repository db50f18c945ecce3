/**
 * vectors/v1.json, made by an implementation that shares no code with this one: every value of §1–§5 of the protocols,
 * byte for byte.
 */
import { pbkdf2Sync } from 'node:crypto'
import { verifyEquations, weightedSums } from '@milagro-ts/crypto/batch'
import { be32, fromHex, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/engine'
import {
  decodeEnrolmentCode,
  encodeEnrolmentCode,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToG1, hashToG2, hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import {
  type Attributes,
  agreePointG1,
  agreePointG2,
  checkIdCore,
  deviceIdentityPoint,
  encodeAttributes,
  encodeName,
  encryptPoint,
  IdCore,
  issueIdCore,
  keyIdentityPoint,
  type Name,
  NO_USER,
  pinIdentityPoint,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { deriveKey } from '@milagro-ts/crypto/kdf'
import {
  Authenticated,
  authorizationHeader,
  challengeTlv,
  clientProve,
  DeviceProven,
  LoginMessage,
  type LoginTerms,
  type Mode,
  type PinTerms,
  parseAuthorization,
} from '@milagro-ts/crypto/mpin'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import {
  decodeTokenFile,
  encodeTokenFile,
  joinPin,
  pinBytes,
  pinSalt,
  pinScalar,
  splitPin,
  type TokenFileJson,
} from '@milagro-ts/crypto/pin'
import { G1, G2, PreparedG2, pairing } from '@milagro-ts/crypto/points'
import { possessionProve, possessionVerify } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, combineG2, lagrangeAtZero, recombineSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare, ServerKey, sameLogarithm } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { authorityIssue, KeyShare, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import {
  DST_G2,
  dstG1,
  type KdfLabel,
  PURPOSES,
  type Purpose,
  type ScalarLabel,
} from '@milagro-ts/crypto/suite'
import {
  Permit,
  type PermitTarget,
  permitCovers,
  permitInput,
  permitPoint,
  slotAt,
  slotStart,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { describe, expect, test } from 'vitest'
import { hexOf, point1, point2, readVectors, scalar } from './vector-files.js'
import { mustBe } from './world.js'

type Hex = string

interface Login {
  readonly mode: Mode
  readonly audience: string
  readonly keyEpoch: number
  readonly slot: number
  readonly factorsUsed: number
  readonly idCore: Hex
  readonly userCore?: Hex
  readonly pinGen?: number
  readonly pinEpoch?: number
  readonly nonce?: Hex
  readonly clientTime?: number
  readonly tlsExporter?: Hex
  readonly payload?: Hex
  readonly payloadHash?: Hex
  readonly permit?: Hex
  readonly random_x: Hex
  readonly fixed_x: Hex
  readonly x: Hex
  readonly U_dev: Hex
  readonly random_xp?: Hex
  readonly fixed_xp?: Hex
  readonly xp?: Hex
  readonly U_pin?: Hex
  readonly random_k?: Hex
  readonly fixed_k?: Hex
  readonly k?: Hex
  readonly T?: Hex
  readonly challengeTlv: Hex
  readonly c: Hex
  readonly V_dev: Hex
  readonly V_pin?: Hex
  readonly z?: Hex
  readonly message: Hex
  readonly authorization: string
}

interface PermitVector {
  readonly type: 0 | 1
  readonly depth?: number
  readonly index?: number
  readonly idCore?: Hex
  readonly slot: number
  readonly slotStart: number
  readonly input: Hex
  readonly HT: Hex
  readonly permit: Hex
  readonly wire: Hex
}

interface KeyVector {
  readonly A: Hex
  readonly identity: Hex
  readonly shareEpoch: number
  readonly shares: readonly {
    readonly j: number
    readonly jti: Hex
    readonly ctx: Hex
    readonly random: Hex
    readonly d_j: Hex
    readonly k: Hex
    readonly T1: Hex
    readonly T2: Hex
    readonly kappa: Hex
    readonly z: Hex
    readonly hpke: { readonly plaintext: Hex }
  }[]
  readonly D: Hex
}

interface V1 {
  readonly general: {
    readonly suite: string
    readonly q: Hex
    readonly P1: Hex
    readonly Q: Hex
    readonly sha256OfGt_e_P1_Q: Hex
    readonly dst: {
      readonly hashToG1: Readonly<Record<string, string>>
      readonly hashToG2: Readonly<Record<string, string>>
    }
    readonly tlv: { readonly bytes: Hex }
    readonly setting: {
      readonly slot: number
      readonly now: number
      readonly origin: number
      readonly slotLength: number
      readonly keyEpochs: Readonly<Record<Purpose, number>>
    }
    readonly groupDocument: { readonly jcs: string; readonly groupId: Hex; readonly groupIdB64u: string }
    readonly refusedG1: Readonly<Record<string, Hex>>
  }
  readonly hash: {
    readonly message: Hex
    readonly H1: Readonly<Record<string, Hex>>
    readonly H2: Readonly<Record<string, Hex>>
    readonly Hq: Readonly<Record<ScalarLabel, Hex>>
    readonly kdf: {
      readonly ikm: Hex
      readonly info: Hex
      readonly out: Readonly<Record<KdfLabel, Hex>>
    }
    readonly names: Readonly<
      Record<
        string,
        { readonly kind: number; readonly bytes: Hex; readonly Hk1: Hex; readonly Hk2: Hex; readonly He: Hex }
      >
    >
  }
  readonly identity: {
    readonly groupId: Hex
    readonly attributes: Attributes
    readonly attributesTlv: Hex
    readonly instance: string
    readonly issueDate: string
    readonly leaf: number
    readonly generation: number
    readonly factors: number
    readonly enrolmentKey: Hex
    readonly enrolmentKeyHash: Hex
    readonly salt: Hex
    readonly idCoreHashInput: Hex
    readonly idCore: Hex
    readonly idCoreB64u: string
    readonly userAttributes: Attributes
    readonly userSalt: Hex
    readonly userCoreHashInput: Hex
    readonly userCore: Hex
    readonly userCoreB64u: string
    readonly pinGen: number
    readonly A_devInput: Hex
    readonly A_dev: Hex
    readonly A_pinInput: Hex
    readonly A_pin: Hex
    readonly A_pinWithoutUserInput: Hex
    readonly A_pinWithoutUser: Hex
  }
  readonly enrolment: {
    readonly secret: Hex
    readonly code: string
    readonly hpkePk: Hex
    readonly instance: string
    readonly deviceNonce: Hex
    readonly macInput: Hex
    readonly mac: Hex
    readonly wordsInput: Hex
    readonly wordsHash: Hex
    readonly wordIndices: readonly number[]
    readonly hpkeInfoExample: Hex
  }
  readonly shares: {
    readonly masters: Readonly<
      Record<
        Purpose,
        {
          readonly s: Hex
          readonly a1: Hex
          readonly s_j: readonly Hex[]
          readonly C_j: readonly Hex[]
          readonly IVK: Hex
          readonly W_j: readonly Hex[]
          readonly S: Hex
        }
      >
    >
    readonly lambda: Readonly<Record<string, readonly Hex[]>>
    readonly keys: Readonly<Record<Exclude<Purpose, 'permit'>, KeyVector>>
    readonly rotationShare: {
      readonly purpose: Purpose
      readonly j: number
      readonly oldEpoch: number
      readonly newEpoch: number
      readonly deltaShare: Hex
      readonly C_difference: Hex
      readonly jti: Hex
      readonly ctx: Hex
      readonly random: Hex
      readonly d_j: Hex
      readonly kappa: Hex
      readonly z: Hex
    }
    readonly possessionProof: {
      readonly session: Hex
      readonly purpose: Purpose
      readonly i: number
      readonly a: Hex
      readonly aP1: Hex
      readonly random: Hex
      readonly fixed: Hex
      readonly k: Hex
      readonly kP1: Hex
      readonly kappa: Hex
      readonly z: Hex
    }
  }
  readonly login: {
    readonly D_dev: Hex
    readonly D_pin: Hex
    readonly token: Hex
    readonly alpha: Hex
  } & Readonly<Record<LoginName, Login>>
  readonly pin: {
    readonly pin: string
    readonly iterations: number
    readonly salt: Hex
    readonly stretched: Hex
    readonly alpha: Hex
    readonly token: Hex
    readonly tokenFile: TokenFileJson
    readonly passphrase: {
      readonly text: string
      readonly nfkcUtf8: Hex
      readonly stretched: Hex
      readonly alpha: Hex
    }
  }
  readonly permit: {
    readonly permitEpoch: number
    readonly origin: number
    readonly length: number
    readonly sQ: Hex
    readonly root: PermitVector
    readonly id: PermitVector
    readonly leaf5: PermitVector
    readonly banned: readonly number[]
    readonly coverPermits: readonly PermitVector[]
  }
  readonly batch: {
    readonly S: Hex
    readonly items: readonly {
      readonly A: Hex
      readonly U: Hex
      readonly V: Hex
      readonly c: Hex
      readonly X: Hex
      readonly r: Hex
    }[]
    readonly sum_rV: Hex
    readonly sum_rX: Hex
    readonly result: boolean
    readonly withCPlusOneAt2: { readonly c: Hex; readonly result: boolean; readonly bad: readonly number[] }
  }
}

const LOGINS = ['device', 'devicePin', 'time', 'timePin', 'sign', 'signNoncePin'] as const
type LoginName = (typeof LOGINS)[number]

const v1 = readVectors<V1>('v1.json')
const groupId = fromHex(v1.identity.groupId)
const idCore = IdCore.decode(fromHex(v1.identity.idCore))
const userCore = fromHex(v1.identity.userCore)
const S_dev = mustBe(
  ServerKey.verify(point1(v1.shares.masters.device.IVK), point2(v1.shares.masters.device.S)),
)
const S_pin = mustBe(ServerKey.verify(point1(v1.shares.masters.pin.IVK), point2(v1.shares.masters.pin.S)))

/** A random source that answers with these, one after the other. */
const inTurn = (...answers: readonly (Hex | undefined)[]) => {
  let next = 0
  return () => fromHex(mustBe(answers[next++]))
}

describe('general', () => {
  const { general } = v1

  test('generators, order, and the value of the pairing', () => {
    expect(hexOf(G1.generator)).toBe(general.P1)
    expect(hexOf(G2.generator)).toBe(general.Q)
    expect(ORDER.toString(16)).toBe(general.q)
    expect(toHex(sha256(pairing(G1.generator, G2.generator).toBytes()))).toBe(general.sha256OfGt_e_P1_Q)
  })

  test('domain separation tags', () => {
    expect(Object.keys(general.dst.hashToG1)).toHaveLength(PURPOSES.length)
    for (const purpose of PURPOSES) expect(dstG1(purpose)).toBe(general.dst.hashToG1[purpose.toUpperCase()])
    expect(general.dst.hashToG2).toEqual({ AGREE: DST_G2 })
  })

  test('an absent entry keeps its number', () => {
    expect(toHex(encodeTlv([utf8('a'), undefined, utf8('b')]))).toBe(general.tlv.bytes)
  })

  test('groupId is the hash of the first revision', () => {
    expect(toHex(sha256(utf8(general.groupDocument.jcs)))).toBe(general.groupDocument.groupId)
    expect(toBase64Url(groupId)).toBe(general.groupDocument.groupIdB64u)
  })

  test.each(Object.entries(general.refusedG1))('refused as a point: %s', (_, bytes) => {
    expect(() => point1(bytes)).toThrow(DecodeError)
  })
})

describe('hashes', () => {
  const message = fromHex(v1.hash.message)

  test.each(PURPOSES)('H1 of %s', purpose => {
    expect(hexOf(hashToG1(purpose, message))).toBe(v1.hash.H1[purpose.toUpperCase()])
  })

  test('H2 of agree', () => {
    expect(hexOf(hashToG2('agree', message))).toBe(v1.hash.H2.AGREE)
  })

  test.each(Object.entries(v1.hash.Hq) as [ScalarLabel, Hex][])('Hq of %s', (label, expected) => {
    expect(hexOf(hashToScalar(label, message))).toBe(expected)
  })

  test.each(Object.entries(v1.hash.kdf.out) as [KdfLabel, Hex][])('key of %s', (label, expected) => {
    const { ikm, info } = v1.hash.kdf
    expect(toHex(deriveKey(label, fromHex(ikm), fromHex(info)))).toBe(expected)
  })

  const { slot } = v1.general.setting
  const names: readonly (readonly [string, Name])[] = [
    ['device', { kind: 1, idCore }],
    ['deviceSlot', { kind: 1, idCore, slot }],
    ['server', { kind: 2, name: 'gw.example', generation: 8, slot }],
    ['staticServer', { kind: 3, name: 'gw.example', generation: 8 }],
    ['encryptName', { kind: 4, name: 'alice', generation: 0 }],
    ['encryptNameSlot', { kind: 4, name: 'alice', generation: 0, slot }],
  ]
  test.each(names)('name: %s', (name, value) => {
    const expected = mustBe(v1.hash.names[name])
    const bytes = encodeName(groupId, value)
    expect(toHex(bytes)).toBe(expected.bytes)
    expect(hexOf(agreePointG1(bytes))).toBe(expected.Hk1)
    expect(hexOf(agreePointG2(bytes))).toBe(expected.Hk2)
    expect(hexOf(encryptPoint(bytes))).toBe(expected.He)
  })

  test('no name is left out', () => {
    expect(names.map(([name]) => name)).toEqual(Object.keys(v1.hash.names))
  })
})

describe('identity', () => {
  const { identity } = v1
  const fields = {
    groupId,
    attributes: identity.attributes,
    instance: identity.instance,
    issueDate: identity.issueDate,
    enrolmentKeyHash: fromHex(identity.enrolmentKeyHash),
    salt: fromHex(identity.salt),
    leaf: identity.leaf,
    generation: identity.generation,
    factors: identity.factors,
  }

  test('attributes, hash of the enrolment key', () => {
    expect(toHex(encodeAttributes(identity.attributes))).toBe(identity.attributesTlv)
    expect(toHex(enrolmentKeyHash(fromHex(identity.enrolmentKey)))).toBe(identity.enrolmentKeyHash)
  })

  test('idCore', () => {
    const issued = issueIdCore(fields)
    expect(toHex(issued.bytes)).toBe(identity.idCore)
    expect(toHex(issued.bytes.slice(7))).toBe(toHex(sha256(fromHex(identity.idCoreHashInput))))
    expect(issued.mpinId).toBe(identity.idCoreB64u)
    expect(checkIdCore(issued, fields)).toBe(true)
    expect([issued.leaf, issued.generation, issued.factors]).toEqual([
      identity.leaf,
      identity.generation,
      identity.factors,
    ])
  })

  test('userCore', () => {
    const made = userCoreOf({
      groupId,
      attributes: identity.userAttributes,
      salt: fromHex(identity.userSalt),
    })
    expect(toHex(made)).toBe(identity.userCore)
    expect(toHex(sha256(fromHex(identity.userCoreHashInput)))).toBe(identity.userCore)
    expect(toBase64Url(made)).toBe(identity.userCoreB64u)
  })

  test('A_dev and A_pin, with and without a user', () => {
    expect(hexOf(deviceIdentityPoint(groupId, idCore))).toBe(identity.A_dev)
    expect(hexOf(hashToG1('device', fromHex(identity.A_devInput)))).toBe(identity.A_dev)
    expect(hexOf(pinIdentityPoint(groupId, idCore, userCore, identity.pinGen))).toBe(identity.A_pin)
    expect(hexOf(hashToG1('pin', fromHex(identity.A_pinInput)))).toBe(identity.A_pin)
    expect(hexOf(pinIdentityPoint(groupId, idCore, NO_USER, identity.pinGen))).toBe(identity.A_pinWithoutUser)
    expect(hexOf(hashToG1('pin', fromHex(identity.A_pinWithoutUserInput)))).toBe(identity.A_pinWithoutUser)
  })
})

describe('enrolment', () => {
  const { enrolment } = v1
  const fields = {
    groupId,
    attributes: v1.identity.attributes,
    instance: enrolment.instance,
    hpkeKey: fromHex(enrolment.hpkePk),
    nonce: fromHex(enrolment.deviceNonce),
  }

  test('code', () => {
    const secret = fromHex(enrolment.secret)
    expect(encodeEnrolmentCode({ secret, groupId })).toBe(enrolment.code)
    expect(decodeEnrolmentCode(enrolment.code.toLowerCase().replaceAll('-', ' '))).toEqual({
      secret,
      groupId,
    })
  })

  test('MAC', () => {
    expect(toHex(enrolmentMac(fromHex(enrolment.secret), fields))).toBe(enrolment.mac)
  })

  test('six words', () => {
    expect(toHex(sha256(fromHex(enrolment.wordsInput)))).toBe(enrolment.wordsHash)
    expect(sixWordIndices(fields)).toEqual(enrolment.wordIndices)
  })
})

describe('shares', () => {
  const { masters, lambda, keys, rotationShare: rotation, possessionProof: possession } = v1.shares

  test.each(PURPOSES)('%s: shares, commitments and server keys', purpose => {
    const master = masters[purpose]
    const [s, a1] = [scalar(master.s), scalar(master.a1)]
    const secrets = master.s_j.map(scalar)
    const commitments = master.C_j.map(point1)
    secrets.forEach((share, i) => {
      expect(hexOf(s.add(a1.multiply(Scalar.fromNumber(i + 1))))).toBe(hexOf(share))
      expect(hexOf(G1.generator.mulSecret(share))).toBe(master.C_j[i])
      const W = authorityServerKeyShare(share)
      expect(hexOf(W)).toBe(master.W_j[i])
      expect(sameLogarithm(mustBe(commitments[i]), W)).toBe(true)
    })
    for (const pair of Object.keys(lambda)) {
      const indices = pair.split(',').map(Number)
      const at = <T>(of: readonly T[]) => indices.map(index => ({ index, value: mustBe(of[index - 1]) }))
      const scalars = at(secrets).map(({ index, value }) => ({ index, scalar: value }))
      expect(hexOf(recombineSecret(scalars))).toBe(master.s)
      const points = at(commitments).map(({ index, value }) => ({ index, point: value }))
      expect(hexOf(combineG1(points))).toBe(master.IVK)
      const keyShares = at(master.W_j).map(({ index, value }) => ({ index, point: point2(value) }))
      expect(hexOf(combineG2(keyShares))).toBe(master.S)
    }
    expect(ServerKey.verify(point1(master.IVK), point2(master.S))).not.toBeNull()
  })

  test.each(Object.entries(lambda))('λ of %s', (indices, expected) => {
    expect(lagrangeAtZero(indices.split(',').map(Number)).map(hexOf)).toEqual(expected)
  })

  const { pinGen } = v1.identity
  const identities = {
    device: { purpose: 'device', idCore },
    pin: { purpose: 'pin', idCore, userCore, pinGen },
    sign: { purpose: 'sign', idCore },
    agree: { purpose: 'agree', name: fromHex(keys.agree.identity) },
    encrypt: { purpose: 'encrypt', name: fromHex(keys.encrypt.identity) },
  } as const
  const ofPin = (purpose: Purpose) => (purpose === 'pin' ? { userCore, pinGen } : {})

  test.each(Object.values(identities))('$purpose: proofs and key', identity => {
    const { purpose } = identity
    const key = keys[purpose]
    const A = keyIdentityPoint(groupId, identity)
    expect(hexOf(A)).toBe(key.A)
    const points = key.shares.map(vector => {
      const ctx = shareContext({
        groupId,
        purpose,
        index: vector.j,
        shareEpoch: key.shareEpoch,
        identity: fromHex(key.identity),
        ...ofPin(purpose),
        jti: fromHex(vector.jti),
      })
      expect(toHex(ctx)).toBe(vector.ctx)
      const secretShare = scalar(mustBe(masters[purpose].s_j[vector.j - 1]))
      const commitment = point1(mustBe(masters[purpose].C_j[vector.j - 1]))
      const share = authorityIssue({ ctx, commitment, A }, secretShare, inTurn(vector.random))
      expect([hexOf(share.d), hexOf(share.kappa), hexOf(share.z)]).toEqual([
        vector.d_j,
        vector.kappa,
        vector.z,
      ])
      expect(hexOf(share)).toBe(vector.hpke.plaintext)
      const received = KeyShare.decode(fromHex(vector.hpke.plaintext))
      expect(shareVerify({ ctx, commitment, A }, received)).toBe(true)
      // The commitments T1 = kP1 and T2 = kA are what the verifier recomputes.
      const k = scalar(vector.k)
      expect([hexOf(G1.generator.mulPublic(k)), hexOf(A.mulPublic(k))]).toEqual([vector.T1, vector.T2])
      return { index: vector.j, point: received.d }
    })
    expect(hexOf(combineG1(points.slice(0, 2)))).toBe(key.D)
    expect(hexOf(combineG1(points))).toBe(key.D)
  })

  test('a share of a rotation', () => {
    const ctx = shareContext({
      groupId,
      purpose: rotation.purpose,
      index: rotation.j,
      shareEpoch: keys.pin.shareEpoch,
      identity: idCore.bytes,
      ...ofPin(rotation.purpose),
      jti: fromHex(rotation.jti),
      rotation,
    })
    expect(toHex(ctx)).toBe(rotation.ctx)
    const statement = { ctx, commitment: point1(rotation.C_difference), A: point1(keys.pin.A) }
    const share = authorityIssue(statement, scalar(rotation.deltaShare), inTurn(rotation.random))
    expect([hexOf(share.d), hexOf(share.kappa), hexOf(share.z)]).toEqual([
      rotation.d_j,
      rotation.kappa,
      rotation.z,
    ])
    expect(shareVerify(statement, share)).toBe(true)
  })

  test('a proof of possession', () => {
    const context = {
      session: fromHex(possession.session),
      purpose: possession.purpose,
      index: possession.i,
    }
    const a = scalar(possession.a)
    const k = hedgedNonce(
      NONCE_ROLE.possession,
      inTurn(possession.random),
      a.encode(),
      fromHex(possession.fixed),
    )
    expect(hexOf(k)).toBe(possession.k)
    const proof = possessionProve(context, a, inTurn(possession.random))
    expect([hexOf(proof.kappa), hexOf(proof.z)]).toEqual([possession.kappa, possession.z])
    expect(possessionVerify(context, point1(possession.aP1), proof)).toBe(true)
  })
})

describe('login', () => {
  const D_dev = point1(v1.login.D_dev)
  const pinKey = joinPin(point1(v1.login.token), scalar(v1.login.alpha), point1(v1.identity.A_pin))

  test('the token and the PIN give the key', () => {
    expect(hexOf(pinKey)).toBe(v1.login.D_pin)
  })

  test.each(LOGINS)('%s', name => {
    const login = v1.login[name]
    const binding = { groupId, ...(login.tlsExporter && { tlsExporter: fromHex(login.tlsExporter) }) }
    const terms: LoginTerms = {
      mode: login.mode,
      audience: login.audience,
      deviceEpoch: login.keyEpoch,
      slot: login.slot,
      idCore,
      ...(login.nonce && { nonce: fromHex(login.nonce) }),
      ...(login.clientTime && { clientTime: login.clientTime }),
      ...(login.payloadHash && { payloadHash: fromHex(login.payloadHash) }),
    }
    if (login.payload) expect(toHex(sha256(fromHex(login.payload)))).toBe(login.payloadHash)
    const withPin = login.factorsUsed === 3
    const pinTerms: PinTerms | undefined = withPin
      ? { userCore, pinGen: mustBe(login.pinGen), pinEpoch: mustBe(login.pinEpoch) }
      : undefined
    const made = clientProve({
      terms,
      binding,
      deviceKey: D_dev,
      pin: pinTerms && { terms: pinTerms, pinKey },
      permit: login.permit === undefined ? undefined : Permit.decode(fromHex(login.permit)),
      random: inTurn(login.random_x, login.random_xp, login.random_k),
    })

    // Step by step: what is fixed, the nonce, its commitment; then the challenge.
    const U_dev = point1(login.U_dev)
    expect(toHex(challengeTlv(terms, pinTerms, binding, {}))).toBe(login.fixed_x)
    const x = hedgedNonce(NONCE_ROLE.x, inTurn(login.random_x), D_dev.encode(), fromHex(login.fixed_x))
    expect(hexOf(x)).toBe(login.x)
    expect(hexOf(made.U_dev)).toBe(login.U_dev)
    expect(hexOf(made.V_dev)).toBe(login.V_dev)
    const commitments = { U_dev }
    if (withPin) {
      const U_pin = point1(mustBe(login.U_pin))
      expect(toHex(challengeTlv(terms, pinTerms, binding, { U_dev }))).toBe(login.fixed_xp)
      const key = pinKey.encode()
      const xPin = hedgedNonce(NONCE_ROLE.xPin, inTurn(login.random_xp), key, fromHex(mustBe(login.fixed_xp)))
      expect(hexOf(xPin)).toBe(login.xp)
      expect(toHex(challengeTlv(terms, pinTerms, binding, { U_dev, U_pin }))).toBe(login.fixed_k)
      const k = hedgedNonce(NONCE_ROLE.k, inTurn(login.random_k), key, fromHex(mustBe(login.fixed_k)))
      expect(hexOf(k)).toBe(login.k)
      const pin = mustBe(made.pin)
      expect([hexOf(pin.U_pin), hexOf(pin.T), hexOf(pin.V_pin), hexOf(pin.z)]).toEqual([
        login.U_pin,
        login.T,
        login.V_pin,
        login.z,
      ])
      Object.assign(commitments, { U_pin, T: point1(mustBe(login.T)) })
    }
    const tlv = challengeTlv(terms, pinTerms, binding, commitments)
    expect(toHex(tlv)).toBe(login.challengeTlv)
    expect(hexOf(hashToScalar('CHAL', tlv))).toBe(login.c)

    // The message, in each of its spellings.
    expect(hexOf(made)).toBe(login.message)
    expect(authorizationHeader(made)).toBe(login.authorization)
    expect(hexOf(parseAuthorization(login.authorization))).toBe(login.message)
    expect(hexOf(LoginMessage.fromJson(made.toJson()))).toBe(login.message)

    // The server's verdict on the message as it came.
    const received = LoginMessage.decode(fromHex(login.message))
    const proven = mustBe(DeviceProven.verify(received, binding, S_dev))
    expect(hexOf(proven.challenge)).toBe(login.c)
    const who = withPin
      ? Authenticated.byPin(proven, S_pin, length => new Uint8Array(length).fill(0x5a))
      : Authenticated.byDevice(proven)
    expect(who?.amr).toEqual(withPin ? ['device', 'pin'] : ['device'])
    expect(who?.userCore).toEqual(withPin ? userCore : NO_USER)
  })
})

describe('PIN', () => {
  const { pin } = v1
  const A_pin = point1(v1.identity.A_pin)
  const stretch = (text: string) =>
    pbkdf2Sync(pinBytes(text), pinSalt(idCore, userCore, v1.identity.pinGen), pin.iterations, 32, 'sha256')

  test('salt, α, τ', () => {
    expect(toHex(pinSalt(idCore, userCore, v1.identity.pinGen))).toBe(pin.salt)
    expect(toHex(stretch(pin.pin))).toBe(pin.stretched)
    const alpha = pinScalar(stretch(pin.pin))
    expect(hexOf(alpha)).toBe(pin.alpha)
    expect(hexOf(splitPin(point1(v1.login.D_pin), alpha, A_pin))).toBe(pin.token)
  })

  test('a passphrase is brought to NFKC', () => {
    const { text, nfkcUtf8, stretched, alpha } = pin.passphrase
    expect(toHex(pinBytes(text))).toBe(nfkcUtf8)
    expect(toHex(stretch(text))).toBe(stretched)
    expect(hexOf(pinScalar(stretch(text)))).toBe(alpha)
  })

  test('token file', () => {
    const file = decodeTokenFile(pin.tokenFile)
    expect(hexOf(file.token)).toBe(pin.token)
    expect(file.idCore.equals(idCore)).toBe(true)
    expect(encodeTokenFile(file)).toEqual(pin.tokenFile)
  })
})

describe('permits', () => {
  const { permit } = v1
  const { setting } = v1.general
  const rule = { origin: permit.origin, length: permit.length }
  const terms = { groupId, permitEpoch: permit.permitEpoch, rule }
  const sQ = point2(permit.sQ)
  const s = scalar(v1.shares.masters.permit.s)

  test('the slot of the setting’s clock', () => {
    expect(rule).toEqual({ origin: setting.origin, length: setting.slotLength })
    expect(slotAt(rule, setting.now)).toBe(setting.slot)
  })

  const targetOf = ({ type, depth, index, idCore: id }: PermitVector): PermitTarget =>
    type === 0
      ? { type: 'node', depth: mustBe(depth), index: mustBe(index) }
      : { type: 'id', idCore: IdCore.decode(fromHex(mustBe(id))) }

  const all = [
    ['root', permit.root],
    ['id', permit.id],
    ['leaf5', permit.leaf5],
    ...permit.coverPermits.map(one => [`node ${one.depth}/${one.index}`, one] as const),
  ] as const
  test.each(all)('%s', (_, vector) => {
    const target = targetOf(vector)
    expect(slotStart(rule, vector.slot)).toBe(vector.slotStart)
    const input = permitInput(terms, vector.slot, target)
    expect(toHex(input)).toBe(vector.input)
    const HT = permitPoint(input)
    expect(hexOf(HT)).toBe(vector.HT)
    expect(hexOf(HT.mulSecret(s))).toBe(vector.permit)
    const carried = Permit.decode(fromHex(vector.wire))
    expect(hexOf(carried)).toBe(vector.wire)
    expect(hexOf(carried.point)).toBe(vector.permit)
    expect(VerifiedPermit.verify(terms, sQ, carried)?.covers(idCore)).toBe(permitCovers(target, idCore))
  })

  test('the cover covers everybody but the banned', () => {
    const nodes = permit.coverPermits.map(targetOf)
    const coveredBy = (leaf: number) => {
      const bytes = idCore.bytes
      bytes.set(be32(leaf))
      return nodes.filter(node => permitCovers(node, IdCore.decode(bytes))).length
    }
    for (const leaf of permit.banned) expect(coveredBy(leaf)).toBe(0)
    for (const leaf of [0, 2, 5, 8, 77, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2]) expect(coveredBy(leaf)).toBe(1)
  })
})

describe('batch', () => {
  const { batch } = v1
  const S = PreparedG2.of(point2(batch.S))
  const equations = batch.items.map(({ U, V, A, c }) => ({
    V: point1(V),
    U: point1(U),
    cA: { A: point1(A), c: scalar(c) },
  }))
  const weights = batch.items.map(({ r }) => scalar(r.padStart(64, '0')))
  const drawn = () => inTurn(...batch.items.map(({ r }) => r))

  test('X of each', () => {
    for (const [i, { U, cA }] of equations.entries())
      expect(hexOf(U.add(cA.A.mulPublic(cA.c)))).toBe(batch.items[i]?.X)
  })

  test('both sums', () => {
    const { V, X } = weightedSums(equations, weights)
    expect([hexOf(V), hexOf(X)]).toEqual([batch.sum_rV, batch.sum_rX])
  })

  test('one product says yes to all, with the r_i as they are drawn', () => {
    expect(batch.result).toBe(true)
    expect(verifyEquations(equations, S, drawn())).toEqual({ holds: equations.map(() => true), products: 1 })
  })

  test('the bad one is found', () => {
    const { c, result, bad } = batch.withCPlusOneAt2
    const withBad = equations.with(2, {
      ...mustBe(equations[2]),
      cA: { A: mustBe(equations[2]).cA.A, c: scalar(c) },
    })
    const { holds } = verifyEquations(withBad, S, drawn())
    expect(holds.every(Boolean)).toBe(result)
    expect(holds.flatMap((hold, i) => (hold ? [] : [i]))).toEqual(bad)
  })
})
