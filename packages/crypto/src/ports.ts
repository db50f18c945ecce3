/** The world as arguments: what a protocol may not reach for by itself. */

/** Fresh, unpredictable bytes, `length` of them. */
export type Random = (length: number) => Uint8Array
/** Unix time in milliseconds. */
export type Clock = () => number

/** What `random` gives, once it is as long as it should be: a short answer would be a weak secret. */
export function freshBytes(random: Random, length: number): Uint8Array {
  const bytes = random(length)
  if (bytes.length !== length) throw new RangeError('the random source gave another length')
  return bytes
}
