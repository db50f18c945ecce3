/**
 * Next revisions of a group document that this authority serves: RA keys, recipients, policy, addresses. New members
 * or new key shares come out of a ceremony, never out of this.
 *
 *   anybody -- document, RA's statement -->   signed by the RA in force, follows the revision in force, changes only
 *                                             what may change, and the operator has accepted its hash
 *           <-- signature --
 *           -- document, t signatures -->     taken into force
 *
 * One document per revision number is signed here; another only when the former can't find its signatures any more. In a
 * ceremony others abandon it in their results (ceremonies.ts). Outside of one, where the operators so decide:
 *
 *   operators of authorities that have not signed      abandonRevision: never signs it -> mpin-abandonment+jwt
 *   operator of one that has                           releaseRevision: fewer than t are left that may sign it, itself among
 *                                                      them: the number is free here, and that document never signed again
 *
 * An abandonment is never taken back. So with 2t > n two documents of one number can't both find t signatures unless an
 * authority breaks this rule, and the chain doesn't fork.
 */
import { canonicalBytes } from '@milagro-ts/api/canonical-json'
import { documentHash, type Group, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { Refused } from '@milagro-ts/api/problem'
import { revisionChanges } from '@milagro-ts/api/revision-changes'
import {
  cosignerKid,
  mayStillSign,
  signAbandonment,
  verifyRevisionStatement,
} from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { SUITE } from '@milagro-ts/crypto/suite'
import type { Connection } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'
import { endOvertaken } from './ended-ceremonies.js'
import type { ServedGroup } from './groups.js'

/** Refused NOT_APPROVED or CONFLICT; DecodeError for what is wrong in the document. */
export async function signRevision(
  authority: Authority,
  { group, index }: ServedGroup,
  { document, statement }: { document: GroupDocument; statement: string },
): Promise<{ index: number; signature: string }> {
  const hash = documentHash(document)
  // Signatures first: checking the contents takes pairings, and anybody may ask.
  await verifyRevisionStatement({ statement, group, document })
  if (!(await authority.acceptance.isAccepted(hash))) {
    const changes = revisionChanges(group.document, document)
    authority.acceptance.revisionWaits(group.groupId, document.revision, hash, changes)
    throw new Refused('NOT_APPROVED', { detail: "this authority's operator has not accepted the revision" })
  }
  const number = document.revision
  const before = await authority.store.atomic(connection => signedAs(connection, group.groupId, number))
  if (before !== null) return { index, signature: signatureOf(before, hash) }
  await group.checkNext(document)
  checkChanges(group.document, document)
  const fresh = await signDocument(document, authority.keys.signKey)
  const signed = await authority.store.atomic(connection => {
    refuseAbandoned(connection, group.groupId, hash)
    connection.run(
      'INSERT INTO signed_revision (group_id, number, document_hash, signature) VALUES (?, ?, ?, ?) ' +
        'ON CONFLICT DO NOTHING',
      [group.groupId, number, hash, fresh],
    )
    return signedAs(connection, group.groupId, number) as SignedRevision
  })
  return { index, signature: signatureOf(signed, hash) }
}

interface SignedRevision {
  readonly hash: Uint8Array
  readonly signature: string
}

function signedAs(connection: Connection, groupId: Uint8Array, number: number): SignedRevision | null {
  const [row] = connection.all(
    'SELECT document_hash, signature FROM signed_revision WHERE group_id = ? AND number = ?',
    [groupId, number],
  )
  return row === undefined
    ? null
    : { hash: row.document_hash as Uint8Array, signature: row.signature as string }
}

function signatureOf(signed: SignedRevision, hash: Uint8Array): string {
  if (equalBytes(signed.hash, hash)) return signed.signature
  throw new Refused('CONFLICT', { detail: 'this authority has signed another document with that number' })
}

/**
 * This authority's word that it never signs that document. Refused CONFLICT where it has: then it is the others who abandon.
 */
export async function abandonRevision(
  authority: Authority,
  { group, index }: ServedGroup,
  hash: Uint8Array,
): Promise<string> {
  const { groupId } = group
  await authority.store.atomic(connection => {
    if (signedHash(connection, group, hash))
      throw new Refused('CONFLICT', { detail: 'this authority has signed it' })
    connection.run('INSERT INTO abandoned (group_id, document_hash) VALUES (?, ?) ON CONFLICT DO NOTHING', [
      groupId,
      hash,
    ])
  })
  const documentHash = toBase64Url(hash)
  authority.log.warn({ groupId: toBase64Url(groupId), documentHash }, 'operator: a document is abandoned')
  const payload = {
    suite: SUITE,
    groupId: toBase64Url(groupId),
    revision: group.revision + 1,
    documentHash,
  } as const
  return signAbandonment(payload, { key: authority.keys.signKey, kid: cosignerKid(index) })
}

/**
 * Frees the number of a revision of the RA that was signed here, which fewer than t authorities may still sign. Refused
 * NOT_FOUND for a document that was not signed here, CONFLICT while it may find t, or where it is a ceremony's; NOT_APPROVED
 * for an abandonment that is none.
 */
export async function releaseRevision(
  authority: Authority,
  { group }: ServedGroup,
  { hash, abandonments }: { hash: Uint8Array; abandonments: readonly string[] },
): Promise<void> {
  const { groupId } = group
  const left = await mayStillSign({ abandonments, group, documentHash: hash })
  await authority.store.atomic(connection => {
    if (!signedHash(connection, group, hash))
      throw new Refused('NOT_FOUND', {
        detail: 'this authority has not signed that document for the next revision',
      })
    if (
      connection.all("SELECT 1 FROM ceremony WHERE group_id = ? AND state = 'signed'", [groupId]).length > 0
    )
      throw new Refused('CONFLICT', { detail: 'signed in a ceremony: the next ceremony abandons it' })
    if (left >= group.t)
      throw new Refused('CONFLICT', {
        detail: `${left} authorities may still sign it, and ${group.t} are enough: ${left - group.t + 1} more must abandon it`,
      })
    connection.run('DELETE FROM signed_revision WHERE group_id = ? AND document_hash = ?', [groupId, hash])
    connection.run('INSERT INTO abandoned (group_id, document_hash) VALUES (?, ?)', [groupId, hash])
  })
  authority.log.warn(
    { groupId: toBase64Url(groupId), documentHash: toBase64Url(hash), left },
    'operator: a document that was signed here is abandoned by the others; its number is free',
  )
}

/** Has this document been signed here, for the revision after the one in force? */
function signedHash(connection: Connection, { groupId, revision }: Group, hash: Uint8Array): boolean {
  const signed = signedAs(connection, groupId, revision + 1)
  return signed !== null && equalBytes(signed.hash, hash)
}

/** Refused CONFLICT for a document that was abandoned here. */
export function refuseAbandoned(connection: Connection, groupId: Uint8Array, hash: Uint8Array): void {
  const where = [groupId, hash]
  if (connection.all('SELECT 1 FROM abandoned WHERE group_id = ? AND document_hash = ?', where).length > 0)
    throw new Refused('CONFLICT', { detail: 'this authority has abandoned that document for good' })
}

/** Takes the revision into force; the one in force again changes nothing. */
export async function concludeRevision(
  authority: Authority,
  { group }: ServedGroup,
  document: GroupDocument,
): Promise<{ revision: number }> {
  const hash = documentHash(document)
  if (equalBytes(hash, documentHash(group.document))) return { revision: group.revision }
  // Even t signatures of the others don't make this authority issue under rules that its operator hasn't seen.
  if (!(await authority.acceptance.isAccepted(hash)))
    throw new Refused('NOT_APPROVED', { detail: "this authority's operator has not accepted the revision" })
  const next = await group.verifyNext(document)
  checkChanges(group.document, document)
  const written = await authority.store.atomic(connection => {
    const rows = connection.run(
      'INSERT INTO revision (group_id, number, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
      [next.groupId, next.revision, JSON.stringify(next.document)],
    )
    endOvertaken(connection, authority)
    return rows
  })
  if (written === 0) throw new Refused('RETRY_LATER', { detail: 'a revision is being taken into force' })
  authority.groups.replace(next)
  await authority.vault.shred()
  authority.log.info(
    { groupId: toBase64Url(next.groupId), revision: next.revision },
    'revision taken into force',
  )
  return { revision: next.revision }
}

/** Everything but RA keys, recipients, policy and the authorities' addresses stays as it is. */
function checkChanges(before: GroupDocument, after: GroupDocument): void {
  const fixed = ({ suite, v, n, t, purposes, authorities, slot }: GroupDocument) =>
    canonicalBytes({
      suite,
      v,
      n,
      t,
      purposes,
      slot,
      authorities: authorities.map(({ url: _, ...authority }) => authority),
    })
  if (!equalBytes(fixed(before), fixed(after)))
    throw new Refused('CONFLICT', { detail: 'members, thresholds and key shares change in a ceremony only' })
}

export interface RevisionStatus {
  readonly groupId: string
  readonly documentHash: string
  readonly accepted: boolean
  /** Here: no other of its number is signed until it is released. */
  readonly signed: boolean
  /** What it changes, in words; of one that was not accepted when it came, since the start. */
  readonly changes?: string[]
}

/** Revisions that wait: for the operator, or signed here and not yet in force. Once another of its number is, none does. */
export async function revisionStatus(authority: Authority): Promise<RevisionStatus[]> {
  const newest = new Map(
    authority.groups.all.map(({ group }) => [toBase64Url(group.groupId), group.revision] as const),
  )
  const signed = await authority.store.atomic(connection =>
    connection.all('SELECT group_id, number, document_hash FROM signed_revision').map(row => ({
      groupId: toBase64Url(row.group_id as Uint8Array),
      number: row.number as number,
      documentHash: toBase64Url(row.document_hash as Uint8Array),
    })),
  )
  const known = new Set(signed.map(revision => revision.documentHash))
  const waiting = await Promise.all(
    authority.acceptance.waitingRevisions
      .filter(({ documentHash }) => !known.has(documentHash))
      .map(async revision => ({
        ...revision,
        accepted: await authority.acceptance.isAccepted(fromBase64Url(revision.documentHash, 'hash', 32)),
      })),
  )
  return [
    ...signed.map(revision => ({ ...revision, accepted: true, signed: true })),
    ...waiting.map(revision => ({ ...revision, signed: false })),
  ]
    .filter(({ groupId, number }) => number > (newest.get(groupId) ?? 0))
    .map(({ number: _, ...revision }) => revision)
}
