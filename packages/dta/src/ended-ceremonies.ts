/**
 * Ceremonies that can't be concluded any more: another revision has come into force since the one they began from, or the
 * authority has left the group. What their records hold is worth a share: the new ones of a ceremony that was never signed
 * lie on a polynomial of the same secret, and a dealer's polynomial begins with its own. So it is destroyed with the shares
 * that the ceremony began from. What was said, and the document, are public and stay: a move that is asked again answers
 * the same.
 */
import type { CeremonyRecord } from '@milagro-ts/api/ceremony'
import { fromUtf8, utf8 } from '@milagro-ts/crypto/bytes'
import type { Connection, Row } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'

/** In the transaction in which a revision comes into force, and at every start. */
export function endOvertaken(connection: Connection, ports: Pick<Authority, 'records' | 'random'>): void {
  end(
    connection,
    ports,
    // A chain has one document for each revision number from 1 on.
    connection.all(
      "SELECT ceremony_hash, sealed FROM ceremony WHERE state <> 'concluded' AND json_array_length(revisions) < " +
        '(SELECT max(number) FROM revision WHERE revision.group_id = ceremony.group_id)',
    ),
  )
}

/** What had begun before the authority left a group. @param leftAt Unix milliseconds. */
export function endLeft(
  connection: Connection,
  ports: Pick<Authority, 'records' | 'random'>,
  { groupId, leftAt }: { readonly groupId: Uint8Array; readonly leftAt: number },
): void {
  end(
    connection,
    ports,
    connection.all(
      "SELECT ceremony_hash, sealed FROM ceremony WHERE group_id = ? AND state <> 'concluded' AND started_at < ?",
      [groupId, leftAt],
    ),
  )
}

function end(
  connection: Connection,
  { records, random }: Pick<Authority, 'records' | 'random'>,
  ceremonies: readonly Row[],
): void {
  for (const { ceremony_hash, sealed } of ceremonies) {
    const hash = ceremony_hash as Uint8Array
    const opened = fromUtf8(records.open(sealed as Uint8Array, hash), 'record')
    const { said, after, document, ...secret } = JSON.parse(opened) as CeremonyRecord
    const kept: CeremonyRecord = { said, after, ...(document && { document }) }
    const anew =
      Object.keys(secret).length === 0
        ? (sealed as Uint8Array)
        : records.seal(utf8(JSON.stringify(kept)), hash, random)
    connection.run("UPDATE ceremony SET state = 'given up', sealed = ? WHERE ceremony_hash = ?", [anew, hash])
    connection.run('DELETE FROM ceremony_ledger WHERE ceremony_hash = ?', [hash])
  }
}
