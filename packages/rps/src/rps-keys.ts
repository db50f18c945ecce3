/**
 * The RPS' own long-term keys: ES256 for requests to authorities and RPA, X25519 for what is sealed to it, ES256 for
 * tokens and receipts. The first two stand in the group document.
 */
import { KeyFile, type KeysOf } from '@milagro-ts/api/key-file'

export const rpsKeys = new KeyFile({ requestKey: 'es256', tokenKey: 'es256' })
export type RpsKeys = KeysOf<typeof rpsKeys>
