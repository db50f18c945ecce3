/** The `milagro` command's process. */
import { holdHangups } from '@milagro-ts/api/hangup'
import { followStarter } from './programs.js'

holdHangups()
followStarter()

// Whoever reads may have enough, as `head` does: nothing that the command did depends on it.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

// Loaded only now: it takes a while, in which a signal may come.
const [{ systemClock, systemRandom }, { processStreams }, { run }] = await Promise.all([
  import('@milagro-ts/api/system'),
  import('./process-streams.js'),
  import('./program.js'),
])

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
