/** `init` and `serve`, which every server has: both run its own program in the foreground. */
import type { Command } from 'commander'
import { become, type ServerKind } from '../programs.js'

export function addServerVerbs(noun: Command, kind: ServerKind, status: { exit: number }): void {
  noun
    .command('init')
    .description('make the long-term keys in the data folder, print their public parts, and end')
    .requiredOption('--config <file>', 'settings, JSON')
    .option('--json', 'answer with one JSON object (the program always does)')
    .action(async (options: { config: string }) => {
      status.exit = await become(kind, ['--config', options.config, '--init'])
    })
  noun
    .command('serve')
    .description('run in the foreground; SIGTERM or Ctrl-C ends it')
    .requiredOption('--config <file>', 'settings, JSON')
    .option('--json', 'answer with one JSON object a line (the program always does)')
    .action(async (options: { config: string }) => {
      status.exit = await become(kind, ['--config', options.config])
    })
}
