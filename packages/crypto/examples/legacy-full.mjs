/** Retired: M-Pin Full, a login that leaves both ends with a key. With a wrong PIN the client has one as well. */
import assert from 'node:assert'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { hashId, identityPoint } from '@milagro-ts/crypto/legacy/hash-to-curve'
import {
  authorityIssueClientSecret,
  authorityIssueServerSecret,
  splitPin,
} from '@milagro-ts/crypto/legacy/mpin'
import { clientBegin, serverAnswer } from '@milagro-ts/crypto/legacy/mpin-full'
import { Scalar } from '@milagro-ts/crypto/legacy/scalar'
import { random } from './world.mjs'

const s = Scalar.random(BN254CX, random)
const login = { curve: BN254CX, hashedId: hashId(BN254CX, utf8('{"userID":"jo@example.org"}')) }
const SS = authorityIssueServerSecret(s)
const token = splitPin(
  authorityIssueClientSecret(s, login.hashedId),
  2580,
  identityPoint(BN254CX, login.hashedId),
)

const run = (/** @type {number} */ pin) => {
  const [commitment, awaitingT] = clientBegin(login, random)
  // → U, Z    ← y, T    → V
  const [answer, awaitingV] = serverAnswer(login, commitment, random)
  const [V, key] = awaitingT.prove(answer, { token, pin })
  return { key, accepted: awaitingV.accept(V, SS) }
}
const { key, accepted } = run(2580)
assert(accepted)
assert.deepEqual(accepted[1], key)
assert.equal(key.length, 16)

const failed = run(2581)
assert.equal(failed.accepted, null)
// Why it is retired: nothing has told the client that nobody shares its key.
assert.equal(failed.key.length, 16)
