/**
 * The newest state of the banned leaves of each group, as its RA signed it. It goes forward only: a lower number is
 * refused, and of two states under one number only the first is ever taken, so that t co-signatures mean that the RA
 * has told everybody the same.
 *
 *   RPS                                                    authority j
 *   -- mpin-leaves+jwt; signed by its requestKey -->       RA signature, group; number above the held one, or the same state
 *   <-- index, mpin-cosignature+jwt --                     its signing key over number and hash
 */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { cosignerKid, type LeavesState, signCosignature, verifyLeaves } from '@milagro-ts/api/statements'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { SUITE } from '@milagro-ts/crypto/suite'
import type { Store } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'
import type { ServedGroup } from './groups.js'

/** What an authority goes by. */
export type HeldLeaves = Pick<LeavesState, 'number' | 'hash' | 'leaves'>

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

  /** Refused EXPIRED for an older state than the held one, CONFLICT for another one under its number. */
  async take({ groupId }: Pick<Group, 'groupId'>, state: LeavesState): Promise<void> {
    const { number, hash, leaves } = state
    const verdict = await this.#store.atomic(connection => {
      const [row] = connection.all('SELECT number, hash FROM leaves WHERE group_id = ?', [groupId])
      const before = row === undefined ? -1 : Number(row.number)
      if (number < before) return 'older'
      if (number === before) return equalBytes(row?.hash as Uint8Array, hash) ? 'same' : 'another'
      connection.run(
        'INSERT INTO leaves (group_id, number, hash, leaves) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET ' +
          'number = excluded.number, hash = excluded.hash, leaves = excluded.leaves',
        [groupId, number, hash, leaves.encode()],
      )
      return 'newer'
    })
    if (verdict === 'older') throw olderState()
    if (verdict === 'another')
      throw new Refused('CONFLICT', { detail: 'other leaves were signed under this number before' })
    if (verdict === 'newer') this.#held.set(toBase64Url(groupId), { number, hash, leaves })
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
  await authority.leaves.take(group, state).catch((error: unknown) => {
    if (error instanceof Refused && error.code === 'CONFLICT')
      authority.log.error(
        { groupId, number: state.number, hash: toBase64Url(state.hash) },
        'alarm: the RA has signed two states of the banned leaves under one number',
      )
    throw error
  })
  const cosignature = await signCosignature(
    { suite: SUITE, groupId, number: state.number, leavesHash: toBase64Url(state.hash) },
    { key: authority.keys.signKey, kid: cosignerKid(index) },
  )
  return { index, cosignature }
}
