import { groupMake } from '@milagro-ts/api/founding'
import { documentHash, fingerprint, Group, groupIdOf } from '@milagro-ts/api/group'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { expect, test } from 'vitest'
import { MemberAuthority, makeMembers } from './founding-members.js'

test('three authorities found a group that nobody dealt', async () => {
  const members = await makeMembers()
  const clients = [1, 2, 3].map(index => new MemberAuthority(members, index))
  const group = await groupMake({ proposal: members.proposal, clients })
  expect(group.groupId).toEqual(groupIdOf(group.document))
  expect(group.groupId).toEqual(documentHash(group.document))
  expect(fingerprint(group.groupId)).toMatch(/^([0-9a-f]{4} ){7}[0-9a-f]{4}$/)
  expect(clients.map(client => client.concluded)).toEqual([group.document, group.document, group.document])
  expect(PURPOSES.map(purpose => group.keys(purpose).commitments.length)).toEqual([3, 3, 3, 3, 3, 3])
  const again = await Group.verifyChain([JSON.parse(JSON.stringify(group.document))], group.groupId)
  expect(again.document).toEqual(group.document)
})
