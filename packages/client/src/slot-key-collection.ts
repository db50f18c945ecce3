/**
 * Collects a device's own slot key from the authorities, by its signature and its permit (api/slot-key-request.ts).
 *
 *   device                                                authority j (itself, or through the RPS)
 *   -- signed, hpkeKey, jti -->                           permit, signature; B; d_j = s_jHk2(B) with its proof
 *                          <-- Seal(hpkeKey; d_j, κ, z) --
 *   open with info = ctx; verify (κ, z) against C_j
 *   S = Σ λ_j·d_j, e(IVK, Hk2(B)) = e(P1, S)
 *
 * hpkeKey is new for each request, and its private half goes with this call.
 */
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, PurposeKeys } from '@milagro-ts/api/group'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import type { Answer } from '@milagro-ts/api/route'
import { open } from '@milagro-ts/api/seal'
import { signSlotKeyRequest } from '@milagro-ts/api/slot-key-request'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { agreePointG2, type IdCore } from '@milagro-ts/crypto/identity'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import { combineG2 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareContext, shareVerifyG2 } from '@milagro-ts/crypto/share-proof'
import { AgreeSlotKey, slotName } from '@milagro-ts/crypto/static-agreement'
import type { Permit } from '@milagro-ts/crypto/time-permit'
import { ClientError } from './errors.js'
import { collectShares } from './key-collection.js'
import type { Ports } from './ports.js'

type ShareOf = Answer<typeof dtaRoutes.slotKeys>

/** What the request is made of; both of the slot. */
export interface SlotKeyTerms {
  readonly idCore: IdCore
  readonly slot: number
  /** Of `sign`. Secret. */
  readonly signKey: G1
  readonly signEpoch: number
  readonly permit: Permit
}

/** S, and the key epoch that the slot fixes. Secret. Throws as collectKey says; EXPIRED, WRONG_PERMIT, BANNED. */
export async function collectSlotKey(
  ports: Ports,
  group: Group,
  { idCore, slot, signKey, signEpoch, permit }: SlotKeyTerms,
): Promise<{ readonly key: G2; readonly epoch: number }> {
  const { groupId } = group
  const { random } = ports
  const keyPair = await generateHpkeKey(random)
  const jti = random(16)
  const body = signSlotKeyRequest(
    { groupId, idCore, slot, signEpoch },
    { hpkeKey: keyPair.publicKey, jti },
    { signKey, permit, random },
  )
  const party = { kind: 1, idCore } as const
  const identity = slotName(groupId, party, slot)
  const { epoch, ivk } = group.keysAt('agree', slot) as PurposeKeys
  const A = agreePointG2(identity)
  const shares = await collectShares<ShareOf, G2>(ports, group, () => ({
    purpose: 'agree',
    epoch,
    direct: ({ url }, params, signal) => ports.authority(url).slotKeys({ params, body, signal }),
    relay: (params, signal) => ports.rps.relaySlotKey({ params, body, signal }),
    verify: async ({ index, commitment }, { shareEpoch, sealed }) => {
      const ctx = shareContext({ groupId, purpose: 'agree', index, shareEpoch, identity, jti })
      const plaintext = await open(keyPair, ctx, fromBase64Url(sealed, 'sealed'))
      if (plaintext === null) return null
      const share = KeyShare.decodeG2(plaintext)
      return shareVerifyG2({ ctx, commitment, A }, share) ? share.d : null
    },
  }))
  const key = combineG2(shares)
  if (AgreeSlotKey.verify({ groupId, party, slot, epoch }, ivk, key) === null)
    throw new ClientError('WRONG_SHARE', 'the shares don’t make the slot key of this device')
  return { key, epoch }
}
