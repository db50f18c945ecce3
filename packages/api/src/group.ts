/**
 * The group document, read. A `Group` exists only for documents that proved themselves from the pinned groupId on:
 *
 *   groupId = SHA-256(JCS(first revision without signatures))          pinned in codes and configuration
 *   first revision          signed by all n of its own authorities
 *   revision k + 1          carries groupId, k + 1, SHA-256(JCS(revision k)); signed by t of revision k's authorities
 *   each of them            Σ λ_j C_j = IVK over every t of the n; e(IVK, Q) = e(P1, pub) where a purpose has one
 *
 * What a fake could gain from each check left out: another first revision is another group under the same name;
 * commitments that don't lie on one polynomial let shares pass whose sum is nobody's key; a `pub` of another secret
 * forges permits; a second `pin` recipient is a second strike counter.
 */
import { equalBytes, fromBase64Url, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { isServerName } from '@milagro-ts/crypto/identity'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { type PublicKeys, publicKeysFault } from '@milagro-ts/crypto/server-key'
import { hasPublicKey, PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import type { SlotRule } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { canonicalHash } from './canonical-json.js'
import { GroupDocument, GroupProposal, KEPT_EPOCHS } from './group-document.js'
import { type Es256PrivateKey, Es256PublicKey } from './keys.js'
import { Refused } from './problem.js'
import { Compile, type Static, type TSchema, type Validator } from './typebox.js'

const documents = Compile(GroupDocument)
const proposals = Compile(GroupProposal)

/** The purposes whose shares at servers the document may hand out; the others' S is public or nobody's. */
const SERVER_PURPOSES: readonly Purpose[] = ['device', 'pin', 'agree', 'encrypt']

export interface GroupAuthority {
  readonly index: number
  readonly name: string
  readonly url: string
  readonly signKey: Es256PublicKey
  readonly hpkeKey: Uint8Array
}
export interface GroupRecipient {
  readonly name: string
  /** 2 server, 3 static server. */
  readonly kind: number
  readonly generation: number
  readonly purposes: readonly Purpose[]
  readonly hpkeKey: Uint8Array
  readonly requestKey: Es256PublicKey
}
export interface RaKeys {
  /** Signatures that a ticket needs. */
  readonly m: number
  readonly keys: ReadonlyMap<string, Es256PublicKey>
}
/** The public keys of one purpose in one key epoch. */
export interface PurposeKeys {
  readonly epoch: number
  readonly firstSlot: number
  readonly ivk: G1
  /** C_j by position j − 1. */
  readonly commitments: readonly G1[]
  /** sQ, for `permit`, `sign` and `encrypt`. */
  readonly pub: G2 | undefined
}

/** Sums of products and a pairing for each purpose: a server hands them to its workers. */
export type KeyCheck = (
  keys: PublicKeys,
) => ReturnType<typeof publicKeysFault> | Promise<ReturnType<typeof publicKeysFault>>

/** SHA-256 of the canonical form without `signatures`: what is signed, and what `previous` holds. */
export function documentHash({ signatures: _, ...document }: GroupDocument): Uint8Array {
  return canonicalHash(document)
}

/** The groupId that a first revision makes (RangeError for a later one). */
export function groupIdOf(first: GroupDocument): Uint8Array {
  if (first.revision !== 1) throw new RangeError('groupId is the hash of the first revision')
  return documentHash(first)
}

/** What authorities' operators accept before their authority takes part. */
export function proposalHash(proposal: GroupProposal): Uint8Array {
  return canonicalHash(proposal)
}

/** For people: the first 128 bits in hex, in groups of four; fewer could be met by trying keys. Machines compare all 32 bytes. */
export function fingerprint(groupId: Uint8Array): string {
  return (toHex(groupId.subarray(0, 16)).match(/.{4}/g) ?? []).join(' ')
}

/** An authority's signature over a revision, base64url: ES256 over TLV{1 `group-document`, 2 the document's hash}. */
export async function signDocument(document: GroupDocument, key: Es256PrivateKey): Promise<string> {
  return toBase64Url(await key.sign(signedBytes(documentHash(document))))
}

function signedBytes(hash: Uint8Array): Uint8Array {
  return encodeTlv([utf8('group-document'), hash])
}

/** DecodeError unless the proposal has the right shape and could become a group: members, keys, t and n. */
export function checkProposal(value: unknown): GroupProposal {
  const proposal = shaped(proposals, value, 'proposal')
  readMembers(proposal)
  return proposal
}

export class Group {
  /** 32 bytes. */
  readonly groupId: Uint8Array
  /**
   * 1, and one more with each revision that changed any C_j: a refresh, a reshare, a rotation. All purposes count as one,
   * since a ceremony deals them all. Shares of different epochs lie on different polynomials and don't combine.
   */
  readonly shareEpoch: number
  readonly #revisions: readonly Revision[]
  readonly #check: KeyCheck

  private constructor(
    groupId: Uint8Array,
    revisions: readonly Revision[],
    shareEpoch: number,
    check: KeyCheck,
  ) {
    this.groupId = groupId
    this.#revisions = revisions
    this.shareEpoch = shareEpoch
    this.#check = check
  }

  /**
   * A first revision, checked against nothing but itself: the caller has just made it, or compares `groupId`.
   * DecodeError for what is wrong in it, Refused NOT_APPROVED for a signature that is missing or wrong.
   * @param check Where its sums and pairings are computed, and those of the revisions that follow it.
   */
  static async verifyFirst(value: unknown, check: KeyCheck = publicKeysFault): Promise<Group> {
    const first = await readContents(readDraft(value), check)
    if (first.document.revision !== 1) throw new Refused('CONFLICT', { detail: 'not a first revision' })
    await checkSignatures(first, first, first.document.n)
    return new Group(first.hash, [first], 1, check)
  }

  /** As group files hold them: a first revision, or an array from the first to the one in force. As `verifyFirst`. */
  static async verifyFile(value: unknown, check: KeyCheck = publicKeysFault): Promise<Group> {
    const [first, ...later] = Array.isArray(value) ? (value as unknown[]) : [value]
    let group = await Group.verifyFirst(first, check)
    for (const revision of later) group = await group.verifyNext(revision)
    return group
  }

  /**
   * Revisions 1, 2, 3 … of the group whose id the caller has pinned.
   * DecodeError for what is wrong in one, Refused CONFLICT for a gap, a step back or a broken chain, NOT_APPROVED for
   * another group and for missing signatures.
   */
  static async verifyChain(
    revisions: readonly unknown[],
    pinnedGroupId: Uint8Array,
    check: KeyCheck = publicKeysFault,
  ): Promise<Group> {
    const [first, ...later] = revisions
    let group = await Group.verifyFirst(first, check)
    if (!equalBytes(group.groupId, pinnedGroupId)) throw anotherGroup()
    for (const revision of later) group = await group.verifyNext(revision)
    return group
  }

  /** This group with one revision more. The one in force again gives the same group; an older one is CONFLICT. */
  async verifyNext(value: unknown): Promise<Group> {
    const draft = readDraft(value)
    if (equalBytes(draft.hash, this.#newest.hash)) return this
    this.#checkFollows(draft)
    // Signatures before contents: those take subgroup checks and pairings, and anybody may bring a document.
    await checkSignatures(draft, this.#newest, this.#newest.document.t)
    const next = await readContents(draft, this.#check)
    this.#checkKeys(next)
    const shareEpoch = this.shareEpoch + (isDealtAnew(this.#newest, next) ? 1 : 0)
    return new Group(this.groupId, [...this.#revisions, next], shareEpoch, this.#check)
  }

  /** Everything that `verifyNext` checks except signatures: what an authority does before it signs. The hash. */
  async checkNext(value: unknown): Promise<Uint8Array> {
    const draft = readDraft(value)
    this.#checkFollows(draft)
    this.#checkKeys(await readContents(draft, this.#check))
    return draft.hash
  }

  get #newest(): Revision {
    return this.#revisions.at(-1) as Revision
  }
  get document(): GroupDocument {
    return this.#newest.document
  }
  /** From the first to the one in force: what `verifyChain` takes. */
  get documents(): readonly GroupDocument[] {
    return this.#revisions.map(({ document }) => document)
  }
  get revision(): number {
    return this.document.revision
  }
  get n(): number {
    return this.document.n
  }
  get t(): number {
    return this.document.t
  }
  /** Origin and length in seconds; the same in every revision. */
  get slotRule(): SlotRule {
    return this.document.slot
  }
  /** `lead` in slots, `grace` in seconds; what permits are for. */
  get policy(): { readonly lead: number; readonly grace: number; readonly permits: 'tree' | 'identity' } {
    const { lead, grace, permits = 'identity' } = this.document.policy
    return { lead, grace, permits }
  }
  get authorities(): readonly GroupAuthority[] {
    return this.#newest.authorities
  }
  get recipients(): readonly GroupRecipient[] {
    return [...this.#newest.recipients.values()]
  }
  get raKeys(): RaKeys {
    return this.#newest.ra
  }

  authority(index: number): GroupAuthority | undefined {
    return this.authorities[index - 1]
  }
  recipient(name: string): GroupRecipient | undefined {
    return this.#newest.recipients.get(name)
  }

  /** The key epochs that the authorities keep shares of, newest first: KEPT_EPOCHS at most. */
  epochs(purpose: Purpose): readonly PurposeKeys[] {
    return this.#newest.epochs[purpose]
  }

  /** The newest key epoch's, even when its first slot is yet to come. */
  keys(purpose: Purpose): PurposeKeys {
    return newestOf(this.epochs(purpose))
  }

  /** Those of a kept key epoch, with the commitments in force; null for one that has ended or doesn't exist. */
  keysOf(purpose: Purpose, epoch: number): PurposeKeys | null {
    return this.epochs(purpose).find(keys => keys.epoch === epoch) ?? null
  }

  /**
   * The keys whose epoch the slot fixes: the latest firstSlot ≤ slot; of a kept epoch, the newest commitments. Null
   * before the group's first slot.
   */
  keysAt(purpose: Purpose, slot: number): PurposeKeys | null {
    const hasBegun = ({ firstSlot }: PurposeKeys) => firstSlot <= slot
    const kept = this.epochs(purpose).find(hasBegun)
    if (kept !== undefined) return kept
    const ended = this.#revisions.map(({ epochs }) => newestOf(epochs[purpose])).findLast(hasBegun)
    return ended ?? null
  }

  /** Those of any key epoch that there has been, kept or not: what an old file was made with. */
  keysEver(purpose: Purpose, epoch: number): PurposeKeys | null {
    const newest = this.#revisions.map(({ epochs }) => newestOf(epochs[purpose]))
    return this.keysOf(purpose, epoch) ?? newest.findLast(keys => keys.epoch === epoch) ?? null
  }

  epochAt(purpose: Purpose, slot: number): number | null {
    return this.keysAt(purpose, slot)?.epoch ?? null
  }

  #checkFollows({ document: after }: Draft): void {
    const { document: before, hash } = this.#newest
    const conflict = (detail: string) => new Refused('CONFLICT', { detail })
    if (after.revision !== before.revision + 1)
      throw conflict(`revision ${after.revision} does not follow revision ${before.revision}`)
    if (after.groupId === undefined || !equalBytes(fromBase64Url(after.groupId, 'groupId', 32), this.groupId))
      throw anotherGroup()
    if (after.previous === undefined || !equalBytes(fromBase64Url(after.previous, 'previous', 32), hash))
      throw conflict('not the successor of the revision in force')
    if (after.slot.origin !== before.slot.origin || after.slot.length !== before.slot.length)
      throw conflict('slot origin and length are fixed by the first revision')
  }

  #checkKeys(next: Revision): void {
    for (const purpose of PURPOSES) checkEpochs(purpose, this.epochs(purpose), next.epochs[purpose])
    // C_j of the old t lie on the new t's polynomial as well when t goes up, and the old t would still be enough.
    if (next.document.t !== this.t && keptAsTheyWere(this.#newest, next))
      throw new Refused('CONFLICT', { detail: 'another t with the same key shares' })
  }
}

/** Has any kept secret other C_j, or is there one more? */
function isDealtAnew(before: Revision, after: Revision): boolean {
  return PURPOSES.some(purpose =>
    after.epochs[purpose].some(keys => !before.epochs[purpose].some(old => isSameDealing(old, keys))),
  )
}

/** Has any secret the C_j that it had? */
function keptAsTheyWere(before: Revision, after: Revision): boolean {
  return PURPOSES.some(purpose =>
    after.epochs[purpose].some(keys => before.epochs[purpose].some(old => isSameDealing(old, keys))),
  )
}

function isSameDealing(one: PurposeKeys, other: PurposeKeys): boolean {
  return (
    one.epoch === other.epoch &&
    one.commitments.length === other.commitments.length &&
    one.commitments.every((C, i) => C.equals(other.commitments[i] as G1))
  )
}

/**
 * One epoch keeps one secret (a refresh changes C_j only). The next one starts later; those before it stay as they were
 * dealt, but for the one that ends.
 */
function checkEpochs(purpose: Purpose, before: readonly PurposeKeys[], after: readonly PurposeKeys[]): void {
  const conflict = (detail: string) => new Refused('CONFLICT', { detail: `${purpose}: ${detail}` })
  const [last, next] = [newestOf(before), newestOf(after)]
  const isRotated = next.epoch !== last.epoch
  if (isRotated && next.epoch !== last.epoch + 1) throw conflict('key epochs go up by one')
  if (isRotated && next.firstSlot <= last.firstSlot) throw conflict('a key epoch starts after the former one')
  const stay = isRotated ? before.slice(0, KEPT_EPOCHS - 1) : before
  const are = isRotated ? after.slice(1) : after
  if (are.length !== stay.length) throw conflict('the last key epochs are kept, no more and no fewer')
  for (const [i, keys] of are.entries()) {
    const old = stay[i] as PurposeKeys
    if (keys.epoch !== old.epoch || !keys.ivk.equals(old.ivk) || keys.firstSlot !== old.firstSlot)
      throw conflict('another key within one key epoch')
    if (isRotated && !isSameDealing(keys, old)) throw conflict('a rotation deals nothing but the new key')
  }
}

const newestOf = (epochs: readonly PurposeKeys[]): PurposeKeys => epochs[0] as PurposeKeys

/** A document of the right shape, its contents not looked at. */
interface Draft {
  readonly document: GroupDocument
  readonly hash: Uint8Array
}
/** A revision whose contents hold by themselves; who signed it is another question. */
interface Revision extends Members, Draft {
  /** Newest first, never empty. */
  readonly epochs: Readonly<Record<Purpose, readonly PurposeKeys[]>>
}
interface Members {
  readonly authorities: readonly GroupAuthority[]
  readonly recipients: ReadonlyMap<string, GroupRecipient>
  readonly ra: RaKeys
}

function readDraft(value: unknown): Draft {
  const document = frozen(structuredClone(shaped(documents, value, 'group')))
  if ((document.revision === 1) !== (document.previous === undefined))
    throw new DecodeError('previous', 'stands from revision 2 on')
  if ((document.revision === 1) !== (document.groupId === undefined))
    throw new DecodeError('groupId', 'stands from revision 2 on')
  return { document, hash: documentHash(document) }
}

async function readContents({ document, hash }: Draft, check: KeyCheck): Promise<Revision> {
  const members = readMembers(document)
  const read = (purpose: Purpose) => readEpochs(purpose, document, check)
  const epochs = {
    device: await read('device'),
    pin: await read('pin'),
    permit: await read('permit'),
    agree: await read('agree'),
    sign: await read('sign'),
    encrypt: await read('encrypt'),
  }
  return { document, hash, epochs, ...members }
}

function shaped<S extends TSchema>(
  validator: Validator<Record<never, never>, S>,
  value: unknown,
  field: string,
): Static<S> {
  if (validator.Check(value)) return value as Static<S>
  const [first] = validator.Errors(value)
  throw new DecodeError(
    `${field}${(first?.instancePath ?? '').replaceAll('/', '.')}`,
    first?.message ?? 'wrong shape',
  )
}

function readMembers({ n, t, authorities, recipients, ra }: GroupDocument | GroupProposal): Members {
  if (t > n || 2 * t <= n) throw new DecodeError('t', 'n ≥ t > n/2')
  if (authorities.length !== n || authorities.some(({ index }, i) => index !== i + 1))
    throw new DecodeError('authorities', 'indices are 1 to n in order')
  unique(
    'authorities.name',
    authorities.map(({ name }) => name),
  )
  unique(
    'authorities.url',
    authorities.map(({ url }) => url),
  )
  unique(
    'authorities.signKey',
    authorities.map(({ signKey }) => signKey),
  )
  unique(
    'authorities.hpkeKey',
    authorities.map(({ hpkeKey }) => hpkeKey),
  )
  unique(
    'recipients.name',
    recipients.map(({ name }) => name),
  )
  unique(
    'recipients.requestKey',
    recipients.map(({ requestKey }) => requestKey),
  )
  unique(
    'ra.kid',
    ra.keys.map(({ kid }) => kid),
  )
  unique(
    'ra.key',
    ra.keys.map(({ key }) => key),
  )
  if (ra.m > ra.keys.length) throw new DecodeError('ra.m', 'more signatures than keys')
  for (const { name } of [...authorities, ...recipients])
    if (!isServerName(name)) throw new DecodeError('name', `'${name}' is not a server name`)
  for (const { purposes } of recipients) {
    unique('recipients.purposes', purposes)
    if (purposes.some(purpose => !SERVER_PURPOSES.includes(purpose)))
      throw new DecodeError('recipients.purposes', 'recipients have keys of device, pin, agree and encrypt')
  }
  if (recipients.filter(({ purposes }) => purposes.includes('pin')).length !== 1)
    throw new DecodeError('recipients', 'exactly one recipient of pin')
  return {
    authorities: authorities.map(({ index, name, url, signKey, hpkeKey }) => ({
      index,
      name,
      url,
      signKey: Es256PublicKey.fromBase64Url(signKey, `authorities.${index}.signKey`),
      hpkeKey: fromBase64Url(hpkeKey, `authorities.${index}.hpkeKey`, 32),
    })),
    recipients: new Map(
      recipients.map(({ hpkeKey, requestKey, ...rest }) => [
        rest.name,
        {
          ...rest,
          hpkeKey: fromBase64Url(hpkeKey, `recipients.${rest.name}.hpkeKey`, 32),
          requestKey: Es256PublicKey.fromBase64Url(requestKey, `recipients.${rest.name}.requestKey`),
        },
      ]),
    ),
    ra: {
      m: ra.m,
      keys: new Map(ra.keys.map(({ kid, key }) => [kid, Es256PublicKey.fromBase64Url(key, `ra.${kid}`)])),
    },
  }
}

/** Key texts are canonical base64url, so that equal keys are equal texts. */
function unique(field: string, values: readonly string[]): void {
  if (new Set(values).size !== values.length) throw new DecodeError(field, 'stands twice')
}

async function readEpochs(
  purpose: Purpose,
  { n, t, revision, purposes }: GroupDocument,
  check: KeyCheck,
): Promise<readonly PurposeKeys[]> {
  const field = `purposes.${purpose}`
  const { former = [], ...newest } = purposes[purpose]
  if (revision === 1 && former.length > 0)
    throw new DecodeError(`${field}.former`, 'a group begins with one key epoch')
  const read: PurposeKeys[] = []
  for (const [i, keys] of [newest, ...former].entries())
    read.push(await readKeys(i === 0 ? field : `${field}.former.${i}`, { purpose, n, t }, keys, check))
  return read
}

type EpochDocument = Omit<GroupDocument['purposes'][Purpose], 'former'>

async function readKeys(
  field: string,
  { purpose, n, t }: { purpose: Purpose; n: number; t: number },
  { epoch, firstSlot, ivk: ivkText, shares, pub: pubText }: EpochDocument,
  check: KeyCheck,
): Promise<PurposeKeys> {
  const ivk = G1.decode(fromBase64Url(ivkText, `${field}.ivk`, 48), `${field}.ivk`)
  if (shares.length !== n) throw new DecodeError(`${field}.shares`, 'one for each authority')
  const commitments = shares.map((share, i) => {
    const name = `${field}.shares.${i + 1}`
    return G1.decode(fromBase64Url(share, name, 48), name)
  })
  if ((pubText !== undefined) !== hasPublicKey(purpose))
    throw new DecodeError(`${field}.pub`, 'stands for permit, sign and encrypt, for no other')
  const pub =
    pubText === undefined ? undefined : G2.decode(fromBase64Url(pubText, `${field}.pub`, 96), `${field}.pub`)
  const fault = await check({ t, ivk, commitments, pub })
  if (fault === 'ivk') throw new DecodeError(`${field}.ivk`, 'not the sum of the shares')
  if (fault === 'pub') throw new DecodeError(`${field}.pub`, 'not of the same secret as ivk')
  return { epoch, firstSlot, ivk, commitments, pub }
}

/** At least `needed` of `signers`' authorities have signed, and nothing stands among the signatures that isn't one. */
async function checkSignatures(revision: Draft, signers: Revision, needed: number): Promise<void> {
  const { signatures } = revision.document
  if (new Set(signatures.map(({ index }) => index)).size !== signatures.length)
    throw new DecodeError('signatures', 'an authority signs once')
  if (signatures.length < needed)
    throw new Refused('NOT_APPROVED', { detail: `${signatures.length} signatures, ${needed} needed` })
  const message = signedBytes(revision.hash)
  for (const { index, signature } of signatures) {
    const signer = signers.authorities[index - 1]
    if (signer === undefined) throw new Refused('NOT_APPROVED', { detail: `nobody signs as ${index}` })
    if (!(await signer.signKey.verify(message, fromBase64Url(signature, 'signature', 64))))
      throw new Refused('NOT_APPROVED', { detail: `the signature of ${signer.name} does not verify` })
  }
}

function anotherGroup(): Refused {
  return new Refused('NOT_APPROVED', { detail: 'the document is of another group' })
}

function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null) for (const part of Object.values(value)) frozen(part)
  return Object.freeze(value)
}
