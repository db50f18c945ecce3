/** Repeats what may be repeated: moves that change nothing when they come twice. */
import { Unreachable } from '@milagro-ts/api/call'
import { Refused } from '@milagro-ts/api/problem'

/** Resolves after so many milliseconds. */
export type Wait = (milliseconds: number) => Promise<void>

const ATTEMPTS = 3
const FIRST_WAIT = 500
/** Milliseconds; a server that wants more patience than this gets its RETRY_LATER passed on instead. */
const LONGEST_WAIT = 10_000

/**
 * Makes the move again after Unreachable, TOO_SLOW and RETRY_LATER, three times in all; other errors pass through at once, and
 * so does everything once `signal` has ended.
 */
export async function repeatSafely<T>(wait: Wait, move: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await move()
    } catch (error) {
      const pause = pauseAfter(error, attempt)
      if (pause === null || attempt === ATTEMPTS || signal?.aborted) throw error
      await wait(pause)
    }
  }
}

function pauseAfter(error: unknown, attempt: number): number | null {
  const usual = FIRST_WAIT * 2 ** (attempt - 1)
  if (error instanceof Unreachable) return usual
  if (!(error instanceof Refused)) return null
  if (error.code === 'TOO_SLOW') return usual
  if (error.code !== 'RETRY_LATER') return null
  const asked = (error.retryAfter ?? 0) * 1000
  return asked > LONGEST_WAIT ? null : Math.max(asked, usual)
}
