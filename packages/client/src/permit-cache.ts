/**
 * Permits out of the signed bundles of a slot (api/permit-bundle.ts), from any HTTP server or cache.
 *
 *   device                                     cache
 *   -- <slot>.json -->                         manifest by a recipient of `device`, t co-signatures of the banned leaves
 *   -- <leavesHash>.leaves -->                 the banned leaves, by the RA; cover and own node are worked out of them
 *   -- <hash>.permits -->                      the part with the own node
 *   number ≥ the highest that was seen, permit verified, own leaf below its node
 *
 * Nobody is asked for a proof, and nobody in between is trusted: the worst that a cache can do is to have nothing. It sees
 * that somebody wants one of 4 096 nodes.
 */
import { readAtMost, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { Group } from '@milagro-ts/api/group'
import { PART_BYTES, PermitBundle, type Read } from '@milagro-ts/api/permit-bundle'
import { Refused } from '@milagro-ts/api/problem'
import { LEAVES_JWS } from '@milagro-ts/api/statements'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { G2 } from '@milagro-ts/crypto/points'
import { Permit, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { ClientError } from './errors.js'

/** Milliseconds for one file. */
const TIMEOUT = 30_000
/** Bytes of the head: the longest manifest, and what co-signatures add. */
const HEAD = 10_485_760

export interface Wanted {
  readonly group: Group
  readonly slot: number
  readonly idCore: IdCore
  /** The highest number of a state of the banned leaves that is known; 0 for none. */
  readonly least: number
}

export class PermitCache {
  readonly #read: Read
  #highest = 0

  /** @param base Address of the folder with the bundles; TypeError for what is none. */
  constructor(base: string, fetch: typeof globalThis.fetch) {
    this.#read = cacheReader(base, fetch)
  }

  /**
   * The identity's permit, verified, with the number of the state that it was made under. ClientError WRONG_BUNDLE for
   * files that contradict the group, the slot or each other, or went back; Refused NOT_FOUND while there is none, BANNED
   * for a leaf that the state names; Unreachable, UnexpectedAnswer.
   */
  async permitOf({
    group,
    slot,
    idCore,
    least,
  }: Wanted): Promise<{ permit: VerifiedPermit; number: number }> {
    try {
      const known = Math.max(least, this.#highest)
      const bundle = await PermitBundle.open({ group, slot, least: known, read: this.#read })
      const { number } = bundle.state
      this.#highest = Math.max(this.#highest, number)
      const permit = Permit.decode(await bundle.permitOf(idCore.leaf))
      const { epoch: permitEpoch, pub } = group.keysAt('permit', slot) ?? { epoch: 0, pub: undefined }
      const terms = { groupId: group.groupId, permitEpoch, rule: group.slotRule }
      const verified = pub === undefined ? null : VerifiedPermit.verify(terms, pub as G2, permit)
      if (verified?.covers(idCore) !== true)
        throw new DecodeError('bundle.part', 'the permit does not verify')
      return { permit: verified, number }
    } catch (error) {
      const isWrong =
        error instanceof DecodeError ||
        (error instanceof Refused && (error.code === 'NOT_APPROVED' || error.code === 'EXPIRED'))
      if (!isWrong) throw error
      const why = error instanceof DecodeError ? error.message : (error.detail ?? error.code)
      throw new ClientError('WRONG_BUNDLE', `the bundle of slot ${slot}: ${why}`, { cause: error })
    }
  }
}

/** The files below `base`. Refused NOT_FOUND for one that isn't there; Unreachable, UnexpectedAnswer. */
export function cacheReader(base: string, fetch: typeof globalThis.fetch): Read {
  const folder = new URL(base.endsWith('/') ? base : `${base}/`)
  return async name => {
    const url = new URL(name, folder)
    try {
      const response = await fetch(url, { redirect: 'error', signal: AbortSignal.timeout(TIMEOUT) })
      if (response.status === 404)
        throw new Refused('NOT_FOUND', { detail: `${url.origin} has no '${name}'` })
      if (!response.ok) throw new UnexpectedAnswer(`'${name}': ${response.status}`)
      return await readAtMost(response, limitOf(name))
    } catch (error) {
      if (error instanceof Refused || error instanceof UnexpectedAnswer) throw error
      throw new Unreachable(`'${name}' of ${url.origin} did not come`, { cause: error })
    }
  }
}

function limitOf(name: string): number {
  if (name.endsWith('.leaves')) return LEAVES_JWS
  return name.endsWith('.permits') ? PART_BYTES : HEAD
}
