/**
 * A server's key of `agree` out of t shares (docs/protocols/key-shares.md#server-keys), for its name with a slot or, for a
 * static server, without.
 *
 *   server B                                        authority j
 *   -- `agree`, slot, nonce; by its requestKey -->  B out of the group document and the slot
 *   <-- HPKE(hpkeKey; ctx; d_j, κ, z) --            d_j = s_jHk2(B), with its proof
 *   each proof against C_j, S = Σ λ_jd_j
 */
import type { Client } from '@milagro-ts/api/call'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import type { HpkeKeyPair } from '@milagro-ts/api/keys'
import { askAuthorities } from '@milagro-ts/api/quorum'
import { open } from '@milagro-ts/api/seal'
import type { Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { Random } from '@milagro-ts/crypto/ports'
import { shareContext } from '@milagro-ts/crypto/share-proof'

/** Milliseconds for all authorities together. */
const DEADLINE = 10_000

export interface AgreeSharePorts {
  readonly hpkeKey: HpkeKeyPair
  readonly authority: (authority: GroupAuthority) => Pick<Client<typeof dtaRoutes>, 'serverKeys'>
  readonly pool: CryptoPool
  readonly random: Random
  readonly timers: Timers
}

/**
 * S, 96 secret bytes; that it is B's of this key epoch is still to be checked. Refused as askAuthorities says.
 * @param B The name TLV; `slot` as it stands there.
 */
export async function askAgreeKey(
  { group, epoch, B, slot }: { group: Group; epoch: number; B: Uint8Array; slot?: number },
  { hpkeKey, authority, pool, random, timers }: AgreeSharePorts,
): Promise<Uint8Array> {
  const { groupId } = group
  const jti = random(16)
  const params = { groupId: toBase64Url(groupId) }
  const nonce = toBase64Url(jti)
  const body = { purpose: 'agree', keyEpoch: epoch, nonce, ...(slot === undefined ? {} : { slot }) } as const
  const { shares } = await askAuthorities({
    group,
    purpose: 'agree',
    epoch,
    deadlineMs: DEADLINE,
    timers,
    ask: (asked, signal) => authority(asked).serverKeys({ params, body, signal }),
    verify: async ({ index, commitment }, { shareEpoch, sealed }) => {
      const ctx = shareContext({ groupId, purpose: 'agree', index, shareEpoch, identity: B, jti })
      const share = await open(hpkeKey, ctx, fromBase64Url(sealed, 'sealed'))
      if (share === null) return null
      const statement = { name: B, ctx, commitment: commitment.encode() }
      return pool.run('agreeShareVerify', { statement, share })
    },
  })
  return pool.run(
    'combineAgree',
    shares.map(({ index, share }) => ({ index, point: share })),
  )
}
