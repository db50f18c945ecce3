/**
 * One enrolment and one login with fixed randomness, every value of them: what vectors/enrolment-and-login.json holds.
 * `node packages/crypto/test/one-login.mjs --write` writes that file, from the built library; a test recomputes it.
 */
import { pbkdf2Sync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { concat, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import {
  codeId,
  encodeEnrolmentCode,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { encodeAttributes, issueIdCore, keyIdentityPoint, userCoreOf } from '@milagro-ts/crypto/identity'
import { authorizationHeader, challengeTlv, clientProve, MODE } from '@milagro-ts/crypto/mpin'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import { encodeTokenFile, joinPin, pinBytes, pinSalt, pinScalar, splitPin } from '@milagro-ts/crypto/pin'
import { G1 } from '@milagro-ts/crypto/points'
import { possessionProve } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, combineG2 } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { authorityIssue, shareContext } from '@milagro-ts/crypto/share-proof'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit, permitInput, permitPoint, slotAt } from '@milagro-ts/crypto/time-permit'

const FILE = '../../../vectors/enrolment-and-login.json'
const INDICES = [1, 2, 3]

/**
 * Bytes with a name: SHA-256 of the name, and of the name and a counter for more than 32.
 * @param {string} name
 * @param {number} length
 */
function bytesOf(name, length) {
  const blocks = []
  for (let i = 0; 32 * i < length; i++) blocks.push(sha256(utf8(i === 0 ? name : `${name} ${i}`)))
  return concat(...blocks).slice(0, length)
}

/** @param {{ encode(): Uint8Array }} value */
const hexOf = value => toHex(value.encode())

/**
 * What founding an n-of-n group of three makes for one purpose.
 * @param {'device' | 'pin' | 'permit'} purpose
 * @param {Uint8Array} session
 */
function found(purpose, session) {
  const secrets = INDICES.map(index => Scalar.random(length => bytesOf(`s_${index} of ${purpose}`, length)))
  const commitments = secrets.map(secret => G1.generator.mulSecret(secret))
  const proofs = secrets.map((secret, i) =>
    possessionProve({ session, purpose, index: i + 1 }, secret, length =>
      bytesOf(`possession ${i + 1} of ${purpose}`, length),
    ),
  )
  const W = secrets.map(authorityServerKeyShare)
  const ivk = combineG1(commitments.map((point, i) => ({ index: i + 1, point })))
  const S = combineG2(W.map((point, i) => ({ index: i + 1, point })))
  const values = {
    secretShares: secrets.map(hexOf),
    commitments: commitments.map(hexOf),
    possession: proofs.map(({ kappa, z }) => ({ kappa: hexOf(kappa), z: hexOf(z) })),
    ivk: hexOf(ivk),
    serverKeyShares: W.map(hexOf),
    serverKey: hexOf(S),
  }
  return { purpose, secrets, commitments, values }
}

/** The whole of it, as plain JSON. */
export function oneLogin() {
  const groupId = bytesOf('groupId', 32)
  const session = bytesOf('session', 32)
  const epoch = { device: 3, pin: 2, permit: 4, share: 9 }
  const rule = { origin: 1_767_225_600, length: 86_400 }
  const now = 1_775_869_200
  const slot = slotAt(rule, now)
  const group = {
    device: found('device', session),
    pin: found('pin', session),
    permit: found('permit', session),
  }

  // Enrolment: code, request, identity.
  const secret = bytesOf('code', 16)
  const hpkeKey = bytesOf('HPKE key', 32)
  const deviceNonce = bytesOf('device nonce', 32)
  const attributes = { brand: 'Acme', model: 'Roadster', variant: 'S' }
  const instance = 'WVWZZZ1JZXW000001'
  const issueDate = '2026-04-11'
  const salt = bytesOf('salt', 16)
  const request = { groupId, attributes, instance, hpkeKey, nonce: deviceNonce }
  const idCore = issueIdCore({
    groupId,
    attributes,
    instance,
    issueDate,
    enrolmentKeyHash: enrolmentKeyHash(hpkeKey),
    salt,
    leaf: 5,
    generation: 258,
    factors: 2,
  })
  const userAttributes = { driverName: 'Jörg' }
  const userSalt = bytesOf('user salt', 16)
  const userCore = userCoreOf({ groupId, attributes: userAttributes, salt: userSalt })
  const pinGen = 6

  /**
   * The shares of one key.
   * @param {typeof group.device} of
   * @param {Uint8Array} identity
   * @param {G1} A
   * @param {{ userCore?: Uint8Array, pinGen?: number }} user
   */
  const keyOf = (of, identity, A, user = {}) => {
    const { purpose } = of
    const jti = bytesOf(`ticket for ${purpose}`, 16)
    const made = of.secrets.map((share, i) => {
      const index = i + 1
      const ctx = shareContext({
        groupId,
        purpose,
        index,
        shareEpoch: epoch.share,
        identity,
        ...user,
        jti,
      })
      const commitment = /** @type {G1} */ (of.commitments[i])
      const random = bytesOf(`proof ${index} of ${purpose}`, 32)
      const keyShare = authorityIssue({ ctx, commitment, A }, share, () => random)
      const values = {
        index,
        ctx: toHex(ctx),
        random: toHex(random),
        d: hexOf(keyShare.d),
        kappa: hexOf(keyShare.kappa),
        z: hexOf(keyShare.z),
        plaintext: hexOf(keyShare),
      }
      return { index, point: keyShare.d, values }
    })
    const D = combineG1(made)
    return {
      D,
      values: { A: hexOf(A), jti: toHex(jti), shares: made.map(({ values }) => values), key: hexOf(D) },
    }
  }
  const A_dev = keyIdentityPoint(groupId, { purpose: 'device', idCore })
  const A_pin = keyIdentityPoint(groupId, { purpose: 'pin', idCore, userCore, pinGen })
  const device = keyOf(group.device, idCore.bytes, A_dev)
  const pin = keyOf(group.pin, idCore.bytes, A_pin, { userCore, pinGen })

  // The PIN is split off.
  const iterations = 1000
  const pinText = '2580'
  const pbkdf2Salt = pinSalt(idCore, userCore, pinGen)
  const stretched = new Uint8Array(pbkdf2Sync(pinBytes(pinText), pbkdf2Salt, iterations, 32, 'sha256'))
  const alpha = pinScalar(stretched)
  const token = splitPin(pin.D, alpha, A_pin)
  const tokenFile = encodeTokenFile({ groupId, idCore, userCore, pinGen, iterations, keyEpoch: 1, token })

  // The slot's permit.
  const permitTerms = { groupId, permitEpoch: epoch.permit, rule }
  const target = /** @type {const} */ ({ type: 'id', idCore })
  const input = permitInput(permitTerms, slot, target)
  const permitKey = keyOf(group.permit, input, permitPoint(input))
  const permit = Permit.of(slot, target, permitKey.D)

  // The login.
  const nonce = bytesOf('nonce', 32)
  const terms = {
    mode: MODE.nonce,
    audience: 'https://rps.example',
    deviceEpoch: epoch.device,
    slot,
    idCore,
    nonce,
  }
  const pinTerms = { userCore, pinGen, pinEpoch: epoch.pin }
  const binding = { groupId, tlsExporter: bytesOf('TLS exporter', 32) }
  const pinKey = joinPin(token, alpha, A_pin)
  const drawn = {
    x: bytesOf('random of x', 32),
    xPin: bytesOf("random of x'", 32),
    k: bytesOf('random of k', 32),
  }
  const draws = Object.values(drawn)
  const message = clientProve({
    terms,
    binding,
    deviceKey: device.D,
    pin: { terms: pinTerms, pinKey },
    permit,
    random: () => /** @type {Uint8Array} */ (draws.shift()),
  })
  const { U_dev, V_dev } = message
  const { U_pin, T, V_pin, z } = /** @type {NonNullable<typeof message.pin>} */ (message.pin)
  const fixed = {
    x: challengeTlv(terms, pinTerms, binding, {}),
    xPin: challengeTlv(terms, pinTerms, binding, { U_dev }),
    k: challengeTlv(terms, pinTerms, binding, { U_dev, U_pin }),
  }
  /**
   * @param {'x' | 'xPin' | 'k'} role
   * @param {G1} key
   */
  const nonceOf = (role, key) => ({
    role: NONCE_ROLE[role],
    random: toHex(drawn[role]),
    fixed: toHex(fixed[role]),
    value: hexOf(hedgedNonce(NONCE_ROLE[role], () => drawn[role], key.encode(), fixed[role])),
  })
  const cTlv = challengeTlv(terms, pinTerms, binding, { U_dev, U_pin, T })

  return {
    suite: SUITE,
    origin:
      'Our own, frozen. Random bytes are SHA-256 of a name: see packages/crypto/test/one-login.mjs. Never use these secrets.',
    setting: { groupId: toHex(groupId), session: toHex(session), epoch, rule, now, slot },
    group: { device: group.device.values, pin: group.pin.values, permit: group.permit.values },
    enrolment: {
      secret: toHex(secret),
      code: encodeEnrolmentCode({ secret, groupId }),
      codeId: toHex(codeId(secret)),
      attributes,
      attributesTlv: toHex(encodeAttributes(attributes)),
      instance,
      hpkeKey: toHex(hpkeKey),
      enrolmentKeyHash: toHex(enrolmentKeyHash(hpkeKey)),
      deviceNonce: toHex(deviceNonce),
      mac: toHex(enrolmentMac(secret, request)),
      sixWordIndices: sixWordIndices(request),
      issueDate,
      salt: toHex(salt),
      leaf: idCore.leaf,
      generation: idCore.generation,
      factors: idCore.factors,
      idCore: toHex(idCore.bytes),
      mpinId: idCore.mpinId,
      userAttributes,
      userSalt: toHex(userSalt),
      userCore: toHex(userCore),
      userMac: toHex(
        enrolmentMac(secret, { groupId, attributes: userAttributes, hpkeKey, nonce: deviceNonce }),
      ),
      pinGen,
    },
    keys: { device: device.values, pin: pin.values },
    pin: {
      pin: pinText,
      iterations,
      salt: toHex(pbkdf2Salt),
      stretched: toHex(stretched),
      alpha: hexOf(alpha),
      token: hexOf(token),
      tokenFile,
    },
    permit: { input: toHex(input), ...permitKey.values, wire: hexOf(permit) },
    login: {
      mode: terms.mode,
      audience: terms.audience,
      nonce: toHex(nonce),
      tlsExporter: toHex(binding.tlsExporter),
      x: nonceOf('x', device.D),
      U_dev: hexOf(U_dev),
      xPin: nonceOf('xPin', pinKey),
      U_pin: hexOf(U_pin),
      k: nonceOf('k', pinKey),
      T: hexOf(T),
      challengeTlv: toHex(cTlv),
      c: hexOf(hashToScalar('CHAL', cTlv)),
      V_dev: hexOf(V_dev),
      V_pin: hexOf(V_pin),
      z: hexOf(z),
      message: hexOf(message),
      messageB64u: toBase64Url(message.encode()),
      authorization: authorizationHeader(message),
      json: message.toJson(),
    },
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv.includes('--write')) {
  writeFileSync(new URL(FILE, import.meta.url), `${JSON.stringify(oneLogin(), null, 1)}\n`)
}
