/**
 * A recipient of the group document as the reader of files for its public name (client/encrypted-file.ts): a service with the
 * keys that stand there.
 *
 *   decapsulate(encapsulation, {epoch, slot})
 *     askRecipientKey: D out of t shares of the authorities, now, for this name and slot
 *     e(D, Q) = e(He(ID), Ppub), then M by D; D is forgotten
 *
 * No key is kept anywhere: each file asks the authorities. So the service opens nothing from the moment on at which the group
 * document no longer names it, or n − t + 1 authorities have frozen it. Who has stolen its folder before then may have asked as
 * well, and keeps what it got: of kind 3, the key of the name without a slot.
 */
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group } from '@milagro-ts/api/group'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { ServiceKeys } from '@milagro-ts/api/service-keys'
import type { Timers } from '@milagro-ts/api/system'
import { ClientError } from '@milagro-ts/client/errors'
import {
  checkFileSlot,
  type EncryptedTo,
  type FileOpener,
  publicName,
} from '@milagro-ts/client/file-recipient'
import { decapsulate, isDecryptionKey } from '@milagro-ts/crypto/ibe'
import { encodeName } from '@milagro-ts/crypto/identity'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { askRecipientKey } from './recipient-shares.js'

/** Milliseconds for one call to an authority. */
const TIMEOUT = 5_000

export interface PublicNameOptions {
  /** The service's name among the recipients of the group document, with purpose `encrypt`, and its keys there. */
  readonly name: string
  readonly keys: ServiceKeys
  /** The pinned group, in the newest revision that is known. */
  readonly group: Group
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly fetch: typeof fetch
}

/** UNKNOWN_RECIPIENT where the group names no such recipient of files (any more). */
export function publicNameOpener(options: PublicNameOptions): FileOpener {
  const { name, keys, group, clock, random, timers, fetch } = options
  const { groupId, slotRule, policy } = group
  const recipient = group.recipient(name)
  if (recipient === undefined || !recipient.purposes.includes('encrypt'))
    throw new ClientError('UNKNOWN_RECIPIENT', `the group document names no recipient '${name}' of files`)
  const { generation } = recipient
  const encryptionName = (slot: number | undefined) =>
    encodeName(groupId, { kind: 4, name, generation, ...(slot === undefined ? {} : { slot }) })
  const authorize = requestSigner({ name, key: keys.requestKey, clock, random })
  const authority = ({ url }: { readonly url: string }): Client<typeof dtaRoutes> =>
    createClient(dtaRoutes, { baseUrl: url, timeout: TIMEOUT, authorize, fetch })
  // It serves nobody meanwhile: a pairing may take its own thread.
  const pool = CryptoPool.start({ workers: 0, random, clock, timers })

  return {
    groupId,
    encryptionName,
    async decapsulate(encapsulation: Uint8Array, { epoch, slot }: EncryptedTo): Promise<Uint8Array | null> {
      publicName(group, name, slot)
      const current = slotAt(slotRule, Math.floor(clock() / 1000))
      if (slot !== undefined) checkFileSlot(slot, { current, lead: policy.lead })
      const Ppub = group.keysOf('encrypt', epoch)?.pub
      if (Ppub === undefined || (slot !== undefined && group.epochAt('encrypt', slot) !== epoch))
        throw new ClientError('EPOCH_ENDED', `it is for key epoch ${epoch}, of which no key is given out`)
      const terms = { name: encryptionName(slot), Ppub }
      const ports = { hpkeKey: keys.hpkeKey, authority, pool, random, timers }
      const asked = { group, purpose: 'encrypt', epoch, name: terms.name, slot } as const
      const bytes = await askRecipientKey(asked, ports)
      const key = G1.decode(bytes, 'key')
      bytes.fill(0)
      if (!isDecryptionKey(terms, key))
        throw new ClientError('WRONG_SHARE', 'the shares don’t make the key of this name')
      return decapsulate(terms, key, encapsulation)
    },
  }
}
