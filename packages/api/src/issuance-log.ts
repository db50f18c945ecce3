/**
 * What an authority publishes of what it issued, and how somebody else keeps it to its word.
 *
 *   entry    = number, at (unix s), purpose, ticketHash, idCoreHash, previous, kind
 *   bytes    = TLV{1 groupId, 2 be32 number, 3 be64 at, 4 purpose, 5 ticketHash, 6 idCoreHash, 7 previous, 8 kind}
 *   previous = SHA-256(bytes) of the entry before; groupId for entry 1
 *   leaf     = entry number − 1 of the tree over all bytes (merkle-tree.ts)
 *   head     = JWS of the authority (typ `mpin-log-head+jwt`): size and root of that tree, when it was signed (never
 *              earlier than the head before), and, if the authority is going to leave the group, when
 *
 *   reader                                            authority
 *   -- the head? -->
 *   <-- head (n, root), heads of others that it saw --
 *   -- entries after m; consistency of m and n? -->   m: the size that the reader has read up to
 *   <-- entries, proof --                             root of what was read = head's root; m's root is in it
 *
 * A log can be read in any order by anybody, and still only grow: whoever shows two readers two histories has signed two
 * heads that no proof joins, and the readers pass heads on. So each head that turns up anywhere is compared with the one
 * kept (`judge`). Two roots of one size, or a later head of fewer entries, are evidence by themselves. A proof that doesn't
 * join two heads of different sizes is none: nobody has signed it, and somebody on the way may have damaged it.
 */
import { be32, be64, equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { SUITE } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { signJws, verifyJws } from './jws.js'
import type { Es256PrivateKey, Es256PublicKey } from './keys.js'
import { leafHash, type TreeHead, verifyConsistency } from './merkle-tree.js'
import { Refused } from './problem.js'
import { Bytes, GroupIdField, PurposeField, ServerName, Strict, Uint32, UnixSeconds } from './schemas.js'
import Type, { Compile, type Static } from './typebox.js'

/** As it is published: hashes in base64url. */
export const IssuanceEntry = Strict({
  number: Uint32,
  at: UnixSeconds,
  purpose: PurposeField,
  ticketHash: Bytes(32),
  idCoreHash: Bytes(32),
  previous: Bytes(32),
  /**
   * `delta`: what a device adds to its key when that is rotated; `slot`: a device's key of `agree` or `encrypt` for
   * one slot. `ticketHash` is then the hash of its request. Absent: a key.
   */
  kind: Type.Optional(Type.Enum(['delta', 'slot'])),
})
export type IssuanceEntry = Static<typeof IssuanceEntry>

/** Entries of one answer at most. */
export const LOG_PAGE = 500
/** Hashes of a proof about a log of fewer than 2^32 entries at most. */
export const PROOF_LENGTH = 64

/** What is hashed. DecodeError for hashes that aren't 32 bytes. */
function entryBytes(groupId: Uint8Array, entry: IssuanceEntry): Uint8Array {
  return encodeTlv([
    groupId,
    be32(entry.number),
    be64(entry.at),
    utf8(entry.purpose),
    fromBase64Url(entry.ticketHash, 'ticketHash', 32),
    fromBase64Url(entry.idCoreHash, 'idCoreHash', 32),
    fromBase64Url(entry.previous, 'previous', 32),
    entry.kind === undefined ? undefined : utf8(entry.kind),
  ])
}

/** 32 bytes each: `hash`, which the next entry's `previous` must be, and the leaf of the tree. */
export function entryHashes(
  groupId: Uint8Array,
  entry: IssuanceEntry,
): { readonly hash: Uint8Array; readonly leaf: Uint8Array } {
  const bytes = entryBytes(groupId, entry)
  return { hash: sha256(bytes), leaf: leafHash(bytes) }
}

const TYP = 'mpin-log-head+jwt'
const HeadPayload = Strict({
  suite: Type.Literal(SUITE),
  groupId: GroupIdField,
  /** Its name in the group document. */
  authority: ServerName,
  size: Uint32,
  root: Bytes(32),
  at: UnixSeconds,
  /** Its departure: from then on it serves nothing of the group. */
  leavesAt: Type.Optional(UnixSeconds),
})
const headPayload = Compile(HeadPayload)

/** Who the log is of. A member that took another one's place has another signing key, and another log. */
export interface LogOwner {
  readonly groupId: Uint8Array
  readonly name: string
  readonly signKey: Es256PublicKey
}

/** What an authority has signed about its log. */
export class LogHead implements TreeHead {
  readonly size: number
  readonly root: Uint8Array
  /** Unix seconds. */
  readonly at: number
  /** Unix seconds, once a departure is announced. */
  readonly leavesAt: number | undefined
  readonly jws: string

  private constructor(jws: string, { size, root, at, leavesAt }: Static<typeof HeadPayload>) {
    this.size = size
    this.root = fromBase64Url(root, 'root', 32)
    this.at = at
    this.leavesAt = leavesAt
    this.jws = jws
  }

  static sign(
    { groupId, name }: Pick<LogOwner, 'groupId' | 'name'>,
    { size, root, at, leavesAt }: TreeHead & { at: number; leavesAt?: number | undefined },
    key: Es256PrivateKey,
  ): Promise<string> {
    const payload: Static<typeof HeadPayload> = {
      suite: SUITE,
      groupId: toBase64Url(groupId),
      authority: name,
      size,
      root: toBase64Url(root),
      at,
      ...(leavesAt === undefined ? {} : { leavesAt }),
    }
    return signJws(TYP, payload, key, name)
  }

  /** Refused NOT_APPROVED unless this authority has signed it for this group; DecodeError for a wrong shape. */
  static async verify(jws: string, { groupId, name, signKey }: LogOwner): Promise<LogHead> {
    const signed = await verifyJws(TYP, jws, signKey)
    if (signed === null) throw new Refused('NOT_APPROVED', { detail: `${name} has not signed this head` })
    const { payload } = signed
    if (!headPayload.Check(payload)) throw new DecodeError('head', 'wrong shape')
    if (payload.authority !== name || payload.groupId !== toBase64Url(groupId))
      throw new Refused('NOT_APPROVED', { detail: `the head is of another log than ${name}'s` })
    return new LogHead(jws, payload)
  }
}

/**
 * What two signed heads show by themselves:
 *
 *   split      the same number of entries and another root
 *   shorter    a later head of fewer entries: something was taken away
 */
export type HeadFault = 'split' | 'shorter'
/** `unproven`: an answer came that doesn't join the two. It shows nothing; ask again, later or in another way. */
export type Verdict = 'newer' | 'known' | 'unproven' | HeadFault

/**
 * A head that turned up, beside one that is kept. `prove` asks the authority for the consistency proof of two sizes
 * (base64url), and may throw; nothing is known then.
 */
export async function judge(
  kept: (TreeHead & { readonly at: number }) | null,
  head: LogHead,
  prove: (before: number, after: number) => Promise<readonly string[]>,
): Promise<Verdict> {
  if (kept === null) return 'newer'
  if (head.size === kept.size) return equalBytes(head.root, kept.root) ? 'known' : 'split'
  const [before, after] = head.size < kept.size ? [head, kept] : [kept, head]
  // An authority's times never go back, so this is its own word that there were more entries once; and for a proof it
  // can't be asked.
  if (before.at > after.at) return 'shorter'
  const proof = await prove(before.size, after.size)
  const hashes = proof.map(hash => fromBase64Url(hash, 'proof', 32))
  if (!verifyConsistency(before, after, hashes)) return 'unproven'
  return after === head ? 'newer' : 'known'
}
