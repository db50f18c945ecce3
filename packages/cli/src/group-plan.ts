/**
 * From a plan, which people write, to a proposal, which authorities accept by its hash: the authorities' names and
 * keys are fetched from their addresses, and their operators compare them before they accept.
 */
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { type GroupProposal, PermitPolicy, Recipient } from '@milagro-ts/api/group-document'
import { Bytes, Strict } from '@milagro-ts/api/schemas'
import Type, { Compile, type Static } from '@milagro-ts/api/typebox'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { UsageError } from './io.js'

export const GroupPlan = Strict({
  /** Addresses of the authorities, in the order of their indices. */
  authorities: Type.Array(Type.String({ pattern: '^https?://[^\\s]+$' }), { minItems: 1, maxItems: 255 }),
  /** How many of them make a key; all of them in a group that has had no ceremony yet. */
  t: Type.Integer({ minimum: 1, maximum: 255 }),
  ra: Strict({
    m: Type.Integer({ minimum: 1, maximum: 8 }),
    keys: Type.Array(Strict({ kid: Type.String({ minLength: 1, maxLength: 64 }), key: Bytes(33) }), {
      minItems: 1,
    }),
  }),
  recipients: Type.Array(Recipient),
  slot: Strict({
    /** Seconds. */
    length: Type.Integer({ minimum: 1, maximum: 31_622_400 }),
    /** Unix seconds; the last midnight (UTC) unless said. */
    origin: Type.Optional(Type.Integer({ minimum: 0 })),
  }),
  policy: Strict({
    lead: Type.Integer({ minimum: 0, maximum: 64 }),
    grace: Type.Integer({ minimum: 0, maximum: 86_400 }),
    /** `tree` unless said. */
    permits: Type.Optional(PermitPolicy),
  }),
})
export type GroupPlan = Static<typeof GroupPlan>

const plans = Compile(GroupPlan)

/** UsageError names the first thing in the plan that is wrong. */
export function checkPlan(value: unknown): GroupPlan {
  if (plans.Check(value)) return value
  const first = plans.Errors(value)[0]
  throw new UsageError(
    `plan${(first?.instancePath ?? '').replaceAll('/', '.')}: ${first?.message ?? 'wrong shape'}`,
  )
}

/** Asks every authority who it is. Throws Unreachable or Refused of the first that doesn't answer. */
export async function composeProposal(
  plan: GroupPlan,
  ports: { fetch: typeof fetch; clock: Clock; random: Random },
): Promise<GroupProposal> {
  const authorities = await Promise.all(
    plan.authorities.map((url, at) => askAuthority(url, at + 1, ports.fetch)),
  )
  const now = Math.floor(ports.clock() / 1000)
  const origin = plan.slot.origin ?? now - (now % 86_400)
  return {
    suite: 'BLS12381-SHA256-V1',
    v: 1,
    n: authorities.length,
    t: plan.t,
    authorities,
    ra: plan.ra,
    recipients: plan.recipients,
    slot: { origin, length: plan.slot.length },
    policy: { permits: 'tree', ...plan.policy },
    firstSlot: 0,
    nonce: toBase64Url(ports.random(32)),
  }
}

/** Who answers at this address, as a member with this index. */
export async function askAuthority(
  url: string,
  index: number,
  fetch: typeof globalThis.fetch,
): Promise<GroupProposal['authorities'][number]> {
  const { name, signKey, hpkeKey } = await createClient(dtaRoutes, { baseUrl: url, fetch }).authority({})
  return { index, name, url, signKey, hpkeKey }
}
