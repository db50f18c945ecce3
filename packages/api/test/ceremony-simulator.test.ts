/** Simulated lives of groups (ceremony-simulator.ts): what must hold whatever the network, the machines and liars do. */
import { HpkeKeyPair } from '@milagro-ts/api/keys'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { expect, test, vi } from 'vitest'
import { campaign, rememberingPoints, sealOfNode } from './ceremony-campaign.js'
import { type Broken, simulate } from './ceremony-simulator.js'
import { fixedRandom } from './fixed-random.js'

vi.mock('@milagro-ts/api/jws', async original =>
  (await import('./ceremony-campaign.js')).rememberingJws(original as () => Promise<never>),
)
vi.mock('@milagro-ts/api/seal', async () => (await import('./ceremony-campaign.js')).sealOfNode)
rememberingPoints()

const RUNS = 300

test(`${RUNS} runs`, { timeout: 600_000 }, async () => {
  await campaign(1, RUNS)
})

test('the simulator’s seal is the real one', async () => {
  const real = await vi.importActual<typeof import('@milagro-ts/api/seal')>('@milagro-ts/api/seal')
  const random = fixedRandom('a box')
  const box = await HpkeKeyPair.fromSecret(random(32))
  const [info, share] = [random(64), random(32)]
  for (const [one, other] of [
    [real, sealOfNode],
    [sealOfNode, real],
  ] as const) {
    const sealed = await one.seal(box.publicKey, info, share, random)
    expect(await other.open(box, info, sealed)).toEqual(share)
    expect(await other.open(box, random(64), sealed)).toBe(null)
    await expect(one.seal(new Uint8Array(32), info, share, random)).rejects.toThrow(DecodeError)
  }
})

test('a seed is a run', async () => {
  expect(await simulate(7)).toEqual(await simulate(7))
})

/** Runs in which something was found, once. */
test.each<[number, string]>([
  [261480, 'a coordinator forgets what was signed, and an equivocator keeps it from learning it again'],
  [261486, 'an equivocator has lost its own past and does not conclude'],
  [261529, 'an equivocator does not conclude a reshare'],
  [
    301211,
    'an equivocator does not conclude the founding, and has nothing to refresh of its key epoch later',
  ],
  [267584, 'an equivocator does not conclude a reshare to all of three, and so stops the group'],
  [20273275, 'an equivocator holds a share of another of its pasts, once the coordinator has crashed'],
])('seed %i: %s', async seed => {
  expect((await simulate(seed)).violations).toEqual([])
})

test.each<[Broken, RegExp]>([
  ['takes every share', /refuses, and nobody is named/],
  ['serves before the end', /another share after a failure/],
  ['writes after it answers', /dealt 1 polynomial in 2 messages|no reason to end|is named/],
  ['tells its box', /over the network: box of/],
  ['keeps what others hold', /in a file of ta\d: share of ta\d, key epoch 1/],
  // In a rotation.
  ['serves before the end', /^rotate \d: \w+ serves another share after a failure/],
  ['goes over by itself', /^rotate \d: (honest members disagree|ended \w+, but members differ)/],
  ['forgets the former key epoch', /^rotate \d: 0 hold a share of key epoch 1/],
  ['keeps what has ended', /^rotate \d: \w+ holds a share of key epoch 1, which has ended/],
  ['gives another delta', /^rotate \d: the device’s key with the delta from key epoch 1 to 2 is another/],
  ['tells its delta', /^rotate \d: over the network: difference of share of ta/],
  ['pools its shares', /^rotate \d: over the network: s of the group, key epoch 2/],
  ['pools its deltas', /^rotate \d: over the network: difference of s of the group, key epochs 1 and 2/],
  ['draws the same again', /^rotate \d: \w+ has a coefficient that \w+ has dealt before/],
  ['minds no clock', /^rotate \d: \w+ has signed before the last key epoch has begun/],
  ['minds no clock', /^rotate \d: \w+ has signed in slot \d+, near \d+/],
])('a machine that %s is noticed: %s', async (broken, notice) => {
  for (let seed = 1; seed <= 60; seed++) {
    const { violations } = await simulate(seed, broken)
    if (violations.some(violation => notice.test(violation))) return
  }
  throw new Error('not noticed in 60 runs')
})
