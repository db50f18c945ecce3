/**
 * mosquitto as a managed process: `node dist/broker-main.js --program /usr/sbin/mosquitto --config mosquitto.conf`. It says
 * `ready` once mosquitto runs, ends it at SIGTERM, and ends with it. What mosquitto says goes to standard error.
 */
import { spawn } from 'node:child_process'
import { parseArgs } from 'node:util'
import { say } from '@milagro-ts/api/process'

const RUNNING = /mosquitto version .* running/

const { values } = parseArgs({ options: { program: { type: 'string' }, config: { type: 'string' } } })
const { program = 'mosquitto', config = 'mosquitto.conf' } = values
const mosquitto = spawn(program, ['-c', config], { stdio: ['ignore', 'ignore', 'pipe'] })

let isEnding = false
const end = () => {
  isEnding = true
  mosquitto.kill()
}
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, end)
// Whoever reads this is gone.
process.stderr.on('error', end)
process.stdout.on('error', end)
// However this process ends, nothing is left behind at its socket.
process.once('exit', end)

let text: string | undefined = ''
mosquitto.stderr.on('data', (chunk: Buffer) => {
  process.stderr.write(chunk)
  if (text === undefined) return
  text += chunk
  if (!RUNNING.test(text)) return
  text = undefined
  say({ event: 'ready', pid: mosquitto.pid })
})
mosquitto.once('error', error => process.stderr.write(`broker: ${error.message}\n`))
mosquitto.once('close', (code, signal) => {
  if (isEnding) return
  process.stderr.write(`broker: mosquitto has ended (${signal ?? code})\n`)
  process.exitCode = 1
})
