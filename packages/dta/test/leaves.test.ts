/** Permits for nodes at an authority: the newest banned leaves, their cover, and everything that it refuses. */
import { type RevokedLeaf, RevokedLeaves } from '@milagro-ts/api/revoked-leaves'
import {
  signLeaves,
  signTree,
  type TreePayload,
  verifyCosignature,
  verifyLeaves,
} from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { encodeNodes, NodeShares, nodeSharesVerify } from '@milagro-ts/crypto/node-shares'
import { BannedLeaves, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  clientOf,
  codeOf,
  type Founded,
  foundWorld,
  leavesPayload,
  MIDDAY,
  MIDDAY_SLOT,
  restart,
  SLOT,
  treeFor,
} from './world.js'

let world: Founded
/** The number of the newest state that was shown; each test goes on from there. */
let number = 0
beforeAll(async () => {
  world = await foundWorld({ n: 2 })
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = MIDDAY
})

const first = () => world.authorities[0]!
const params = () => ({ groupId: world.groupId })
const payloadOf = (leaves: readonly number[], at: number) => leavesPayload(world, leaves, at)
const signer = () => ({ key: world.ra, kid: 'ra1' })
const stateOf = (leaves: readonly number[], at: number) => signLeaves(payloadOf(leaves, at), signer())
const show = (leaves: string, server = world.rps, running = first()) =>
  clientOf(world, running, server).leaves({ params: params(), body: { leaves } })
const treeOf = (leaves: readonly number[], at: number, changes: Partial<TreePayload> = {}) =>
  treeFor(world, leaves, at, changes)
const ask = (statement: string, nodes: readonly TreeNode[], server = world.rps) =>
  clientOf(world, first(), server).nodePermits({
    params: params(),
    body: { statement, nodes: toBase64Url(encodeNodes(nodes)) },
  })
const coverOf = (leaves: readonly number[]) => {
  const cover = BannedLeaves.of(leaves).cover()
  return cover.slice(0, cover.length)
}
const ROOT = { depth: 0, index: 0 }

describe('the banned leaves', () => {
  test('are taken, co-signed, and the same again gives the same word', async () => {
    const statement = await stateOf([3, 5], ++number)
    const state = await verifyLeaves({ statement, group: world.group })
    for (const running of world.authorities) {
      const { index, cosignature } = await show(statement, world.rps, running)
      await verifyCosignature({ cosignature, group: world.group, index, state })
      const other = { cosignature, group: world.group, index: 3 - index, state }
      expect(await codeOf(verifyCosignature(other))).toBe('NOT_APPROVED')
    }
    await show(await stateOf([3, 5], number))
  })

  test('of an older state are refused: nobody goes back, not after a restart either', async () => {
    const older = await stateOf([1], ++number)
    await show(older)
    await show(await stateOf([1, 2], ++number))
    expect(await codeOf(show(older))).toBe('EXPIRED')
    world.authorities[0] = await restart(first(), { clock: world.clock, logged: world.logged })
    expect(await codeOf(show(older))).toBe('EXPIRED')
    expect(await codeOf(ask(await treeOf([1], number - 1), coverOf([1]).slice(0, 1)))).toBe('EXPIRED')
    await ask(await treeOf([1, 2], number), coverOf([1, 2]).slice(0, 1))
  })

  test('that are others under a number that is taken: an alarm, and no second co-signature', async () => {
    await show(await stateOf([7], ++number))
    expect(await codeOf(show(await stateOf([], number)))).toBe('CONFLICT')
    expect(world.logged.some(line => line.includes('two states of the banned leaves'))).toBe(true)
  })

  test.each<[string, () => Promise<unknown>, string]>([
    [
      'with one that is revoked and banned',
      async () => {
        const revoked = toBase64Url(RevokedLeaves.of([{ leaf: 7, slot: MIDDAY_SLOT }]).encode())
        return show(await signLeaves({ ...payloadOf([7], number + 1), revoked }, signer()))
      },
      'MALFORMED',
    ],
    [
      'by a server that composes no permits',
      async () => show(await stateOf([], number + 1), world.tracking),
      'FORBIDDEN',
    ],
    [
      'signed by the RPS instead of the RA',
      async () =>
        show(await signLeaves(payloadOf([], number + 1), { key: world.rps.requestKey, kid: 'ra1' })),
      'NOT_APPROVED',
    ],
    [
      'of another group',
      async () =>
        show(
          await signLeaves(
            { ...payloadOf([], number + 1), groupId: toBase64Url(systemRandom(32)) },
            signer(),
          ),
        ),
      'NOT_APPROVED',
    ],
    [
      'not in ascending order',
      async () => {
        const leaves = toBase64Url(Uint8Array.of(0, 0, 0, 2, 0, 0, 0, 1))
        return show(await signLeaves({ ...payloadOf([], number + 1), leaves }, signer()))
      },
      'MALFORMED',
    ],
    [
      'that are a co-signature',
      async () => {
        const { cosignature } = await show(await stateOf([], ++number))
        return show(cosignature)
      },
      'NOT_APPROVED',
    ],
  ])('are refused %s', async (_, showing, code) => {
    expect(await codeOf(showing())).toBe(code)
  })
})

describe('permits for nodes', () => {
  test('of the cover, with one proof for all', async () => {
    const banned = [5, 70_000]
    await show(await stateOf(banned, ++number))
    const nodes = coverOf(banned)
    const statement = await treeOf(banned, number)
    const { index, shareEpoch, shares } = await ask(statement, nodes)
    const jti = JSON.parse(Buffer.from(statement.split('.')[1]!, 'base64url').toString()).jti as string
    const terms = { groupId: world.group.groupId, permitEpoch: 1, rule: SLOT }
    const issuer = {
      index,
      shareEpoch,
      commitment: world.group.keys('permit').commitments[index - 1]!,
      jti: fromBase64Url(jti, 'jti', 16),
    }
    const read = NodeShares.decode(fromBase64Url(shares, 'shares'))
    expect(nodeSharesVerify({ terms, slot: MIDDAY_SLOT, nodes }, issuer, read)).toBe(true)
    // The statement goes on for as long as it holds: a cover is asked for in many messages.
    await ask(statement, nodes.slice(0, 1))
  })

  test.each<[string, (banned: number[]) => Promise<unknown>, string]>([
    ['the root', async banned => ask(await treeOf(banned, number), [ROOT]), 'NOT_APPROVED'],
    [
      'a banned leaf itself',
      async banned => ask(await treeOf(banned, number), [{ depth: 32, index: 5 }]),
      'NOT_APPROVED',
    ],
    [
      'one bad node among good ones',
      async banned => ask(await treeOf(banned, number), [...coverOf(banned), { depth: 29, index: 0 }]),
      'NOT_APPROVED',
    ],
    [
      'a slot beyond lead',
      async banned =>
        ask(await treeOf(banned, number, { slot: MIDDAY_SLOT + 2 }), coverOf(banned).slice(0, 1)),
      'EXPIRED',
    ],
    [
      'a slot that has ended',
      async banned => {
        world.clock.now = (SLOT.origin + (MIDDAY_SLOT + 1) * SLOT.length + 1) * 1000
        return ask(await treeOf(banned, number), coverOf(banned).slice(0, 1))
      },
      'EXPIRED',
    ],
    [
      'a stale statement',
      async banned => {
        const statement = await treeOf(banned, number)
        world.clock.now += 60_000
        return ask(statement, coverOf(banned).slice(0, 1))
      },
      'EXPIRED',
    ],
    [
      'a statement for another permit epoch',
      async banned => ask(await treeOf(banned, number, { keyEpoch: 2 }), coverOf(banned).slice(0, 1)),
      'EXPIRED',
    ],
    [
      'leaves that were never shown here',
      async banned => ask(await treeOf(banned, number + 1), coverOf(banned).slice(0, 1)),
      'CONFLICT',
    ],
    [
      'a statement that speaks of other leaves under the number of those here',
      async () => ask(await treeOf([], number), [ROOT]),
      'CONFLICT',
    ],
    [
      'a server that composes none',
      async banned => ask(await treeOf(banned, number), coverOf(banned).slice(0, 1), world.tracking),
      'FORBIDDEN',
    ],
    [
      'the RPS’ own word instead of the RA’s',
      async banned => {
        const own = { key: world.rps.requestKey, kid: 'ra1' }
        const payload = JSON.parse(
          Buffer.from((await treeOf(banned, number)).split('.')[1]!, 'base64url').toString(),
        )
        return ask(await signTree(payload, own), coverOf(banned).slice(0, 1))
      },
      'NOT_APPROVED',
    ],
  ])('are refused for %s', async (_, asking, code) => {
    const banned = [5]
    await show(await stateOf(banned, ++number))
    expect(await codeOf(asking(banned))).toBe(code)
  })

  test('frozen: none', async () => {
    await show(await stateOf([], ++number))
    const statement = await treeOf([], number)
    await first().admin.freeze({ params: params(), body: {} })
    expect(await codeOf(ask(statement, [ROOT]))).toBe('FROZEN')
    await first().admin.unfreeze({ params: params(), body: {} })
    await ask(statement, [ROOT])
  })

  test('a lead ahead at most, and from then on those of the slot before it are over', async () => {
    await show(await stateOf([], ++number))
    await ask(await treeOf([], number, { slot: MIDDAY_SLOT + 1 }), [ROOT])
    world.clock.now += SLOT.length * 1000
    await ask(await treeOf([], number, { slot: MIDDAY_SLOT + 2 }), [ROOT])
    expect(await codeOf(ask(await treeOf([], number), [ROOT]))).toBe('EXPIRED')
  })
})

// The last of the file: from here on no state is taken that doesn't name these leaves.
test('a state without a leaf that was revoked, and whose keys have not ended, is refused with an alarm', async () => {
  const [thief, other] = [
    { leaf: 9, slot: MIDDAY_SLOT },
    { leaf: 12, slot: MIDDAY_SLOT - 1 },
  ]
  const next = (leaves: readonly number[], ...entries: RevokedLeaf[]) => {
    const revoked = toBase64Url(RevokedLeaves.of(entries).encode())
    return signLeaves({ ...payloadOf(leaves, number + 1), revoked }, signer())
  }
  await show(await next([3], thief, other))
  number++
  const early = {
    gone: await stateOf([3], number + 1),
    'one of two gone': await next([3], other),
    'merely banned': await next([3, 9], other),
    'revoked before': await next([3], { ...thief, slot: 0 }, other),
  }
  for (const [how, statement] of Object.entries(early))
    expect(await codeOf(show(statement)), how).toBe('CONFLICT')
  const alarms = world.logged.filter(line => line.includes('left out a revoked leaf'))
  expect(alarms).toHaveLength(Object.keys(early).length)
  world.authorities[0] = await restart(first(), { clock: world.clock, logged: world.logged })
  expect(await codeOf(show(early.gone))).toBe('CONFLICT')

  // None of them was taken: the number is free. Who was only banned may go, and the revoked have no permits either.
  const good = await next([20], thief, other)
  await show(good)
  number++
  const { hash } = await verifyLeaves({ statement: good, group: world.group })
  const tree = await treeOf([], number, { leavesHash: toBase64Url(hash) })
  await ask(tree, coverOf([9, 12, 20]))
  expect(await codeOf(ask(tree, [{ depth: 32, index: thief.leaf }]))).toBe('NOT_APPROVED')
})
