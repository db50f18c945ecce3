/** Retired: a login in one message. The client makes its own challenge, out of the time and what it sends. */
import assert from 'node:assert'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { hashId, identityPoint } from '@milagro-ts/crypto/legacy/hash-to-curve'
import {
  authorityIssueClientSecret,
  authorityIssueServerSecret,
  clientProveOnePass,
  serverVerifyOnePass,
  splitPin,
} from '@milagro-ts/crypto/legacy/mpin'
import { G1 } from '@milagro-ts/crypto/legacy/points'
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
const message = new Uint8Array()
const time = 1_767_225_600

const { U, V } = clientProveOnePass(login, { token, pin: 2580 }, { time, message }, random)
const received = { U: G1.decode(BN254CX, U.encode(), 'U'), V: G1.decode(BN254CX, V.encode(), 'V'), time }
assert(serverVerifyOnePass(login, SS, received, message))
// Why it is retired: the same bytes again are as good, so the server has to keep what it has seen.
assert(serverVerifyOnePass(login, SS, received, message))
assert.equal(serverVerifyOnePass(login, SS, { ...received, time: time + 1 }, message), null)

const mistyped = clientProveOnePass(login, { token, pin: 2581 }, { time, message }, random)
assert.equal(serverVerifyOnePass(login, SS, mistyped, message), null)
