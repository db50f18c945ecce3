/**
 * What the kernel of G2 and pairings offers: see main-g1.ts. A point of G2 is three pairs, a value of GT six, a prepared
 * point PREPARED bytes. Points of G1 come in as the other kernel's bytes.
 */

import { PAIR } from './field'

/** For tests: operations on pairs. */
export { canonical } from './codec'
export { add, carry, multiply, settle, sub } from './field'
export {
  g2Add,
  g2Decode,
  g2Encode,
  g2Equals,
  g2Hash,
  g2Identity,
  g2IsIdentity,
  g2MultiplySecret,
  g2Negate,
} from './g2'
export { invert } from './inverse'
export { divide12, finalExponentiation, gtBytes, isOne12, miller, prepare } from './pairing'
export { invert2, multiply2, multiply12, square2, square12 } from './tower'

/** Bytes of a pair. */
export function pair(): usize {
  return PAIR
}
/** Where the caller's memory begins; it grows the memory itself. */
export function heap(): usize {
  return (__heap_base + 63) & ~63
}
