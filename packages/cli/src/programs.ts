/** The servers' programs: where their files are, and becoming one of them; and this program anew. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import { takeHangups } from '@milagro-ts/api/hangup'

const PROGRAMS = {
  dta: () => import('@milagro-ts/dta/main'),
  rps: () => import('@milagro-ts/rps/main'),
  fleet: () => import('@milagro-ts/fleet/main'),
} as const
export type ServerKind = keyof typeof PROGRAMS

/** The file that `node` runs for a server. */
export function programFile(kind: ServerKind): string {
  return fileURLToPath(import.meta.resolve(`@milagro-ts/${kind}/main`))
}

/**
 * Turns this process into a server's: its arguments, its standard output, its signals, its exit code. Done when it
 * serves, or has said why it doesn't; the exit code so far.
 */
export async function become(kind: ServerKind, args: readonly string[]): Promise<number> {
  process.argv = [process.execPath, programFile(kind), ...args]
  await PROGRAMS[kind]()
  return Number(process.exitCode ?? 0)
}

/**
 * This command in a process of its own, whose Node gets these flags as well: those that take effect when it starts. The same
 * standard streams; SIGINT, SIGTERM and SIGHUP are passed on, the last once the other hears it. The exit code.
 */
export function again(flags: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, [...process.execArgv, ...flags, ...process.argv.slice(1)], {
    // A group of its own: Ctrl-C reaches this process alone, and the other once.
    detached: true,
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  const hears = new Promise<void>(resolve => child.once('message', () => resolve()))
  takeHangups(() => void hears.then(() => child.kill('SIGHUP')))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal ?? 'SIGTERM']))
  })
}

/**
 * In the process that `again` starts, which holds SIGHUP: says so, and ends when the one that started it does, by whatever
 * death.
 */
export function followStarter(): void {
  if (process.channel == null) return
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'))
  // Where it can't be said the starter is gone, and `disconnect` ends this process.
  process.send?.('hears SIGHUP', () => undefined)
  process.channel.unref()
}
