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
 * for as long as the key epoch is, so the group document has to name it as one.
 *
 * For `encrypt` it is d_j = s_jHe(ID), ID the public name (kind 4) of the same recipient. A server gets it with the current
 * slot and `lead` ahead, and a slot that is over is nobody's any more; a static server gets it with such a slot too, and without
 * one, also of a former key epoch that is kept: what was sent before a rotation is to be read.
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
import { isServerKeyPurpose, issueForName } from './master-shares.js'
import type { SealedAnswer } from './shares.js'

/** Purposes of which a recipient gets the key of its own name. */
type NamePurpose = 'agree' | 'encrypt'
const isOfName = (purpose: Purpose): purpose is NamePurpose => purpose === 'agree' || purpose === 'encrypt'

/** Refused FORBIDDEN, EXPIRED or FROZEN; DecodeError. `nonce` is 16 bytes in base64url, `slot` for `agree` and `encrypt` alone. */
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
  if (!isOfName(purpose) && !isServerKeyPurpose(purpose))
    throw new Refused('FORBIDDEN', { detail: `this authority issues no ${purpose} keys to servers` })
  const keys = group.keysOf(purpose, keyEpoch)
  if (keys === null)
    throw new Refused('EXPIRED', { field: 'keyEpoch', detail: `no ${purpose} key epoch that is kept` })
  if (isOfName(purpose)) checkSlot(group, recipient, { purpose, slot, keyEpoch }, authority.clock())
  else if (slot !== undefined) throw new DecodeError('slot', 'stands for agree and encrypt only')
  authority.issueLimit.take(`${toBase64Url(group.groupId)} server keys`)
  const identity = nameOf(group.groupId, recipient, purpose, slot)
  const ctx = shareContext({
    groupId: group.groupId,
    purpose,
    index,
    shareEpoch: shares.shareEpoch,
    identity,
    jti: fromBase64Url(request.nonce, 'nonce', 16),
  })
  const share = isOfName(purpose)
    ? await issueForName(shares, authority.pool, purpose, keyEpoch, {
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
 * MALFORMED where a server asks without a slot, or a static server for a key of `agree` with one; EXPIRED outside current …
 * current + lead, and for another key epoch than the slot fixes. Without a slot: than the current slot fixes, or for `encrypt`
 * a later one.
 */
function checkSlot(
  group: Group,
  { kind }: GroupRecipient,
  {
    purpose,
    slot,
    keyEpoch,
  }: { readonly purpose: NamePurpose; readonly slot: number | undefined; readonly keyEpoch: number },
  now: number,
): void {
  if (slot === undefined && kind !== 3) throw new DecodeError('slot', 'missing')
  if (slot !== undefined && kind === 3 && purpose === 'agree')
    throw new DecodeError('slot', 'a static server has one key for all slots')
  const current = slotAt(group.slotRule, Math.floor(now / 1000))
  if (slot !== undefined && (slot < current || slot > current + group.policy.lead))
    throw new Refused('EXPIRED', {
      field: 'slot',
      detail: 'keys are issued for the current slot and lead ahead',
    })
  const epoch = group.epochAt(purpose, slot ?? current)
  const isKeptFormer = purpose === 'encrypt' && slot === undefined && epoch !== null && keyEpoch < epoch
  if (epoch !== keyEpoch && !isKeptFormer)
    throw new Refused('EXPIRED', { field: 'keyEpoch', detail: 'not the key epoch of the slot' })
}

function nameOf(
  groupId: Uint8Array,
  { kind, name, generation }: GroupRecipient,
  purpose: Purpose,
  slot: number | undefined,
): Uint8Array {
  const ofSlot = slot === undefined ? {} : { slot }
  if (purpose === 'encrypt') return encodeName(groupId, { kind: 4, name, generation, ...ofSlot })
  return encodeName(
    groupId,
    kind === 3 ? { kind: 3, name, generation } : { kind: 2, name, generation, ...ofSlot },
  )
}
