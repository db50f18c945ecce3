/**
 * Scalars below q, as digits in base |t|, t the curve's parameter. They may be secret: no branch and no address depends
 * on them.
 */
/** |t|. */
const T: u64 = 0xd201_0000_0001_0000
export function bitOfT(i: i32): bool {
  return ((T >> i) & 1) !== 0
}

const K: usize = memory.data(32, 16)

/** K /= |t|; the remainder. Schoolbook, bit by bit. */
function divideByT(): u64 {
  let rest: u64 = 0
  for (let word: i32 = 3; word >= 0; word--) {
    let bits = load<u64>(K + 8 * <usize>word)
    let quotient: u64 = 0
    for (let i = 0; i < 64; i++) {
      const over = rest >> 63
      rest = (rest << 1) | (bits >> 63)
      bits <<= 1
      const fits = over | <u64>(rest >= T)
      rest -= T & (0 - fits)
      quotient = (quotient << 1) | fits
    }
    store<u64>(K + 8 * <usize>word, quotient)
  }
  return rest
}

/** Digits d₀…d₃ with k = Σ dᵢ|t|ⁱ, 8 bytes each, of the 32 bytes big-endian at `from`. */
export function digitsOf(to: usize, from: usize): void {
  for (let i: usize = 0; i < 4; i++) store<u64>(K + 8 * i, bswap<u64>(load<u64>(from + 24 - 8 * i)))
  for (let i: usize = 0; i < 4; i++) store<u64>(to + 8 * i, divideByT())
}

/**
 * Recodes digits d₀ odd and d₁…d₃, all at most |t|, so that a sum of products needs 65 steps of one shape: at `to`, for the
 * places 0…64, a byte with the bits of d₁, d₂, d₃ at that place from the lowest on, and in bit 3 whether the place counts
 * negatively. d₀ has ±1 at every place, and +1 at 64; the others have 0 or the same (Faz-Hernández, Longa, Sánchez 2014,
 * algorithm 6). Overwrites the digits.
 */
export function alignedDigits(to: usize, digits: usize): void {
  const d0 = load<u64>(digits)
  for (let at: usize = 0; at < 65; at++) {
    const negative = at < 64 ? (((d0 >> 1) >> <u64>at) & 1) ^ 1 : 0
    let column = negative << 3
    for (let j: usize = 1; j < 4; j++) {
      const d = load<u64>(digits + 8 * j)
      const bit = d & 1
      column |= bit << (<u64>(j - 1))
      // (d ∓ bit)/2.
      store<u64>(digits + 8 * j, (d >> 1) + (bit & negative))
    }
    store<u8>(to + at, <u8>column)
  }
  store<u64>(digits, 0)
}

/** 16 bytes little-endian at `to`: low + high·|t| < t² < 2¹²⁸. */
function joined(to: usize, low: u64, high: u64): void {
  const h0 = high & 0xffff_ffff
  const h1 = high >> 32
  const t0 = T & 0xffff_ffff
  const t1 = T >> 32
  const p00 = h0 * t0
  const p01 = h0 * t1
  const p10 = h1 * t0
  const middle = (p00 >> 32) + (p01 & 0xffff_ffff) + (p10 & 0xffff_ffff)
  const bottom = (p00 & 0xffff_ffff) | (middle << 32)
  const sum = bottom + low
  store<u64>(to, sum)
  store<u64>(to + 8, h1 * t1 + (p01 >> 32) + (p10 >> 32) + (middle >> 32) + <u64>(sum < bottom))
}
const DIGITS: usize = memory.data(32, 16)
/** k₀ and k₁ with k = k₀ + k₁t², 16 bytes little-endian each. */
export function halvesOf(to: usize, from: usize): void {
  digitsOf(DIGITS, from)
  joined(to, load<u64>(DIGITS), load<u64>(DIGITS + 8))
  joined(to + 16, load<u64>(DIGITS + 16), load<u64>(DIGITS + 24))
}

/**
 * Width-5 NAF of a public number of `words` × 64 bits: one signed byte per place, odd and below 16 in size or 0; the
 * number of places written, at most 64·words + 1.
 */
export function nafOf(to: usize, number: usize, words: i32): i32 {
  const bits = 64 * words
  let carry: i32 = 0
  let length = 0
  let at = 0
  memory.fill(to, 0, bits + 8)
  while (at <= bits) {
    const bit = at < bits ? <i32>(load<u64>(number + 8 * (at >> 6)) >> (at & 63)) & 1 : 0
    if (bit === carry) {
      at++
      continue
    }
    let window: i32 = carry
    for (let i = 0; i < 5; i++) {
      const place = at + i
      if (place < bits) window += (<i32>(load<u64>(number + 8 * (place >> 6)) >> (place & 63)) & 1) << i
    }
    if (window >= 16) {
      window -= 32
      carry = 1
    } else {
      carry = 0
    }
    store<i8>(to + at, <i8>window)
    length = at + 1
    at += 5
  }
  return length
}
