/** The story by real processes, as `npm start -- --check` plays it. */
import { spawn } from 'node:child_process'
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

export function check(...flags: string[]): Promise<{ exit: number | null; lines: Line[]; err: string }> {
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

export const namesOf = (lines: readonly Line[]) =>
  lines.filter(({ event }) => event === 'step').map(({ name }) => name)

/** Played against a broken server, the check says at which step, and has played none after it. */
export async function stopsAt(file: string, step: string): Promise<void> {
  const { exit, lines } = await check('--rps-main', `${ROOT}test/story-broken-rps/${file}.mjs`)
  expect(lines.at(-1), JSON.stringify(lines.at(-1))).toMatchObject({ event: 'check', ok: false, step })
  expect(namesOf(lines)).toEqual(STEPS.slice(0, STEPS.indexOf(step)))
  expect(exit).toBe(1)
}
