/**
 * What the kernel offers. Points, scalars and bytes are copied in and out by src/kernel.ts; addresses are its own. A
 * point of G1 is 224 bytes, one of G2 336, a value of GT 672, a prepared point PREPARED.
 */

export { canonical, readInteger, toMontgomery, writeBytes } from './codec'
/** For tests: operations on pairs. */
export { add, carry, reduce, settle, sub } from './field'
export {
  g1Add,
  g1Decode,
  g1Encode,
  g1Equals,
  g1Hash,
  g1IsIdentity,
  g1MultiplySecret,
  g1Negate,
  g1Sum,
} from './g1'
export { g2Add, g2Decode, g2Encode, g2Equals, g2Hash, g2IsIdentity, g2MultiplySecret, g2Negate } from './g2'
export { invert } from './inverse'
export { divide12, finalExponentiation, gtBytes, isOne12, miller, prepare } from './pairing'
export { invert2, multiply, multiply2, multiply12, square, square2, square12 } from './tower'

/** Where the caller's memory begins; it grows the memory itself. */
export function heap(): usize {
  return (__heap_base + 63) & ~63
}
