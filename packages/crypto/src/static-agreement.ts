/**
 * Static agreement: the external PSK of a TLS handshake out of two names (Sakai, Ohgishi and Kasahara 2000, made
 * one-sidedly ephemeral; protocols.md §7, purpose `agree`). Nobody keeps a list of keys.
 *
 *   client C: D = s·Hk1(C) ∈ G1                               server B: S = s·Hk2(B) ∈ G2
 *   r = Hq(NONCE; 4, …)   R = r·Hk1(C)                        once for each (B, slot), in memory only
 *   h = Hq(PSK; suite, idCore, slot, R, B, version, epoch)    h, from what it is told
 *   shared = e((r + h)·D, Hk2(B))
 *   -- PSK identity `m1.` idCore ‖ slot ‖ R -->               shared = e(R + h·Hk1(C), S)
 *   PSK = HKDF(shared)                                        PSK = HKDF(shared)
 *
 * It holds because both are e(Hk1(C), Hk2(B))^(s(r + h)). Authentication is implicit: only who holds D or S has the PSK,
 * and TLS' binder shows it; forward secrecy is TLS' own (EC)DHE. h binds R: without it R = xP1 − Hk1(C) makes the PSK
 * e(xIVK, Hk2(B)), which anybody computes. r is why a thief of D can't play B to C: that takes e(D, Hk2(B))^r, and R
 * doesn't give r. Whoever holds S can pose as any client, to B only; S is for one slot, so it plays B in that slot only.
 *
 * `m2.` is the same for TLS 1.2, under labels of its own. `s1.` is e(D, Hk2(B)) alone, B a static name, for brokers that
 * read PSK files: whoever steals D also plays B to C, and a key is good until it is rotated.
 *
 * C is kind 1; B is a server (kind 2) or another device (kind 1), with its slot; for `s1.` a static server (kind 3).
 *
 * {@includeCode ../examples/external-psk.mjs}
 */
import { be16, be32, be32At, concat, fromBase64Url, toBase64Url, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar, pairingWithHash } from './hash-to-curve.js'
import { agreePointG1, agreePointG2, decodeGroupId, encodeName, IdCore, type Name } from './identity.js'
import { deriveKey } from './kdf.js'
import { hedgedNonce, NONCE_ROLE } from './nonce.js'
import { G1, type G2, type GT, PreparedG2, pairing, pairingProductIsOne } from './points.js'
import type { Random } from './ports.js'
import type { Scalar } from './scalar.js'
import { SUITE } from './suite.js'
import { encodeTlv } from './tlv.js'

/** How an identity begins: what it is for, and under which version of TLS. */
export type PskKind = 'm1' | 'm2' | 's1'
export type SlotPskKind = Exclude<PskKind, 's1'>

const LABEL = { m1: 'PSK-M1', m2: 'PSK-M2', s1: 'PSK-S1' } as const
/** What h and info hold of TLS. `s1.` serves both versions and says 1.3. */
const VERSION = { m1: 0x0304, m2: 0x0303, s1: 0x0304 } as const

/** Who is agreed with in a slot: a server of the group document, or a device. */
export type SlotParty =
  | { readonly kind: 2; readonly name: string; readonly generation: number }
  | { readonly kind: 1; readonly idCore: IdCore }
export interface StaticParty {
  readonly kind: 3
  readonly name: string
  readonly generation: number
}

/** What TLS is given: the identity as the ClientHello carries it, and 32 secret bytes. */
export interface ExternalPsk {
  readonly identity: string
  readonly psk: Uint8Array
}

const SLOT_LENGTH = 4
const R_LENGTH = 48
const ID_CORE_LENGTH = 39

/** A PSK identity that has the right shape; its R is bytes still, for whoever computes with it. */
export class PskIdentity {
  readonly kind: PskKind
  readonly idCore: IdCore
  /** Absent in `s1.`. */
  readonly slot: number | undefined
  readonly #R: Uint8Array | undefined

  private constructor(kind: PskKind, idCore: IdCore, slot: number | undefined, R: Uint8Array | undefined) {
    this.kind = kind
    this.idCore = idCore
    this.slot = slot
    this.#R = R
  }

  /** `m1.` or `m2.` and 122 characters, `s1.` and 52: canonical base64url, no other spelling. DecodeError. */
  static decode(text: string, field = 'pskIdentity'): PskIdentity {
    const kind = text.slice(0, 2)
    if (text[2] !== '.' || (kind !== 'm1' && kind !== 'm2' && kind !== 's1'))
      throw new DecodeError(field, 'neither m1., m2. nor s1.')
    const length = kind === 's1' ? ID_CORE_LENGTH : ID_CORE_LENGTH + SLOT_LENGTH + R_LENGTH
    const bytes = fromBase64Url(text.slice(3), field, length)
    const idCore = IdCore.decode(bytes.subarray(0, ID_CORE_LENGTH), field)
    if (kind === 's1') return new PskIdentity(kind, idCore, undefined, undefined)
    const slot = be32At(bytes, ID_CORE_LENGTH)
    return new PskIdentity(kind, idCore, slot, bytes.slice(ID_CORE_LENGTH + SLOT_LENGTH))
  }

  static ofSlot(kind: SlotPskKind, idCore: IdCore, slot: number, R: G1): PskIdentity {
    return new PskIdentity(kind, idCore, slot, R.encode())
  }
  static ofStatic(idCore: IdCore): PskIdentity {
    return new PskIdentity('s1', idCore, undefined, undefined)
  }

  /** 48 bytes that may be no point; absent in `s1.`. */
  get R(): Uint8Array | undefined {
    return this.#R?.slice()
  }
  toString(): string {
    const slot = this.slot === undefined ? new Uint8Array() : be32(this.slot)
    return `${this.kind}.${toBase64Url(concat(this.idCore.bytes, slot, this.#R ?? new Uint8Array()))}`
  }
}

/** s·Hk1(C) of a device, in one `agree` epoch. It is no point, so no other protocol takes it. */
export class AgreeClientKey {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  readonly epoch: number
  readonly #D: G1

  private constructor(groupId: Uint8Array, idCore: IdCore, epoch: number, D: G1) {
    this.groupId = decodeGroupId(groupId)
    this.idCore = idCore
    this.epoch = epoch
    this.#D = D
  }

  /** @param D Combined from shares whose proofs held. Secret. */
  static of(owner: { groupId: Uint8Array; idCore: IdCore; epoch: number }, D: G1): AgreeClientKey {
    return new AgreeClientKey(owner.groupId, owner.idCore, owner.epoch, D)
  }

  /** C: the name TLV as it enters Hk1. */
  get C(): Uint8Array {
    return encodeName(this.groupId, { kind: 1, idCore: this.idCore })
  }
  /** For this file, and for sealing its bytes. Secret. */
  get point(): G1 {
    return this.#D
  }
}

/** What a server key is the key of. */
export interface AgreeServerKeyOwner<P> {
  readonly groupId: Uint8Array
  readonly party: P
  /** Of `agree`: the one that the slot fixes, for a static key the current one. */
  readonly epoch: number
}

/** s·Hk2(B) of one name in one slot. */
export class AgreeSlotKey {
  readonly owner: AgreeServerKeyOwner<SlotParty>
  readonly slot: number
  /** B. */
  readonly name: Uint8Array
  readonly #S: G2
  #lines: PreparedG2 | undefined

  private constructor(owner: AgreeServerKeyOwner<SlotParty>, slot: number, S: G2) {
    this.owner = owner
    this.slot = slot
    this.name = slotName(owner.groupId, owner.party, slot)
    this.#S = S
  }

  /** e(IVK, Hk2(B)) = e(P1, S), else null. */
  static verify(
    { slot, ...owner }: AgreeServerKeyOwner<SlotParty> & { readonly slot: number },
    ivk: G1,
    S: G2,
  ): AgreeSlotKey | null {
    return belongs(ivk, slotName(owner.groupId, owner.party, slot), S)
      ? new AgreeSlotKey(owner, slot, S)
      : null
  }

  /** As secret as S. */
  get lines(): PreparedG2 {
    this.#lines ??= PreparedG2.of(this.#S)
    return this.#lines
  }
}

/** s·Hk2(B) of a static server: without a slot, so it is good until `agree` is rotated. */
export class AgreeStaticKey {
  readonly owner: AgreeServerKeyOwner<StaticParty>
  readonly #S: G2
  #lines: PreparedG2 | undefined

  private constructor(owner: AgreeServerKeyOwner<StaticParty>, S: G2) {
    this.owner = owner
    this.#S = S
  }

  /** As AgreeSlotKey.verify. */
  static verify(owner: AgreeServerKeyOwner<StaticParty>, ivk: G1, S: G2): AgreeStaticKey | null {
    return belongs(ivk, encodeName(owner.groupId, owner.party), S) ? new AgreeStaticKey(owner, S) : null
  }

  get name(): Uint8Array {
    return encodeName(this.owner.groupId, this.owner.party)
  }
  get lines(): PreparedG2 {
    this.#lines ??= PreparedG2.of(this.#S)
    return this.#lines
  }
}

/** The client's side of all connections to one party in one slot: r is drawn once, and each PSK computed once. */
export class ClientAgreement {
  readonly slot: number
  readonly #key: AgreeClientKey
  readonly #B: Uint8Array
  readonly #r: Scalar
  readonly #R: G1
  readonly #psks = new Map<SlotPskKind, ExternalPsk>()

  private constructor(key: AgreeClientKey, B: Uint8Array, slot: number, r: Scalar) {
    this.#key = key
    this.#B = B
    this.slot = slot
    this.#r = r
    this.#R = agreePointG1(key.C).mulSecret(r)
  }

  /** @param key Of the epoch that the slot fixes. */
  static begin(
    key: AgreeClientKey,
    { party, slot }: { readonly party: SlotParty; readonly slot: number },
    random: Random,
  ): ClientAgreement {
    const B = slotName(key.groupId, party, slot)
    const r = hedgedNonce(NONCE_ROLE.rTls, random, key.point.encode(), encodeTlv([B, be32(slot)]))
    return new ClientAgreement(key, B, slot, r)
  }

  psk(kind: SlotPskKind): ExternalPsk {
    const known = this.#psks.get(kind)
    if (known !== undefined) return known
    const { idCore, C, point, epoch } = this.#key
    const terms = { kind, idCore, C, slot: this.slot, R: this.#R.encode(), B: this.#B, epoch }
    const shared = pairing(point.mulSecret(this.#r.add(binding(terms))), agreePointG2(this.#B))
    const identity = PskIdentity.ofSlot(kind, idCore, this.slot, this.#R).toString()
    const made = { identity, psk: presharedKey(terms, shared) }
    this.#psks.set(kind, made)
    return made
  }
}

/**
 * The server's PSK for an identity as it came, 32 secret bytes. It is the client's if the client holds D; whether it
 * does, the binder shows. DecodeError for an R that is no point; RangeError for an identity of another slot, or `s1.`.
 */
export function serverAgree(key: AgreeSlotKey, identity: PskIdentity): Uint8Array {
  const { kind, idCore, slot } = identity
  if (kind === 's1' || slot !== key.slot) throw new RangeError('the identity is not for this key’s slot')
  const { groupId, epoch } = key.owner
  const R = G1.decode(identity.R as Uint8Array, 'R')
  const C = encodeName(groupId, { kind: 1, idCore })
  const terms = { kind, idCore, C, slot, R: R.encode(), B: key.name, epoch }
  const h = binding(terms)
  return presharedKey(terms, pairingWithHash(R, h, { purpose: 'agree', input: C }, key.lines))
}

/** `s1.`, at the device: 32 secret bytes that stand in the broker's file, too. */
export function clientAgreeStatic(key: AgreeClientKey, party: StaticParty): ExternalPsk {
  const { groupId, idCore, C, epoch, point } = key
  const B = encodeName(groupId, party)
  return {
    identity: PskIdentity.ofStatic(idCore).toString(),
    psk: presharedKey({ kind: 's1', idCore, C, B, epoch }, pairing(point, agreePointG2(B))),
  }
}

/** `s1.`, for a line of the broker's PSK file. */
export function serverAgreeStatic(key: AgreeStaticKey, idCore: IdCore): ExternalPsk {
  const { groupId, epoch } = key.owner
  const C = encodeName(groupId, { kind: 1, idCore })
  const shared = pairing(agreePointG1(C), key.lines)
  return {
    identity: PskIdentity.ofStatic(idCore).toString(),
    psk: presharedKey({ kind: 's1', idCore, C, B: key.name, epoch }, shared),
  }
}

/** What a PSK is bound to. */
interface PskTerms {
  readonly kind: PskKind
  readonly idCore: IdCore
  readonly C: Uint8Array
  readonly B: Uint8Array
  readonly slot?: number
  readonly R?: Uint8Array
  readonly epoch: number
}

/** h. Public. */
function binding({ kind, idCore, slot, R, B, epoch }: PskTerms): Scalar {
  return hashToScalar(
    'PSK',
    encodeTlv([utf8(SUITE), idCore.bytes, be32(slot as number), R, B, be16(VERSION[kind]), be32(epoch)]),
  )
}

function presharedKey({ kind, C, B, slot, R, epoch }: PskTerms, shared: GT): Uint8Array {
  const info = encodeTlv([
    utf8(SUITE),
    utf8('client'),
    C,
    utf8('server'),
    B,
    slot === undefined ? undefined : be32(slot),
    R,
    be16(VERSION[kind]),
    be32(epoch),
  ])
  return deriveKey(LABEL[kind], shared.toBytes(), info)
}

/** B of a slot, as it enters Hk2. */
export const slotName = (groupId: Uint8Array, party: SlotParty, slot: number): Uint8Array =>
  encodeName(groupId, { ...party, slot } as Name)

/** Is S s·Hk2(B) under the s of IVK? S and IVK aren't the identity. */
function belongs(ivk: G1, B: Uint8Array, S: G2): boolean {
  return pairingProductIsOne([
    [ivk, agreePointG2(B)],
    [G1.generator.negate(), S],
  ])
}
