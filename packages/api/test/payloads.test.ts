import { readFileSync } from 'node:fs'
import { pinChangePayload, userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { sixWords } from '@milagro-ts/api/six-words'
import { fromHex, fromUtf8 } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash, sixWordIndices } from '@milagro-ts/crypto/enrolment'
import { encodeAttributes } from '@milagro-ts/crypto/identity'
import { decodeTlv } from '@milagro-ts/crypto/tlv'
import { expect, test } from 'vitest'

const { identity, enrolment } = JSON.parse(
  readFileSync(new URL('../../../vectors/v1.json', import.meta.url), 'utf8'),
) as {
  identity: { attributes: Record<string, string>; userAttributes: Record<string, string> }
  enrolment: { groupId: string; hpkePk: string; deviceNonce: string; wordIndices: number[] }
}
const key = fromHex(enrolment.hpkePk)

test('a user’s enrolment names the person and the key', () => {
  const [what, attributes, hash] = decodeTlv(userEnrolmentPayload(identity.userAttributes, key), {
    tags: 3,
    field: 'payload',
  })
  expect(fromUtf8(what as Uint8Array, 'what')).toBe('user-enrolment')
  expect(attributes).toEqual(encodeAttributes(identity.userAttributes))
  expect(hash).toEqual(enrolmentKeyHash(key))
})

test('a PIN change names the key, and is no enrolment', () => {
  const [what, hash] = decodeTlv(pinChangePayload(key), { tags: 2, field: 'payload' })
  expect(fromUtf8(what as Uint8Array, 'what')).toBe('pin-change')
  expect(hash).toEqual(enrolmentKeyHash(key))
  const other = Uint8Array.from(key, byte => byte ^ 1)
  expect(pinChangePayload(other)).not.toEqual(pinChangePayload(key))
})

test('the six words of the independent implementation’s enrolment', () => {
  const { attributes } = identity
  const nonce = fromHex(enrolment.deviceNonce)
  const indices = sixWordIndices({ groupId: fromHex(enrolment.groupId), hpkeKey: key, attributes, nonce })
  expect(indices).toEqual(enrolment.wordIndices)
  expect(sixWords(indices).split(' ')).toHaveLength(6)
})

test('the list is BIP-39’s, from abandon to zoo', () => {
  expect(sixWords([0, 1, 2, 2044, 2045, 2047])).toBe('abandon ability able zebra zero zoo')
  for (const wrong of [
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 2048],
    [0, 0, 0, 0, 0, -1],
    [0, 0, 0, 0, 0, 0.5],
  ])
    expect(() => sixWords(wrong)).toThrow(RangeError)
})
