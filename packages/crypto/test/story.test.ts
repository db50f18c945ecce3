/**
 * The story, through the bytes: three authorities found a group, a car and its driver enrol, the car gets a permit,
 * both log in. Whatever one party gives another is encoded, carried as bytes, and decoded at the other side.
 *
 *   authorities 1, 2, 3      commitments, proofs of possession  →  IVK of each purpose
 *   RA                       enrolment code  →  car
 *   car                      attributes, key, nonce, MAC  →  RA: idCore
 *   authorities              key shares with proofs  →  car: D_dev; driver: D_pin → token
 *   authorities              server key shares  →  server: S_dev, S_pin
 *   authorities              permit shares  →  server: permit of the slot
 *   car                      login message  →  server: who
 */
import { pbkdf2Sync } from 'node:crypto'
import { equalBytes } from '@milagro-ts/crypto/bytes'
import {
  decodeEnrolmentCode,
  encodeEnrolmentCode,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import {
  checkIdCore,
  IdCore,
  issueIdCore,
  type KeyIdentity,
  keyIdentityPoint,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import {
  Authenticated,
  authorizationHeader,
  clientProve,
  DeviceProven,
  factorsSatisfied,
  LoginMessage,
  MODE,
  parseAuthorization,
} from '@milagro-ts/crypto/mpin'
import {
  decodeTokenFile,
  encodeTokenFile,
  joinPin,
  pinBytes,
  pinSalt,
  pinScalar,
  splitPin,
} from '@milagro-ts/crypto/pin'
import { G1, G2, pairingProductIsOne } from '@milagro-ts/crypto/points'
import { possessionProve, possessionVerify } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, combineG2 } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare, ServerKey, sameLogarithm } from '@milagro-ts/crypto/server-key'
import { authorityIssue, KeyShare, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import {
  Permit,
  type PermitTarget,
  permitInput,
  permitPoint,
  slotAt,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import { expect, test } from 'vitest'
import { digestOf, groupId, mustBe, rule, seeded } from './world.js'

/** JSON as a network carries it. */
const carried = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

test('a car, three authorities, a server', () => {
  const random = seeded('the story')
  const INDICES = [1, 2, 3]

  // — Three authorities found a group, n-of-n: each draws its own share of each master secret.
  const session = digestOf('all three joins')
  const found = (purpose: 'device' | 'pin' | 'permit') => {
    const secrets = INDICES.map(() => Scalar.random(random))
    const commitments = secrets.map((secret, i) => {
      const context = { session, purpose, index: i + 1 }
      const proof = possessionProve(context, secret, random)
      const commitment = G1.decode(G1.generator.mulSecret(secret).encode())
      const shown = { kappa: Scalar.decode(proof.kappa.encode()), z: Scalar.decode(proof.z.encode()) }
      expect(possessionVerify(context, commitment, shown)).toBe(true)
      return commitment
    })
    const ivk = combineG1(commitments.map((point, i) => ({ index: i + 1, point })))
    return { purpose, secrets, commitments, ivk }
  }
  const group = { device: found('device'), pin: found('pin'), permit: found('permit') }
  const publicShares = group.permit.secrets.map((secret, i) => ({
    index: i + 1,
    point: G2.decode(authorityServerKeyShare(secret).encode()),
  }))
  const permitKey = combineG2(publicShares)
  expect(sameLogarithm(group.permit.ivk, permitKey)).toBe(true)

  // — The RA prints a code for a car; the car reads it, and so knows which group it belongs to.
  const printed = encodeEnrolmentCode({ secret: random(16), groupId })
  const code = decodeEnrolmentCode(printed)
  expect(code.groupId).toEqual(groupId)

  // — The car asks to be enrolled; the RA recomputes the MAC, and a person could compare the six words.
  const attributes = { brand: 'Acme', model: 'Roadster', variant: 'S' }
  const request = {
    groupId,
    attributes,
    instance: 'WVWZZZ1JZXW000001',
    hpkeKey: random(32),
    nonce: random(32),
  }
  const mac = enrolmentMac(code.secret, request)
  const atTheRa = carried({ ...request.attributes }) as typeof attributes
  expect(equalBytes(enrolmentMac(code.secret, { ...request, attributes: atTheRa }), mac)).toBe(true)
  expect(sixWordIndices(request)).toEqual(sixWordIndices({ ...request, attributes: atTheRa }))

  // — The RA makes the car's identity; the car checks that it is inside.
  const fields = {
    groupId,
    attributes,
    instance: request.instance,
    issueDate: '2026-04-11',
    enrolmentKeyHash: enrolmentKeyHash(request.hpkeKey),
    salt: random(16),
    leaf: 5,
    generation: 1,
    factors: 2,
  }
  const idCore = IdCore.fromBase64Url(issueIdCore(fields).mpinId)
  expect(checkIdCore(idCore, fields)).toBe(true)
  const userCore = userCoreOf({ groupId, attributes: { driverName: 'Jörg' }, salt: random(16) })

  // — Each authority hashes the identity itself, answers with its share and a proof; the car checks and combines.
  const keyOf = (identity: KeyIdentity & { purpose: 'device' | 'pin' }) => {
    const { secrets, commitments, ivk, purpose } = group[identity.purpose]
    const jti = random(16)
    const shares = INDICES.map((index, i) => {
      const ctx = shareContext({
        groupId,
        purpose,
        index,
        shareEpoch: 1,
        identity: identity.idCore.bytes,
        ...(identity.purpose === 'pin' && { userCore: identity.userCore, pinGen: identity.pinGen }),
        jti,
      })
      const commitment = mustBe(commitments[i])
      const atTheAuthority = { ctx, commitment, A: keyIdentityPoint(groupId, identity) }
      const answer = authorityIssue(atTheAuthority, mustBe(secrets[i]), random).encode()
      const share = KeyShare.decode(answer)
      const atTheCar = { ctx, commitment, A: keyIdentityPoint(groupId, identity) }
      expect(shareVerify(atTheCar, share)).toBe(true)
      return { index, point: share.d }
    })
    const D = combineG1(shares)
    // What no party of the story can check, a test can: D = s·A.
    const A = keyIdentityPoint(groupId, identity)
    const S = combineG2(
      INDICES.map((index, i) => ({ index, point: authorityServerKeyShare(mustBe(secrets[i])) })),
    )
    expect(sameLogarithm(ivk, S)).toBe(true)
    expect(
      pairingProductIsOne([
        [D, G2.generator],
        [A.negate(), S],
      ]),
    ).toBe(true)
    return { A, D }
  }
  const deviceKey = keyOf({ purpose: 'device', idCore }).D
  const pinGen = 1
  const { A: A_pin, D: D_pin } = keyOf({ purpose: 'pin', idCore, userCore, pinGen })

  // — The driver chooses a PIN; the car keeps the token and forgets the key.
  const iterations = 10
  const stretched = (pin: string) =>
    new Uint8Array(pbkdf2Sync(pinBytes(pin), pinSalt(idCore, userCore, pinGen), iterations, 32, 'sha256'))
  const alphaOf = (pin: string) => pinScalar(stretched(pin))
  const stored = JSON.stringify(
    encodeTokenFile({
      groupId,
      idCore,
      userCore,
      pinGen,
      iterations,
      keyEpoch: 1,
      token: splitPin(D_pin, alphaOf('2580'), A_pin),
    }),
  )

  // — The server fetches its keys in shares and checks each, and the whole.
  const serverKeyOf = ({ secrets, commitments, ivk }: typeof group.device) => {
    const shares = secrets.map((secret, i) => {
      const point = G2.decode(authorityServerKeyShare(secret).encode())
      expect(sameLogarithm(mustBe(commitments[i]), point)).toBe(true)
      return { index: i + 1, point }
    })
    const key = mustBe(ServerKey.combine(ivk, shares))
    return mustBe(ServerKey.verify(ivk, G2.decode(key.encode())))
  }
  const S_dev = serverKeyOf(group.device)
  const S_pin = serverKeyOf(group.pin)

  // — The day's permit, composed from three shares; anybody can check it.
  const now = rule.origin + 100 * rule.length + 3600
  const slot = slotAt(rule, now)
  const target: PermitTarget = { type: 'id', idCore }
  const permitTerms = { groupId, permitEpoch: 1, rule }
  const HT = permitPoint(permitInput(permitTerms, slot, target))
  const permitShares = group.permit.secrets.map((secret, i) => ({
    index: i + 1,
    point: G1.decode(HT.mulSecret(secret).encode()),
  }))
  const permit = Permit.decode(Permit.of(slot, target, combineG1(permitShares)).encode())
  expect(VerifiedPermit.verify(permitTerms, permitKey, permit)?.covers(idCore)).toBe(true)

  // — The car logs in: alone, then with its driver, then in one pass as a header.
  const nonce = random(32)
  const terms = { mode: MODE.nonce, audience: 'https://rps.example', deviceEpoch: 1, slot, idCore, nonce }
  const binding = { groupId }
  const alone = LoginMessage.decode(clientProve({ terms, binding, deviceKey, permit, random }).encode())
  expect(factorsSatisfied(alone.idCore.factors, alone.pin !== undefined)).toBe(true)
  const car = Authenticated.byDevice(mustBe(DeviceProven.verify(alone, binding, S_dev)))
  expect(car.idCore.mpinId).toBe(idCore.mpinId)
  expect(car.amr).toEqual(['device'])

  const file = decodeTokenFile(JSON.parse(stored))
  const loginWith = (pin: string) => {
    const pinKey = joinPin(file.token, alphaOf(pin), A_pin)
    const pinTerms = { userCore: file.userCore, pinGen: file.pinGen, pinEpoch: 1 }
    const message = clientProve({
      terms,
      binding,
      deviceKey,
      pin: { terms: pinTerms, pinKey },
      permit,
      random,
    })
    const received = LoginMessage.fromJson(carried(message.toJson()))
    return Authenticated.byPin(mustBe(DeviceProven.verify(received, binding, S_dev)), S_pin, random)
  }
  expect(loginWith('2580')?.userCore).toEqual(userCore)
  expect(loginWith('2580')?.amr).toEqual(['device', 'pin'])
  expect(loginWith('2581')).toBeNull()

  const { nonce: _, ...untilNow } = terms
  const onePass = { ...untilNow, mode: MODE.time, clientTime: now }
  const header = authorizationHeader(clientProve({ terms: onePass, binding, deviceKey, random }))
  const proven = DeviceProven.verify(parseAuthorization(header), binding, S_dev)
  expect(proven?.message.clientTime).toBe(now)

  // — The next day the permit is worth nothing: another slot, another point.
  const tomorrow = Permit.of(slot + 1, target, permit.point)
  expect(VerifiedPermit.verify(permitTerms, permitKey, tomorrow)).toBeNull()
})
