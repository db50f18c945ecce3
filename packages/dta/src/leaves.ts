/**
 * The newest state of the banned leaves of each group, as its RA signed it. It goes forward only: a lower number is
 * refused, and of two states under one number only the first is ever taken, so that t co-signatures mean that the RA
 * has told everybody the same. Nor does a state leave out, or name as merely banned, who was revoked in the one before,
 * until the keys of whom have ended (api/ended-keys.ts).
 *
 *   RPS                                                    authority j
 *   -- mpin-leaves+jwt; signed by its requestKey -->       RA signature, group; number above the held one, or the same state;
 *                                                          of the revoked only those left out whose keys have ended
 *   <-- index, mpin-cosignature+jwt --                     its signing key over number and hash
 */
import { keysEndedBefore } from '@milagro-ts/api/ended-keys'
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { RevokedLeaves } from '@milagro-ts/api/revoked-leaves'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { cosignerKid, type LeavesState, signCosignature, verifyLeaves } from '@milagro-ts/api/statements'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'
import type { ServedGroup } from './groups.js'

/** What an authority goes by. */
export type HeldLeaves = Pick<LeavesState, 'number' | 'hash' | 'leaves'>

/** The alarm that a refusal of a state is, for the operator's log. */
const ALARMS = {
  another: 'alarm: the RA has signed two states of the banned leaves under one number',
  early: 'alarm: the RA has left out a revoked leaf whose keys have not ended',
} as const
const DETAILS: Readonly<Record<keyof typeof ALARMS, string>> = {
  another: 'other leaves were signed under this number before',
  early: 'a leaf that was revoked is left out before its keys have ended',
}

export class Leaves {
  readonly #store: Store<unknown>
  /** Decoded, by groupId in base64url; the database is what counts. */
  readonly #held = new Map<string, HeldLeaves>()

  constructor(store: Store<unknown>) {
    this.#store = store
  }

  async held({ groupId }: Pick<Group, 'groupId'>): Promise<HeldLeaves | undefined> {
    const name = toBase64Url(groupId)
    const known = this.#held.get(name)
    if (known !== undefined) return known
    const [row] = await this.#store.atomic(connection =>
      connection.all('SELECT number, hash, leaves FROM leaves WHERE group_id = ?', [groupId]),
    )
    if (row === undefined) return undefined
    const held = {
      number: Number(row.number),
      hash: row.hash as Uint8Array,
      leaves: BannedLeaves.decode(row.leaves as Uint8Array),
    }
    // Another state may have come while this one was read.
    if (!this.#held.has(name)) this.#held.set(name, held)
    return this.#held.get(name)
  }

  /**
   * What became of it: `older` than the held one, `another` under its number, or without a leaf that was revoked too lately
   * (`early`): none of these is taken.
   * @param endedBefore Slot before which a leaf must have been revoked for its keys to have ended by now.
   */
  async take(
    { groupId }: Pick<Group, 'groupId'>,
    state: LeavesState,
    endedBefore: number,
  ): Promise<'newer' | 'same' | 'older' | keyof typeof ALARMS> {
    const { number, hash, leaves, revoked } = state
    const verdict = await this.#store.atomic(connection => {
      const [row] = connection.all('SELECT number, hash, revoked FROM leaves WHERE group_id = ?', [groupId])
      const before = row === undefined ? -1 : Number(row.number)
      if (number < before) return 'older'
      if (number === before) return equalBytes(row?.hash as Uint8Array, hash) ? 'same' : 'another'
      if (row !== undefined) {
        const held = RevokedLeaves.decode(row.revoked as Uint8Array)
        if (held.missingIn(revoked, endedBefore) !== null) return 'early'
      }
      connection.run(
        'INSERT INTO leaves (group_id, number, hash, leaves, revoked) VALUES (?, ?, ?, ?, ?) ' +
          'ON CONFLICT DO UPDATE SET number = excluded.number, hash = excluded.hash, leaves = excluded.leaves, ' +
          'revoked = excluded.revoked',
        [groupId, number, hash, leaves.encode(), revoked.encode()],
      )
      return 'newer'
    })
    if (verdict === 'newer') this.#held.set(toBase64Url(groupId), { number, hash, leaves })
    return verdict
  }
}

export const olderState = () => new Refused('EXPIRED', { detail: 'an older revocation state' })

/** Refused FORBIDDEN, NOT_APPROVED, CONFLICT or EXPIRED; DecodeError for a wrong shape. */
export async function cosignLeaves(
  authority: Authority,
  { group, index }: ServedGroup,
  caller: ServerCaller,
  body: { leaves: string },
): Promise<{ index: number; cosignature: string }> {
  // Who composes permits brings the states.
  if (!group.recipient(caller.name)?.purposes.includes('device'))
    throw new Refused('FORBIDDEN', { detail: `${caller.name} composes no permits` })
  const groupId = toBase64Url(group.groupId)
  const state = await verifyLeaves({ statement: body.leaves, group })
  const { slotRule } = group
  const seconds = Math.max(slotRule.origin, Math.floor(authority.clock() / 1000))
  const endedBefore = keysEndedBefore(group, slotAt(slotRule, seconds))
  const verdict = await authority.leaves.take(group, state, endedBefore)
  if (verdict === 'older') throw olderState()
  if (verdict === 'another' || verdict === 'early') {
    const { number, hash } = state
    authority.log.error({ groupId, number, hash: toBase64Url(hash) }, ALARMS[verdict])
    throw new Refused('CONFLICT', { detail: DETAILS[verdict] })
  }
  const cosignature = await signCosignature(
    { suite: SUITE, groupId, number: state.number, leavesHash: toBase64Url(state.hash) },
    { key: authority.keys.signKey, kid: cosignerKid(index) },
  )
  return { index, cosignature }
}
