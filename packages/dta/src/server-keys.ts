/**
 * Server key shares (protocols.md §3): W_j = s_jQ for a recipient that the group document names for the purpose,
 * sealed to the HPKE key that stands there. S_pin tests PINs at the cost of PBKDF2 each, so its shares leave only for
 * the one recipient of `pin`, and only in this way.
 *
 *   recipient                                       authority j
 *   -- purpose, key epoch, nonce; signed -->        in the document? for this purpose? an epoch that is kept? frozen?
 *   <-- HPKE(hpkeKey; ctx; TLV{1 W_j}) --           ctx = {groupId, purpose, j, share epoch, its name TLV, nonce}
 *
 * For `agree` it is d_j = s_jHk2(B) with its proof, B the recipient's own name and never what it says: a server (kind 2)
 * gets B with the current slot, and `lead` ahead; a static server (kind 3) gets its name without a slot, which is good for
 * as long as the key epoch is, so the group document has to name it as one.
 */
import type { Group, GroupRecipient } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { seal } from '@milagro-ts/api/seal'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { encodeName } from '@milagro-ts/crypto/identity'
import type { G1 } from '@milagro-ts/crypto/points'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { isServerKeyPurpose } from './master-shares.js'
import type { SealedAnswer } from './shares.js'

/** Refused FORBIDDEN, EXPIRED or FROZEN; DecodeError. `nonce` is 16 bytes in base64url, `slot` for `agree` alone. */
export async function issueServerKey(
  authority: Authority,
  served: ServedGroup,
  caller: ServerCaller,
  request: { purpose: Purpose; keyEpoch: number; nonce: string; slot?: number | undefined },
): Promise<SealedAnswer> {
  const { group, index, shares } = served
  const { purpose, keyEpoch, slot } = request
  const recipient = group.recipient(caller.name)
  if (recipient === undefined || !recipient.purposes.includes(purpose))
    throw new Refused('FORBIDDEN', { detail: `${caller.name} is no recipient of ${purpose} keys` })
  if (purpose !== 'agree' && !isServerKeyPurpose(purpose))
    throw new Refused('FORBIDDEN', { detail: `this authority issues no ${purpose} keys to servers` })
  const keys = group.keysOf(purpose, keyEpoch)
  if (keys === null)
    throw new Refused('EXPIRED', { field: 'keyEpoch', detail: `no ${purpose} key epoch that is kept` })
  if (purpose === 'agree') checkSlot(group, recipient, request, authority.clock())
  else if (slot !== undefined) throw new DecodeError('slot', 'stands for agree only')
  authority.issueLimit.take(`${toBase64Url(group.groupId)} server keys`)
  const identity = nameOf(group.groupId, recipient, slot)
  const ctx = shareContext({
    groupId: group.groupId,
    purpose,
    index,
    shareEpoch: shares.shareEpoch,
    identity,
    jti: fromBase64Url(request.nonce, 'nonce', 16),
  })
  const share =
    purpose === 'agree'
      ? await shares.issueAgree(authority.pool, keyEpoch, {
          name: identity,
          ctx,
          commitment: keys.commitments[index - 1] as G1,
        })
      : encodeTlv([await shares.serverKeyShare(authority.pool, purpose, keyEpoch)])
  const sealed = await seal(recipient.hpkeKey, ctx, share, authority.random)
  await authority.store.atomic(connection => refuseFrozen(connection, group.groupId, recipient.name))
  authority.metrics.count('server_keys_issued', { purpose })
  authority.log.info(
    { groupId: toBase64Url(group.groupId), purpose, recipient: recipient.name, slot },
    'server key share issued',
  )
  return { index, shareEpoch: shares.shareEpoch, sealed: toBase64Url(sealed) }
}

/**
 * MALFORMED where a server asks without a slot or a static server with one; EXPIRED outside current … current + lead, and
 * for another key epoch than the slot fixes: for a static server the current slot does.
 */
function checkSlot(
  group: Group,
  { kind }: GroupRecipient,
  { slot, keyEpoch }: { readonly slot?: number | undefined; readonly keyEpoch: number },
  now: number,
): void {
  if ((slot === undefined) !== (kind === 3))
    throw new DecodeError('slot', kind === 3 ? 'a static server has one key for all slots' : 'missing')
  const current = slotAt(group.slotRule, Math.floor(now / 1000))
  if (slot !== undefined && (slot < current || slot > current + group.policy.lead))
    throw new Refused('EXPIRED', {
      field: 'slot',
      detail: 'keys are issued for the current slot and lead ahead',
    })
  if (group.epochAt('agree', slot ?? current) !== keyEpoch)
    throw new Refused('EXPIRED', { field: 'keyEpoch', detail: 'not the key epoch of the slot' })
}

function nameOf(groupId: Uint8Array, recipient: GroupRecipient, slot: number | undefined): Uint8Array {
  const { name, generation } = recipient
  return encodeName(
    groupId,
    recipient.kind === 3
      ? { kind: 3, name, generation }
      : { kind: 2, name, generation, ...(slot === undefined ? {} : { slot }) },
  )
}
