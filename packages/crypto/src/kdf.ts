/** Keys out of GT values (protocols.md §0): HKDF-SHA-256 under a salt per use. */
import { utf8 } from './bytes.js'
import { hkdfSha256 } from './sha256.js'
import type { KdfLabel } from './suite.js'

/** @returns 32 bytes. */
export function deriveKey(label: KdfLabel, ikm: Uint8Array, info: Uint8Array): Uint8Array {
  return hkdfSha256(utf8(`MILAGRO-TS-V1-KDF-${label}`), ikm, info, 32)
}
