/** A master secret that nobody ever holds: three deal, each checks, and the sums are their shares. */
import assert from 'node:assert'
import { Polynomial, shareFits, sumOfDealings } from '@milagro-ts/crypto/dealing'
import { G1 } from '@milagro-ts/crypto/points'
import { recombineSecret } from '@milagro-ts/crypto/secret-sharing'
import { random } from './world.mjs'

const members = [1, 2, 3]
const t = 2

// Each draws a polynomial and publishes commitments to its coefficients; f_i(j) goes to member j alone.
const polynomials = members.map(() => Polynomial.random(t, random))
const dealings = polynomials.map(f => ({
  firstPower: /** @type {const} */ (0),
  commitments: f.commitments(0),
}))

const shares = members.map(j => {
  const received = polynomials.map(f => f.at(j))
  received.forEach((share, i) => {
    const dealing = dealings[i]
    assert(dealing && shareFits(dealing, j, share))
  })
  return { index: j, scalar: received.reduce((sum, share) => sum.add(share)) }
})

// Everybody computes the public values of all from the commitments.
const ivk = G1.sum(dealings.map(({ commitments }) => /** @type {G1} */ (commitments[0])))
for (const { index, scalar } of shares)
  assert(G1.generator.mulSecret(scalar).equals(sumOfDealings(dealings, index)))

// To see that any two fit: in life nobody puts them together.
assert(G1.generator.mulSecret(recombineSecret(shares.slice(1))).equals(ivk))
