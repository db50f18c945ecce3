/** The story by real processes, as `npm start -- --check` plays it. */
import { spawn } from 'node:child_process'
import { pathToFileURL } from 'node:url'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import { expect } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'

export interface Line {
  readonly event: 'step' | 'check'
  readonly name?: string
  readonly ok?: boolean
  readonly step?: string
  readonly why?: string
}

/** The steps that issue and README promise, in their order. */
export const STEPS = [
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

/** @param preload Imported by every process before its own program. */
export function check(
  flags: readonly string[] = [],
  preload?: string,
): Promise<{ exit: number | null; lines: Line[]; err: string }> {
  const { NODE_OPTIONS = '' } = process.env
  const env =
    preload === undefined
      ? process.env
      : { ...process.env, NODE_OPTIONS: `${NODE_OPTIONS} --import ${preload}`.trim() }
  const child = spawn(
    process.execPath,
    [NO_TICKETS, `${ROOT}examples/car-tracking/dist/start.js`, '--check', ...flags],
    { env },
  )
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

export const namesOf = (lines: readonly Line[]) =>
  lines.filter(({ event }) => event === 'step').map(({ name }) => name)

/** Played against a broken RPS, the check says at which step, and has played none after it. */
export const stopsAt = async (file: string, step: string): Promise<void> =>
  stopped(await check(['--rps-main', `${ROOT}test/story-broken-rps/${file}.mjs`]), step)

/** The same against the door of a server that ignores bans, on a machine that is taken for the slowest. */
export const stopsAtDoorOf = async (server: string, step: string, why: string): Promise<void> =>
  stopped(
    await check([], `${pathToFileURL(`${ROOT}test/story-broken-door/ignores-bans.mjs`)}?${server}`),
    step,
    why,
  )

function stopped(
  { exit, lines }: Awaited<ReturnType<typeof check>>,
  step: string,
  why: unknown = expect.any(String),
): void {
  expect(lines.at(-1), JSON.stringify(lines.at(-1))).toMatchObject({ event: 'check', ok: false, step, why })
  expect(namesOf(lines)).toEqual(STEPS.slice(0, STEPS.indexOf(step)))
  expect(exit).toBe(1)
}
