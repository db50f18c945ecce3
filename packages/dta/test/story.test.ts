import { entryHashes } from '@milagro-ts/api/issuance-log'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { clientProve, DeviceProven, MODE } from '@milagro-ts/crypto/mpin'
import type { G2 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import { Permit, permitInput, permitPoint, VerifiedPermit } from '@milagro-ts/crypto/time-permit'

import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  clientOf,
  combineShares,
  type Founded,
  fetchServerKey,
  foundWorld,
  MIDDAY_SLOT,
  makeCar,
  openShare,
  SLOT,
  statementFor,
  ticketFor,
} from './world.js'

let world: Founded
beforeAll(async () => {
  world = await foundWorld()
})
afterAll(() => world.close())

test('a car gets its key from three authorities, a permit for the day, and logs in', async () => {
  const { group, groupId } = world
  const params = { groupId }
  const S_dev = await fetchServerKey(world, 'device')

  // Set up: one ticket, three sealed shares, every proof checked.
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car)
  const verified = await verifyTicket({ ticket, group, now: world.clock.now })
  const shares = await Promise.all(
    world.authorities.map(async ({ client }) => {
      const answer = await client.shares({ params, body: { ticket, purpose: 'device' } })
      const terms = verified.shareTerms('device', answer.index, answer.shareEpoch)
      const share = await openShare(world, answer, car, 'device', terms)
      return { index: answer.index, share: share as KeyShare }
    }),
  )
  const D_dev = combineShares(shares)

  // The day's permit: the RPS shows the RA's word, composes, verifies.
  const statement = await statementFor(world, car, { jti: 'AAAAAAAAAAAAAAAAAAAAAA' })
  const target = { type: 'id', idCore: car.idCore } as const
  const terms = { groupId: group.groupId, permitEpoch: 1, rule: SLOT }
  const input = permitInput(terms, MIDDAY_SLOT, target)
  const permitShares = await Promise.all(
    world.authorities.map(async running => {
      const answer = await clientOf(world, running, world.rps).permits({ params, body: { statement } })
      const share = KeyShare.decode(fromBase64Url(answer.share, 'share'))
      const { index, shareEpoch } = answer
      const ctx = shareContext({
        groupId: group.groupId,
        purpose: 'permit',
        index,
        shareEpoch,
        identity: input,
        jti: new Uint8Array(16),
      })
      const commitment = group.keys('permit').commitments[index - 1]
      expect(commitment && shareVerify({ ctx, commitment, A: permitPoint(input) }, share)).toBe(true)
      return { index, point: share.d }
    }),
  )
  const permit = Permit.of(MIDDAY_SLOT, target, combineG1(permitShares))
  expect(VerifiedPermit.verify(terms, group.keys('permit').pub as G2, permit)?.covers(car.idCore)).toBe(true)

  // Log in.
  const message = clientProve({
    terms: {
      mode: MODE.nonce,
      audience: 'https://rps.example',
      deviceEpoch: 1,
      slot: MIDDAY_SLOT,
      idCore: car.idCore,
      nonce: systemRandom(32),
    },
    binding: { groupId: group.groupId },
    deviceKey: D_dev,
    permit,
    random: systemRandom,
  })
  expect(DeviceProven.verify(message, { groupId: group.groupId }, S_dev)).not.toBeNull()

  // Each authority's log names the ticket, once, in a chain that starts at the group.
  for (const { client } of world.authorities) {
    const { entries } = await client.log({ params, query: {} })
    let previous = groupId
    for (const entry of entries) {
      expect(entry.previous).toBe(previous)
      previous = Buffer.from(entryHashes(group.groupId, entry).hash).toString('base64url')
    }
    const mine = entries.filter(
      entry => entry.ticketHash === Buffer.from(verified.hash).toString('base64url'),
    )
    expect(mine.map(entry => entry.purpose)).toEqual(['device'])
  }
})
