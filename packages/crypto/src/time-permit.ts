/**
 * Time permits (protocols.md §5): permit = s_permit·HT(target, slot), in effect a signature by t authorities that
 * anyone checks without a network: e(permit, Q) = e(HT, sQ). A banned thing gets none for the next slot.
 *
 * slot = floor((unix − origin) / length); origin and length are fixed by the group's first revision.
 *
 * {@includeCode ../examples/time-permit.mjs}
 */
import { type Equation, verifyEquation, verifyEquations } from './batch.js'
import { be32, be64, concat, copyOf, readInteger, u8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToG1 } from './hash-to-curve.js'
import { decodeGroupId, IdCore } from './identity.js'
import { G1, type G2, PreparedG2 } from './points.js'
import type { Random } from './ports.js'
import { decodeTlv, encodeTlv, need } from './tlv.js'

/** Both in seconds. */
export interface SlotRule {
  readonly origin: number
  readonly length: number
}

const LAST_SLOT = 0xffff_ffff

/** DecodeError outside 0…2³²−1: a slot is refused, never wrapped. */
export function slotAt(rule: SlotRule, unixSeconds: number): number {
  const slot = Math.floor((unixSeconds - rule.origin) / rule.length)
  if (!Number.isSafeInteger(slot) || slot < 0 || slot > LAST_SLOT) {
    throw new DecodeError('slot', 'outside 0…2³²−1')
  }
  return slot
}

/** Unix seconds at which `slot` begins. */
export const slotStart = (rule: SlotRule, slot: number): number => rule.origin + slot * rule.length

/** A node of the tree of leaves (depth 0–32, the top bits of the leaf), or one identity. */
export type PermitTarget =
  | { readonly type: 'node'; readonly depth: number; readonly index: number }
  | { readonly type: 'id'; readonly idCore: IdCore }

export interface PermitTerms {
  readonly groupId: Uint8Array
  readonly permitEpoch: number
  readonly rule: SlotRule
}

/** depth u8 and be32 index, or idCore: as they stand in HT's input and on the wire. */
function targetEntries(target: PermitTarget): readonly (Uint8Array | undefined)[] {
  if (target.type === 'id') return [u8(1), undefined, undefined, target.idCore.bytes]
  if (target.depth > 32 || target.index >= 2 ** target.depth) throw new DecodeError('permit', 'no such node')
  return [u8(0), u8(target.depth), be32(target.index), undefined]
}

/** type ‖ depth ‖ be32 index, or type ‖ idCore: what tells one target from another. */
export function targetBytes(target: PermitTarget): Uint8Array {
  return concat(...targetEntries(target).filter(entry => entry !== undefined))
}

/** RangeError for what slotAt does not give. */
function checkSlot(slot: number): number {
  if (!Number.isInteger(slot) || slot < 0 || slot > LAST_SLOT) throw new RangeError('a slot is 0…2³²−1')
  return slot
}

/** HT's input; an authority makes it itself. RangeError for a slot outside 0…2³²−1. */
export function permitInput(
  { groupId, permitEpoch, rule }: PermitTerms,
  slot: number,
  target: PermitTarget,
): Uint8Array {
  return encodeTlv([
    decodeGroupId(groupId),
    be32(permitEpoch),
    be64(slotStart(rule, checkSlot(slot))),
    be32(rule.length),
    ...targetEntries(target),
  ])
}

/** HT. */
export const permitPoint = (input: Uint8Array): G1 => hashToG1('permit', input)

/** Does a permit for `target` speak for this identity? */
export function permitCovers(target: PermitTarget, idCore: IdCore): boolean {
  if (target.type === 'id') return target.idCore.equals(idCore)
  // A shift by 32 is a shift by 0 in JavaScript, so the root is asked for by itself.
  return target.depth === 0 || idCore.leaf >>> (32 - target.depth) === target.index
}

/** What a permit says of itself, its point not decoded: for a server that leaves points to its workers. */
export class PermitClaim {
  readonly slot: number
  readonly target: PermitTarget
  /** 48 bytes that may be anything. */
  readonly point: Uint8Array
  /** The permit as it was carried. */
  readonly bytes: Uint8Array

  private constructor(slot: number, target: PermitTarget, point: Uint8Array, bytes: Uint8Array) {
    this.slot = slot
    this.target = target
    this.point = point
    this.bytes = bytes
  }

  /** TLV{1 be32 slot, 2 type, 3 depth, 4 be32 index, 5 idCore, 6 point}. */
  static decode(bytes: Uint8Array, field = 'permit'): PermitClaim {
    const [slot, type, depth, index, idCore, point] = decodeTlv(bytes, { tags: 6, field })
    const kind = readInteger(need(type, `${field}.type`), 1, `${field}.type`)
    let target: PermitTarget
    if (kind === 0 && idCore === undefined) {
      target = {
        type: 'node',
        depth: readInteger(need(depth, `${field}.depth`), 1, `${field}.depth`),
        index: readInteger(need(index, `${field}.index`), 4, `${field}.index`),
      }
    } else if (kind === 1 && depth === undefined && index === undefined) {
      target = { type: 'id', idCore: IdCore.decode(need(idCore, `${field}.idCore`), `${field}.idCore`) }
    } else {
      throw new DecodeError(`${field}.type`, 'does not fit the other entries')
    }
    targetEntries(target)
    return new PermitClaim(
      readInteger(need(slot, `${field}.slot`), 4, `${field}.slot`),
      target,
      need(point, `${field}.point`),
      copyOf(bytes),
    )
  }
}

/** TLV of a permit. RangeError for a slot outside 0…2³²−1, DecodeError for a node that is not in the tree. */
export function encodePermit(slot: number, target: PermitTarget, point: Uint8Array): Uint8Array {
  return encodeTlv([be32(checkSlot(slot)), ...targetEntries(target), point])
}

/** A permit as it is carried: public, and unverified until `VerifiedPermit.verify`. */
export class Permit {
  readonly #slot: number
  readonly #target: PermitTarget
  readonly #point: G1

  private constructor(slot: number, target: PermitTarget, point: G1) {
    this.#slot = slot
    this.#target = target
    this.#point = point
  }

  /** DecodeError for a node that is not in the tree, RangeError for a slot outside 0…2³²−1. */
  static of(slot: number, target: PermitTarget, point: G1): Permit {
    targetEntries(target)
    return new Permit(checkSlot(slot), target, point)
  }

  get slot(): number {
    return this.#slot
  }
  get target(): PermitTarget {
    return this.#target
  }
  get point(): G1 {
    return this.#point
  }

  static decode(bytes: Uint8Array, field = 'permit'): Permit {
    const { slot, target, point } = PermitClaim.decode(bytes, field)
    return Permit.of(slot, target, G1.decode(point, `${field}.point`))
  }

  encode(): Uint8Array {
    return encodePermit(this.slot, this.target, this.point.encode())
  }
}

/** e(permit, Q)·e(−HT, sQ) = 1. */
function permitEquation(terms: PermitTerms, permit: Permit): Equation {
  const HT = permitPoint(permitInput(terms, permit.slot, permit.target))
  return { V: permit.point, U: HT.negate() }
}

/** A permit that has passed its check; only `verify` and `verifyBatch` make one. */
export class VerifiedPermit {
  readonly #permit: Permit

  private constructor(permit: Permit) {
    this.#permit = permit
  }

  /**
   * e(permit, Q) = e(HT, sQ), by itself: merged into another check with weight 1, garbage would pass.
   * @param publicKey sQ of purpose `permit`.
   */
  static verify(terms: PermitTerms, publicKey: G2 | PreparedG2, permit: Permit): VerifiedPermit | null {
    const lines = publicKey instanceof PreparedG2 ? publicKey : PreparedG2.of(publicKey)
    return verifyEquation(permitEquation(terms, permit), lines) ? new VerifiedPermit(permit) : null
  }

  /** Many permits under one key in one product with random weights (batch.ts), by place. */
  static verifyBatch(
    terms: PermitTerms,
    publicKey: PreparedG2,
    permits: readonly Permit[],
    random: Random,
  ): (VerifiedPermit | null)[] {
    const equations = permits.map(permit => permitEquation(terms, permit))
    const { holds } = verifyEquations(equations, publicKey, random)
    return permits.map((permit, i) => (holds[i] ? new VerifiedPermit(permit) : null))
  }

  get permit(): Permit {
    return this.#permit
  }
  get slot(): number {
    return this.#permit.slot
  }
  covers(idCore: IdCore): boolean {
    return permitCovers(this.#permit.target, idCore)
  }
}
