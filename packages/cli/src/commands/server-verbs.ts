/** `init` and `serve`, which every server has: both run its own program in the foreground. */
import type { Command } from 'commander'
import { become, type ServerKind } from '../programs.js'

/** Servers that compute in worker threads say how many. */
const WORKERS: Partial<Record<ServerKind, string>> = {
  dta: 'MILAGRO_DTA_WORKERS',
  rps: 'MILAGRO_RPS_WORKERS',
}

/** Servers that can do without their former database: the RPA tells an RPS anew what it must know. */
const ANEW: ReadonlySet<ServerKind> = new Set(['rps'])

export function addServerVerbs(noun: Command, kind: ServerKind, status: { exit: number }): void {
  const init = noun
    .command('init')
    .description(
      'make the data folder with the database and the long-term keys, print the public parts of these, and end',
    )
    .requiredOption('--config <file>', 'settings, JSON')
    .option('--json', 'answer with one JSON object (the program always does)')
    .action(async ({ config, anew }: { config: string; anew?: boolean }) => {
      status.exit = await become(kind, ['--config', config, '--init', ...(anew === true ? ['--anew'] : [])])
    })
  if (ANEW.has(kind))
    init.option(
      '--anew',
      'begin a new database with the keys that are there: for a former one that is lost for good (docs/operations.md)',
    )
  const variable = WORKERS[kind]
  const workers =
    variable === undefined
      ? ''
      : `. Setting 'workers' (${variable}): threads for pairings and key shares; one less than there are processors, but at least one, unless said; 0 computes on the main thread`
  noun
    .command('serve')
    .description(`run in the foreground; SIGTERM or Ctrl-C ends it${workers}`)
    .requiredOption('--config <file>', 'settings, JSON')
    .option('--json', 'answer with one JSON object a line (the program always does)')
    .action(async (options: { config: string }) => {
      status.exit = await become(kind, ['--config', options.config])
    })
}
