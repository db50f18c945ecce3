/** Three authorities, any two of which make a key: a share with a proof each, checked and added up by the device. */
import assert from 'node:assert'
import { deviceIdentityPoint } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { combineG1, splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue, KeyShare, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const idCore = identityOf(5)
const A = deviceIdentityPoint(groupId, idCore)

// In life no hand holds s: dealing.mjs.
const authorities = splitSecret(s, { t: 2, n: 3 }, random).map(({ index, scalar }) => ({
  index,
  scalar,
  commitment: G1.generator.mulSecret(scalar),
}))

// Each answers d_j = s_jA and shows that s_j is what it has committed to. The context says what the share is for.
const jti = random(16)
const answers = authorities.map(({ index, scalar, commitment }) => {
  const ctx = shareContext({ groupId, purpose: 'device', index, shareEpoch: 1, identity: idCore.bytes, jti })
  return { index, ctx, commitment, bytes: authorityIssue({ ctx, commitment, A }, scalar, random).encode() }
})

const checked = answers.map(({ index, ctx, commitment, bytes }) => {
  const share = KeyShare.decode(bytes)
  assert(shareVerify({ ctx, commitment, A }, share))
  return { index, point: share.d }
})
for (const pair of [checked.slice(0, 2), checked.slice(1)]) assert(combineG1(pair).equals(A.mulSecret(s)))

// A share for another context is no share: nobody can pass an old answer off as a new one.
const [first] = answers
assert(first)
assert(!shareVerify({ ctx: random(32), commitment: first.commitment, A }, KeyShare.decode(first.bytes)))
