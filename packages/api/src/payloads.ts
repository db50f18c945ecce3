/**
 * Payloads of `sign` messages that mean something to the RPS itself. Their audience is the RPS' own, which
 * /v1/signatures refuses, so that nothing an application lets a device sign can be taken for one of these.
 */

import { utf8 } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { type Attributes, encodeAttributes } from '@milagro-ts/crypto/identity'
import { encodeTlv } from '@milagro-ts/crypto/tlv'

/** The device vouches: this person (attributes) enrols on me with this HPKE key (32 bytes). */
export function userEnrolmentPayload(attributes: Attributes, hpkeKey: Uint8Array): Uint8Array {
  return encodeTlv([utf8('user-enrolment'), encodeAttributes(attributes), enrolmentKeyHash(hpkeKey)])
}

/** Device and old PIN ask: the next pinGen for this HPKE key (32 bytes). */
export function pinChangePayload(hpkeKey: Uint8Array): Uint8Array {
  return encodeTlv([utf8('pin-change'), enrolmentKeyHash(hpkeKey)])
}
