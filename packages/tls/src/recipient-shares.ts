/**
 * A recipient's key of `agree` or `encrypt` out of t shares (docs/protocols/key-shares.md#server-keys), for its name with a slot
 * or, for a static server, without.
 *
 *   recipient                                       authority j
 *   -- purpose, slot, nonce; by its requestKey -->  its name TLV, out of the group document and the slot
 *   <-- HPKE(hpkeKey; ctx; d_j, κ, z) --            d_j = s_jHk2(name) or s_jHe(name), with its proof
 *   each proof against C_j, Σ λ_jd_j
 */
import { type Client, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import type { HpkeKeyPair } from '@milagro-ts/api/keys'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { askAuthorities, NoQuorum } from '@milagro-ts/api/quorum'
import { open } from '@milagro-ts/api/seal'
import type { Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { type CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import type { Random } from '@milagro-ts/crypto/ports'
import { shareContext } from '@milagro-ts/crypto/share-proof'

/** Milliseconds for all authorities together. */
const DEADLINE = 10_000

export interface RecipientSharePorts {
  readonly hpkeKey: HpkeKeyPair
  readonly authority: (authority: GroupAuthority) => Pick<Client<typeof dtaRoutes>, 'serverKeys'>
  readonly pool: CryptoPool
  readonly random: Random
  readonly timers: Timers
}

export interface RecipientKeyTerms {
  readonly group: Group
  readonly purpose: 'agree' | 'encrypt'
  readonly epoch: number
  /** The name TLV; `slot` as it stands there. */
  readonly name: Uint8Array
  readonly slot?: number | undefined
}

/**
 * 96 secret bytes of `agree`, 48 of `encrypt`; that it is the name's of this key epoch is still to be checked. Refused as
 * askAuthorities says.
 */
export async function askRecipientKey(
  { group, purpose, epoch, name, slot }: RecipientKeyTerms,
  { hpkeKey, authority, pool, random, timers }: RecipientSharePorts,
): Promise<Uint8Array> {
  const { groupId } = group
  const jti = random(16)
  const params = { groupId: toBase64Url(groupId) }
  const nonce = toBase64Url(jti)
  const body = { purpose, keyEpoch: epoch, nonce, ...(slot === undefined ? {} : { slot }) }
  const { shares } = await askAuthorities({
    group,
    purpose,
    epoch,
    deadlineMs: DEADLINE,
    timers,
    ask: (asked, signal) => authority(asked).serverKeys({ params, body, signal }),
    verify: async ({ index, commitment }, { shareEpoch, sealed }) => {
      const ctx = shareContext({ groupId, purpose, index, shareEpoch, identity: name, jti })
      const share = await open(hpkeKey, ctx, fromBase64Url(sealed, 'sealed'))
      if (share === null) return null
      const points = { ctx, commitment: commitment.encode() }
      return purpose === 'agree'
        ? pool.run('agreeShareVerify', { statement: { name, ...points }, share })
        : pool.run('shareVerify', { statement: { purpose, input: name, ...points }, share })
    },
  })
  return pool.run(
    purpose === 'agree' ? 'combineAgree' : 'combine',
    shares.map(({ index, share }) => ({ index, point: share })),
  )
}

/** The group document, as far as it is known, has no such recipient. */
export class NotNamed extends Refused {
  constructor(server: string) {
    super('FORBIDDEN', { log: `the group names no ${server} with keys of agree` })
  }
}

/** What a server says that is away, not in order, or of another time than this one. */
const PASSING: ReadonlySet<Code> = new Set<Code>([
  'CLOCK',
  'EXPIRED',
  'INTERNAL',
  'RETRY_LATER',
  'TOO_SLOW',
  'WRONG_SHARE',
])

/** Whether asking again may have another answer, without anybody's changing settings, group or freeze. */
export function mayPass(error: unknown): boolean {
  if (error instanceof Refused) return PASSING.has(error.code)
  return error instanceof Unreachable || error instanceof UnexpectedAnswer || error instanceof PoolUnavailable
}

/** Unreachable, where too few authorities answered; another error as it is. */
export function unreachable(error: unknown): unknown {
  const isAway =
    error instanceof NoQuorum &&
    error.code === 'RETRY_LATER' &&
    error.faults.some(({ kind }) => kind === 'unreachable')
  return isAway ? new Unreachable(`${error.message} (${error.log})`, { cause: error }) : error
}
