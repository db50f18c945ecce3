/**
 * RETIRED. The key agreement of two names of the retired wire (Wang, Chow and Choo; AMCL's WCC): the sender's key is in
 * G1, the receiver's in G2, both under one master secret. chow-choo.ts of the library is the protocol to use.
 *
 *   sender IdA: sA, A = mapit(HASH_ID(IdA))                    receiver IdB: sB, B = mapit2(HASH_ID(IdB))
 *   PaG1 = xA
 *   -- IdA, PaG1 -->                                           PbG2 = yB, PgG1 = wA
 *                                                         <-- IdB, PbG2, PgG1
 *   πa = Hq(PaG1 | PbG2 | PgG1 | IdB)    πb = Hq(PbG2 | PaG1 | PgG1 | IdA)                               both
 *   k = e((x + πa)·sA, πb·B + PbG2)                            k = e(πa·A + PaG1, (y + πb)·sB)
 *   K = SHA-256(Tr(k) | x·PgG1), 16 bytes                      K = SHA-256(Tr(k) | w·PaG1), 16 bytes
 *
 * It holds because both k are e(A, B)^(s(x + πa)(y + πb)), and x·PgG1 = w·PaG1 = xw·A. Authentication is implicit: only
 * who holds the other name's key has K, and nothing here shows it. x, y and w are for one run.
 */
import { concat } from '../bytes.js'
import type { Random } from '../ports.js'
import { sha256 } from '../sha256.js'
import type { LegacyCurve } from './curve.js'
import { hashId, hashToScalar, identityPoint, mapit2 } from './hash-to-curve.js'
import { GT } from './pairing.js'
import type { G1, G2 } from './points.js'
import { Scalar } from './scalar.js'

const KEY = 16

/** Raw identities, as they were issued. */
export interface Names {
  readonly curve: LegacyCurve
  readonly IdA: Uint8Array
  readonly IdB: Uint8Array
}
export interface SenderMove {
  readonly PaG1: G1
}
export interface ReceiverMove {
  readonly PbG2: G2
  readonly PgG1: G1
}

/** B = mapit2(HASH_ID(IdB)). */
export const receiverPoint = (curve: LegacyCurve, id: Uint8Array): G2 => mapit2(curve, hashId(curve, id))
/** A = mapit(HASH_ID(IdA)). */
export const senderPoint = (curve: LegacyCurve, id: Uint8Array): G1 => identityPoint(curve, hashId(curve, id))

/** sA and sB; shares add up. */
export const authorityIssueSenderKey = (s: Scalar, id: Uint8Array): G1 => senderPoint(s.curve, id).multiply(s)
export const authorityIssueReceiverKey = (s: Scalar, id: Uint8Array): G2 =>
  receiverPoint(s.curve, id).multiply(s)

/** @param senderKey sA. Secret. */
export function senderBegin(names: Names, senderKey: G1, random: Random): [SenderMove, SenderAwaitingReply] {
  const x = Scalar.random(names.curve, random)
  const move = { PaG1: senderPoint(names.curve, names.IdA).multiply(x) }
  return [move, SenderAwaitingReply.begin(names, senderKey, move, x)]
}

export class SenderAwaitingReply {
  readonly #names: Names
  readonly #senderKey: G1
  readonly #move: SenderMove
  #x: Scalar | undefined

  private constructor(names: Names, senderKey: G1, move: SenderMove, x: Scalar) {
    this.#names = names
    this.#senderKey = senderKey
    this.#move = move
    this.#x = x
  }
  /** For senderBegin. */
  static begin(names: Names, senderKey: G1, move: SenderMove, x: Scalar): SenderAwaitingReply {
    return new SenderAwaitingReply(names, senderKey, move, x)
  }

  /** K, 16 bytes. TypeError at a second reply: x is for one. */
  agree({ PbG2, PgG1 }: ReceiverMove): Uint8Array {
    const x = this.#x
    if (x === undefined) throw new TypeError('this run has its reply already')
    this.#x = undefined
    const { curve, IdB } = this.#names
    const { pi_a, pi_b } = exponents(this.#names, { ...this.#move, PbG2, PgG1 })
    const shared = GT.pairing(curve, [
      [this.#senderKey.multiply(x.add(pi_a)), receiverPoint(curve, IdB).multiply(pi_b).add(PbG2)],
    ])
    return sessionKey(shared, PgG1.multiply(x))
  }
}

/** @param receiverKey sB. Secret. @returns the answer, and K (16 bytes). */
export function receiverAgree(
  names: Names,
  receiverKey: G2,
  { PaG1 }: SenderMove,
  random: Random,
): [ReceiverMove, Uint8Array] {
  const { curve, IdA, IdB } = names
  const y = Scalar.random(curve, random)
  const w = Scalar.random(curve, random)
  const A = senderPoint(curve, IdA)
  const move = { PbG2: receiverPoint(curve, IdB).multiply(y), PgG1: A.multiply(w) }
  const { pi_a, pi_b } = exponents(names, { ...move, PaG1 })
  const shared = GT.pairing(curve, [[A.multiply(pi_a).add(PaG1), receiverKey.multiply(y.add(pi_b))]])
  return [move, sessionKey(shared, PaG1.multiply(w))]
}

/** πa and πb. Public. */
export function exponents(
  { curve, IdA, IdB }: Names,
  { PaG1, PbG2, PgG1 }: SenderMove & ReceiverMove,
): { readonly pi_a: Scalar; readonly pi_b: Scalar } {
  const [pa, pb, pg] = [PaG1.encode(), PbG2.encode(), PgG1.encode()]
  return {
    pi_a: hashToScalar(curve, 0, pa, pb, pg, IdB),
    pi_b: hashToScalar(curve, 0, pb, pa, pg, IdA),
  }
}

/** SHA-256(Tr(k) | 04 | x | y), where Full leaves out the 04. */
const sessionKey = (shared: GT, ephemeral: G1): Uint8Array =>
  sha256(concat(shared.encodeTrace(), ephemeral.encode())).slice(0, KEY)
