/** Retired: two names agree on a key. Who has another name's key gets another one, and nothing says so. */
import assert from 'node:assert'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { Scalar } from '@milagro-ts/crypto/legacy/scalar'
import {
  authorityIssueReceiverKey,
  authorityIssueSenderKey,
  receiverAgree,
  senderBegin,
} from '@milagro-ts/crypto/legacy/wcc'
import { random } from './world.mjs'

const s = Scalar.random(BN254CX, random)
const names = { curve: BN254CX, IdA: utf8('alice@example.org'), IdB: utf8('bob@example.org') }
const receiverKey = authorityIssueReceiverKey(s, names.IdB)

const agreed = (/** @type {Uint8Array} */ keyOf) => {
  const [move, awaiting] = senderBegin(names, authorityIssueSenderKey(s, keyOf), random)
  // → PaG1    ← PbG2, PgG1
  const [reply, atReceiver] = receiverAgree(names, receiverKey, move, random)
  return { atSender: awaiting.agree(reply), atReceiver }
}
const { atSender, atReceiver } = agreed(names.IdA)
assert.deepEqual(atSender, atReceiver)
assert.equal(atSender.length, 16)

const pretended = agreed(utf8('mallory@example.org'))
assert.notDeepEqual(pretended.atSender, pretended.atReceiver)
