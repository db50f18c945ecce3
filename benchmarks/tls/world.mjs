/**
 * What both processes of `npm run bench -- tls` hold: one group, one server name, devices by their number, all out of one
 * master secret, which stands here in the place of the authorities.
 */
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { agreePointG1, agreePointG2, encodeName, issueIdCore } from '@milagro-ts/crypto/identity'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { AgreeClientKey, ClientAgreement, slotName } from '@milagro-ts/crypto/static-agreement'
import { encodePermit, permitInput, permitPoint, slotAt, slotStart } from '@milagro-ts/crypto/time-permit'

export const NAME = 'gw.example'
const GENERATION = 1
export const EPOCH = 1
export const RULE = { origin: 1_767_225_600, length: 86_400 }
export const SLOT = slotAt(RULE, Math.floor(Date.now() / 1000))
export const groupId = sha256(Uint8Array.of(1))

/** @type {import('@milagro-ts/crypto/ports').Random} */
export const random = length => crypto.getRandomValues(new Uint8Array(length))

/** B of the server in this slot. */
export const B = slotName(groupId, { kind: 2, name: NAME, generation: GENERATION }, SLOT)

/** The server's key of this slot, for the workers. @param {Scalar} s */
export function slotKey(s) {
  return {
    purpose: /** @type {const} */ ('agree'),
    groupId,
    name: NAME,
    generation: GENERATION,
    slot: SLOT,
    epoch: EPOCH,
    ivk: G1.generator.mulSecret(s).encode(),
    S: agreePointG2(B).mulSecret(s).encode(),
  }
}

/** sQ, with which permits are checked. @param {Scalar} s */
export const permitKey = s => G2.generator.mulSecret(s)

/** The permit of the tree's root in this slot, as it is carried. @param {Scalar} s */
export function permitOf(s) {
  const root = /** @type {const} */ ({ type: 'node', depth: 0, index: 0 })
  const T = permitPoint(permitInput({ groupId, permitEpoch: EPOCH, rule: RULE }, SLOT, root))
  return encodePermit(SLOT, root, T.mulSecret(s).encode())
}

/** The key of a device. @param {Scalar} s @param {number} leaf */
export function deviceKey(s, leaf) {
  const idCore = issueIdCore({
    groupId,
    attributes: { brand: 'Acme' },
    instance: `VIN${leaf}`,
    issueDate: '2026-04-11',
    enrolmentKeyHash: enrolmentKeyHash(new Uint8Array(32)),
    salt: new Uint8Array(16),
    leaf,
    generation: 0,
    factors: 0,
  })
  const C = encodeName(groupId, { kind: 1, idCore })
  return AgreeClientKey.of({ groupId, idCore, epoch: EPOCH }, agreePointG1(C).mulSecret(s))
}

/** What a device does once for a server and a slot, and then its PSK. @param {AgreeClientKey} key */
export function agreement(key) {
  const begun = ClientAgreement.begin(
    key,
    { party: { kind: 2, name: NAME, generation: GENERATION }, slot: SLOT },
    random,
  )
  return { ...begun.psk('m1'), slot: SLOT, endsAt: slotStart(RULE, SLOT + 1) * 1000 }
}

/**
 * The kinds of TLS that are compared; the last three are ours. Clients of `first-ahead` made their agreements before they
 * connected, as a device does that knows where it will: the server never waits for them, as with all kinds but `first` and
 * `psk-paced`.
 */
export const KINDS = /** @type {const} */ ([
  'p256',
  'p256-mutual',
  'psk',
  'psk-paced',
  'first',
  'first-ahead',
  'repeated',
])
/** @typedef {(typeof KINDS)[number]} Kind */

/** A static PSK, as from a broker's file. */
export const STATIC = { identity: 'device-1', psk: Buffer.alloc(32, 7) }
/** For all kinds alike; TLS 1.3, AES-128-GCM, no tickets. */
export const PROTOCOL = /** @type {const} */ ({
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256',
})

/** @param {string} hex */
export const secretOf = hex => Scalar.decode(Buffer.from(hex, 'hex'))

/** PEM. @typedef {{key: string, cert: string, ca: string}} Certified */
/** @typedef {{server: Certified, client: Certified}} Certificates */
/** @typedef {{user: number, system: number}} Cpu  microseconds */
