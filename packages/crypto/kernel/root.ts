/**
 * Roots in Fp, p ≡ 3 mod 4: w = a^((p − 3)/4) in both lanes, as steps that are written down. Where a is a square, wa is a
 * root of it and w that root's inverse; where it is none, aw² = −1. A long chain of single products, which g1.ts begins
 * and ends here and runs through in one lane of its own.
 */
import { ROOT_STEPS, ROOT_TAPE } from './constants'
import { copy, multiply, PAIR, square } from './field'

/** Bytes of a pair. */
const F2: usize = PAIR

export const ROOT: usize = memory.data(PAIR, 16)
export const ROOT_POWERS: usize = memory.data(8 * PAIR, 16)
/** ROOT = a^(the first digit). */
export function rootBegin(a: usize): void {
  copy(ROOT_POWERS, a)
  square(ROOT, a)
  for (let i: usize = 1; i < 8; i++) multiply(ROOT_POWERS + i * F2, ROOT_POWERS + (i - 1) * F2, ROOT)
  copy(ROOT, ROOT_POWERS + (<usize>load<u8>(ROOT_TAPE) >> 1) * F2)
}
/** The steps from the one `at` on. */
export function rootEnd(at: i32): void {
  for (let i = at; i < ROOT_STEPS; i++) {
    const digit = <usize>load<u8>(ROOT_TAPE + i)
    if (digit === 0) square(ROOT, ROOT)
    else multiply(ROOT, ROOT, ROOT_POWERS + (digit >> 1) * F2)
  }
}
