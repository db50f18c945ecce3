/**
 * This authority's part in making a group (the protocol is api/founding.ts): four moves, driven by whoever coordinates.
 *
 *   move       what must be so                                 what is written before the answer leaves
 *   join       the operator accepted the proposal's hash       the secrets and the join, sealed
 *   open       all joins, this authority's among them          the one opening, sealed
 *   sign       all openings fit                                the document's hash, the signature, the shares, sealed
 *   conclude   the document that was signed, by everybody      the group; waiting states go
 *
 * A move that is asked again answers with the same bytes; one that is asked with other joins or openings is CONFLICT.
 * A founding that isn't signed within a day is over: its secrets are of no group, and a new proposal makes new ones.
 */
import { canonicalHash } from '@milagro-ts/api/canonical-json'
import { AwaitingJoins, AwaitingOpenings, foundingJoin } from '@milagro-ts/api/founding'
import { documentHash, Group, proposalHash, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument, GroupProposal } from '@milagro-ts/api/group-document'
import { Refused } from '@milagro-ts/api/problem'
import { poolFoundingArithmetic, poolKeyCheck } from '@milagro-ts/api/server-pool'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Row } from '@milagro-ts/store/database'
import { openSealed, sealBytes } from '@milagro-ts/store/sealed-file'
import { type Authority, refuseAddress } from './authority.js'
import { LocalShares } from './master-shares.js'

/** Milliseconds from join to signature. */
const LIFETIME = 86_400_000

/** What one founding has come to. Later moves fill in more; nothing is ever changed. */
interface Founding {
  readonly hash: Uint8Array
  readonly proposal: GroupProposal
  readonly startedAt: number
  readonly join: string
  /** Sealed waiting states; gone once the group is concluded. */
  readonly joined: Uint8Array | null
  readonly opened: Uint8Array | null
  readonly signed: {
    readonly openingsHash: Uint8Array
    readonly documentHash: Uint8Array
    readonly signature: string
    readonly sealed: Uint8Array | null
  } | null
}

export interface FoundingStatus {
  readonly proposalHash: string
  readonly accepted: boolean
  readonly concluded: boolean
}

export class Foundings {
  readonly #authority: Authority
  /** Opened waiting states: scrypt is for files, not for every repeated request. */
  readonly #states = new Map<string, AwaitingJoins | AwaitingOpenings>()
  #last: Promise<unknown> = Promise.resolve()

  constructor(authority: Authority) {
    this.#authority = authority
  }

  /** Move 1. NOT_APPROVED until the operator has accepted the hash. */
  async join(hashText: string, proposal: GroupProposal): Promise<{ join: string }> {
    const { acceptance, keys, passphrase, publicUrls, random, store, clock } = this.#authority
    const hash = proposalHash(proposal)
    if (toBase64Url(hash) !== hashText)
      throw new Refused('CONFLICT', { detail: 'the address names another proposal' })
    const me = proposal.authorities.find(({ signKey }) => signKey === keys.signKey.publicKey.toBase64Url())
    if (me === undefined || me.hpkeKey !== toBase64Url(keys.hpkeKey.publicKey))
      throw new Refused('NOT_APPROVED', { detail: 'this authority is not in the proposal with its keys' })
    refuseAddress(publicUrls, me.url)
    if (!(await acceptance.isAccepted(hash))) {
      acceptance.proposalWaits(hash)
      throw new Refused('NOT_APPROVED', { detail: "this authority's operator has not accepted the proposal" })
    }
    return this.#alone(async () => {
      const before = await this.#find(hash)
      if (before !== null) return { join: before.join }
      const joined = await foundingJoin({ proposal, index: me.index, key: keys.signKey, random })
      const sealed = sealBytes(passphrase, joined.encode(), random)
      const written = await store.atomic(connection =>
        connection.run(
          'INSERT INTO founding (proposal_hash, proposal, started_at, own_join, joined) VALUES (?, ?, ?, ?, ?) ' +
            'ON CONFLICT DO NOTHING',
          [hash, JSON.stringify(proposal), clock(), joined.join, sealed],
        ),
      )
      if (written === 0) throw overtaken()
      this.#states.set(hashText, joined)
      return { join: joined.join }
    })
  }

  /** Move 2. CONFLICT for joins other than those that were opened to. */
  open(hashText: string, joins: readonly string[]): Promise<{ opening: string }> {
    const { keys, passphrase, random, store } = this.#authority
    return this.#alone(async () => {
      const founding = await this.#underWay(hashText)
      const { proposal, hash } = founding
      const state = this.#stateOf(founding)
      if (state instanceof AwaitingOpenings) return { opening: await state.openAgain({ proposal, joins }) }
      const opened = await state.open({ proposal, joins, key: keys.signKey, random })
      const sealed = sealBytes(passphrase, opened.encode(), random)
      const written = await store.atomic(connection =>
        connection.run('UPDATE founding SET opened = ? WHERE proposal_hash = ? AND opened IS NULL', [
          sealed,
          hash,
        ]),
      )
      if (written === 0) throw overtaken()
      this.#states.set(hashText, opened)
      return { opening: opened.opening }
    })
  }

  /** Move 3. This authority computes the document itself; WRONG_SHARE names whose opening is wrong. */
  sign(hashText: string, openings: readonly string[]): Promise<{ groupId: string; signature: string }> {
    const { keys, vault, pool, store } = this.#authority
    return this.#alone(async () => {
      const founding = await this.#underWay(hashText)
      const { proposal, hash } = founding
      const openingsHash = canonicalHash([...openings].sort())
      if (founding.signed !== null) {
        if (!equalBytes(founding.signed.openingsHash, openingsHash))
          throw new Refused('CONFLICT', { detail: 'this authority has signed over other openings' })
        return { groupId: toBase64Url(founding.signed.documentHash), signature: founding.signed.signature }
      }
      const state = this.#stateOf(founding)
      if (state instanceof AwaitingJoins)
        throw new Refused('CONFLICT', { detail: 'this authority has not opened yet' })
      const { document, shares } = await state.compose({
        proposal,
        openings,
        arithmetic: poolFoundingArithmetic(pool),
      })
      const signature = await signDocument(document, keys.signKey)
      const groupId = documentHash(document)
      const sealed = await vault.keep(LocalShares.ofFounding(shares), { groupId, origin: hash })
      const written = await store.atomic(connection =>
        connection.run(
          'UPDATE founding SET openings_hash = ?, document_hash = ?, signature = ?, sealed = ? ' +
            'WHERE proposal_hash = ? AND signature IS NULL',
          [openingsHash, groupId, signature, sealed, hash],
        ),
      )
      if (written === 0) throw overtaken()
      return { groupId: toBase64Url(groupId), signature }
    })
  }

  /** Move 4. From here on the group is served. */
  conclude(hashText: string, document: GroupDocument): Promise<{ groupId: string }> {
    const { keys, vault, pool, store, groups } = this.#authority
    return this.#alone(async () => {
      const founding = await this.#find(fromBase64Url(hashText, 'proposalHash', 32))
      const signed = founding?.signed
      if (founding === null || !signed)
        throw new Refused('NOT_APPROVED', { detail: 'this authority has not signed that group' })
      if (!equalBytes(documentHash(document), signed.documentHash))
        throw new Refused('CONFLICT', { detail: 'this authority has signed another document' })
      const groupId = toBase64Url(signed.documentHash)
      const { sealed } = signed
      // Concluded already: no more pairings for whoever sends a public document again and again.
      if (sealed === null) return { groupId }
      const group = await Group.verifyFirst(document, poolKeyCheck(pool))
      const shares = await vault.open(sealed, { groupId: group.groupId, origin: founding.hash })
      groups.check(group, shares, keys.signKey.publicKey)
      await store.atomic(connection => {
        connection.run('INSERT INTO served_group (group_id, proposal_hash, sealed) VALUES (?, ?, ?)', [
          group.groupId,
          founding.hash,
          sealed,
        ])
        connection.run('INSERT INTO revision (group_id, number, document) VALUES (?, ?, ?)', [
          group.groupId,
          group.revision,
          JSON.stringify(group.document),
        ])
        connection.run(
          'UPDATE founding SET joined = NULL, opened = NULL, sealed = NULL WHERE proposal_hash = ?',
          [founding.hash],
        )
      })
      await vault.shred()
      groups.serve(group, shares, keys.signKey.publicKey)
      this.#states.delete(hashText)
      this.#authority.log.info({ groupId }, 'group founded')
      return { groupId }
    })
  }

  /** Foundings that were joined, and proposals that wait for the operator. */
  async status(): Promise<FoundingStatus[]> {
    const joined = await this.#authority.store.atomic(connection =>
      connection
        .all('SELECT proposal_hash, joined, sealed, signature FROM founding ORDER BY started_at')
        .map(row => ({
          proposalHash: toBase64Url(row.proposal_hash as Uint8Array),
          accepted: true,
          concluded: row.signature !== null && row.sealed === null,
        })),
    )
    const known = new Set(joined.map(founding => founding.proposalHash))
    const waiting = this.#authority.acceptance.waitingProposals.filter(hash => !known.has(hash))
    const accepted = await Promise.all(
      waiting.map(hash => this.#authority.acceptance.isAccepted(fromBase64Url(hash, 'hash', 32))),
    )
    return [
      ...joined,
      ...waiting.map((hash, i) => ({
        proposalHash: hash,
        accepted: accepted[i] === true,
        concluded: false,
      })),
    ]
  }

  async #underWay(hashText: string): Promise<Founding> {
    const founding = await this.#find(fromBase64Url(hashText, 'proposalHash', 32))
    if (founding === null)
      throw new Refused('NOT_APPROVED', { detail: 'this authority has not joined that founding' })
    if (founding.signed === null && this.#authority.clock() > founding.startedAt + LIFETIME)
      throw new Refused('EXPIRED', { detail: 'the founding took longer than a day; make a new proposal' })
    return founding
  }

  #stateOf({ hash, joined, opened }: Founding): AwaitingJoins | AwaitingOpenings {
    const name = toBase64Url(hash)
    const before = this.#states.get(name)
    if (before !== undefined) return before
    const { passphrase } = this.#authority
    const state =
      opened !== null
        ? AwaitingOpenings.decode(openSealed(passphrase, opened))
        : joined !== null
          ? AwaitingJoins.decode(openSealed(passphrase, joined))
          : null
    if (state === null) throw new Refused('CONFLICT', { detail: 'the group is founded' })
    this.#states.set(name, state)
    return state
  }

  async #find(hash: Uint8Array): Promise<Founding | null> {
    const [row] = await this.#authority.store.atomic(connection =>
      connection.all('SELECT * FROM founding WHERE proposal_hash = ?', [hash]),
    )
    return row === undefined ? null : foundingOf(row)
  }

  /** One move at a time: between looking at a founding and writing to it, no other move of it happens. */
  #alone<Result>(move: () => Promise<Result>): Promise<Result> {
    const result = this.#last.then(move, move)
    this.#last = result.then(
      () => undefined,
      () => undefined,
    )
    return result
  }
}

function foundingOf(row: Row): Founding {
  return {
    hash: row.proposal_hash as Uint8Array,
    proposal: JSON.parse(row.proposal as string) as GroupProposal,
    startedAt: Number(row.started_at),
    join: row.own_join as string,
    joined: row.joined as Uint8Array | null,
    opened: row.opened as Uint8Array | null,
    signed:
      row.signature === null
        ? null
        : {
            openingsHash: row.openings_hash as Uint8Array,
            documentHash: row.document_hash as Uint8Array,
            signature: row.signature as string,
            sealed: row.sealed as Uint8Array | null,
          },
  }
}

/** Another process on the same data folder made the same move; asked again, its answer is found. */
function overtaken(): Refused {
  return new Refused('RETRY_LATER', { detail: 'the same move is being made' })
}
