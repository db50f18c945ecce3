/** BLS signatures: three sign one message, and one signature says so; or two of three sign for a key nobody holds. */
import assert from 'node:assert'
import { BlsSecretKey, blsMinPk, blsMinSig } from '@milagro-ts/crypto/bls'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { random } from './world.mjs'

const message = new TextEncoder().encode('a state of the fleet')
const secrets = [1, 2, 3].map(() => BlsSecretKey.derive(random(32)))

// Keys count once they are proven.
const proven = secrets.map(secret => {
  const key = blsMinPk.possessionVerify(blsMinPk.publicKey(secret), blsMinPk.possessionProve(secret))
  assert(key)
  return key
})
const sum = blsMinPk.aggregate(secrets.map(secret => blsMinPk.sign('possession', secret, message)))
assert(blsMinPk.fastAggregateVerify(proven, message, blsMinPk.decodeSignature(sum.encode())))

// By 2 of 3, with signatures of 48 bytes.
const whole = BlsSecretKey.derive(random(32))
const members = splitSecret(whole.toScalar(), { t: 2, n: 3 }, random).map(({ index, scalar }) => ({
  index,
  secret: BlsSecretKey.ofScalar(scalar),
}))
const keyOf = (/** @type {number} */ index) => {
  const member = members.find(one => one.index === index)
  return member && blsMinSig.publicKey(member.secret)
}
const shares = members
  .slice(1)
  .map(({ index, secret }) => ({ index, signature: blsMinSig.sign('basic', secret, message) }))
const { signature } = blsMinSig.combine('basic', { t: 2, keyOf }, message, shares)
assert(signature && blsMinSig.verify('basic', blsMinSig.publicKey(whole), message, signature))
