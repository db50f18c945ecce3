/**
 * The WebAssembly modules as text that a string literal can hold, and that compresses like their bytes, which base64
 * does not: it costs a third. 88 printable characters stand for the most frequent bytes, two more begin a pair for the
 * others. The text begins with the bytes in the order of their frequency, each as two of the first 16 characters.
 * ../kernel/build.mjs writes it.
 */
export const ALPHABET =
  ' !#%&()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~'
const SINGLES = 88
const HEAD = 512

/** Of our own text, which a test compares with the module's sources: nothing is checked here. */
export function moduleBytes(text: string): Uint8Array {
  const places = new Uint8Array(128)
  for (let i = 0; i < ALPHABET.length; i++) places[ALPHABET.charCodeAt(i)] = i
  const placeAt = (at: number): number => places[text.charCodeAt(at)] as number
  const byteOf = new Uint8Array(HEAD / 2)
  for (let i = 0; i < byteOf.length; i++) byteOf[i] = 16 * placeAt(2 * i) + placeAt(2 * i + 1)
  const bytes = new Uint8Array(text.length - HEAD)
  let length = 0
  for (let from = HEAD; from < text.length; from++) {
    let place = placeAt(from)
    if (place >= SINGLES) place = SINGLES * (place - SINGLES + 1) + placeAt(++from)
    bytes[length++] = byteOf[place] as number
  }
  return bytes.subarray(0, length)
}
