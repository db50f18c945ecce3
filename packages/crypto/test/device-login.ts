/**
 * What a device computes, from enrolment to login, in one function over plain JSON: a small runtime is handed the text
 * of vectors/enrolment-and-login.json without the values that the device makes itself, and must give them back.
 */
import { fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { decodeEnrolmentCode, enrolmentKeyHash, enrolmentMac } from '@milagro-ts/crypto/enrolment'
import { checkIdCore, IdCore, keyIdentityPoint } from '@milagro-ts/crypto/identity'
import { authorizationHeader, clientProve, LoginMessage, MODE } from '@milagro-ts/crypto/mpin'
import { encodeTokenFile, joinPin, pinScalar, splitPin } from '@milagro-ts/crypto/pin'
import { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { Permit } from '@milagro-ts/crypto/time-permit'

interface Shares {
  readonly commitments: readonly string[]
  readonly shares: readonly { readonly index: number; readonly ctx: string; readonly plaintext: string }[]
}

/** Bytes are hex. */
export interface DeviceInput {
  readonly groupId: string
  readonly code: string
  readonly hpkeKey: string
  readonly nonce: string
  readonly attributes: Readonly<Record<string, string>>
  readonly instance: string
  readonly issueDate: string
  readonly salt: string
  readonly idCore: string
  readonly userCore: string
  readonly pinGen: number
  readonly device: Shares
  readonly pin: Shares
  readonly stretched: string
  readonly iterations: number
  readonly permit: string
  readonly login: {
    readonly audience: string
    readonly deviceEpoch: number
    readonly pinEpoch: number
    readonly slot: number
    readonly nonce: string
    readonly tlsExporter: string
    /** What the random source gives, in turn. */
    readonly draws: readonly string[]
  }
}

/** @returns JSON of all that the device made. */
export function deviceLogin(json: string): string {
  const input = JSON.parse(json) as DeviceInput
  const groupId = fromHex(input.groupId)

  // The request, and the identity that comes back.
  const { secret } = decodeEnrolmentCode(input.code)
  const { attributes, instance } = input
  const hpkeKey = fromHex(input.hpkeKey)
  const mac = enrolmentMac(secret, { groupId, attributes, instance, hpkeKey, nonce: fromHex(input.nonce) })
  const idCore = IdCore.decode(fromHex(input.idCore))
  const { leaf, generation, factors } = idCore
  const isMine = checkIdCore(idCore, {
    groupId,
    attributes,
    instance,
    issueDate: input.issueDate,
    enrolmentKeyHash: enrolmentKeyHash(hpkeKey),
    salt: fromHex(input.salt),
    leaf,
    generation,
    factors,
  })
  if (!isMine) throw new Error('another device’s identity')

  // Shares, each with its proof, to keys.
  const keyOf = ({ commitments, shares }: Shares, A: G1): G1 => {
    const points = shares.map(({ index, ctx, plaintext }, i) => {
      const share = KeyShare.decode(fromHex(plaintext))
      const commitment = G1.decode(fromHex(commitments[i] as string))
      if (!shareVerify({ ctx: fromHex(ctx), commitment, A }, share))
        throw new Error(`share ${index} is wrong`)
      return { index, point: share.d }
    })
    return combineG1(points)
  }
  const userCore = fromHex(input.userCore)
  const { pinGen } = input
  const A_pin = keyIdentityPoint(groupId, { purpose: 'pin', idCore, userCore, pinGen })
  const deviceKey = keyOf(input.device, keyIdentityPoint(groupId, { purpose: 'device', idCore }))
  const alpha = pinScalar(fromHex(input.stretched))
  const token = splitPin(keyOf(input.pin, A_pin), alpha, A_pin)
  const tokenFile = encodeTokenFile({
    groupId,
    idCore,
    userCore,
    pinGen,
    iterations: input.iterations,
    keyEpoch: 1,
    token,
  })

  // The login.
  const { audience, deviceEpoch, pinEpoch, slot, nonce, tlsExporter, draws } = input.login
  const left = draws.map(draw => fromHex(draw))
  const message = clientProve({
    terms: { mode: MODE.nonce, audience, deviceEpoch, slot, idCore, nonce: fromHex(nonce) },
    binding: { groupId, tlsExporter: fromHex(tlsExporter) },
    deviceKey,
    pin: { terms: { userCore, pinGen, pinEpoch }, pinKey: joinPin(token, alpha, A_pin) },
    permit: Permit.decode(fromHex(input.permit)),
    random: () => left.shift() ?? new Uint8Array(),
  })
  return JSON.stringify({
    mac: toHex(mac),
    deviceKey: toHex(deviceKey.encode()),
    token: toHex(token.encode()),
    tokenFile,
    message: toHex(message.encode()),
    authorization: authorizationHeader(message),
    json: LoginMessage.decode(message.encode()).toJson(),
  })
}
