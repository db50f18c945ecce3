/** Retired: a signature that one server alone can check, by a key that the authority has issued and can't use. */
import assert from 'node:assert'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { sign, signerKeyPair, signerLogin, signerToken, verify } from '@milagro-ts/crypto/legacy/dvs'
import { authorityIssueClientSecret, authorityIssueServerSecret } from '@milagro-ts/crypto/legacy/mpin'
import { Scalar } from '@milagro-ts/crypto/legacy/scalar'
import { random } from './world.mjs'

const s = Scalar.random(BN254CX, random)
const SS = authorityIssueServerSecret(s)
const id = utf8('{"userID":"jo@example.org"}')

// The signer's own half, z, never leaves it; its public part goes into the identity.
const { z, Pa } = signerKeyPair(BN254CX, random)
const login = signerLogin(id, Pa)
const token = signerToken(login, z, authorityIssueClientSecret(s, login.hashedId), 2580)

const message = utf8('pay 5')
const terms = { time: 1_767_225_600, message }
const signature = sign(login, { token, pin: 2580 }, terms, random)
assert(verify(id, Pa, SS, signature, message))
assert(!verify(id, Pa, SS, signature, utf8('pay 50')))
assert(!verify(id, Pa, SS, sign(login, { token, pin: 2581 }, terms, random), message))
// Somebody else's Pa is somebody else's name.
assert(!verify(id, signerKeyPair(BN254CX, random).Pa, SS, signature, message))
