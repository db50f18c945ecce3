/**
 * M-Pin as others published it, on our curve: their keys, tokens, U and V from their scalars, and their verdict,
 * accepted and refused. Their messages have one factor and an unbound challenge; the equations are the same.
 */
import { fromHex, utf8 } from '@milagro-ts/crypto/bytes'
import { encodeToG1 } from '@milagro-ts/crypto/engine'
import { joinPin, splitPin } from '@milagro-ts/crypto/pin'
import { G1, G2, pairingProductIsOne } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { describe, expect, test } from 'vitest'
import {
  g1FromUncompressed,
  g2FromCoordinates,
  g2FromUncompressed,
  hexOf,
  readVectors,
  wideScalar,
} from './vector-files.js'

interface Run {
  readonly id: string
  readonly server: string
  readonly client: string
  readonly pinOfToken: number
  readonly pinTyped: number
  readonly token: string
  readonly x: string
  readonly y: string
  readonly U: string
  readonly V: string
  readonly accepted: boolean
}
interface MilagroRun extends Run {
  readonly masterShares: readonly [string, string]
  readonly serverShares: readonly [string, string]
  readonly clientShares: readonly [string, string]
}
interface CoreRun extends Run {
  readonly A: string
  readonly master: string
}
const milagro = readVectors<{ records: readonly MilagroRun[] }>('mpin-milagro.json').records
const core = readVectors<{ dst: string; records: readonly CoreRun[] }>('mpin-miracl-core.json')

/** Their login, step by step: token, join, U, V, verdict. */
function expectRun(run: Run, A: G1, S: G2): void {
  const D = g1FromUncompressed(run.client)
  const token = splitPin(D, Scalar.fromNumber(run.pinOfToken), A)
  expect(hexOf(token)).toBe(hexOf(g1FromUncompressed(run.token)))
  const x = wideScalar(run.x)
  const y = wideScalar(run.y)
  const U = A.mulSecret(x)
  expect(hexOf(U)).toBe(hexOf(g1FromUncompressed(run.U)))
  // V = −(x + y)(τ + αA)
  const V = joinPin(token, Scalar.fromNumber(run.pinTyped), A).mulSecret(x.add(y)).negate()
  expect(hexOf(V)).toBe(hexOf(g1FromUncompressed(run.V)))
  const holds = pairingProductIsOne([
    [g1FromUncompressed(run.V), G2.generator],
    [g1FromUncompressed(run.U).add(A.mulPublic(y)), S],
  ])
  expect(holds).toBe(run.accepted)
}

describe('Apache milagro-crypto-c', () => {
  test.each(milagro.map((run, i) => ({ ...run, number: i + 1 })))(
    'record $number: accepted $accepted',
    run => {
      const A = g1FromUncompressed(run.U).mulPublic(wideScalar(run.x).invert())
      const [s1, s2] = run.masterShares.map(wideScalar) as [Scalar, Scalar]
      const S = g2FromCoordinates(run.server)
      run.serverShares.forEach((share, i) => {
        const W = G2.generator.mulSecret([s1, s2][i] as Scalar)
        expect(hexOf(W)).toBe(hexOf(g2FromCoordinates(share)))
      })
      expect(hexOf(G2.generator.mulSecret(s1.add(s2)))).toBe(hexOf(S))
      run.clientShares.forEach((share, i) => {
        expect(hexOf(A.mulSecret([s1, s2][i] as Scalar))).toBe(hexOf(g1FromUncompressed(share)))
      })
      expect(hexOf(G1.sum(run.clientShares.map(g1FromUncompressed)))).toBe(
        hexOf(g1FromUncompressed(run.client)),
      )
      expectRun(run, A, S)
    },
  )

  test('60 records, of which 20 are refused', () => {
    expect(milagro.filter(run => run.accepted)).toHaveLength(40)
    expect(milagro.filter(run => !run.accepted)).toHaveLength(20)
  })
})

describe('MIRACL Core', () => {
  test.each(core.records.map((run, i) => ({ ...run, number: i + 1 })))(
    'record $number: accepted $accepted',
    run => {
      const A = G1.fromEngine(encodeToG1(fromHex(run.id), utf8(core.dst)))
      expect(hexOf(A)).toBe(hexOf(g1FromUncompressed(run.A)))
      const s = wideScalar(run.master)
      const S = g2FromUncompressed(run.server)
      expect(hexOf(G2.generator.mulSecret(s))).toBe(hexOf(S))
      expect(hexOf(A.mulSecret(s))).toBe(hexOf(g1FromUncompressed(run.client)))
      expectRun(run, A, S)
    },
  )

  test('18 records, of which 6 are refused', () => {
    expect(core.records.map(run => run.accepted).filter(accepted => !accepted)).toHaveLength(6)
    expect(core.records).toHaveLength(18)
  })
})
