/** The authority's long-term keys: ES256 for what it signs (joins, openings, documents), X25519 for what is sealed to it. */
import { KeyFile, type KeysOf } from '@milagro-ts/api/key-file'

export const authorityKeys = new KeyFile({ signKey: 'es256' })
export type AuthorityKeys = KeysOf<typeof authorityKeys>
