/** Timing: sides in turn within one process, so that a noisy machine is noisy for all of them. */

/** @typedef {import('./rows.mjs').Row} Row */
/** @typedef {import('./rows.mjs').Side} Side */
/** @typedef {{median: number, p10: number, samples: number}} Figures */

/**
 * @typedef {object} Effort
 * @property {number} warmup  rounds that are not counted
 * @property {number} rounds  at least
 * @property {number} seconds  and until this long has been timed in all
 */

/** @param {readonly number[]} samples @returns {Figures} */
export function figures(samples) {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (/** @type {number} */ part) =>
    /** @type {number} */ (sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))])
  return { median: at(0.5), p10: at(0.1), samples: sorted.length }
}

/**
 * Microseconds by side. Throws when a side is wrong: then its time means nothing.
 *
 * @param {string} op
 * @param {Row} row
 * @param {Effort} effort
 * @returns {Partial<Record<Side, Figures>>}
 */
export function measure(op, row, { warmup, rounds, seconds }) {
  /** @type {Map<Side, number[]>} */
  const samples = new Map()
  let timed = 0
  /** @param {import('./rows.mjs').Round} round @param {number} turn @param {boolean} counts */
  const play = (round, turn, counts) => {
    const sides = /** @type {[Side, import('./rows.mjs').Work][]} */ (Object.entries(round))
    for (let i = 0; i < sides.length; i++) {
      const [side, { run, right }] = /** @type {(typeof sides)[number]} */ (sides[(i + turn) % sides.length])
      const begin = performance.now()
      const result = run()
      const took = performance.now() - begin
      if (!right(result)) throw new Error(`${op}: ${side} is wrong`)
      if (!counts) continue
      timed += took
      const list = samples.get(side) ?? []
      samples.set(side, list)
      list.push((took * 1000) / (row.per ?? 1))
    }
  }
  if (row.forged) play(row.forged(), 0, false)
  for (let i = 0; i < warmup; i++) play(row.make(i), i, false)
  for (let i = 0; i < rounds || timed < seconds * 1000; i++) play(row.make(i), i, true)
  return Object.fromEntries([...samples].map(([side, list]) => [side, figures(list)]))
}
