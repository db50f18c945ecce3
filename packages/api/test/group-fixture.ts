/** A t-of-n group whose secrets the test knows: what a founding and a reshare would end with. */
import { documentHash, Group, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { hasPublicKey, PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { fixedRandom } from './fixed-random.js'
import { type Members, makeMembers, type Party, party } from './founding-members.js'

export type PublicKeys = GroupDocument['purposes'][Purpose]

/** The public keys of f with f(0) = secret. */
export function publicKeysOf(
  purpose: Purpose,
  secret: Scalar,
  shares: readonly Scalar[],
  { epoch = 1, firstSlot = 0 }: { epoch?: number; firstSlot?: number } = {},
): PublicKeys {
  const pub = hasPublicKey(purpose) ? { pub: toBase64Url(G2.generator.mulSecret(secret).encode()) } : {}
  return {
    epoch,
    firstSlot,
    ivk: toBase64Url(G1.generator.mulSecret(secret).encode()),
    shares: shares.map(share => toBase64Url(G1.generator.mulSecret(share).encode())),
    ...pub,
  }
}

export type Secrets = Readonly<Record<Purpose, Scalar>>
/** s_j by purpose and j − 1. */
export type Shares = Readonly<Record<Purpose, readonly Scalar[]>>
export interface Fixture {
  readonly members: Members
  readonly group: Group
  readonly document: GroupDocument
  readonly secrets: Secrets
  readonly shares: Shares
}

/** A dealer, whom only tests have: shares of secrets that are known, and what the document says of them. */
export function deal(
  secrets: Secrets,
  { t, n }: { t: number; n: number },
  random: Random,
): { shares: Shares; purposes: Record<Purpose, PublicKeys> } {
  const shares = fromPurposes(purpose =>
    splitSecret(secrets[purpose], { t, n }, random).map(({ scalar }) => scalar),
  )
  return {
    shares,
    purposes: fromPurposes(purpose => publicKeysOf(purpose, secrets[purpose], shares[purpose])),
  }
}

export async function makeGroup({ n = 3, t = 2, m = 1, k = 1 } = {}): Promise<Fixture> {
  return dealtGroup(await makeMembers({ n, m, k }), t)
}

/** The first revision of their proposal, any t of whom make a key. */
export async function dealtGroup(members: Members, t: number): Promise<Fixture> {
  const random = fixedRandom('secrets')
  const secrets = fromPurposes(() => Scalar.random(random))
  const { shares, purposes } = deal(secrets, { t, n: members.proposal.n }, random)
  const { nonce: _, firstSlot: __, ...rest } = members.proposal
  const unsigned: GroupDocument = {
    ...rest,
    t,
    revision: 1,
    purposes,
    signatures: [],
  }
  const document = await signedBy(unsigned, keysOf(members))
  return { members, document, group: await Group.verifyFirst(document), secrets, shares }
}

/** The revision after the one in force, unsigned. */
export function nextRevision(
  group: Group,
  change: (document: GroupDocument) => unknown = () => undefined,
): GroupDocument {
  const document: GroupDocument = {
    ...structuredClone(group.document),
    revision: group.revision + 1,
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(group.document)),
    signatures: [],
  }
  change(document)
  return document
}

export interface Reshare {
  readonly t?: number
  /** The new members in order: one of the old, by its index, or the name of a new one. All the old ones unless said. */
  readonly authorities?: readonly (number | string)[]
}

/** What a reshare (with the members and t as they were: a refresh) ends with, not signed by anybody. */
export async function reshare(
  { group, secrets, members }: Fixture,
  { t = group.t, authorities = group.authorities.map(({ index }) => index) }: Reshare = {},
): Promise<{ document: GroupDocument; members: Members; shares: Shares }> {
  const n = authorities.length
  const random = fixedRandom(`reshare of revision ${group.revision}`)
  const { shares, purposes } = deal(secrets, { t, n }, random)
  const parties = await Promise.all(
    authorities.map(who => (typeof who === 'number' ? (members.authorities[who - 1] as Party) : party(who))),
  )
  const document = nextRevision(group, next => {
    Object.assign(next, { n, t, purposes })
    next.authorities = parties.map(({ name, signKey, hpkeKey }, i) => ({
      index: i + 1,
      name,
      url: group.authorities.find(old => old.name === name)?.url ?? `https://${name}.example`,
      signKey: signKey.publicKey.toBase64Url(),
      hpkeKey,
    }))
  })
  return { document, members: { ...members, authorities: parties }, shares }
}

/** The same group a reshare later, signed by t of the former members. */
export async function reshared(fixture: Fixture, change: Reshare = {}): Promise<Fixture> {
  const { document: unsigned, members, shares } = await reshare(fixture, change)
  const document = await signedBy(unsigned, keysOf(fixture.members).slice(0, fixture.group.t))
  return { ...fixture, members, document, group: await fixture.group.verifyNext(document), shares }
}

export function fromPurposes<T>(make: (purpose: Purpose) => T): Record<Purpose, T> {
  return Object.fromEntries(PURPOSES.map(purpose => [purpose, make(purpose)])) as Record<Purpose, T>
}

export function keysOf({ authorities }: Members): Es256PrivateKey[] {
  return authorities.map(({ signKey }) => signKey)
}

/** The document with a fresh signature by each key that is given; `keys` by index − 1. */
export async function signedBy(
  document: GroupDocument,
  keys: readonly (Es256PrivateKey | undefined)[],
): Promise<GroupDocument> {
  const signatures = await Promise.all(
    keys.map(async (key, i) =>
      key === undefined ? [] : [{ index: i + 1, signature: await signDocument(document, key) }],
    ),
  )
  return { ...document, signatures: signatures.flat() }
}
