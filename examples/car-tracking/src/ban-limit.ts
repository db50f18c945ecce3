/** How long a ban may take to act: a second, where nobody else wants the processor. */

/** Milliseconds, on a machine that has nothing else to do. */
export const BAN_WITHIN = 1_000
/**
 * Beyond this it is no second any more. Connections end by themselves, too: with their slot, which CLEAR_FOR_BAN keeps away,
 * and when no request comes for 5 s (KEEP_ALIVE_TIMEOUT in api/serve.ts), which a limit of 8 s does not tell from a ban. Who
 * goes by the limit has to see as well that it was the door that closed.
 */
export const MOST_SLOWNESS = 8
/** Milliseconds of a slot that are left when a ban begins: its end comes after the most that a ban is allowed. */
export const CLEAR_FOR_BAN = BAN_WITHIN * MOST_SLOWNESS + 2_000

export interface BanLimit {
  /** How many times slower this machine was: 1 where it had nothing else to do. */
  readonly slowness: number
  /** Milliseconds. */
  readonly allowed: number
}

/**
 * To be called before the ban; what it returns, after. The slower of the two counts, and no more than MOST_SLOWNESS.
 * @param more Milliseconds until it is seen.
 */
export function banLimit({ more = 0, measure = slowness } = {}): () => BanLimit {
  const before = measure()
  return () => {
    const slow = Math.min(MOST_SLOWNESS, Math.max(1, before, measure()))
    return { slowness: Math.round(slow * 10) / 10, allowed: more + Math.round(BAN_WITHIN * slow) }
  }
}

/** What took `milliseconds` where less was allowed, for a reader of the failure. */
export const tooLong = (milliseconds: number, { slowness, allowed }: BanLimit): string =>
  `${milliseconds} ms; ${allowed} are allowed on a machine that is ${slowness} times slower than an idle one`

/** Milliseconds on the clock for one of this process' own. */
function slowness(): number {
  const begin = performance.now()
  const before = process.cpuUsage()
  for (;;) {
    const { user, system } = process.cpuUsage(before)
    const own = (user + system) / 1000
    if (own >= 50) return (performance.now() - begin) / own
  }
}
