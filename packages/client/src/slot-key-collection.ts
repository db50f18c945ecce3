/**
 * Collects a device's own slot key from the authorities, by its signature and its permit (api/slot-key-request.ts).
 *
 *   device                                                authority j (itself, or through the RPS)
 *   -- signed, hpkeKey, jti, purpose -->                  permit, signature; B; d_j = s_jHk2(B) or s_jHe(B), with its proof
 *                          <-- Seal(hpkeKey; d_j, κ, z) --
 *   open with info = ctx; verify (κ, z) against C_j
 *   S = Σ λ_j·d_j, e(IVK, Hk2(B)) = e(P1, S)              of `encrypt`: e(S, Q) = e(He(B), sQ)
 *
 * hpkeKey is new for each request, and its private half goes with this call.
 */
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, PurposeKeys } from '@milagro-ts/api/group'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import type { Answer } from '@milagro-ts/api/route'
import { open } from '@milagro-ts/api/seal'
import { type SlotKeyPurpose, signSlotKeyRequest } from '@milagro-ts/api/slot-key-request'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { isDecryptionKey } from '@milagro-ts/crypto/ibe'
import { agreePointG2, encryptPoint, type IdCore } from '@milagro-ts/crypto/identity'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import { combineG1, combineG2, type PointShare } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareContext, shareVerify, shareVerifyG2 } from '@milagro-ts/crypto/share-proof'
import { AgreeSlotKey, slotName } from '@milagro-ts/crypto/static-agreement'
import type { Permit } from '@milagro-ts/crypto/time-permit'
import { ClientError } from './errors.js'
import { collectShares } from './key-collection.js'
import type { Ports } from './ports.js'

type ShareOf = Answer<typeof dtaRoutes.slotKeys>

/** What the slot keys of a purpose are. */
export interface SlotKeyKind<P> {
  readonly purpose: SlotKeyPurpose
  /** d_j, or null where its proof doesn't hold. DecodeError for what is no share. */
  readonly shareIn: (
    bytes: Uint8Array,
    terms: { readonly name: Uint8Array; readonly ctx: Uint8Array; readonly commitment: G1 },
  ) => P | null
  readonly combine: (shares: readonly PointShare<P>[]) => P
  /** Is it the key of this device at this slot, under these public keys? */
  readonly belongs: (owner: SlotOwner, keys: PurposeKeys, key: P) => boolean
}
interface SlotOwner {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  readonly slot: number
}

export const agreeSlotKeys: SlotKeyKind<G2> = {
  purpose: 'agree',
  shareIn: (bytes, { name, ctx, commitment }) => {
    const share = KeyShare.decodeG2(bytes)
    return shareVerifyG2({ ctx, commitment, A: agreePointG2(name) }, share) ? share.d : null
  },
  combine: combineG2,
  belongs: ({ groupId, idCore, slot }, { epoch, ivk }, key) =>
    AgreeSlotKey.verify({ groupId, party: { kind: 1, idCore }, slot, epoch }, ivk, key) !== null,
}

export const encryptSlotKeys: SlotKeyKind<G1> = {
  purpose: 'encrypt',
  shareIn: (bytes, { name, ctx, commitment }) => {
    const share = KeyShare.decode(bytes)
    return shareVerify({ ctx, commitment, A: encryptPoint(name) }, share) ? share.d : null
  },
  combine: combineG1,
  belongs: ({ groupId, idCore, slot }, { pub }, key) =>
    isDecryptionKey({ name: slotName(groupId, { kind: 1, idCore }, slot), Ppub: pub as G2 }, key),
}

/** What the request is made of; both of the slot. */
export interface SlotKeyTerms {
  readonly idCore: IdCore
  readonly slot: number
  /** Of `sign`. Secret. */
  readonly signKey: G1
  readonly signEpoch: number
  readonly permit: Permit
}

/** The key, and the key epoch that the slot fixes. Secret. Throws as collectKey says; EXPIRED, WRONG_PERMIT, BANNED. */
export async function collectSlotKey<P>(
  ports: Ports,
  group: Group,
  { purpose, shareIn, combine, belongs }: SlotKeyKind<P>,
  { idCore, slot, signKey, signEpoch, permit }: SlotKeyTerms,
): Promise<{ readonly key: P; readonly epoch: number }> {
  const { groupId } = group
  const { random } = ports
  const keyPair = await generateHpkeKey(random)
  const jti = random(16)
  const body = signSlotKeyRequest(
    { groupId, idCore, slot, signEpoch },
    { purpose, hpkeKey: keyPair.publicKey, jti },
    { signKey, permit, random },
  )
  const identity = slotName(groupId, { kind: 1, idCore }, slot)
  const keys = group.keysAt(purpose, slot) as PurposeKeys
  const { epoch } = keys
  const shares = await collectShares<ShareOf, P>(ports, group, () => ({
    purpose,
    epoch,
    direct: ({ url }, params, signal) => ports.authority(url).slotKeys({ params, body, signal }),
    relay: (params, signal) => ports.rps.relaySlotKey({ params, body, signal }),
    verify: async ({ index, commitment }, { shareEpoch, sealed }) => {
      const ctx = shareContext({ groupId, purpose, index, shareEpoch, identity, jti })
      const plaintext = await open(keyPair, ctx, fromBase64Url(sealed, 'sealed'))
      return plaintext === null ? null : shareIn(plaintext, { name: identity, ctx, commitment })
    },
  }))
  const key = combine(shares)
  if (!belongs({ groupId, idCore, slot }, keys, key))
    throw new ClientError('WRONG_SHARE', 'the shares don’t make the slot key of this device')
  return { key, epoch }
}
