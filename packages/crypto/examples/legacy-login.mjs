/** Retired: a login as Milagro's first server took it, with the day's permit. For moving a deployment off it. */
import assert from 'node:assert'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { hashId, identityPoint } from '@milagro-ts/crypto/legacy/hash-to-curve'
import {
  authorityIssueClientSecret,
  authorityIssuePermit,
  authorityIssueServerSecret,
  clientBegin,
  serverAnswer,
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
  // As octets: 04 | x | y, 65 of them.
  const received = { U: G1.decode(BN254CX, U.encode(), 'U'), UT: G1.decode(BN254CX, UT.encode(), 'UT') }
  const [y, awaitingV] = serverAnswer(login, received, random)
  const V = G1.decode(BN254CX, awaiting.prove(y, { token, pin, permit }).encode(), 'V')
  return {
    accepted: awaitingV.accept(V, SS),
    delta: () => pinError(pinErrorTerms(login, SS, received, y, V)),
  }
}
assert(run(2580).accepted)
const failed = run(2581)
assert.equal(failed.accepted, null)
// Why it is retired: the server learns by how much the PIN was wrong.
assert.equal(failed.delta(), 1)
