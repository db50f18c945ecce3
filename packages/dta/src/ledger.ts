/**
 * Whom keys went to: one enrolment key for each identity and purpose, for ever and across all epochs (protocols.md §3
 * "no silent clone"). Identities stand in it as SHA-256 of `purpose/mpinId[/userCore/pinGen]`, so that a ledger can be
 * handed on in a reshare without saying who is in it. Nothing is ever deleted.
 */
import { createHash } from 'node:crypto'
import type { LedgerLine } from '@milagro-ts/api/ceremony-ledger'
import { Refused } from '@milagro-ts/api/problem'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Connection } from '@milagro-ts/store/database'

/** Stands for two keys that one identity's shares went to at different authorities: it gets none any more. */
const NOBODY = new Uint8Array(32)

export const identityHash = (ledgerKey: string): Uint8Array => sha256(utf8(ledgerKey))

/** Is the identity this key's? `new` where it was nobody's yet. */
export function inLedger(
  connection: Connection,
  { groupId, identity, keyHash }: { groupId: Uint8Array; identity: Uint8Array; keyHash: Uint8Array },
): 'same' | 'other' | 'new' {
  const [known] = connection.all(
    'SELECT enrolment_key_hash FROM ledger WHERE group_id = ? AND identity_hash = ?',
    [groupId, identity],
  )
  if (known === undefined) return 'new'
  return equalBytes(known.enrolment_key_hash as Uint8Array, keyHash) ? 'same' : 'other'
}

export function addToLedger(
  connection: Connection,
  { groupId, identity, keyHash }: { groupId: Uint8Array; identity: Uint8Array; keyHash: Uint8Array },
): void {
  connection.run('INSERT INTO ledger (group_id, identity_hash, enrolment_key_hash) VALUES (?, ?, ?)', [
    groupId,
    identity,
    keyHash,
  ])
}

/** Milliseconds from a dealer's answer to its signature, after which it goes on issuing and signs nothing. */
export const HANDING_OVER = 600_000

/**
 * RETRY_LATER while a ledger that has been stated in a reshare may come into force without the new line. Issuing again
 * gives the ceremony up in the same transaction, so of issuing and signing only one ever happens.
 */
export function refuseWhileHandedOver(connection: Connection, groupId: Uint8Array, now: number): void {
  const stated = connection.all(
    'SELECT ceremony_hash, answered_at, state FROM ceremony WHERE group_id = ? AND hands_over = 1 ' +
      "AND answered_at IS NOT NULL AND state IN ('running', 'signed')",
    [groupId],
  )
  for (const { ceremony_hash, answered_at, state } of stated) {
    if (state === 'signed' || now < Number(answered_at) + HANDING_OVER)
      throw new Refused('RETRY_LATER', {
        detail: 'the group is being handed on; nothing new is issued meanwhile',
        retryAfter: 5,
      })
    connection.run("UPDATE ceremony SET state = 'given up' WHERE ceremony_hash = ?", [
      ceremony_hash as Uint8Array,
    ])
  }
}

/** Lines that follow the identity hash `after`, ascending. */
export function ledgerLines(
  connection: Connection,
  groupId: Uint8Array,
  { after, most }: { after: Uint8Array | undefined; most: number },
): LedgerLine[] {
  return connection
    .all(
      'SELECT identity_hash, enrolment_key_hash FROM ledger WHERE group_id = ? AND identity_hash > ? ' +
        'ORDER BY identity_hash LIMIT ?',
      [groupId, after ?? new Uint8Array(0), most],
    )
    .map(lineOf)
}

/** How many lines there are, and their hash (api/ceremony-ledger.ts). */
export function ledgerSummary(connection: Connection, groupId: Uint8Array): LedgerSummary {
  return summaryOf(after => ledgerLines(connection, groupId, { after, most: BLOCK }))
}

export interface LedgerSummary {
  readonly entries: number
  readonly hash: Uint8Array
}
/** Lines that are in memory at a time. */
const BLOCK = 10_000

function summaryOf(read: (after: Uint8Array | undefined) => LedgerLine[]): LedgerSummary {
  const digest = createHash('sha256')
  let entries = 0
  let after: Uint8Array | undefined
  for (let lines = read(after); lines.length > 0; lines = read(after)) {
    for (const { identityHash, enrolmentKeyHash } of lines)
      digest.update(fromBase64Url(identityHash, 'line')).update(fromBase64Url(enrolmentKeyHash, 'line'))
    entries += lines.length
    after = fromBase64Url((lines.at(-1) as LedgerLine).identityHash, 'line')
  }
  return { entries, hash: Uint8Array.from(digest.digest()) }
}

/** What other dealers of a reshare have handed over, until the ceremony is concluded. */
export interface Handed {
  readonly ceremony: Uint8Array
  readonly dealer: number
}

export function handedSummary(connection: Connection, { ceremony, dealer }: Handed): LedgerSummary {
  return summaryOf(after =>
    connection
      .all(
        'SELECT identity_hash, enrolment_key_hash FROM ceremony_ledger WHERE ceremony_hash = ? AND dealer = ? ' +
          'AND identity_hash > ? ORDER BY identity_hash LIMIT ?',
        [ceremony, dealer, after ?? new Uint8Array(0), BLOCK],
      )
      .map(lineOf),
  )
}

/** The last line that a dealer has handed over; undefined when it is still to begin. */
export function handedUpTo(connection: Connection, { ceremony, dealer }: Handed): string | undefined {
  const [row] = connection.all(
    'SELECT max(identity_hash) AS last FROM ceremony_ledger WHERE ceremony_hash = ? AND dealer = ?',
    [ceremony, dealer],
  )
  return row?.last == null ? undefined : toBase64Url(row.last as Uint8Array)
}

/** False when the lines aren't ascending. */
export function takeHanded(
  connection: Connection,
  { ceremony, dealer }: Handed,
  lines: readonly LedgerLine[],
): boolean {
  let before = handedUpTo(connection, { ceremony, dealer })
  for (const { identityHash, enrolmentKeyHash } of lines) {
    const identity = fromBase64Url(identityHash, 'line', 32)
    if (before !== undefined && Buffer.compare(identity, fromBase64Url(before, 'line')) <= 0) return false
    before = identityHash
    connection.run(
      'INSERT INTO ceremony_ledger (ceremony_hash, dealer, identity_hash, enrolment_key_hash) VALUES (?, ?, ?, ?)',
      [ceremony, dealer, identity, fromBase64Url(enrolmentKeyHash, 'line', 32)],
    )
  }
  return true
}

/** The union of what was handed over and what is here. Returns how many identities turned out to have two keys. */
export function adoptHanded(connection: Connection, groupId: Uint8Array, ceremony: Uint8Array): number {
  const clashes = connection.run(
    'UPDATE ledger SET enrolment_key_hash = ? WHERE group_id = ? AND enrolment_key_hash <> ? AND EXISTS (' +
      'SELECT 1 FROM ceremony_ledger h WHERE h.ceremony_hash = ? AND h.identity_hash = ledger.identity_hash ' +
      'AND h.enrolment_key_hash <> ledger.enrolment_key_hash)',
    [NOBODY, groupId, NOBODY, ceremony],
  )
  connection.run(
    'INSERT INTO ledger (group_id, identity_hash, enrolment_key_hash) ' +
      'SELECT ?, identity_hash, CASE WHEN count(DISTINCT enrolment_key_hash) = 1 THEN max(enrolment_key_hash) ELSE ? END ' +
      'FROM ceremony_ledger WHERE ceremony_hash = ? GROUP BY identity_hash ON CONFLICT DO NOTHING',
    [groupId, NOBODY, ceremony],
  )
  connection.run('DELETE FROM ceremony_ledger WHERE ceremony_hash = ?', [ceremony])
  return clashes
}

function lineOf(row: { readonly [column: string]: unknown }): LedgerLine {
  return {
    identityHash: toBase64Url(row.identity_hash as Uint8Array),
    enrolmentKeyHash: toBase64Url(row.enrolment_key_hash as Uint8Array),
  }
}
