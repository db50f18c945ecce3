/** What the examples share: a source of randomness, one car, and a master secret of each purpose in one hand. */
import { issueIdCore } from '@milagro-ts/crypto/identity'
import { Scalar } from '@milagro-ts/crypto/scalar'

/** @type {import('@milagro-ts/crypto/ports').Random} */
export const random = length => crypto.getRandomValues(new Uint8Array(length))
export const groupId = random(32)

/** The RA makes an identity; `leaf` tells cars apart, two factors are the device and a PIN. @param {number} leaf */
export const identityOf = leaf =>
  issueIdCore({
    groupId,
    attributes: { brand: 'Acme', model: 'Roadster' },
    instance: `VIN ${leaf}`,
    issueDate: '2026-04-11',
    enrolmentKeyHash: random(32),
    salt: random(16),
    leaf,
    generation: 1,
    factors: 1,
  })

/** Nobody holds such a secret: authorities hold shares of it (key-shares.mjs). One for each purpose. */
export const master = () => Scalar.random(random)
