/** Retired: a login as Milagro's first server took it, with the day's permit. For moving a deployment off it. */
import assert from 'node:assert'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { hashId, identityPoint } from '@milagro-ts/crypto/legacy/hash-to-curve'
import {
  Accepted,
  authorityIssueClientSecret,
  authorityIssuePermit,
  authorityIssueServerSecret,
  clientBegin,
  serverChallenge,
  splitPin,
} from '@milagro-ts/crypto/legacy/mpin'
import { pinError, pinErrorTerms } from '@milagro-ts/crypto/legacy/pin-error'
import { G1, G2 } from '@milagro-ts/crypto/legacy/points'
import { Scalar } from '@milagro-ts/crypto/legacy/scalar'
import { random } from './world.mjs'

// What is deployed: two authorities' master secrets, a server, an app with a token.
const day = 20_000
const hashedId = hashId(BN254CX, utf8('{"userID":"jo@example.org"}'))
const masters = [Scalar.random(BN254CX, random), Scalar.random(BN254CX, random)]
const SS = G2.sum(masters.map(authorityIssueServerSecret))
const secret = G1.sum(masters.map(s => authorityIssueClientSecret(s, hashedId)))
const permit = G1.sum(masters.map(s => authorityIssuePermit(s, hashedId, day)))
const token = splitPin(secret, 2580, identityPoint(BN254CX, hashedId))

const login = { curve: BN254CX, hashedId, day }
const run = (/** @type {number} */ pin) => {
  const [{ U, UT }, awaiting] = clientBegin(login, random)
  assert(UT)
  const y = serverChallenge(BN254CX, random)
  const V = awaiting.prove(y, { token, pin, permit })
  // As octets: 04 | x | y, 65 of them.
  const received = { U: G1.decode(BN254CX, U.encode(), 'U'), UT: G1.decode(BN254CX, UT.encode(), 'UT') }
  return /** @type {const} */ ([login, SS, received, y, G1.decode(BN254CX, V.encode(), 'V')])
}
assert(Accepted.verify(...run(2580)))
const failed = run(2581)
assert.equal(Accepted.verify(...failed), null)
// Why it is retired: the server learns by how much the PIN was wrong.
assert.equal(pinError(pinErrorTerms(...failed)), 1)
