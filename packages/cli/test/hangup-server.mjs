/** A server in two processes, as `milagro tls gateway` is, of which one gets SIGHUP when nobody can act on it yet: argv[2] says which. */
import { holdHangups } from '@milagro-ts/api/hangup'
import { runProcess, say } from '@milagro-ts/api/process'
import { again, followStarter } from '@milagro-ts/cli/programs'

const [, , who, kind] = process.argv
const isFirst = process.channel == null
// What `runProcess` does is seen where nobody did it before.
if (who !== 'second') holdHangups()
followStarter()
// Delivered in a later turn of the event loop.
const hangUp = () => process.kill(process.pid, 'SIGHUP')

if (isFirst) {
  if (who === 'first') hangUp()
  const ended = again([])
  // The other one has not run a line by now.
  if (who === 'passed-on') process.emit('SIGHUP')
  process.exitCode = await ended
} else
  await runProcess('test', async () => {
    if (who === 'second') hangUp()
    await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
    if (kind === 'none') return null
    const stop = setInterval(() => undefined, 60_000)
    return {
      urls: {},
      ...(kind === 'reloads' ? { reload: async () => say({ event: 'reloaded' }) } : {}),
      close: async () => clearInterval(stop),
    }
  })
