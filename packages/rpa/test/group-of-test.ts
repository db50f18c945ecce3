/** A group of three authorities in this process, whose RA and RPS keys the test holds. */
import { groupMake } from '@milagro-ts/api/founding'
import type { Group } from '@milagro-ts/api/group'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import type { Signer } from '@milagro-ts/api/statements'
import { MemberAuthority, makeMembers } from '../../api/test/founding-members.js'

export interface TestGroup {
  readonly group: Group
  readonly rpsKey: Es256PrivateKey
  readonly trackingKey: Es256PrivateKey
  readonly signers: readonly Signer[]
}

/** @param m RA signatures that a ticket needs; `k` RA keys. */
export async function makeGroup(options: { m?: number; k?: number } = {}): Promise<TestGroup> {
  const members = await makeMembers(options)
  const clients = members.authorities.map((_, i) => new MemberAuthority(members, i + 1))
  const group = await groupMake({ proposal: members.proposal, clients })
  const signers = members.ra.map((key, i) => ({ key, kid: `ra${i + 1}` }))
  return { group, rpsKey: members.rps.signKey, trackingKey: members.tracking.signKey, signers }
}
