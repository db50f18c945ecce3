/** SIGHUP during a start: it ends no server that reads files again, and what it asks for is done once the server is up. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'

const SERVER = fileURLToPath(new URL('hangup-server.mjs', import.meta.url))
const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))

const running: ChildProcess[] = []
afterEach(async () => {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill()
    await once(child, 'exit')
  }
})

function start(...args: string[]) {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  running.push(child)
  let err = ''
  child.stderr.on('data', chunk => {
    err += chunk
  })
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal, err }))
  return { child, ended, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() }
}

test.each(['first', 'passed-on', 'second'])('%s: it is done after `ready`, once', async who => {
  const { child, lines, ended } = start(SERVER, who, 'reloads')
  const said = async () => JSON.parse((await lines.next()).value ?? 'null')?.event
  expect([await said(), await said()]).toEqual(['ready', 'reloaded'])
  child.kill('SIGHUP')
  expect(await said()).toBe('reloaded')
  child.kill('SIGTERM')
  expect(await ended).toEqual({ code: 0, signal: null, err: '' })
  expect((await lines.next()).done).toBe(true)
})

test('a server that reads nothing again ends by it, as ever, once it is up', async () => {
  expect(await start(SERVER, 'second', 'serves').ended).toMatchObject({ code: 128 + 1 })
})

test('what is done by itself comes to its end', async () => {
  expect(await start(SERVER, 'second', 'none').ended).toEqual({ code: 0, signal: null, err: '' })
})

// As soon as a process hears SIGHUP it gets one, the second process as well: `again` passes the flags of Node on.
const AT_ONCE = `data:text/javascript,${encodeURIComponent(`
  const { on } = process
  process.on = (event, listener) => {
    on.call(process, event, listener)
    if (event === 'SIGHUP') { process.on = on; process.kill(process.pid, 'SIGHUP') }
    return process
  }`)}`

test('the command hears it before it is loaded: a gateway says what is wrong with its settings', async () => {
  const { ended } = start('--import', AT_ONCE, MAIN, 'tls', 'gateway', '--listen', '127.0.0.1:0')
  expect(await ended).toMatchObject({ code: 2, err: expect.stringContaining('setting ') })
})

test('any other command ends by it', async () => {
  const { ended } = start('--import', AT_ONCE, MAIN, 'group', 'verify', '/nowhere.json')
  expect(await ended).toMatchObject({ code: null, signal: 'SIGHUP' })
})
