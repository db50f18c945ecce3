import { PAIR } from './field'

/** r = the entry of a table at a secret index, all of them read. `size`, in bytes, is that of some pairs. */
export function lookUp(r: usize, table: usize, entries: i32, size: usize, index: u32): void {
  const wanted = i32x4.splat(index)
  for (let at: usize = 0; at < size; at += PAIR) {
    let a = i64x2.splat(0)
    let b = i64x2.splat(0)
    let c = i64x2.splat(0)
    let d = i64x2.splat(0)
    let e = i64x2.splat(0)
    let f = i64x2.splat(0)
    let g = i64x2.splat(0)
    let h = i64x2.splat(0)
    let entry = table + at
    for (let i = 0; i < entries; i++) {
      const mask = i32x4.eq(wanted, i32x4.splat(i))
      a = v128.or(a, v128.and(v128.load(entry), mask))
      b = v128.or(b, v128.and(v128.load(entry, 16), mask))
      c = v128.or(c, v128.and(v128.load(entry, 32), mask))
      d = v128.or(d, v128.and(v128.load(entry, 48), mask))
      e = v128.or(e, v128.and(v128.load(entry, 64), mask))
      f = v128.or(f, v128.and(v128.load(entry, 80), mask))
      g = v128.or(g, v128.and(v128.load(entry, 96), mask))
      if (PAIR > 112) h = v128.or(h, v128.and(v128.load(entry, 112), mask))
      entry += size
    }
    v128.store(r + at, a)
    v128.store(r + at, b, 16)
    v128.store(r + at, c, 32)
    v128.store(r + at, d, 48)
    v128.store(r + at, e, 64)
    v128.store(r + at, f, 80)
    v128.store(r + at, g, 96)
    if (PAIR > 112) v128.store(r + at, h, 112)
  }
}
