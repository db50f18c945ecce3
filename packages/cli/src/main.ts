/** The `milagro` command's process. */
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { processStreams } from './process-streams.js'
import { run } from './program.js'
import { endWithStarter } from './programs.js'

// Whoever reads may have enough, as `head` does: nothing that the command did depends on it.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

endWithStarter()

process.exitCode = await run(process.argv.slice(2), {
  out: text => process.stdout.write(text),
  err: text => process.stderr.write(text),
  env: process.env,
  fetch,
  clock: systemClock,
  random: systemRandom,
  isTerminal: process.stdin.isTTY === true && process.stderr.isTTY === true,
  bytes: processStreams(),
})
