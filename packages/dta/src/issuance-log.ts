/**
 * The append-only log of what was issued (api/issuance-log.ts): hash of the ticket, hash of idCore. Whoever reconciles
 * it with the RA's register sees every key that belongs to no vehicle.
 *
 * An entry is written in the transaction that lets the share leave, so there is no key without its entry. The same
 * ticket asking again for the same purpose makes no second one.
 *
 * The tree needs no table of its own and is never built in memory: the complete subtrees that entry n ends, of 1, 2, 4 …
 * leaves, as many as n has factors 2 and one, stand in its row, one hash after another. An entry more reads as many rows
 * as it ends subtrees, the root as many as n has binary digits.
 *
 *   row  1    2      3    4          5    6      7    8
 *        0    1,0…1  2    3,2…3,0…3  4    5,4…5  6    7,6…7,4…7,0…7
 */
import { entryHashes, type IssuanceEntry, LOG_PAGE } from '@milagro-ts/api/issuance-log'
import { type NodeAt, nodeHash, type TreeHead, treeRoot } from '@milagro-ts/api/merkle-tree'
import { concat, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Purpose } from '@milagro-ts/crypto/suite'
import type { Connection, Reader, Row } from '@milagro-ts/store/database'
import { StoreError } from '@milagro-ts/store/store-error'

/**
 * Adds an entry, unless this ticket has one for this purpose. To be called inside the issuing transaction.
 * @returns The entry's number, and whether it is new.
 */
export function appendIssuance(
  connection: Connection,
  issued: {
    groupId: Uint8Array
    at: number
    purpose: Purpose
    ticketHash: Uint8Array
    idCoreHash: Uint8Array
    kind?: IssuanceEntry['kind']
  },
): { readonly number: number; readonly isNew: boolean } {
  const { groupId, at, purpose, ticketHash, idCoreHash, kind } = issued
  const known = issuedBefore(connection, issued)
  if (known !== undefined) return { number: known, isNew: false }
  const [last] = connection.all(
    'SELECT number, hash FROM issuance WHERE group_id = ? ORDER BY number DESC LIMIT 1',
    [groupId],
  )
  const number = last === undefined ? 1 : Number(last.number) + 1
  const previous = last === undefined ? groupId : (last.hash as Uint8Array)
  const { hash, leaf } = entryHashes(groupId, {
    number,
    at,
    purpose,
    ticketHash: toBase64Url(ticketHash),
    idCoreHash: toBase64Url(idCoreHash),
    previous: toBase64Url(previous),
    ...(kind === undefined ? {} : { kind }),
  })
  connection.run(
    'INSERT INTO issuance (group_id, number, at, purpose, ticket_hash, id_core_hash, previous, hash, subtrees, kind) ' +
      'VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
    [
      groupId,
      number,
      at,
      purpose,
      ticketHash,
      idCoreHash,
      previous,
      hash,
      subtreesOf(number, leaf, treeNodes(connection, groupId)),
      kind ?? null,
    ],
  )
  return { number, isNew: true }
}

/** The number of the entry that this ticket has for this purpose. */
export function issuedBefore(
  connection: Reader,
  {
    groupId,
    ticketHash,
    purpose,
  }: { readonly groupId: Uint8Array; readonly ticketHash: Uint8Array; readonly purpose: Purpose },
): number | undefined {
  const [known] = connection.all(
    'SELECT number FROM issuance WHERE group_id = ? AND ticket_hash = ? AND purpose = ?',
    [groupId, ticketHash, purpose],
  )
  return known === undefined ? undefined : Number(known.number)
}

/** The complete subtrees that entry `number` ends, the smallest first. */
export function subtreesOf(number: number, leaf: Uint8Array, nodeAt: NodeAt): Uint8Array {
  const hashes = [leaf]
  for (let [level, count] = [0, number]; count % 2 === 0; level++, count /= 2)
    hashes.push(nodeHash(nodeAt(level, count - 2), hashes[level] as Uint8Array))
  return concat(...hashes)
}

/** The subtrees of a group's log. StoreError `damaged` where one is missing. */
export function treeNodes(connection: Reader, groupId: Uint8Array): NodeAt {
  return (level, position) => {
    const [row] = connection.all(
      'SELECT substr(subtrees, ?, 32) AS hash FROM issuance WHERE group_id = ? AND number = ?',
      [32 * level + 1, groupId, (position + 1) * 2 ** level],
    )
    const hash = row?.hash as Uint8Array | undefined
    if (hash?.length !== 32)
      throw new StoreError('damaged', 'the issuance log has a gap: restore the database from a backup')
    return hash
  }
}

/** The tree over the first `size` entries; over all of them unless said. */
export function logHead(connection: Reader, groupId: Uint8Array, size?: number): TreeHead {
  const entries = size ?? issuedUpTo(connection, groupId)
  return { size: entries, root: treeRoot(entries, treeNodes(connection, groupId)) }
}

/** The newest entry's number; 0 for an empty log. */
export function issuedUpTo(connection: Reader, groupId: Uint8Array): number {
  const [row] = connection.all('SELECT max(number) AS newest FROM issuance WHERE group_id = ?', [groupId])
  return Number(row?.newest ?? 0)
}

/** Up to LOG_PAGE entries from number `from` on. */
export function readIssuance(connection: Reader, groupId: Uint8Array, from: number): IssuanceEntry[] {
  return connection
    .all('SELECT * FROM issuance WHERE group_id = ? AND number >= ? ORDER BY number LIMIT ?', [
      groupId,
      from,
      LOG_PAGE,
    ])
    .map(entryOf)
}

export function entryOf(row: Row): IssuanceEntry {
  return {
    number: Number(row.number),
    at: Number(row.at),
    purpose: row.purpose as Purpose,
    ticketHash: toBase64Url(row.ticket_hash as Uint8Array),
    idCoreHash: toBase64Url(row.id_core_hash as Uint8Array),
    previous: toBase64Url(row.previous as Uint8Array),
    ...(row.kind == null ? {} : { kind: row.kind as NonNullable<IssuanceEntry['kind']> }),
  }
}
