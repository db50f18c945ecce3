/**
 * Integers mod q, the order of the groups, of 32 bytes big-endian below q each. They may be secret: no branch and no
 * address depends on them. Montgomery's form with 2²⁵⁶, in words of 32 bits (Koç, Acar, Kaliski 1996, "CIOS").
 */
import { Q_WORDS, RQ2 } from './constants'

/** Bytes of a number below 2²⁵⁶. */
const SIZE: usize = 32

const X: usize = memory.data(48, 16)
const Y: usize = memory.data(48, 16)
/** Ten words. */
const T: usize = memory.data(48, 16)
const ONE: usize = memory.data<i32>([1, 0, 0, 0, 0, 0, 0, 0], 16)

/** Words from the lowest on, of `size` bytes big-endian; those above are zero. */
function wordsOf(to: usize, from: usize, size: usize): void {
  for (let at: usize = 0; at < SIZE; at += 4)
    store<u32>(to + at, at < size ? bswap<u32>(load<u32>(from + size - 4 - at)) : 0)
}
function bytesOf(to: usize, words: usize): void {
  for (let at: usize = 0; at < SIZE; at += 4)
    store<u32>(to + at, bswap<u32>(load<u32>(words + SIZE - 4 - at)))
}

/** r = t or t − q, which is below q, of the nine words of t < 2q. */
function below(r: usize, t: usize): void {
  let borrow: i64 = 0
  for (let at: usize = 0; at < SIZE; at += 4)
    borrow = (borrow + <i64>load<u32>(t + at) - <i64>load<u32>(Q_WORDS + at)) >> 32
  // All ones where q fits.
  const fits = <u32>~((borrow + <i64>load<u32>(t + SIZE)) >> 32)
  borrow = 0
  for (let at: usize = 0; at < SIZE; at += 4) {
    borrow += <i64>load<u32>(t + at) - <i64>(load<u32>(Q_WORDS + at) & fits)
    store<u32>(r + at, <u32>borrow)
    borrow >>= 32
  }
}

/** r = x + y, both below q. */
function sum(r: usize, x: usize, y: usize): void {
  let carry: u64 = 0
  for (let at: usize = 0; at < SIZE; at += 4) {
    carry += <u64>load<u32>(x + at) + <u64>load<u32>(y + at)
    store<u32>(T + at, <u32>carry)
    carry >>= 32
  }
  store<u32>(T + SIZE, <u32>carry)
  below(r, T)
}

/** r = q − x, which is q for 0: below 2q − y for every y below q that it is added to. */
function opposite(r: usize, x: usize): void {
  let borrow: i64 = 0
  for (let at: usize = 0; at < SIZE; at += 4) {
    borrow += <i64>load<u32>(Q_WORDS + at) - <i64>load<u32>(x + at)
    store<u32>(r + at, <u32>borrow)
    borrow >>= 32
  }
}

/** r = xy/2²⁵⁶, for x below 2²⁵⁶ and y below q: the sum stays below 2q·2²⁵⁶. q ≡ 1 mod 2³², so −q⁻¹ is −1. */
function montgomery(r: usize, x: usize, y: usize): void {
  for (let at: usize = 0; at < SIZE + 8; at += 4) store<u32>(T + at, 0)
  for (let i: usize = 0; i < SIZE; i += 4) {
    const factor = <u64>load<u32>(y + i)
    let carry: u64 = 0
    for (let at: usize = 0; at < SIZE; at += 4) {
      carry += <u64>load<u32>(T + at) + factor * <u64>load<u32>(x + at)
      store<u32>(T + at, <u32>carry)
      carry >>= 32
    }
    carry += <u64>load<u32>(T + SIZE)
    store<u32>(T + SIZE, <u32>carry)
    store<u32>(T + SIZE + 4, <u32>(carry >> 32))
    const quotient = <u64>(<u32>0 - load<u32>(T))
    carry = (<u64>load<u32>(T) + quotient * <u64>load<u32>(Q_WORDS)) >> 32
    for (let at: usize = 4; at < SIZE; at += 4) {
      carry += <u64>load<u32>(T + at) + quotient * <u64>load<u32>(Q_WORDS + at)
      store<u32>(T + at - 4, <u32>carry)
      carry >>= 32
    }
    carry += <u64>load<u32>(T + SIZE)
    store<u32>(T + SIZE - 4, <u32>carry)
    store<u32>(T + SIZE, load<u32>(T + SIZE + 4) + <u32>(carry >> 32))
  }
  below(r, T)
}

export function scalarAdd(r: usize, a: usize, b: usize): void {
  wordsOf(X, a, SIZE)
  wordsOf(Y, b, SIZE)
  sum(X, X, Y)
  bytesOf(r, X)
}
export function scalarSubtract(r: usize, a: usize, b: usize): void {
  wordsOf(X, a, SIZE)
  wordsOf(Y, b, SIZE)
  opposite(Y, Y)
  sum(X, X, Y)
  bytesOf(r, X)
}
export function scalarMultiply(r: usize, a: usize, b: usize): void {
  wordsOf(X, a, SIZE)
  wordsOf(Y, b, SIZE)
  montgomery(X, X, Y)
  montgomery(X, X, RQ2)
  bytesOf(r, X)
}
/** r = the 48 bytes big-endian at `from`, mod q: high·2²⁵⁶ + low. */
export function scalarReduce(r: usize, from: usize): void {
  wordsOf(X, from, 16)
  montgomery(X, X, RQ2)
  wordsOf(Y, from + 16, SIZE)
  montgomery(Y, Y, RQ2)
  montgomery(Y, Y, ONE)
  sum(X, X, Y)
  bytesOf(r, X)
}
