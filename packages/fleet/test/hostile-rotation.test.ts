/** A change of the RA's key that is dropped too late must not leave a group that can never change again. */
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

test('one of two has signed: that document is the only one left, so it is not dropped', async () => {
  authorities[0].accepts = true
  const started = await world.api.rotateKey({ body: {} })
  expect(started.authorities.map(({ signed }) => signed)).toEqual([true, false])
  expect(await refusal(world.api.abandonKey({ body: {} }))).toBe('CONFLICT')

  authorities[1].accepts = true
  const finished = await world.api.finishKey({ body: {} })
  expect(finished).toMatchObject({ state: 'done', newKid: started.newKid })
})
