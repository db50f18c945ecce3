/** Permits for nodes: t authorities, many nodes, one proof each; and what is refused. */
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import {
  authorityIssueNodes,
  composePermits,
  decodeNodes,
  encodeNodes,
  MOST_NODES,
  NodeShares,
  nodeSharesVerify,
} from '@milagro-ts/crypto/node-shares'
import { BannedLeaves, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { G1, PreparedG2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import {
  Permit,
  type PermitTerms,
  permitInput,
  permitPoint,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import { describe, expect, test } from 'vitest'
import { car, EPOCH, groupId, masters, mustBe, rule, SLOT, seeded } from './world.js'

const terms: PermitTerms = { groupId, permitEpoch: EPOCH.permit, rule }
const { sQ, s, shares, commitments } = masters.permit
const Q = PreparedG2.of(sQ)
const banned = BannedLeaves.of([car.leaf])
const nodes = banned.cover().slice(0, 5)
const batch = { terms, slot: SLOT, nodes }
const jti = new Uint8Array(16).fill(7)
const issuerOf = (index: number) => ({ index, shareEpoch: 1, commitment: commitments[index - 1]!, jti })
const issue = (index: number, of = batch, scalar = shares[index - 1]!.scalar) =>
  authorityIssueNodes(of, issuerOf(index), scalar, seeded(`node ${index}`))
const first = issue(1)
const second = issue(2)
const pointsOf = (...all: [number, NodeShares][]) => all.map(([index, { points }]) => ({ index, points }))
const random = seeded('weights')

describe('shares of nodes', () => {
  test('verify, combine to permits that anybody checks, and read back as they were', () => {
    expect(nodeSharesVerify(batch, issuerOf(1), NodeShares.decode(first.encode()))).toBe(true)
    expect(nodeSharesVerify(batch, issuerOf(2), second)).toBe(true)
    const permits = composePermits(batch, Q, pointsOf([1, first], [2, second]), random)
    permits.forEach((verified, i) => {
      const node = nodes[i] as TreeNode
      const input = permitInput(terms, SLOT, { type: 'node', ...node })
      expect(mustBe(verified).permit.point.equals(permitPoint(input).mulSecret(s))).toBe(true)
    })
  })

  test.each<[string, () => boolean]>([
    ['for another slot', () => nodeSharesVerify({ ...batch, slot: SLOT + 1 }, issuerOf(1), first)],
    ['of another authority', () => nodeSharesVerify(batch, issuerOf(2), first)],
    [
      'for another statement',
      () => nodeSharesVerify(batch, { ...issuerOf(1), jti: new Uint8Array(16) }, first),
    ],
    ['of another share epoch', () => nodeSharesVerify(batch, { ...issuerOf(1), shareEpoch: 2 }, first)],
    [
      'for the nodes in another order',
      () => nodeSharesVerify({ ...batch, nodes: [...nodes].reverse() }, issuerOf(1), first),
    ],
    ['for fewer nodes', () => nodeSharesVerify({ ...batch, nodes: nodes.slice(1) }, issuerOf(1), first)],
    [
      'with two shares that a sum with weight 1 would not tell from good ones',
      () => {
        const [one, two, ...rest] = first.points as [G1, G1, ...G1[]]
        const forged = [one.add(G1.generator), two.subtract(G1.generator), ...rest]
        return nodeSharesVerify(batch, issuerOf(1), NodeShares.of(forged, first.kappa, first.z))
      },
    ],
    [
      'under a secret that is not the authority’s',
      () => {
        const wrong = issue(1, batch, Scalar.random(seeded('wrong')))
        return nodeSharesVerify(batch, issuerOf(1), wrong)
      },
    ],
  ])('are no good %s', (_, verify) => {
    expect(verify()).toBe(false)
  })

  test('that were never checked make no permit: the product tells which node', () => {
    const points = [...second.points]
    points[3] = points[3]!.add(G1.generator)
    const wrong = NodeShares.of(points, second.kappa, second.z)
    const permits = composePermits(batch, Q, pointsOf([1, first], [2, wrong]), random)
    expect(permits.map(permit => permit !== null)).toEqual([true, true, true, false, true])
  })

  test('two forged permits that cancel out under weight 1 are both refused', () => {
    const good = composePermits(batch, Q, pointsOf([1, first], [2, second]), random).map(
      v => mustBe(v).permit,
    )
    const shifted = good.map((permit, i) =>
      i > 1
        ? permit
        : Permit.of(
            SLOT,
            permit.target,
            i === 0 ? permit.point.add(G1.generator) : permit.point.subtract(G1.generator),
          ),
    )
    const verdicts = VerifiedPermit.verifyBatch(terms, Q, shifted, random)
    expect(verdicts.map(verdict => verdict !== null)).toEqual([false, false, true, true, true])
  })

  test('of a node speak for the leaves below it, and for no other', () => {
    const permit = mustBe(composePermits(batch, Q, pointsOf([1, first], [2, second]), random)[0])
    const beside = (leaf: number) => {
      const bytes = car.bytes.slice()
      new DataView(bytes.buffer).setUint32(0, leaf)
      return IdCore.decode(bytes)
    }
    const { depth, index } = nodes[0] as TreeNode
    expect(permit.covers(car)).toBe(false)
    expect(permit.covers(beside(index * 2 ** (32 - depth)))).toBe(true)
    expect(permit.covers(beside((index + 1) * 2 ** (32 - depth)))).toBe(false)
  })
})

describe('nodes on the wire', () => {
  test('read back as they were', () => {
    expect(decodeNodes(encodeNodes(nodes))).toEqual(nodes)
  })

  test.each([
    ['none', new Uint8Array()],
    ['one cut off', new Uint8Array(4)],
    ['too many', new Uint8Array(5 * (MOST_NODES + 1))],
    ['one too deep', Uint8Array.of(33, 0, 0, 0, 0)],
    ['one beside the tree', Uint8Array.of(1, 0, 0, 0, 2)],
  ])('are refused: %s', (_, bytes) => {
    expect(() => decodeNodes(bytes)).toThrow(DecodeError)
  })
})
