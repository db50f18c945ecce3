/** Cha–Cheon: who signed is the identity itself; whoever has the group document checks it. */
import assert from 'node:assert'
import { Signature, sign, signatureVerify } from '@milagro-ts/crypto/ibs'
import { signIdentityPoint } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const Ppub = G2.generator.mulSecret(s)
const idCore = identityOf(5)
const signKey = signIdentityPoint(groupId, idCore).mulSecret(s)

const message = new TextEncoder().encode('{"pos":[48.1,11.5]}')
const terms = { groupId, idCore, slot: 100, context: 'telemetry', signEpoch: 1 }
const carried = sign(terms, signKey, message, random).encode()

const signature = Signature.decode(carried)
assert(signatureVerify(terms, Ppub, message, signature))
assert(!signatureVerify({ ...terms, slot: 101 }, Ppub, message, signature))
assert(!signatureVerify({ ...terms, idCore: identityOf(6) }, Ppub, message, signature))
