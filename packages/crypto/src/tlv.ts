/**
 * The one tuple encoding (protocols.md §0): `u8 tag ‖ be32 length ‖ value`, tags ascending, none repeated. An empty
 * value is an absent one, so that a tuple has one spelling.
 */
import { be32, copyOf } from './bytes.js'
import { DecodeError } from './errors.js'

/** Entry i gets tag i + 1; an absent or empty one is left out and keeps its number. */
export function encodeTlv(entries: readonly (Uint8Array | undefined)[]): Uint8Array {
  if (entries.length > 255) throw new RangeError('a TLV has at most 255 tags')
  let length = 0
  for (const value of entries) if (value !== undefined && value.length > 0) length += 5 + value.length
  const bytes = new Uint8Array(length)
  let offset = 0
  for (let i = 0; i < entries.length; i++) {
    const value = entries[i]
    if (value === undefined || value.length === 0) continue
    bytes[offset] = i + 1
    bytes.set(be32(value.length), offset + 1)
    bytes.set(value, offset + 5)
    offset += 5 + value.length
  }
  return bytes
}

/**
 * @param tags The highest tag that may occur.
 * @returns The value of tag i + 1 at index i; absent ones are undefined. Values are copies.
 */
export function decodeTlv(
  bytes: Uint8Array,
  { tags, field }: { readonly tags: number; readonly field: string },
): (Uint8Array | undefined)[] {
  const entries: (Uint8Array | undefined)[] = new Array(tags).fill(undefined)
  let offset = 0
  let last = 0
  while (offset < bytes.length) {
    if (bytes.length - offset < 5) throw new DecodeError(field, 'cut off')
    const tag = bytes[offset] as number
    if (tag <= last) throw new DecodeError(field, 'tags out of order')
    if (tag > tags) throw new DecodeError(field, 'unknown tag')
    const length = new DataView(bytes.buffer, bytes.byteOffset + offset + 1, 4).getUint32(0)
    if (length === 0) throw new DecodeError(field, 'empty value')
    if (length > bytes.length - offset - 5) throw new DecodeError(field, 'cut off')
    entries[tag - 1] = copyOf(bytes.subarray(offset + 5, offset + 5 + length))
    offset += 5 + length
    last = tag
  }
  return entries
}

/** The entry or a DecodeError that names it. */
export function need(value: Uint8Array | undefined, field: string): Uint8Array {
  if (value === undefined) throw new DecodeError(field, 'missing')
  return value
}
