/** docs/cli.md: every command's `--help`, one after the other. */
import type { Command } from 'commander'

/** Markdown; `program` is the whole command. */
export function helpPage(program: Command): string {
  const sections = [...commandsOf(program, [])].map(
    ([path, command]) => `${'#'.repeat(Math.min(path.length, 4))} ${path.join(' ')}\n\n${help(command)}`,
  )
  return [
    '# milagro',
    `Printed from \`--help\`; a test compares. Exit codes of every command: 0 done, 1 refused, 2 wrong usage or
settings, 3 a server is unreachable. \`--json\` answers with one JSON object, also when the answer is no:
\`{"ok": false, "code", "why"}\`.

PINs and enrolment codes are never arguments: they come from \`MILAGRO_PIN\`, \`MILAGRO_NEW_PIN\`, \`MILAGRO_CODE\`, from a
file that \`MILAGRO_PIN_FILE\` (and so on) names, or are asked for on a terminal.`,
    ...sections,
  ].join('\n\n')
}

function* commandsOf(command: Command, above: readonly string[]): Generator<readonly [string[], Command]> {
  const path = [...above, command.name()]
  if (above.length > 0) yield [path, command]
  for (const child of command.commands) yield* commandsOf(child, path)
}

function help(command: Command): string {
  return `\`\`\`\n${command.helpInformation().trimEnd()}\n\`\`\``
}
