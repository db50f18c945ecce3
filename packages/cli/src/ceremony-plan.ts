/**
 * From a plan or a group in force to what a ceremony's participants accept by its hash. Names and keys of authorities
 * are fetched from their addresses, and their operators compare them before they accept.
 */
import type { CeremonyProposal } from '@milagro-ts/api/ceremony'
import { documentHash, type Group } from '@milagro-ts/api/group'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { PURPOSES, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { askAuthority, checkPlan, composeProposal } from './group-plan.js'
import { type Io, UsageError } from './io.js'

type Ports = Pick<Io, 'fetch' | 'clock' | 'random'>

/** A group that is to be founded, from a plan as people write it. */
export async function foundingProposal(plan: unknown, ports: Ports): Promise<CeremonyProposal> {
  return { suite: SUITE, v: 1, kind: 'found', group: await composeProposal(checkPlan(plan), ports) }
}

/** The same members, the same secrets, other shares. */
export function refreshProposal(group: Group, ports: Ports): CeremonyProposal {
  return { ...startingFrom(group, ports), kind: 'refresh' }
}

/**
 * The same secrets at these members, any `t` of whom suffice. Who deals is who is named in `dealers`, or everybody.
 * UsageError for a dealer whom the group doesn't have.
 */
export async function reshareProposal(
  group: Group,
  { urls, t, dealers }: { urls: readonly string[]; t: number; dealers: readonly string[] | undefined },
  ports: Ports,
): Promise<CeremonyProposal> {
  return {
    ...startingFrom(group, ports),
    kind: 'reshare',
    dealers: indicesOf(group, dealers ?? group.authorities.map(({ name }) => name)),
    n: urls.length,
    t,
    authorities: await Promise.all(urls.map((url, at) => askAuthority(url, at + 1, ports.fetch))),
  }
}

/**
 * New secrets at the same members, from the slot `after` slots from now on (lead + 2 unless said). UsageError for a purpose
 * that there is none of.
 */
export function rotateProposal(
  group: Group,
  { purposes, after }: { purposes?: readonly string[] | undefined; after?: number | undefined },
  ports: Ports,
): CeremonyProposal {
  const unknown = purposes?.find(name => !(PURPOSES as readonly string[]).includes(name))
  if (unknown !== undefined) throw new UsageError(`--purpose: there is no '${unknown}'`)
  const now = slotAt(group.slotRule, Math.floor(ports.clock() / 1000))
  return {
    ...startingFrom(group, ports),
    kind: 'rotate',
    purposes: PURPOSES.filter(purpose => purposes === undefined || purposes.includes(purpose)),
    firstSlot: now + (after ?? group.policy.lead + 2),
  }
}

/** A member that has lost its share or its machine gets a new share, at `url` or where it was; the others deal. */
export async function recoverProposal(
  group: Group,
  { lost, url }: { lost: string; url: string | undefined },
  ports: Ports,
): Promise<CeremonyProposal> {
  const [index] = indicesOf(group, [lost])
  const authorities = await Promise.all(
    group.document.authorities.map(authority =>
      authority.index === index
        ? askAuthority(url ?? authority.url, authority.index, ports.fetch)
        : authority,
    ),
  )
  return {
    ...startingFrom(group, ports),
    kind: 'reshare',
    dealers: group.authorities.map(authority => authority.index).filter(one => one !== index),
    n: group.n,
    t: group.t,
    authorities,
  }
}

function startingFrom(group: Group, { random }: Ports) {
  return {
    suite: SUITE,
    v: 1,
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(group.document)),
    nonce: toBase64Url(random(32)),
  } as const
}

function indicesOf(group: Group, names: readonly string[]): number[] {
  return names
    .map(name => {
      const authority = group.authorities.find(one => one.name === name)
      if (authority === undefined) throw new UsageError(`the group has no authority '${name}'`)
      return authority.index
    })
    .sort((one, other) => one - other)
}
