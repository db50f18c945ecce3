/**
 * Permits for nodes of the cover (complete subtrees, protocols.md §5): one permit speaks for every leaf below its node.
 *
 *   RPS                                  RPA                             authority j
 *   -- slot, number held -->             the banned leaves of its newest event
 *   <-- mpin-tree+jwt [, mpin-leaves+jwt] --
 *   cover of the leaves
 *   -- mpin-leaves+jwt, once a state --------------------------------->  newer than what it has; co-signed
 *   -- mpin-tree+jwt, nodes (up to 256) ------------------------------>  in its own cover? d_i = s_j·HT_i, one proof
 *   nodeSharesVerify each, permit_i = Σ λ_j·d_ij, all in one product
 *
 * States go forward only. A permit that is held stays one when a newer state comes: a ban makes new, smaller nodes on its
 * leaf's way up, an un-ban larger ones, and only what is new is asked for.
 */
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import {
  type LeavesState,
  type VerifiedTreeStatement,
  verifyCosignature,
  verifyLeaves,
  verifyTree,
} from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { encodeNodes } from '@milagro-ts/crypto/node-shares'
import type { TreeNode } from '@milagro-ts/crypto/permit-tree'
import { CheckedPermit } from '@milagro-ts/crypto/pooled-login'
import type { Clock } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { PermitTarget } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import type { Authorities } from './authorities.js'
import { keyAt, type PermitSource, refuseForAuthorities, termsAt, type Wanted } from './permit-source.js'
import type { RelyingParty } from './relying-party.js'

/** Milliseconds for all authorities together: 256 nodes are some tenths of a second in a worker that has others to serve. */
const BATCH_DEADLINE = 15_000
/** Milliseconds that a statement of the RA must still hold when it is shown. */
const REST = 15_000

export interface TreePermitPorts {
  readonly store: Store<unknown>
  readonly relyingParty: RelyingParty
  readonly authorities: Authorities
  readonly pool: CryptoPool
  readonly clock: Clock
  /** The number of the newest event that we know of; null before the first state. */
  readonly eventNumber: () => Promise<number | null>
  /** The RPA is at a later event. */
  readonly onBehind: () => void
}

/** The RA's word for one slot, and the leaves that it is about. */
interface Word {
  readonly text: string
  readonly statement: VerifiedTreeStatement
  readonly state: LeavesState
}

export class TreePermits implements PermitSource {
  readonly #ports: TreePermitPorts
  #state: LeavesState | undefined
  readonly #words = new Map<number, Word>()
  readonly #asking = new Map<number, Promise<Word>>()
  /** By index: the number of the state that this authority has co-signed. */
  readonly #cosigned = new Map<number, number>()
  /** Of the group document by whose RA keys our state is signed, and by whose indices authorities have co-signed. */
  #revision: number

  private constructor(ports: TreePermitPorts, state: LeavesState | undefined, revision: number) {
    this.#ports = ports
    this.#state = state
    this.#revision = revision
  }

  /** With the state that the store has, if the RA keys of `group` have signed it. */
  static async open(ports: TreePermitPorts, group: Group): Promise<TreePermits> {
    const [row] = await ports.store.read(reader => reader.all('SELECT statement FROM leaves'))
    if (row === undefined) return new TreePermits(ports, undefined, group.revision)
    const state = await verifyLeaves({ statement: row.statement as string, group }).catch(
      (error: unknown) => {
        // Signed by a key that the RA has changed since: it is asked for again.
        if (error instanceof Refused || error instanceof DecodeError) return undefined
        throw error
      },
    )
    return new TreePermits(ports, state, group.revision)
  }

  /** The newest state that we have. */
  get state(): LeavesState | undefined {
    return this.#state
  }

  /** Refused BANNED for a leaf that no node covers, RETRY_LATER without any state. */
  async target(group: Group, { idCore, slot }: Wanted): Promise<PermitTarget> {
    // What we hold may be older than an un-ban: before a no the RA's newest word is heard.
    const node =
      this.#state?.leaves.nodeOf(idCore.leaf) ??
      (await this.#word(group, slot)).state.leaves.nodeOf(idCore.leaf)
    if (node === null) throw new Refused('BANNED')
    return { type: 'node', ...node }
  }

  heldTarget(_group: Group, idCore: IdCore): PermitTarget | null {
    const node = this.#state?.leaves.nodeOf(idCore.leaf)
    return node == null ? null : { type: 'node', ...node }
  }

  /** The leaf's node by the newest state, which may be another one than `target` by now. */
  async permit(group: Group, _target: PermitTarget, { idCore, slot }: Wanted): Promise<CheckedPermit> {
    const { state } = await this.#word(group, slot)
    const node = state.leaves.nodeOf(idCore.leaf)
    if (node === null) throw new Refused('BANNED')
    const [permit] = await this.compose(group, slot, [node])
    return permit as CheckedPermit
  }

  /** The newest state, asked for unless the RA's word about it still holds. Refused RETRY_LATER. */
  async newest(group: Group, slot: number): Promise<LeavesState> {
    return (await this.#word(group, slot)).state
  }

  /** Permits for up to 256 nodes of the newest cover. Refused WRONG_SHARE, FROZEN, RETRY_LATER. */
  async compose(group: Group, slot: number, nodes: readonly TreeNode[]): Promise<CheckedPermit[]> {
    const { authorities, pool } = this.#ports
    const word = await this.#word(group, slot)
    const { text, statement } = word
    const batch = { terms: termsAt(group, slot), slot, nodes }
    const params = { groupId: toBase64Url(group.groupId) }
    const body = { statement: text, nodes: toBase64Url(encodeNodes(nodes)) }
    const { shares } = await authorities
      .ask(
        { requestHash: toBase64Url(sha256(utf8(text))) },
        {
          group,
          purpose: 'permit',
          epoch: batch.terms.permitEpoch,
          deadlineMs: BATCH_DEADLINE,
          ask: async (authority, signal) => {
            await this.#bring(group, authority, word.state, signal)
            const send = () => authorities.at(authority).nodePermits({ params, body, signal })
            return send().catch(async (error: unknown) => {
              if (!(error instanceof Refused) || error.code !== 'CONFLICT') throw error
              // It has forgotten the state that it co-signed: its database was put back.
              this.#cosigned.delete(authority.index)
              await this.#bring(group, authority, word.state, signal)
              return send()
            })
          },
          verify: ({ index, commitment }, { shareEpoch, shares }) => {
            const issuer = { index, shareEpoch, commitment: commitment.encode(), jti: statement.jti }
            return pool.run('nodeSharesVerify', { batch, issuer, shares: fromBase64Url(shares, 'shares') })
          },
        },
      )
      .catch((error: unknown) => {
        // Somebody has shown them a newer state.
        this.#words.delete(slot)
        return refuseForAuthorities(error)
      })
    const points = shares.map(({ index, share }) => ({ index, point: share }))
    const permits = await CheckedPermit.composeNodes(pool, keyAt(group, slot), { slot, nodes }, points)
    return permits.map(permit => {
      if (permit === null)
        throw new Refused('RETRY_LATER', { log: "good permit shares don't make a permit of the group" })
      return permit
    })
  }

  /** Has the newest state co-signed where it wasn't yet; how many authorities have by now. Best effort. */
  async cosign(group: Group, slot: number): Promise<number> {
    const { state } = await this.#word(group, slot)
    const signal = AbortSignal.timeout(BATCH_DEADLINE)
    await Promise.allSettled(group.authorities.map(authority => this.#bring(group, authority, state, signal)))
    return group.authorities.filter(({ index }) => this.#cosigned.get(index) === state.number).length
  }

  /** Forgets the RA's word: there is news. */
  doubt(): void {
    this.#words.clear()
  }

  purge(slot: number): void {
    for (const known of this.#words.keys()) if (known < slot) this.#words.delete(known)
  }

  async #word(group: Group, slot: number): Promise<Word> {
    const { clock } = this.#ports
    const known = this.#words.get(slot)
    const isGood = known !== undefined && known.statement.expiresAt * 1000 > clock() + REST
    if (isGood && known.state === this.#state && this.#revision === group.revision) return known
    const asking = this.#asking.get(slot) ?? this.#ask(group, slot).finally(() => this.#asking.delete(slot))
    this.#asking.set(slot, asking)
    return asking
  }

  async #ask(group: Group, slot: number): Promise<Word> {
    const { relyingParty, clock, eventNumber, onBehind } = this.#ports
    const wrong = (why: string) =>
      new Refused('RETRY_LATER', { log: `the RPA's tree statement: ${why}`, retryAfter: 5 })
    const before = this.#state
    // The RA's keys, or the authorities, may be others by now: the same state, signed again.
    const isRevised = group.revision !== this.#revision
    const answer = await relyingParty.tree(slot, isRevised ? undefined : before?.number)
    const { statement, state } = await this.#checked(group, answer, before, clock()).catch(
      (error: unknown) => {
        if (error instanceof Refused || error instanceof DecodeError) throw wrong(error.message)
        throw error
      },
    )
    if (statement.slot !== slot) throw wrong('for another slot')
    const newest = this.#state
    if (newest !== undefined && state.number < newest.number) throw wrong('about an older state than ours')
    if (newest !== undefined && state.number === newest.number && !equalBytes(state.hash, newest.hash))
      throw wrong('about another state under the number of ours')
    if (isRevised) {
      this.#cosigned.clear()
      this.#revision = group.revision
    }
    const isNews = isRevised || newest === undefined || state.number > newest.number
    if (isNews) await this.#take(state, isRevised)
    const held = isNews ? state : newest
    const ours = await eventNumber()
    if (ours !== null && ours < state.number) onBehind()
    const word = { text: answer.statement, statement, state: held }
    this.#words.set(slot, word)
    return word
  }

  async #checked(
    group: Group,
    answer: { statement: string; leaves?: string },
    before: LeavesState | undefined,
    now: number,
  ): Promise<{ statement: VerifiedTreeStatement; state: LeavesState }> {
    const statement = await verifyTree({ statement: answer.statement, group, now })
    const state =
      answer.leaves === undefined ? before : await verifyLeaves({ statement: answer.leaves, group })
    if (state === undefined || !statement.isAbout(state))
      throw new Refused('NOT_APPROVED', { detail: 'about other leaves than come with it' })
    return { statement, state }
  }

  /** @param isRevised Co-signatures by other indices than these, or under a state signed by another key, are worth nothing. */
  async #take(state: LeavesState, isRevised: boolean): Promise<void> {
    this.#state = state
    await this.#ports.store.atomic(connection => {
      connection.run(
        'INSERT INTO leaves (id, number, statement) VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET ' +
          'number = excluded.number, statement = excluded.statement WHERE number <= excluded.number',
        [state.number, state.statement],
      )
      if (isRevised) connection.run('DELETE FROM cosignature')
      else connection.run('DELETE FROM cosignature WHERE number < ?', [state.number])
    })
  }

  /** An authority is shown each state once, before it is asked for permits under it. */
  async #bring(
    group: Group,
    authority: GroupAuthority,
    state: LeavesState,
    signal: AbortSignal,
  ): Promise<void> {
    const { authorities, store } = this.#ports
    const { index } = authority
    if (this.#cosigned.get(index) === state.number) return
    const { cosignature } = await authorities.at(authority).leaves({
      params: { groupId: toBase64Url(group.groupId) },
      body: { leaves: state.statement },
      signal,
    })
    await verifyCosignature({ cosignature, group, index, state })
    await store.atomic(connection =>
      connection.run(
        'INSERT INTO cosignature (authority, number, cosignature) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET ' +
          'number = excluded.number, cosignature = excluded.cosignature WHERE number <= excluded.number',
        [index, state.number, cosignature],
      ),
    )
    this.#cosigned.set(index, state.number)
  }
}
