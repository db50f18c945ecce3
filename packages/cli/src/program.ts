/** The command's grammar: nouns and verbs, and the one place where an error becomes an exit code. */
import { releaseHangups } from '@milagro-ts/api/hangup'
import { Command } from 'commander'
import { addCeremony } from './commands/ceremony.js'
import { addDevice } from './commands/device.js'
import { addDta } from './commands/dta.js'
import { addEncryption } from './commands/encryption.js'
import { addFleet } from './commands/fleet.js'
import { addGroup } from './commands/group.js'
import { addPermits } from './commands/permits.js'
import { addRps } from './commands/rps.js'
import { addSigning } from './commands/signing.js'
import { addStore } from './commands/store.js'
import { addTls } from './commands/tls.js'
import { EXIT, explain, type Io, UsageError } from './io.js'

/** Runs one command line (without `node` and the file); the exit code. Never throws. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  const status = { exit: EXIT.done as number }
  const program = milagro(io, status)
  try {
    const { MILAGRO_KERNEL: kernel = '' } = io.env
    if (kernel !== '' && kernel !== 'simd') throw new UsageError('MILAGRO_KERNEL may be simd')
    await parse(program, argv)
    return status.exit
  } catch (error) {
    const { exit, code, why: marked } = explain(error)
    const why = marked.replaceAll(MARK, '')
    const isCommanders = error instanceof Error && error.name === 'CommanderError'
    if (exit === EXIT.done) return exit
    if (argv.includes('--json')) io.out(`${JSON.stringify({ ok: false, code, why })}\n`)
    // Commander has already said on the error stream what is wrong with the command line.
    else if (!isCommanders) io.err(`milagro: ${code}: ${why}\n`)
    return exit
  }
}

/** Runs the action of the command line. Throws what the action throws, and CommanderError. */
export async function parse(program: Command, argv: readonly string[]): Promise<void> {
  await program.parseAsync(argv.map(marked), { from: 'user' })
}

/**
 * One hash or M-Pin ID in 64 begins with a hyphen in base64url. The mark before it, which no command line can hold, keeps
 * commander from reading it as an option; it's off before an action gets it.
 */
const MARK = '\0'
const marked = (argument: string): string =>
  /^-[\w-]{42}(?:[\w-]{9})?$/.test(argument) ? `${MARK}${argument}` : argument

function unmarked(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unmarked)
  return typeof value === 'string' ? value.replace(MARK, '') : value
}

function unmark(command: Command): void {
  command.processedArgs = command.processedArgs.map(unmarked)
  for (const [name, value] of Object.entries(command.opts()))
    command.setOptionValueWithSource(name, unmarked(value), command.getOptionValueSource(name))
}

/** Those whose own program says what SIGHUP does. */
const servesUntilEnded = (command: Command) => ['serve', 'gateway', 'psk-file'].includes(command.name())

/** The whole command; `status.exit` is set by commands that run another program and pass its exit code on, or whose answer is
 * a no about some of many. */
export function milagro(io: Io, status: { exit: number }): Command {
  const program = new Command('milagro')
    .description('Things log in without certificates and without passwords.')
    .version('0.1.0')
    .exitOverride()
    .configureOutput({ writeOut: io.out, writeErr: text => io.err(text.replaceAll(MARK, '')) })
    .hook('preAction', (_program, command) => {
      unmark(command)
      if (!servesUntilEnded(command)) releaseHangups()
    })
    .configureHelp({ helpWidth: 100, showGlobalOptions: false })
    .addHelpText(
      'after',
      '\nExit codes: 0 done, 1 refused, 2 wrong usage or settings, 3 a server is unreachable.',
    )
  addGroup(program, io)
  addCeremony(program, io)
  addDta(program, io, status)
  addRps(program, status)
  addFleet(program, io, status)
  addDevice(program, io)
  addSigning(program, io, status)
  addEncryption(program, io)
  addPermits(program, io)
  addTls(program, io, status)
  addStore(program, io)
  return program
}
