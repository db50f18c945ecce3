/**
 * What the kernel of G1 offers: all that a device computes in. Points, scalars and bytes are copied in and out by
 * src/kernel.ts; addresses are its own. A point of G1 is two pairs.
 */

import { PAIR } from './field'

/** For tests: operations on pairs. */
export { canonical } from './codec'
export { add, carry, multiply, square, sub } from './field'
export {
  g1Add,
  g1Decode,
  g1Encode,
  g1Equals,
  g1Hash,
  g1HashUncleared,
  g1Identity,
  g1IsIdentity,
  g1MultiplySecret,
  g1Negate,
  g1Sum,
} from './g1'
export { invert } from './inverse'
export { scalarAdd, scalarMultiply, scalarReduce, scalarSubtract } from './order'

/** Bytes of a pair. */
export function pair(): usize {
  return PAIR
}
/** Where the caller's memory begins; it grows the memory itself. */
export function heap(): usize {
  return (__heap_base + 63) & ~63
}
