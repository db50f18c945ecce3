/** Logins as an attacker makes them: a right device proof, and beside it whatever permit one likes. */
import type { Client } from '@milagro-ts/api/call'
import type { Group } from '@milagro-ts/api/group'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import type { LoginFields } from '@milagro-ts/api/schemas'
import type { DeviceRecord } from '@milagro-ts/client/record'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { clientProve, MODE } from '@milagro-ts/crypto/mpin'
import type { Random } from '@milagro-ts/crypto/ports'

export interface RawProof {
  readonly rps: Pick<Client<typeof rpsRoutes>, 'nonce'>
  readonly group: Group
  /** The token store's record, its device key not locked by an unlocker. */
  readonly record: DeviceRecord
  readonly audience: string
  /** The permit's bytes, right or wrong. */
  readonly permit?: Uint8Array
  readonly random: Random
}

/** The fields of a device login in the slot that the RPS names with its nonce. */
export async function rawProof({
  rps,
  group,
  record,
  audience,
  permit,
  random,
}: RawProof): Promise<LoginFields> {
  if (record.device === null) throw new TypeError('the store holds no device')
  const { nonce, slot, deviceEpoch } = await rps.nonce({ body: {} })
  const message = clientProve({
    terms: {
      mode: MODE.nonce,
      audience,
      deviceEpoch,
      slot,
      idCore: record.device.idCore,
      nonce: fromBase64Url(nonce, 'nonce', 32),
    },
    binding: { groupId: group.groupId },
    deviceKey: record.device.key,
    random,
  })
  return {
    ...(message.toJson() as LoginFields),
    ...(permit === undefined ? {} : { permit: toBase64Url(permit) }),
  }
}
