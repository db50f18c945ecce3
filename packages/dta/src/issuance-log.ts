/**
 * The append-only log of what was issued: hash of the ticket, hash of idCore. Whoever reconciles it with the RA's
 * register sees every key that belongs to no vehicle.
 *
 *   entry   = number, at (unix s), purpose, ticketHash, idCoreHash, previous
 *   hash    = SHA-256(TLV{1 groupId, 2 be32 number, 3 be64 at, 4 purpose, 5 ticketHash, 6 idCoreHash, 7 previous})
 *   previous = hash of the entry before; groupId for entry 1
 *
 * An entry is written in the transaction that lets the share leave, so there is no key without its entry. The same
 * ticket asking again for the same purpose makes no second one.
 */
import { be32, be64, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Connection } from '@milagro-ts/store/database'

/** As it is published: hashes in base64url. */
export interface IssuanceEntry {
  readonly number: number
  readonly at: number
  readonly purpose: Purpose
  readonly ticketHash: string
  readonly idCoreHash: string
  readonly previous: string
}

/** Entries of one answer at most. */
export const LOG_PAGE = 500

/** 32 bytes; what the next entry's `previous` must be. DecodeError for hashes that aren't 32 bytes. */
export function entryHash(groupId: Uint8Array, entry: IssuanceEntry): Uint8Array {
  return sha256(
    encodeTlv([
      groupId,
      be32(entry.number),
      be64(entry.at),
      utf8(entry.purpose),
      fromBase64Url(entry.ticketHash, 'ticketHash', 32),
      fromBase64Url(entry.idCoreHash, 'idCoreHash', 32),
      fromBase64Url(entry.previous, 'previous', 32),
    ]),
  )
}

/**
 * Adds an entry, unless this ticket has one for this purpose. To be called inside the issuing transaction.
 * @returns The entry's number.
 */
export function appendIssuance(
  connection: Connection,
  issued: {
    groupId: Uint8Array
    at: number
    purpose: Purpose
    ticketHash: Uint8Array
    idCoreHash: Uint8Array
  },
): number {
  const { groupId, at, purpose, ticketHash, idCoreHash } = issued
  const [known] = connection.all(
    'SELECT number FROM issuance WHERE group_id = ? AND ticket_hash = ? AND purpose = ?',
    [groupId, ticketHash, purpose],
  )
  if (known !== undefined) return Number(known.number)
  const [last] = connection.all(
    'SELECT number, hash FROM issuance WHERE group_id = ? ORDER BY number DESC LIMIT 1',
    [groupId],
  )
  const number = last === undefined ? 1 : Number(last.number) + 1
  const previous = last === undefined ? groupId : (last.hash as Uint8Array)
  const hash = entryHash(groupId, {
    number,
    at,
    purpose,
    ticketHash: toBase64Url(ticketHash),
    idCoreHash: toBase64Url(idCoreHash),
    previous: toBase64Url(previous),
  })
  connection.run(
    'INSERT INTO issuance (group_id, number, at, purpose, ticket_hash, id_core_hash, previous, hash) ' +
      'VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
    [groupId, number, at, purpose, ticketHash, idCoreHash, previous, hash],
  )
  return number
}

/** The newest entry's number; 0 for an empty log. */
export function issuedUpTo(connection: Connection, groupId: Uint8Array): number {
  const [row] = connection.all('SELECT max(number) AS newest FROM issuance WHERE group_id = ?', [groupId])
  return Number(row?.newest ?? 0)
}

/** Up to LOG_PAGE entries from number `from` on. */
export function readIssuance(connection: Connection, groupId: Uint8Array, from: number): IssuanceEntry[] {
  return connection
    .all('SELECT * FROM issuance WHERE group_id = ? AND number >= ? ORDER BY number LIMIT ?', [
      groupId,
      from,
      LOG_PAGE,
    ])
    .map(row => ({
      number: Number(row.number),
      at: Number(row.at),
      purpose: row.purpose as Purpose,
      ticketHash: toBase64Url(row.ticket_hash as Uint8Array),
      idCoreHash: toBase64Url(row.id_core_hash as Uint8Array),
      previous: toBase64Url(row.previous as Uint8Array),
    }))
}
