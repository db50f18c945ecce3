/**
 * Server key shares (protocols.md §3): W_j = s_jQ for a recipient that the group document names for the purpose,
 * sealed to the HPKE key that stands there. S_pin tests PINs at the cost of PBKDF2 each, so its shares leave only for
 * the one recipient of `pin`, and only in this way.
 *
 *   recipient                                       authority j
 *   -- purpose, key epoch, nonce; signed -->        in the document? for this purpose? an epoch that is kept? frozen?
 *   <-- HPKE(hpkeKey; ctx; TLV{1 W_j}) --           ctx = {groupId, purpose, j, share epoch, its name TLV, nonce}
 */
import { Refused } from '@milagro-ts/api/problem'
import { seal } from '@milagro-ts/api/seal'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { encodeName } from '@milagro-ts/crypto/identity'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { isServerKeyPurpose } from './master-shares.js'
import type { SealedAnswer } from './shares.js'

/** Refused FORBIDDEN or FROZEN. `nonce` is 16 bytes in base64url. */
export async function issueServerKey(
  authority: Authority,
  served: ServedGroup,
  caller: ServerCaller,
  request: { purpose: Purpose; keyEpoch: number; nonce: string },
): Promise<SealedAnswer> {
  const { group, index, shares } = served
  const { purpose, keyEpoch } = request
  const recipient = group.recipient(caller.name)
  if (recipient === undefined || !recipient.purposes.includes(purpose))
    throw new Refused('FORBIDDEN', { detail: `${caller.name} is no recipient of ${purpose} keys` })
  if (!isServerKeyPurpose(purpose))
    throw new Refused('FORBIDDEN', { detail: `this authority issues no ${purpose} keys to servers` })
  if (group.keysOf(purpose, keyEpoch) === null)
    throw new Refused('EXPIRED', { field: 'keyEpoch', detail: `no ${purpose} key epoch that is kept` })
  authority.issueLimit.take(`${toBase64Url(group.groupId)} server keys`)
  const ctx = shareContext({
    groupId: group.groupId,
    purpose,
    index,
    shareEpoch: shares.shareEpoch,
    identity: encodeName(group.groupId, {
      kind: recipient.kind === 3 ? 3 : 2,
      name: recipient.name,
      generation: recipient.generation,
    }),
    jti: fromBase64Url(request.nonce, 'nonce', 16),
  })
  const W = await shares.serverKeyShare(authority.pool, purpose, keyEpoch)
  const sealed = await seal(recipient.hpkeKey, ctx, encodeTlv([W]), authority.random)
  await authority.store.atomic(connection => refuseFrozen(connection, group.groupId, recipient.name))
  authority.metrics.count('server_keys_issued', { purpose })
  authority.log.info(
    { groupId: toBase64Url(group.groupId), purpose, recipient: recipient.name },
    'server key share issued',
  )
  return { index, shareEpoch: shares.shareEpoch, sealed: toBase64Url(sealed) }
}
