/** The servers' programs: where their files are, and becoming one of them. */
import { fileURLToPath } from 'node:url'

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
