/**
 * This authority's part in ceremonies (the protocol is api/ceremony.ts), driven by whoever coordinates.
 *
 *   state      means                                                        goes on to
 *   running    joined; what it has said so far is in its record, sealed     signed, concluded, given up
 *   signed     everybody's results are here and it has signed the document  concluded
 *   concluded  the document is in force, the new share serves the group     –
 *   given up   took too long, issued meanwhile, or gave a result in         concluded, if enough others have signed
 *              another ceremony from the same revision; is never signed
 *
 * Each move is written before its answer leaves; asked again it gives the same bytes. Until it is concluded the group
 * is served with the old share: an interrupted ceremony changes nothing, and is run again or forgotten. From a dealer's
 * answer in a reshare to the conclusion its ledger gets no new line (ledger.ts).
 *
 * One document per revision number is signed here, in the table that revisions of the RA use too. Another takes its place
 * only when so many have abandoned the former, for ever, in the results of the new ceremony that fewer than t are left
 * who may sign it: of two documents of one number never both find t honest signatures.
 */
import {
  ABANDONED,
  abandonedDocuments,
  Ceremony,
  type CeremonyPorts,
  type CeremonyProposal,
  type CeremonyRecord,
  type CeremonyRounds,
  ceremonyHash,
  ceremonyMove,
  ceremonySign,
  type Round,
  refuseUntimely,
  sharesOf,
  statedLedgers,
} from '@milagro-ts/api/ceremony'
import { LEDGER_PAGE, readLedgerPage, signLedgerPage } from '@milagro-ts/api/ceremony-ledger'
import { documentHash, Group } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { Refused } from '@milagro-ts/api/problem'
import { poolCeremonyArithmetic, poolKeyCheck } from '@milagro-ts/api/server-pool'
import { equalBytes, fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Connection, Row } from '@milagro-ts/store/database'
import { type Authority, refuseAddress } from './authority.js'
import { forgetDeparture } from './departure.js'
import { endOvertaken } from './ended-ceremonies.js'
import {
  adoptHanded,
  HANDING_OVER,
  handedSummary,
  handedUpTo,
  ledgerLines,
  ledgerSummary,
  takeHanded,
} from './ledger.js'
import { LocalShares } from './master-shares.js'
import { refuseAbandoned } from './revisions.js'

type State = 'running' | 'signed' | 'concluded' | 'given up'

export interface CeremonyStatus {
  readonly ceremonyHash: string
  readonly kind: string
  readonly state: State
}

/** One ceremony as it stands here. */
interface Standing {
  readonly ceremony: Ceremony
  readonly revisions: readonly GroupDocument[]
  readonly record: CeremonyRecord
  readonly startedAt: number
  readonly answeredAt: number | null
  readonly state: State
}

export class Ceremonies {
  readonly #authority: Authority
  /** By hash; read once, since a chain of documents takes pairings and anybody may ask. Operators accept few. */
  readonly #ceremonies = new Map<string, Ceremony>()
  /** Opened records of ceremonies under way. */
  readonly #opened = new Map<string, CeremonyRecord>()
  #last: Promise<unknown> = Promise.resolve()

  constructor(authority: Authority) {
    this.#authority = authority
  }

  /** NOT_APPROVED until the operator has accepted the proposal's hash, and for one that has no part in it. */
  join(
    hashText: string,
    proposal: CeremonyProposal,
    revisions: readonly GroupDocument[] = [],
  ): Promise<{ message: string }> {
    const { acceptance, store, clock } = this.#authority
    return this.#alone(async () => {
      const hash = ceremonyHash(proposal)
      if (toBase64Url(hash) !== hashText)
        throw new Refused('CONFLICT', { detail: 'the address names another proposal' })
      if (proposal.kind === 'found' && revisions.length > 0)
        throw new DecodeError('revisions', 'a founding starts from no group')
      const before = await this.#find(hash)
      if (before !== null) return { message: said(before.record, 'join') }
      const no = await acceptance.rejection(hash)
      if (no !== null)
        throw new Refused('NOT_APPROVED', { detail: `this authority's operator has said no: ${no}` })
      if (!(await acceptance.isAccepted(hash))) {
        acceptance.proposalWaits(hash)
        throw new Refused('NOT_APPROVED', {
          detail: "this authority's operator has not accepted the proposal",
        })
      }
      const group = await this.#predecessor(proposal, revisions)
      const ceremony = Ceremony.read(proposal, group)
      this.#refuseUntimely(ceremony)
      const ports = this.#ports(ceremony)
      const record = await ceremonyMove(ceremony, null, 'join', [], ports)
      const groupId = group?.groupId ?? null
      const handsOver = proposal.kind === 'reshare' && ceremony.participant(ports.name)?.dealer !== undefined
      const written = await store.atomic(connection =>
        connection.run(
          'INSERT INTO ceremony (ceremony_hash, group_id, proposal, revisions, started_at, sealed, hands_over, state) ' +
            "VALUES (?, ?, ?, ?, ?, ?, ?, 'running') ON CONFLICT DO NOTHING",
          [
            hash,
            groupId,
            JSON.stringify(proposal),
            JSON.stringify(group?.documents ?? []),
            clock(),
            this.#seal(record, hash),
            handsOver ? 1 : 0,
          ],
        ),
      )
      if (written === 0) throw overtaken()
      acceptance.proposalSettled(hash)
      this.#opened.set(hashText, record)
      return { message: said(record, 'join') }
    })
  }

  /**
   * The operator says no, and why; the coordinator is told. What was joined is given up, unless it is signed: CONFLICT
   * then.
   */
  reject(hash: Uint8Array, reason: string): Promise<void> {
    const { acceptance, store, clock } = this.#authority
    return this.#alone(async () => {
      await store.atomic(connection => {
        const [row] = connection.all('SELECT state FROM ceremony WHERE ceremony_hash = ?', [hash])
        if (row !== undefined && row.state !== 'running' && row.state !== 'given up')
          throw new Refused('CONFLICT', { detail: `the ceremony is ${String(row.state)} here` })
        connection.run("UPDATE ceremony SET state = 'given up' WHERE ceremony_hash = ?", [hash])
        acceptance.reject(connection, hash, reason, clock())
      })
      acceptance.proposalSettled(hash)
    })
  }

  /** A later round. CeremonyFault names who is at fault; EXPIRED when it has taken too long. */
  move(hashText: string, round: Round, rounds: CeremonyRounds): Promise<{ message: string }> {
    const { store, clock } = this.#authority
    return this.#alone(async () => {
      const standing = await this.#underWay(hashText)
      const { ceremony, record: before } = standing
      if (before.said[round] === undefined) {
        this.#refuseOvertaken(ceremony)
        this.#refuseLate(standing)
      }
      if (round === 'result' && before.said.result === undefined) await this.#checkLedgers(standing, rounds)
      // The ledger is stated and closed in one transaction: nothing is issued between the two.
      let answeredAt = standing.answeredAt
      const ledger = () =>
        store.atomic(connection => {
          answeredAt ??= clock()
          connection.run('UPDATE ceremony SET answered_at = ? WHERE ceremony_hash = ?', [
            answeredAt,
            ceremony.hash,
          ])
          return ledgerSummary(connection, (ceremony.group as Group).groupId)
        })
      const givesUp =
        round === 'result' && before.said.result === undefined ? await this.#unsigned(ceremony) : []
      const abandons = givesUp.map(({ document }) => document)
      const ports = { ...this.#ports(ceremony), ledger, abandons }
      const record = await ceremonyMove(ceremony, before, round, rounds, ports)
      if (record !== before) await this.#write(ceremony, record, givesUp)
      return { message: said(record, round) }
    })
  }

  /** After all results: the signature over the document of an authority of the former group. */
  sign(hashText: string, rounds: CeremonyRounds): Promise<{ index: number; signature: string }> {
    const { store, clock } = this.#authority
    return this.#alone(async () => {
      const standing = await this.#underWay(hashText)
      const { ceremony, record } = standing
      const { document, signature } = await ceremonySign(ceremony, record, rounds, this.#ports(ceremony))
      if (signature === null)
        throw new Refused('CONFLICT', { detail: 'a new member signs nothing: the former group does' })
      if (standing.state === 'running' || standing.state === 'given up') {
        this.#refuseOvertaken(ceremony)
        this.#refuseLate(standing)
        this.#refuseUntimely(ceremony)
      }
      const hash = documentHash(document)
      const free = standing.state === 'running' ? await this.#freeOf(ceremony, rounds) : undefined
      return store.atomic(connection => {
        const written = connection.run(
          "UPDATE ceremony SET state = 'signed' WHERE ceremony_hash = ? AND state = 'running' " +
            'AND (answered_at IS NULL OR answered_at > ?)',
          [ceremony.hash, clock() - HANDING_OVER],
        )
        if (written === 0 && standing.state === 'running') throw givenUp()
        const groupId = ceremony.group?.groupId
        return groupId === undefined
          ? signature
          : {
              index: signature.index,
              signature: signedOnce(connection, groupId, document, {
                hash,
                free,
                fresh: signature.signature,
              }),
            }
      })
    })
  }

  /** The document with its signatures: the new share is in force from the answer on, the old one is gone. */
  conclude(hashText: string, document: GroupDocument): Promise<{ groupId: string; revision: number }> {
    const { keys, vault, pool, store, groups, ledgerMark, log, clock } = this.#authority
    return this.#alone(async () => {
      const standing = await this.#find(fromBase64Url(hashText, 'ceremonyHash', 32))
      const own = standing?.record.document
      if (standing === null || own === undefined)
        throw new Refused('NOT_APPROVED', { detail: 'this authority has given no result in that ceremony' })
      if (!equalBytes(documentHash(document), documentHash(own)))
        throw new Refused('CONFLICT', { detail: 'this authority has computed another document' })
      const { ceremony, record, revisions } = standing
      const former = ceremony.group as Group | undefined
      // Concluded already: no more pairings for whoever sends a public document again and again.
      if (standing.state === 'concluded')
        return { groupId: toBase64Url(former?.groupId ?? documentHash(own)), revision: own.revision }
      this.#refuseOvertaken(ceremony)
      const group =
        former === undefined
          ? await Group.verifyFirst(document, poolKeyCheck(pool))
          : await former.verifyNext(document)
      const groupId = toBase64Url(group.groupId)
      const stays = ceremony.participant(this.#ports(ceremony).name)?.member !== undefined
      const served = former && groups.all.find(one => equalBytes(one.group.groupId, former.groupId))
      if (stays && record.shares === undefined)
        throw new Refused('CONFLICT', {
          detail: 'this authority has left the group, and destroyed what it had of that ceremony',
        })
      const shares = stays ? LocalShares.ofCeremony(group, ceremony, sharesOf(record), served?.shares) : null
      if (shares !== null) groups.check(group, shares, keys.signKey.publicKey)
      const terms = { groupId: group.groupId, origin: ceremony.hash }
      const sealed = shares === null ? new Uint8Array(0) : await vault.keep(shares, terms)
      const { shares: _, ...rest } = record
      const kept = this.#seal(rest, ceremony.hash)
      const clashes = await store.atomic(connection => {
        connection.run(
          'INSERT INTO served_group (group_id, proposal_hash, sealed) VALUES (?, ?, ?) ' +
            'ON CONFLICT (group_id) DO UPDATE SET proposal_hash = excluded.proposal_hash, sealed = excluded.sealed',
          [group.groupId, ceremony.hash, sealed],
        )
        for (const revision of [...(former === undefined ? [] : revisions), group.document])
          connection.run(
            'INSERT INTO revision (group_id, number, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
            [group.groupId, revision.revision, JSON.stringify(revision)],
          )
        connection.run("UPDATE ceremony SET state = 'concluded', sealed = ? WHERE ceremony_hash = ?", [
          kept,
          ceremony.hash,
        ])
        endOvertaken(connection, this.#authority)
        if (shares === null) vault.destroy(connection, group.groupId)
        // Back again after it had left.
        else forgetDeparture(connection, group.groupId, clock())
        return adoptHanded(connection, group.groupId, ceremony.hash)
      })
      if (clashes > 0) {
        this.#authority.metrics.count('issuance_alarms', { purpose: 'ledger' })
        log.error({ groupId, clashes }, 'alarm: authorities had issued one identity to two enrolment keys')
      }
      this.#opened.clear()
      await vault.shred()
      if (shares === null) groups.leave(groupId)
      else groups.serve(group, shares, keys.signKey.publicKey)
      if (former === undefined) await ledgerMark.reset(groupId, 0)
      const { n, t, revision, shareEpoch } = group
      log.info(
        { groupId, kind: ceremony.proposal.kind, n, t, revision, shareEpoch, stays },
        'ceremony concluded',
      )
      return { groupId, revision }
    })
  }

  /** A page of the ledger that this dealer has stated. CONFLICT before its answer. */
  async readLedger(hashText: string, after: string | undefined): Promise<{ page: string }> {
    const { ceremony, answeredAt, state } = await this.#underWay(hashText)
    if (state === 'given up') throw givenUp()
    if (answeredAt === null)
      throw new Refused('CONFLICT', { detail: 'this authority has stated no ledger in that ceremony' })
    const { name, key } = this.#ports(ceremony)
    const { groupId } = ceremony.group as Group
    const lines = await this.#authority.store.atomic(connection =>
      ledgerLines(connection, groupId, {
        after: after === undefined ? undefined : fromBase64Url(after, 'after', 32),
        most: LEDGER_PAGE,
      }),
    )
    if (lines.length === 0) throw new Refused('CONFLICT', { detail: 'the ledger ends here' })
    return { page: await signLedgerPage(ceremony, { name, key, after, lines }) }
  }

  /** Another dealer's page. One that came before changes nothing; one out of turn is CONFLICT. */
  adoptLedger(hashText: string, page: string): Promise<{ lines: number }> {
    return this.#alone(async () => {
      const { ceremony, record, state } = await this.#underWay(hashText)
      const { dealer, after, lines } = await readLedgerPage(ceremony, page)
      // It has had them all: nothing is taken that nobody would take away again.
      if (record.said.result !== undefined) return { lines: lines.length }
      if (state === 'given up') throw givenUp()
      const last = fromBase64Url(lines.at(-1)?.identityHash ?? '', 'line', 32)
      const handed = { ceremony: ceremony.hash, dealer }
      const outcome = await this.#authority.store.atomic(connection => {
        const known = handedUpTo(connection, handed)
        if (known !== undefined && Buffer.compare(last, fromBase64Url(known, 'line')) <= 0) return 'same'
        if (known !== after) return 'out of turn'
        if (!takeHanded(connection, handed, lines))
          throw new Refused('CONFLICT', { detail: 'the lines are out of order' })
        return 'taken'
      })
      if (outcome === 'out of turn')
        throw new Refused('CONFLICT', { detail: 'pages of a ledger come one after another' })
      return { lines: lines.length }
    })
  }

  /** What may end ceremonies in the database happens between two moves: none writes a record that it has read before. */
  between<Result>(work: () => Promise<Result>): Promise<Result> {
    return this.#alone(() => work().finally(() => this.#opened.clear()))
  }

  /** Of this authority, the newest last. */
  async status(): Promise<CeremonyStatus[]> {
    const rows = await this.#authority.store.atomic(connection =>
      connection.all('SELECT ceremony_hash, proposal, state FROM ceremony ORDER BY started_at'),
    )
    return rows.map(row => ({
      ceremonyHash: toBase64Url(row.ceremony_hash as Uint8Array),
      kind: (JSON.parse(row.proposal as string) as CeremonyProposal).kind,
      state: row.state as State,
    }))
  }

  /** The group that the proposal starts from: the one that is served here, or for a new member the chain it was shown. */
  async #predecessor(
    proposal: CeremonyProposal,
    revisions: readonly GroupDocument[],
  ): Promise<Group | undefined> {
    if (proposal.kind === 'found') return undefined
    const served = this.#authority.groups.all.find(
      ({ group }) => toBase64Url(group.groupId) === proposal.groupId,
    )
    if (served !== undefined) return served.group
    return Group.verifyChain(
      revisions,
      fromBase64Url(proposal.groupId, 'groupId', 32),
      poolKeyCheck(this.#authority.pool),
    )
  }

  /** NOT_APPROVED unless the proposal names this authority by its keys, and by its address where that is configured. */
  #ports(ceremony: Ceremony): CeremonyPorts {
    const { keys, publicUrls, random, pool, groups } = this.#authority
    const { proposal, group } = ceremony
    const own = keys.signKey.publicKey
    const me = ceremony.participants.find(({ signKey }) => signKey.equals(own))
    if (me === undefined)
      throw new Refused('NOT_APPROVED', { detail: 'this authority is not in the proposal with its keys' })
    const listed =
      proposal.kind === 'found'
        ? proposal.group.authorities
        : proposal.kind === 'reshare'
          ? proposal.authorities
          : (group as Group).document.authorities
    const entry = listed.find(({ signKey }) => signKey === own.toBase64Url())
    if (entry !== undefined && entry.hpkeKey !== toBase64Url(keys.hpkeKey.publicKey))
      throw new Refused('NOT_APPROVED', { detail: 'this authority is not in the proposal with its keys' })
    if (entry !== undefined) refuseAddress(publicUrls, entry.url)
    const served = group && groups.all.find(one => equalBytes(one.group.groupId, group.groupId))
    return {
      name: me.name,
      key: keys.signKey,
      random,
      arithmetic: poolCeremonyArithmetic(pool),
      ...(served && { current: served.shares.forCeremony(ceremony) }),
    }
  }

  /** Before a result in a reshare: everything that dealers have stated is here, to the last line. */
  async #checkLedgers({ ceremony }: Standing, rounds: CeremonyRounds): Promise<void> {
    const me = ceremony.participant(this.#ports(ceremony).name)
    if (me?.member === undefined) return
    for (const [dealer, stated] of await statedLedgers(ceremony, rounds)) {
      if (dealer === me.dealer) continue
      const handed = { ceremony: ceremony.hash, dealer }
      const { entries, hash } = await this.#authority.store.atomic(connection =>
        handedSummary(connection, handed),
      )
      if (entries !== stated.entries || !equalBytes(hash, stated.hash)) {
        const name = ceremony.dealers.find(one => one.dealer === dealer)?.name
        throw new Refused('CONFLICT', {
          detail: `of ${name}'s ledger ${entries} of ${stated.entries} lines are here`,
        })
      }
    }
  }

  /** What was dealt from shares that are no longer in force would be taken for a lie. */
  #refuseOvertaken({ proposal, group }: Ceremony): void {
    if (proposal.kind === 'found' || group === undefined) return
    const served = this.#authority.groups.all.find(one => equalBytes(one.group.groupId, group.groupId))
    if (served !== undefined && toBase64Url(documentHash(served.group.document)) !== proposal.previous)
      throw new Refused('CONFLICT', { detail: 'another revision has come into force; make a new proposal' })
  }

  #refuseUntimely(ceremony: Ceremony): void {
    refuseUntimely(ceremony, Math.floor(this.#authority.clock() / 1000))
  }

  #refuseLate({ ceremony, startedAt, answeredAt, state }: Standing): void {
    const now = this.#authority.clock()
    if (state === 'given up' || (answeredAt !== null && now >= answeredAt + HANDING_OVER)) throw givenUp()
    if (now > startedAt + ceremony.lifetime)
      throw new Refused('EXPIRED', {
        detail: `the ceremony took longer than the ${ceremony.lifetime / 1000} s agreed on; make a new proposal`,
      })
  }

  /** Other ceremonies from the same revision in which this authority has given a result and has not signed. */
  async #unsigned(ceremony: Ceremony): Promise<{ ceremony: Uint8Array; document: Uint8Array }[]> {
    const others = await this.#others(ceremony, ['running', 'given up'])
    return others.slice(0, ABANDONED)
  }

  /**
   * The hash of the document that this authority has signed with the number, once fewer than t of its dealers may still
   * sign it: all others abandon it in the results of `ceremony`.
   */
  async #freeOf(ceremony: Ceremony, rounds: CeremonyRounds): Promise<Uint8Array | undefined> {
    const { group } = ceremony
    if (group === undefined) return undefined
    const [signed] = await this.#authority.store.atomic(connection =>
      connection.all('SELECT document_hash FROM signed_revision WHERE group_id = ? AND number = ?', [
        group.groupId,
        group.document.revision + 1,
      ]),
    )
    if (signed === undefined) return undefined
    const hash = signed.document_hash as Uint8Array
    const others = await this.#others(ceremony, ['signed'])
    const former = others.find(({ document }) => equalBytes(document, hash))
    if (former === undefined) return undefined
    const abandoned = (await abandonedDocuments(ceremony, rounds)).get(toBase64Url(hash))
    const left = former.dealers.filter(dealer => abandoned?.has(dealer) !== true)
    if (left.length >= group.t) return undefined
    this.#authority.log.warn(
      { groupId: toBase64Url(group.groupId), revision: group.document.revision + 1, left: left.length },
      'a document that was signed here is abandoned by the others; another is signed with its number',
    )
    return hash
  }

  /** Other ceremonies from the same revision that have come to a document here, the newest first. */
  async #others(
    { hash, group, proposal }: Ceremony,
    states: readonly State[],
  ): Promise<{ ceremony: Uint8Array; document: Uint8Array; dealers: number[] }[]> {
    if (group === undefined || proposal.kind === 'found') return []
    const rows = await this.#authority.store.atomic(connection =>
      connection.all('SELECT * FROM ceremony WHERE group_id = ? ORDER BY started_at DESC', [group.groupId]),
    )
    const found: { ceremony: Uint8Array; document: Uint8Array; dealers: number[] }[] = []
    for (const row of rows) {
      const other = JSON.parse(row.proposal as string) as CeremonyProposal
      if (other.kind === 'found' || other.previous !== proposal.previous) continue
      if (equalBytes(row.ceremony_hash as Uint8Array, hash) || !states.includes(row.state as State)) continue
      const { ceremony, record } = await this.#standing(row)
      if (record.document === undefined) continue
      const dealers = ceremony.dealers.map(({ dealer }) => dealer)
      found.push({ ceremony: ceremony.hash, document: documentHash(record.document), dealers })
    }
    return found
  }

  async #underWay(hashText: string): Promise<Standing> {
    const standing = await this.#find(fromBase64Url(hashText, 'ceremonyHash', 32))
    if (standing === null)
      throw new Refused('NOT_APPROVED', { detail: 'this authority has not joined that ceremony' })
    return standing
  }

  async #find(hash: Uint8Array): Promise<Standing | null> {
    const [row] = await this.#authority.store.atomic(connection =>
      connection.all('SELECT * FROM ceremony WHERE ceremony_hash = ?', [hash]),
    )
    return row === undefined ? null : this.#standing(row)
  }

  async #standing(row: Row): Promise<Standing> {
    const proposal = JSON.parse(row.proposal as string) as CeremonyProposal
    const revisions = JSON.parse(row.revisions as string) as GroupDocument[]
    const hash = row.ceremony_hash as Uint8Array
    const name = toBase64Url(hash)
    const record =
      this.#opened.get(name) ??
      (JSON.parse(
        fromUtf8(this.#authority.records.open(row.sealed as Uint8Array, hash), 'record'),
      ) as CeremonyRecord)
    this.#opened.set(name, record)
    const ceremony =
      this.#ceremonies.get(name) ?? Ceremony.read(proposal, await this.#asOf(proposal, revisions))
    this.#ceremonies.set(name, ceremony)
    return {
      ceremony,
      revisions,
      record,
      startedAt: Number(row.started_at),
      answeredAt: row.answered_at === null ? null : Number(row.answered_at),
      state: row.state as State,
    }
  }

  /** The group as of the revision that the proposal starts from, whatever has come into force since. */
  async #asOf(proposal: CeremonyProposal, revisions: readonly GroupDocument[]): Promise<Group | undefined> {
    const group = await this.#predecessor(proposal, revisions)
    if (group === undefined || proposal.kind === 'found') return undefined
    const last = group.documents.findIndex(
      document => toBase64Url(documentHash(document)) === proposal.previous,
    )
    if (last === group.documents.length - 1) return group
    const chain = last === -1 ? revisions : group.documents.slice(0, last + 1)
    return Group.verifyChain(chain, group.groupId, poolKeyCheck(this.#authority.pool))
  }

  /** @param givesUp Other ceremonies, never signed from then on. */
  async #write(
    ceremony: Ceremony,
    record: CeremonyRecord,
    givesUp: readonly { readonly ceremony: Uint8Array }[],
  ): Promise<void> {
    const sealed = this.#seal(record, ceremony.hash)
    await this.#authority.store.atomic(connection => {
      for (const { ceremony: other } of givesUp) {
        const given = connection.run(
          "UPDATE ceremony SET state = 'given up' WHERE ceremony_hash = ? AND state IN ('running', 'given up')",
          [other],
        )
        if (given === 0) throw overtaken()
      }
      const terms = [sealed, ceremony.hash]
      if (connection.run('UPDATE ceremony SET sealed = ? WHERE ceremony_hash = ?', terms) === 0)
        throw overtaken()
    })
    this.#opened.set(toBase64Url(ceremony.hash), record)
  }

  #seal(record: CeremonyRecord, ceremony: Uint8Array): Uint8Array {
    const { records, random } = this.#authority
    return records.seal(utf8(JSON.stringify(record)), ceremony, random)
  }

  /** One move at a time: between looking at a ceremony and writing to it, no other move of it happens. */
  #alone<Result>(move: () => Promise<Result>): Promise<Result> {
    const result = this.#last.then(move, move)
    this.#last = result.then(
      () => undefined,
      () => undefined,
    )
    return result
  }
}

/**
 * The signature that this authority has given for that revision number. CONFLICT if it was for another document, unless
 * that is `free`, or if this one was abandoned.
 */
function signedOnce(
  connection: Connection,
  groupId: Uint8Array,
  { revision }: GroupDocument,
  { hash, free, fresh }: { hash: Uint8Array; free: Uint8Array | undefined; fresh: string },
): string {
  refuseAbandoned(connection, groupId, hash)
  connection.run(
    'INSERT INTO signed_revision (group_id, number, document_hash, signature) VALUES (?, ?, ?, ?) ' +
      'ON CONFLICT DO NOTHING',
    [groupId, revision, hash, fresh],
  )
  if (free !== undefined)
    connection.run(
      'UPDATE signed_revision SET document_hash = ?, signature = ? WHERE group_id = ? AND number = ? AND document_hash = ?',
      [hash, fresh, groupId, revision, free],
    )
  const [row] = connection.all(
    'SELECT document_hash, signature FROM signed_revision WHERE group_id = ? AND number = ?',
    [groupId, revision],
  )
  if (!equalBytes(row?.document_hash as Uint8Array, hash))
    throw new Refused('CONFLICT', { detail: 'this authority has signed another document with that number' })
  return row?.signature as string
}

const said = (record: CeremonyRecord, round: Round): string => record.said[round] as string

function givenUp(): Refused {
  return new Refused('EXPIRED', { detail: 'this authority has given the ceremony up; make a new proposal' })
}

/** Another process on the same data folder made the same move; asked again, its answer is found. */
function overtaken(): Refused {
  return new Refused('RETRY_LATER', { detail: 'the same move is being made' })
}
