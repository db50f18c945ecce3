/** A change of the RA's key that is dropped too late must not leave a group that can never change again. */
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { signAbandonment } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { FakeAuthority } from './fake-authority.js'
import { refusal, World } from './fleet-world.js'

let world: World
let authorities: [FakeAuthority, FakeAuthority]
beforeAll(async () => {
  authorities = [await FakeAuthority.listen(), await FakeAuthority.listen()]
  world = await World.start(
    {},
    authorities.map(({ url }) => url),
  )
  authorities.forEach((authority, i) => {
    authority.group = world.group
    authority.signKey = world.members.authorities[i]!.signKey
  })
})
afterAll(async () => {
  await world.stop()
  await Promise.all(authorities.map(authority => authority.close()))
})

test('one of two has signed, and the other never will: the change is dropped', async () => {
  authorities[0].accepts = true
  const { documentHash, revision, newKid } = await world.api.rotateKey({ body: {} })
  const { suite } = world.group.document
  const groupId = toBase64Url(world.group.groupId)
  const abandonedBy = (signKey: Es256PrivateKey, hash: string) =>
    signAbandonment({ suite, groupId, revision, documentHash: hash }, { key: signKey, kid: 'authority-2' })
  const drop = async (...abandonments: string[]) => refusal(world.api.abandonKey({ body: { abandonments } }))
  expect(await drop()).toBe('CONFLICT')
  expect(await drop(await abandonedBy(authorities[0].signKey, documentHash))).toBe('NOT_APPROVED')
  const others = toBase64Url(world.group.groupId)
  expect(await drop(await abandonedBy(authorities[1].signKey, others))).toBe('NOT_APPROVED')
  const abandonment = await abandonedBy(authorities[1].signKey, documentHash)
  await world.api.abandonKey({ body: { abandonments: [abandonment] } })
  const { raKeys } = await world.api.status({})
  expect(raKeys).not.toContain(newKid)
  // As after `milagro group release` there.
  authorities[0].release()
  authorities[0].accepts = false
})

test('one of two has signed: that document is the only one left, so it is not dropped', async () => {
  authorities[0].accepts = true
  const started = await world.api.rotateKey({ body: {} })
  expect(started.authorities.map(({ signed }) => signed)).toEqual([true, false])
  expect(await refusal(world.api.abandonKey({ body: {} }))).toBe('CONFLICT')

  authorities[1].accepts = true
  const finished = await world.api.finishKey({ body: {} })
  expect(finished).toMatchObject({ state: 'done', newKid: started.newKid })
})

test('an RPS that names a revision for which it has no document holds nobody up', async () => {
  world.rps.namesRevision = 100_000_000
  const before = world.rps.groupsAsked
  const { revision } = await world.api.listRecipients({})
  expect(revision).toBe(world.group.revision + 1)
  // The newest, and the one after ours; the housekeeping may look at the same time.
  expect(world.rps.groupsAsked - before).toBeLessThan(10)
})
