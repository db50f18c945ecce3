import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { attributesOf } from '../src/attributes.js'
import { Folder, milagro } from './world.js'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))

let folder: Folder
let closedPort: number
beforeAll(async () => {
  folder = await Folder.make()
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  closedPort = (server.address() as { port: number }).port
  await new Promise(resolve => server.close(resolve))
})
afterAll(() => folder.close())

describe('exit code 2, and why, for a wrong command line', () => {
  test.each([
    ['an unknown noun', ['gruop']],
    ['an unknown verb', ['group', 'bake']],
    ['an unknown flag', ['group', 'show', 'g.json', '--jsn']],
    ['a missing argument', ['group', 'accept']],
    ['a missing flag', ['dta', 'audit', '--url', 'http://127.0.0.1:1']],
    ['nothing', []],
    ['a noun alone', ['group']],
  ])('%s', async (_what, argv) => {
    const said = await milagro(...argv)
    expect(said.exit).toBe(2)
    expect(said.err).not.toBe('')
    expect(said.out).toBe('')
  })

  test('a file that is not there', async () => {
    const said = await milagro('group', 'verify', folder.file('none.json'))
    expect(said).toMatchObject({ exit: 2, err: expect.stringMatching(/cannot read .*none\.json.*ENOENT/) })
  })

  test('a file that is not JSON', async () => {
    const file = await folder.write('text.json', 'group')
    expect(await milagro('group', 'verify', file)).toMatchObject({
      exit: 2,
      err: expect.stringContaining('not JSON'),
    })
  })

  test('an attribute that is said twice', () => {
    expect(attributesOf(['brand=Fiat', 'note=a=b'])).toEqual({ brand: 'Fiat', note: 'a=b' })
    expect(() => attributesOf(['brand=Fiat', 'brand=Seat'])).toThrow("'brand' is said twice")
  })

  test('an admin listener that nobody named', async () => {
    expect(await milagro('dta', 'status')).toMatchObject({
      exit: 2,
      err: expect.stringContaining('--config'),
    })
  })

  test.each([
    ['--url', ['dta', 'audit', '--group', 'A', '--url', 'garbage']],
    ['--url', ['fleet', 'list', '--store', 's', '--rps', 'http://127.0.0.1:1', '--url', 'file:///x']],
    ['--rps', ['device', 'permit', '--store', 's', '--rps', '127.0.0.1:7401']],
  ])('an address in %s that is none', async (flag, argv) => {
    expect(await milagro(...argv)).toMatchObject({ exit: 2, err: expect.stringContaining(`${flag}: `) })
  })

  test.each([
    ['--group', ['dta', 'audit', '--url', 'http://127.0.0.1:1', '--group', 'not base64url']],
    ['--group', ['dta', 'freeze', '--config', 'none.json', '--group', `${'A'.repeat(43)}=`]],
    ['--group', ['group', 'verify', 'none.json', '--group', 'A'.repeat(42)]],
    [
      '--group',
      [
        'device',
        'enroll',
        '--words',
        '--store',
        's',
        '--rps',
        'http://127.0.0.1:1',
        '--instance',
        'x',
      ].concat('--group', `${'A'.repeat(42)}B`),
    ],
    ['hash', ['group', 'accept', 'AAAA', '--config', 'none.json']],
  ])('%s that is not 32 bytes in base64url', async (what, argv) => {
    const said = await milagro(...argv, '--json')
    expect(said).toMatchObject({ exit: 2, json: { code: 'USAGE' } })
    expect(said.json.why).toContain(`${what}: '`)
  })

  test('a plan that is wrong names where', async () => {
    const plan = await folder.write('plan.json', { authorities: [] })
    const said = await milagro(
      'group',
      'make',
      plan,
      '--proposal',
      folder.file('p'),
      '--out',
      folder.file('g'),
      '--json',
    )
    expect(said).toMatchObject({ exit: 2, json: { ok: false, code: 'USAGE' } })
  })
})

test('exit code 1 for a document that is refused, with its code in JSON', async () => {
  const file = await folder.write('empty.json', {})
  const said = await milagro('group', 'verify', file, '--json')
  expect(said).toMatchObject({ exit: 1, json: { ok: false, code: 'MALFORMED' }, err: '' })
})

test('exit code 3 for a server that is unreachable', async () => {
  const url = `http://127.0.0.1:${closedPort}`
  const said = await milagro('dta', 'audit', '--url', url, '--group', 'A'.repeat(43), '--json')
  expect(said).toMatchObject({ exit: 3, json: { ok: false, code: 'UNREACHABLE' } })
})

test('a token store that is not there, or empty of identities, is named', async () => {
  const missing = folder.file('nobody.store')
  const rps = ['--rps', `http://127.0.0.1:${closedPort}`]
  for (const verb of [
    ['device', 'list'],
    ['device', 'permit', ...rps],
    ['fleet', 'list', '--url', 'http://127.0.0.1:1', ...rps],
  ]) {
    const said = await milagro(...verb, '--store', missing, '--json')
    expect(said).toMatchObject({ exit: 1, json: { code: 'NOT_ENROLLED' } })
    expect(said.json.why).toContain(`no token store '${missing}'`)
  }
})

test('a hash that begins with hyphens is no option', async () => {
  const letters = 'q0Hyphens-in-front'.repeat(3).slice(0, 41)
  const hash = `--${letters}`
  const said = await milagro(
    'group',
    'accept',
    hash,
    '--admin-url',
    `http://127.0.0.1:${closedPort}`,
    '--json',
  )
  expect(said.err + String(said.json.why)).not.toContain('unknown option')
  expect((await milagro('group', 'accept', `--${letters.slice(1)}`)).err).toContain('unknown option')
})

test('--help and --version are answers, not errors', async () => {
  expect(await milagro('--version')).toMatchObject({ exit: 0, out: '0.1.0\n', err: '' })
  const help = await milagro('group', 'make', '--help')
  expect(help).toMatchObject({ exit: 0, err: '' })
  expect(help.out).toContain('Usage: milagro group make')
})

test('a reader who has enough, as `head` does, is no error', async () => {
  const child = spawn(process.execPath, [MAIN, '--help'], { stdio: ['ignore', 'pipe', 'pipe'] })
  child.stdout.destroy()
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk
  })
  const [exit] = await once(child, 'close')
  expect([exit, said]).toEqual([0, ''])
})
