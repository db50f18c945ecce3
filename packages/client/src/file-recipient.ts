/**
 * Whom files are encrypted to (encrypted-file.ts), and what opens them: a device by its M-Pin ID, or a recipient of the group
 * document by its public name; at a slot, or without one.
 */
import type { Group } from '@milagro-ts/api/group'
import type { IdCore, Name } from '@milagro-ts/crypto/identity'
import { ClientError } from './errors.js'

/** A device, or a public name; with a slot, for a key that ends with it. */
export type FileRecipient = IdCore | Extract<Name, { readonly kind: 1 | 4 }>

/**
 * The public name of a recipient of the group document, with the slot or without. UNKNOWN_RECIPIENT: there is none of this name
 * with keys of `encrypt`. SLOT_NEEDED: it has keys for a slot each, and no other.
 */
export function publicName(
  group: Pick<Group, 'recipient'>,
  name: string,
  slot: number | undefined,
): Extract<Name, { readonly kind: 4 }> {
  const recipient = group.recipient(name)
  if (recipient === undefined || !recipient.purposes.includes('encrypt'))
    throw new ClientError('UNKNOWN_RECIPIENT', `the group document names no recipient '${name}' of files`)
  if (slot === undefined && recipient.kind !== 3)
    throw new ClientError('SLOT_NEEDED', `${name} opens files for a slot alone`)
  return { kind: 4, name, generation: recipient.generation, ...(slot === undefined ? {} : { slot }) }
}

/** Which key of a recipient something was encrypted to. */
export interface EncryptedTo {
  /** Key epoch of purpose `encrypt`. */
  readonly epoch: number
  /** Of the name, where it has one. */
  readonly slot?: number | undefined
}

/** Who opens files: a device, or whoever has the keys of a public name. */
export interface FileOpener {
  readonly groupId: Uint8Array
  /** The own name TLV of `encrypt`, with this slot or without one. */
  encryptionName(slot: number | undefined): Uint8Array
  /** M, or null for what was made for another key, or changed. Rejects where there is no such key. */
  decapsulate(encapsulation: Uint8Array, to: EncryptedTo): Promise<Uint8Array | null>
}

/** SLOT_ENDED, or SLOT_AHEAD for a slot that authorities give no keys for yet. */
export function checkFileSlot(slot: number, { current, lead }: { current: number; lead: number }): void {
  if (slot < current) throw slotEnded(slot, current)
  if (slot > current + lead)
    throw new ClientError('SLOT_AHEAD', `slot ${slot} has not begun, it is ${current} now`)
}
export const slotEnded = (slot: number, current: number) =>
  new ClientError('SLOT_ENDED', `slot ${slot} is over, it is ${current} now`)
