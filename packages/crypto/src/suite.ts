/** The one suite, its purposes and its labels (protocols.md §0, §2). */

export const SUITE = 'BLS12381-SHA256-V1'

/** One independent master secret per purpose; the order is that of every table. */
export const PURPOSES = ['device', 'pin', 'permit', 'agree', 'sign', 'encrypt'] as const
export type Purpose = (typeof PURPOSES)[number]

/** Purposes whose public key sQ ∈ G2 is in the group document. */
export const PUBLIC_KEY_PURPOSES = ['permit', 'sign', 'encrypt'] as const satisfies readonly Purpose[]

export const hasPublicKey = (purpose: Purpose): boolean =>
  (PUBLIC_KEY_PURPOSES as readonly Purpose[]).includes(purpose)

export const dstG1 = (purpose: Purpose): string =>
  `MILAGRO-TS-V1-${purpose.toUpperCase()}-with-BLS12381G1_XMD:SHA-256_SSWU_RO_`
/** Only `agree` hashes to G2. */
export const DST_G2 = 'MILAGRO-TS-V1-AGREE-with-BLS12381G2_XMD:SHA-256_SSWU_RO_'

/** Labels of Hq, each a scalar's domain. */
export type ScalarLabel =
  | 'CHAL'
  | 'NONCE'
  | 'DLEQ'
  | 'DLEQ-NONCE'
  | 'POP'
  | 'PSK'
  | 'FULL'
  | 'CHOW-CHOO'
  | 'SIGN'
  | 'IBE-R'
  | 'PIN'

/** Labels of keys out of GT. */
export type KdfLabel =
  | 'PSK-M1'
  | 'PSK-M2'
  | 'PSK-S1'
  | 'FULL-CLIENT'
  | 'FULL-SERVER'
  | 'CHOW-CHOO'
  | 'IBE-V'
  | 'IBE-W'
