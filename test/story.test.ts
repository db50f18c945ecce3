/**
 * The story by real processes, as `npm start -- --check` plays it; and the same against three broken authentication
 * servers, to see that it can fail, and where.
 */
import { spawn } from 'node:child_process'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import { describe, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'

interface Line {
  readonly event: 'step' | 'check'
  readonly name?: string
  readonly ok?: boolean
  readonly step?: string
  readonly why?: string
}

/** The steps that issue and README promise, in their order. */
const STEPS = [
  'servers-running',
  'operator-enrolled',
  'enrolment-by-code',
  'enrolment-by-approval',
  'driver-with-pin',
  'login',
  'one-pass',
  'positions-stored',
  'anothers-token',
  'garbage-permit',
  'wrong-pin-locked',
  'unlocked-by-operator',
  'driver-banned',
  'car-banned',
  'signed-offline',
  'former-permit',
  'banned-car-permit',
  'no-share-for-banned',
  'peer-channel',
  'unbanned',
  'broker-behind-gateway',
  'lying-authority',
  'second-ticket',
  'relay-swaps-key',
  'killed-and-restarted',
  'authority-lost',
  'authority-replaced',
  'keys-rotated',
  'car-restarted',
  'nothing-lost',
]

function check(...flags: string[]): Promise<{ exit: number | null; lines: Line[]; err: string }> {
  const child = spawn(process.execPath, [
    NO_TICKETS,
    `${ROOT}examples/car-tracking/dist/start.js`,
    '--check',
    ...flags,
  ])
  let out = ''
  let err = ''
  child.stdout.on('data', chunk => {
    out += chunk
  })
  child.stderr.on('data', chunk => {
    err += chunk
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', exit => {
      const lines = out.trimEnd().split('\n')
      resolve({ exit, err, lines: lines.map(line => JSON.parse(line) as Line) })
    })
  })
}

const namesOf = (lines: readonly Line[]) =>
  lines.filter(({ event }) => event === 'step').map(({ name }) => name)

// The timeouts catch only what hangs: on a quiet machine a story takes a minute.
// All at once: each waits for much of its time, for a slot to end or for what another process is to say.
describe.concurrent('the story', () => {
  test('holds from enrolment to restart', { timeout: 900_000 }, async () => {
    const { exit, lines, err } = await check()
    expect(lines.at(-1), err).toMatchObject({ event: 'check', ok: true, steps: STEPS.length })
    expect(namesOf(lines)).toEqual(STEPS)
    expect(exit).toBe(0)
  })

  test.each([
    ['accepts everything', 'accepts-everything', 'one-pass'],
    ['ignores permits', 'ignores-permits', 'garbage-permit'],
    ['tells of bans too late', 'tells-bans-late', 'driver-banned'],
  ])('stops at an RPS that %s', { timeout: 600_000 }, async (_what, file, step) => {
    const { exit, lines } = await check('--rps-main', `${ROOT}test/story-broken-rps/${file}.mjs`)
    expect(lines.at(-1), JSON.stringify(lines.at(-1))).toMatchObject({ event: 'check', ok: false, step })
    expect(namesOf(lines)).toEqual(STEPS.slice(0, STEPS.indexOf(step)))
    expect(exit).toBe(1)
  })
})
