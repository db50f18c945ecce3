/**
 * What a next revision of the RA changes, for people: whoever proposes it reads it before, and whoever accepts it.
 *
 * A generation says which keys of `agree` and `encrypt` a name gets, so keys that were given out fit on while it stays; requestKey
 * and hpkeKey say to whom the authorities give them from now on.
 */
import type { GroupDocument } from './group-document.js'

type Recipient = GroupDocument['recipients'][number]

export interface RecipientChange {
  readonly name: string
  readonly change: 'added' | 'removed' | 're-keyed' | 'changed'
  /** One line, without the name. */
  readonly says: string
}

/** Those removed first, then as they stand in `after`. Empty where nothing but the order is another. */
export function recipientChanges(
  before: readonly Recipient[],
  after: readonly Recipient[],
): RecipientChange[] {
  const [old, kept] = [byName(before), byName(after)]
  const removed = before.filter(({ name }) => !kept.has(name))
  return [
    ...removed.map(({ name }) => ({ name, change: 'removed' as const, says: 'gets no further key' })),
    ...after.flatMap(recipient => {
      const former = old.get(recipient.name)
      return former === undefined ? [added(recipient)] : changed(former, recipient)
    }),
  ]
}

/** A line for each change of those that a revision may bring without a ceremony. */
export function revisionChanges(before: GroupDocument, after: GroupDocument): string[] {
  const had = new Set(before.ra.keys.map(({ kid, key }) => `${kid} ${key}`))
  const has = new Set(after.ra.keys.map(({ kid, key }) => `${kid} ${key}`))
  const urls = new Map(before.authorities.map(({ name, url }) => [name, url] as const))
  return [
    ...[...had].filter(key => !has.has(key)).map(key => `removed RA key ${key}`),
    ...[...has].filter(key => !had.has(key)).map(key => `added RA key ${key}`),
    ...(before.ra.m === after.ra.m ? [] : [`RA signatures on a ticket ${before.ra.m} → ${after.ra.m}`]),
    ...recipientChanges(before.recipients, after.recipients).map(
      ({ name, change, says }) => `${change} ${name}: ${says}`,
    ),
    ...(['lead', 'grace', 'permits'] as const)
      .filter(name => before.policy[name] !== after.policy[name])
      .map(name => `${name} ${before.policy[name] ?? 'unsaid'} → ${after.policy[name] ?? 'unsaid'}`),
    ...after.authorities
      .filter(({ name, url }) => urls.get(name) !== url)
      .map(({ name, url }) => `address of ${name}: ${url}`),
  ]
}

const byName = (recipients: readonly Recipient[]) => new Map(recipients.map(one => [one.name, one] as const))

function added({ name, kind, generation, purposes, requestKey, hpkeKey }: Recipient): RecipientChange {
  const says = [
    `kind ${kind}`,
    `generation ${generation}`,
    `keys of ${listed(purposes)}`,
    `requestKey ${requestKey}`,
    `hpkeKey ${hpkeKey}`,
  ]
  return { name, change: 'added', says: says.join(', ') }
}

function changed(before: Recipient, after: Recipient): RecipientChange[] {
  const { name, generation } = after
  const keys = (['requestKey', 'hpkeKey'] as const).filter(key => before[key] !== after[key])
  const isRaised = before.generation !== generation
  const [had, has] = [listed([...before.purposes].sort()), listed([...after.purposes].sort())]
  const says = [
    ...(isRaised ? [`generation ${before.generation} → ${generation}, none of its former keys fits`] : []),
    ...keys.map(key => `${key} ${after[key]}`),
    ...(keys.length > 0 && !isRaised
      ? [`generation ${generation} as before, its former keys fit on: raise it where they may be stolen`]
      : []),
    ...(before.kind === after.kind ? [] : [`kind ${before.kind} → ${after.kind}`]),
    ...(had === has ? [] : [`keys of ${had} → ${has}`]),
  ]
  if (says.length === 0) return []
  return [{ name, change: isRaised || keys.length > 0 ? 're-keyed' : 'changed', says: says.join(', ') }]
}

const listed = (purposes: readonly string[]) => (purposes.length === 0 ? 'nothing' : purposes.join(' and '))
