/**
 * The story by real processes, as `npm start -- --check` plays it; and the same against two broken authentication
 * servers, to see that it can fail, and where. What else is broken is in story.long.test.ts.
 */
import { describe, expect, test } from 'vitest'
import { check, type Line, namesOf, STEPS, stopsAt } from './story-check.js'

interface Car {
  readonly car: string
  readonly pid: number
}
/** What a step says under a name. */
const saidBy = <T>(lines: readonly Line[], name: string, field: string) =>
  (lines.find(line => line.name === name) as unknown as Record<string, readonly T[]>)[field] as readonly T[]

// The timeouts catch only what hangs: on a quiet machine a story takes a minute.
// All at once: each waits for much of its time, for a slot to end or for what another process is to say.
describe.concurrent('the story', () => {
  test('holds from enrolment to restart', { timeout: 900_000 }, async () => {
    const { exit, lines, err } = await check()
    const last = lines.at(-1)
    expect(last, `${JSON.stringify(last)} ${err}`).toMatchObject({
      event: 'check',
      ok: true,
      steps: STEPS.length,
    })
    expect(namesOf(lines)).toEqual(STEPS)
    expect(exit).toBe(0)
    // The cars of the steps are the processes that have driven from the beginning.
    const cars = saidBy<Car>(lines, 'login', 'cars')
    expect(saidBy<Car>(lines, 'peer-channel', 'cars').map(({ pid }) => pid)).toEqual([
      cars[0]?.pid,
      cars[2]?.pid,
    ])
    // A step that wants a program which isn't here is there by its name alone.
    const skipped = lines.filter(line => 'skipped' in line)
    if (process.env.REQUIRE_SERVICES === '1') expect(skipped).toEqual([])
    if (skipped.length === 0) {
      const published = saidBy<Car & { heard: string }>(lines, 'broker-behind-gateway', 'cars')
      expect(published.map(({ pid }) => pid)).toEqual(cars.map(({ pid }) => pid))
      expect(new Set(published.map(({ heard }) => heard)).size).toBe(cars.length)
    }
    for (const step of skipped) console.log(`the story went on without a step: ${JSON.stringify(step)}`)
  })

  test.each([
    ['accepts everything', 'accepts-everything', 'one-pass'],
    ['ignores permits', 'ignores-permits', 'garbage-permit'],
  ])('stops at an RPS that %s', { timeout: 600_000 }, (_what, file, step) => stopsAt(file, step))
})
