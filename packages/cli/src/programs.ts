/** The servers' programs, each a process of its own: where their files are, and running one in the foreground. */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export type ServerKind = 'dta' | 'rps' | 'fleet'

/** The file that `node` runs for a server. */
export function programFile(kind: ServerKind): string {
  return fileURLToPath(import.meta.resolve(`@milagro-ts/${kind}/main`))
}

/**
 * Runs a server's program with this process' streams, and hands on the signals that end it. Returns its exit code;
 * 1 when a signal ended it.
 */
export function runInForeground(kind: ServerKind, args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, [programFile(kind), ...args], { stdio: 'inherit' })
  const handOn = (signal: NodeJS.Signals) => child.kill(signal)
  const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, handOn)
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', code => {
      for (const signal of signals) process.off(signal, handOn)
      resolve(code ?? 1)
    })
  })
}
