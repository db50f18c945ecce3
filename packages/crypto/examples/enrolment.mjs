/** A code on paper carries the group and a secret; a MAC and six words tie the car's key to it. */
import assert from 'node:assert'
import {
  decodeEnrolmentCode,
  encodeEnrolmentCode,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import { checkIdCore, issueIdCore } from '@milagro-ts/crypto/identity'
import { groupId, random } from './world.mjs'

// The RA prints; the car reads, and knows which group it joins.
const printed = encodeEnrolmentCode({ secret: random(16), groupId })
const code = decodeEnrolmentCode(printed)
assert.deepEqual(code.groupId, groupId)
assert.throws(() => decodeEnrolmentCode(printed.slice(1)))

// The car asks; the RA computes the same MAC, and a person can compare six words on both screens.
const attributes = { brand: 'Acme', model: 'Roadster' }
const request = { groupId, attributes, instance: 'VIN 5', hpkeKey: random(32), nonce: random(32) }
const mac = enrolmentMac(code.secret, request)
assert.notDeepEqual(enrolmentMac(code.secret, { ...request, hpkeKey: random(32) }), mac)
assert.notDeepEqual(sixWordIndices({ ...request, hpkeKey: random(32) }), sixWordIndices(request))

// The RA makes the identity, which the car checks to be its own.
const fields = {
  groupId,
  attributes,
  instance: request.instance,
  issueDate: '2026-04-11',
  enrolmentKeyHash: enrolmentKeyHash(request.hpkeKey),
  salt: random(16),
  leaf: 5,
  generation: 1,
  factors: /** @type {const} */ (1),
}
assert(checkIdCore(issueIdCore(fields), fields))
