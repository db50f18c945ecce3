/** A t-of-n group whose secrets the test knows: what a founding and a reshare would end with. */
import { Group, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { hasPublicKey, PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { fixedRandom } from './fixed-random.js'
import { type Members, makeMembers } from './founding-members.js'

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

export interface Fixture {
  readonly members: Members
  readonly group: Group
  readonly document: GroupDocument
  readonly secrets: Readonly<Record<Purpose, Scalar>>
  /** s_j by purpose and j − 1. */
  readonly shares: Readonly<Record<Purpose, readonly Scalar[]>>
}

export async function makeGroup({ n = 3, t = 2, m = 1, k = 1 } = {}): Promise<Fixture> {
  const members = await makeMembers({ n, m, k })
  const random = fixedRandom('secrets')
  const secrets = fromPurposes(() => Scalar.random(random))
  const shares = fromPurposes(purpose =>
    splitSecret(secrets[purpose], { t, n }, random).map(({ scalar }) => scalar),
  )
  const { nonce: _, firstSlot: __, ...rest } = members.proposal
  const unsigned: GroupDocument = {
    ...rest,
    t,
    revision: 1,
    purposes: fromPurposes(purpose => publicKeysOf(purpose, secrets[purpose], shares[purpose])),
    signatures: [],
  }
  const document = await signedBy(unsigned, keysOf(members))
  return { members, document, group: await Group.verifyFirst(document), secrets, shares }
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
