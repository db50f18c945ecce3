/**
 * Fetches what a device adds to its keys to go over to a later key epoch (api/key-rotation.ts has the whole exchange).
 *
 *   device                                                RPS, authorities
 *   (sk, pk) fresh; c hashes {pk, steps}
 *   -- `sign` message with the former keys, pk, steps --> proofs; each authority seals δ_jA to pk
 *                          <-- all the sealed shares --
 *   open with info = ctx; verify (κ, z) against C'_j − C_j
 *   Δ·A = Σ λ_j·δ_jA
 *
 * The RPS can't tell a good share from a wrong one, and waits for few more than t. So who got too few good ones asks again,
 * and says whose were wrong: then others are waited for, as long as the RPS waits for anybody.
 *
 * sk is in memory only. Until the new key is stored nothing has changed: whatever breaks before is asked for again, with
 * another pk. Σ λ_j·(C'_j − C_j) = IVK' − IVK was checked in the group document, so D + Δ·A is the new epoch's key.
 */
import type { Group } from '@milagro-ts/api/group'
import {
  deltaTerms,
  type EpochStep,
  type KeyRotation,
  keyRotationPayload,
  ROTATED_PURPOSES,
  type RotatedPurpose,
  type RotatingIdentity,
} from '@milagro-ts/api/key-rotation'
import { HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Answer, Body } from '@milagro-ts/api/route'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { open } from '@milagro-ts/api/seal'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { G1 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { combineG1, type PointShare } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { ClientError } from './errors.js'

type RotationBody = Body<typeof rpsRoutes.rotateKey>
type SealedShares = NonNullable<Answer<typeof rpsRoutes.rotateKey>['device']>

/** Δ·A of each purpose that a step was taken of. Worth nothing without the former keys. */
export interface Deltas {
  readonly device: G1 | undefined
  readonly pin: G1 | undefined
}

/** Of one purpose fewer than t shares are good. */
export class TooFewDeltas {
  /** Indices of authorities whose shares don't hold. */
  readonly wrong: ReadonlySet<number>
  /** Authorities are in a later share epoch than the group that the device knows. */
  readonly isBehind: boolean
  /** WRONG_SHARE naming the authorities, or Refused RETRY_LATER if too few have answered. */
  readonly error: Error

  constructor(wrong: ReadonlySet<number>, isBehind: boolean, error: Error) {
    this.wrong = wrong
    this.isBehind = isBehind
    this.error = error
  }
}

export interface DeltaRequest {
  readonly group: Group
  readonly identity: RotatingIdentity
  readonly steps: { readonly device?: EpochStep | undefined; readonly pin?: EpochStep | undefined }
  readonly random: Random
  /** Proves the former keys over `payload`, freshly, and sends the message with these fields. */
  readonly send: (
    payload: Uint8Array,
    fields: Omit<RotationBody, 'message'>,
  ) => Promise<Answer<typeof rpsRoutes.rotateKey>>
}

/**
 * Δ·A of each step, in n − t + 1 requests at most: another one whenever authorities that weren't named yet gave wrong
 * shares. `behind`: authorities are in a later share epoch than `group`. Throws WRONG_SHARE naming those whose shares don't
 * hold, when fewer than t do; Refused RETRY_LATER when fewer than t have answered.
 */
export async function fetchDeltas({
  group,
  identity,
  steps,
  random,
  send,
}: DeltaRequest): Promise<Deltas | 'behind'> {
  const without = new Set<number>()
  for (;;) {
    const awaiting = await AwaitingDeltas.request(identity, steps, random)
    const fields = { ...awaiting.fields, ...(without.size > 0 && { without: [...without] }) }
    const found = await awaiting.combine(group, await send(awaiting.payload, fields))
    if (!(found instanceof TooFewDeltas)) return found
    const known = without.size
    for (const index of found.wrong) without.add(index)
    if (without.size > known && without.size <= group.n - group.t) continue
    if (found.isBehind) return 'behind'
    throw found.error
  }
}

/** One request under way: its HPKE key is for it alone. */
class AwaitingDeltas {
  readonly payload: Uint8Array
  readonly #rotation: KeyRotation
  readonly #identity: RotatingIdentity
  readonly #keyPair: HpkeKeyPair

  private constructor(rotation: KeyRotation, identity: RotatingIdentity, keyPair: HpkeKeyPair) {
    this.payload = keyRotationPayload(rotation)
    this.#rotation = rotation
    this.#identity = identity
    this.#keyPair = keyPair
  }

  static async request(
    identity: RotatingIdentity,
    steps: DeltaRequest['steps'],
    random: Random,
  ): Promise<AwaitingDeltas> {
    const keyPair = await HpkeKeyPair.fromSecret(random(32))
    return new AwaitingDeltas({ ...steps, hpkeKey: keyPair.publicKey }, identity, keyPair)
  }

  /** What goes beside the message over `payload`. */
  get fields(): Omit<RotationBody, 'message'> {
    const { hpkeKey, device, pin } = this.#rotation
    return { hpkeKey: toBase64Url(hpkeKey), ...(device && { device }), ...(pin && { pin }) }
  }

  async combine(group: Group, answer: Answer<typeof rpsRoutes.rotateKey>): Promise<Deltas | TooFewDeltas> {
    const deltas = new Map<RotatedPurpose, G1>()
    for (const purpose of ROTATED_PURPOSES) {
      if (this.#rotation[purpose] === undefined) continue
      const delta = await this.#delta(group, purpose, answer[purpose] ?? [])
      if (delta instanceof TooFewDeltas) return delta
      deltas.set(purpose, delta)
    }
    return { device: deltas.get('device'), pin: deltas.get('pin') }
  }

  async #delta(group: Group, purpose: RotatedPurpose, answers: SealedShares): Promise<G1 | TooFewDeltas> {
    const shares = new Map<number, PointShare<G1>>()
    const liars = new Set<number>()
    for (const { index, shareEpoch, sealed } of answers) {
      if (shareEpoch !== group.shareEpoch || group.authority(index) === undefined) continue
      const point = await this.#open(group, purpose, index, sealed)
      if (point === null) liars.add(index)
      else shares.set(index, { index, point })
    }
    if (shares.size >= group.t) return combineG1([...shares.values()].slice(0, group.t))
    const isBehind = answers.some(({ shareEpoch }) => shareEpoch > group.shareEpoch)
    if (liars.size === 0) {
      const detail = `${shares.size} of ${group.t} authorities gave a delta share`
      return new TooFewDeltas(liars, isBehind, new Refused('RETRY_LATER', { detail }))
    }
    const authorities = [...liars].map(index => ({
      index,
      name: group.authority(index)?.name as string,
      via: 'relay' as const,
    }))
    const names = authorities.map(({ name }) => name).join(', ')
    const error = new ClientError('WRONG_SHARE', `wrong delta share from ${names}`, { authorities })
    return new TooFewDeltas(liars, isBehind, error)
  }

  /** δ_jA, or null for a share that doesn't open or doesn't verify. */
  async #open(group: Group, purpose: RotatedPurpose, index: number, sealed: string): Promise<G1 | null> {
    const terms = deltaTerms(group, this.#rotation, this.#identity, purpose, index)
    if (terms === null) throw new ClientError('EPOCH_ENDED')
    try {
      const plaintext = await open(this.#keyPair, terms.ctx, fromBase64Url(sealed, 'sealed'))
      if (plaintext === null) return null
      const share = KeyShare.decode(plaintext)
      return shareVerify(terms, share) ? share.d : null
    } catch (error) {
      if (error instanceof DecodeError) return null
      throw error
    }
  }
}
