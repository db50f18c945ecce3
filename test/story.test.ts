/**
 * The story by real processes, as `npm start -- --check` plays it; and the same against two broken authentication
 * servers, to see that it can fail, and where. A third is in story.long.test.ts.
 */
import { describe, expect, test } from 'vitest'
import { check, namesOf, STEPS, stopsAt } from './story-check.js'

// The timeouts catch only what hangs: on a quiet machine a story takes a minute.
// All at once: each waits for much of its time, for a slot to end or for what another process is to say.
describe.concurrent('the story', () => {
  test('holds from enrolment to restart', { timeout: 900_000 }, async () => {
    const { exit, lines, err } = await check()
    expect(lines.at(-1), err).toMatchObject({ event: 'check', ok: true, steps: STEPS.length })
    expect(namesOf(lines)).toEqual(STEPS)
    expect(exit).toBe(0)
    // A step that wants a program which isn't here is there by its name alone.
    const skipped = lines.filter(line => 'skipped' in line)
    if (process.env.REQUIRE_SERVICES === '1') expect(skipped).toEqual([])
    for (const step of skipped) console.log(`the story went on without a step: ${JSON.stringify(step)}`)
  })

  test.each([
    ['accepts everything', 'accepts-everything', 'one-pass'],
    ['ignores permits', 'ignores-permits', 'garbage-permit'],
  ])('stops at an RPS that %s', { timeout: 600_000 }, (_what, file, step) => stopsAt(file, step))
})
