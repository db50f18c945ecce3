import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { parse, milagro as programOf } from '@milagro-ts/cli/program'
import type { Command } from 'commander'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { attributesOf } from '../src/attributes.js'
import { unixSeconds } from '../src/io.js'
import { Folder, milagro, milagroAt, noBytes } from './world.js'

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

  test.each([
    '2030-01-31',
    '2030-01-31T12:00:00',
    '31 Jan 2030',
    'Thu, 31 Jan 2030 12:00 GMT',
    '2030-13-31T12:00Z',
    'now',
  ])('a time that is none, or has no zone: %s', time => {
    const refused = `--at: '${time}' is not a time with Z or an offset`
    expect(() => unixSeconds(time, '--at')).toThrow(refused)
  })
  test('a time is the same on every machine', () => {
    for (const time of ['2030-01-31T12:00Z', '2030-01-31T12:00:00.9Z', '2030-01-31T13:00:00+01:00'])
      expect(unixSeconds(time, '--at')).toBe(1_896_091_200)
  })

  test.each([
    ['--after', ['dta', 'leave', 'A'.repeat(43), '--admin-url', 'http://127.0.0.1:1', '--after']],
    [
      '--at',
      ['verify', 'f', '--signature', 's', '--group', 'g', '--group-id', 'A'.repeat(43)].concat(
        ...['--context', 'c', '--offline', '--at'],
      ),
    ],
  ])('%s without a zone', async (flag, argv) => {
    expect(await milagro(...argv, '2030-01-31T12:00:00', '--json')).toMatchObject({
      exit: 2,
      json: { code: 'USAGE', why: expect.stringContaining(`${flag}: '2030-01-31T12:00:00' is not a time`) },
    })
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

describe('a hash and an M-Pin ID that begin with a hyphen reach an action as they were given', () => {
  const given = [
    `-${'q0Hyphen_in-front'.repeat(3).slice(0, 41)}A`,
    `-${'q0Hyphen_in-front'.repeat(4).slice(0, 51)}`,
  ]
  const unheard = {
    out: () => {},
    err: () => {},
    env: {},
    fetch,
    clock: systemClock,
    random: systemRandom,
    isTerminal: false,
    bytes: noBytes,
  }
  const ofName = (path: string) => {
    const program = programOf(unheard, { exit: 0 })
    const command = path
      .split(' ')
      .reduce<Command>(
        (above, name) => above.commands.find(child => child.name() === name) as Command,
        program,
      )
    return { program, command }
  }
  const leaves = (command: Command, path: readonly string[] = []): string[] =>
    command.commands.length === 0
      ? [path.join(' ')]
      : command.commands.flatMap(child => leaves(child, [...path, child.name()]))

  test.each(leaves(programOf(unheard, { exit: 0 })))('milagro %s', async path => {
    const { program, command } = ofName(path)
    let heard: unknown[] = []
    command.action((...all: unknown[]) => {
      heard = all.slice(0, -1)
    })
    // Choices are closed lists, where no hash is among them.
    const options = command.options.filter(({ required, argChoices }) => required && argChoices === undefined)
    const closed = command.options.filter(({ required, argChoices }) => required && argChoices !== undefined)
    for (const value of given) {
      const values = (variadic: boolean) => (variadic ? [value, value] : [value])
      const operands = command.registeredArguments.map(({ variadic }) => values(variadic))
      await parse(program, [
        ...path.split(' '),
        ...operands.flat(),
        ...options.flatMap(({ long, variadic }) => [long as string, ...values(variadic)]),
        ...closed.flatMap(({ long, argChoices }) => [long as string, argChoices?.[0] as string]),
      ])
      expect(heard.slice(0, -1)).toEqual(
        command.registeredArguments.map(({ variadic }, i) => (variadic ? operands[i] : value)),
      )
      const said = heard.at(-1) as Record<string, unknown>
      for (const option of options)
        expect(said[option.attributeName()]).toEqual(option.variadic ? [value, value] : value)
    }
  })

  test('and are said as they were given', async () => {
    const [hash] = given as [string]
    await folder.write('admin-token', 'token')
    const world = { fetch: async () => Response.json({ abandonment: 'header.payload.signature' }) }
    const where = [
      '--admin-url',
      'http://127.0.0.1:1',
      '--data-dir',
      folder.path,
      '--out',
      folder.file('abandonment'),
    ]
    const said = await milagroAt(world, 'group', 'abandon', hash, '--group', hash, ...where)
    expect(said.out).toContain(`abandoned ${hash} for good`)
    expect(await milagro('group', hash)).toMatchObject({ err: `error: unknown command '${hash}'\n`, out: '' })
    expect((await milagro('group', hash, '--json')).json.why).toBe(`error: unknown command '${hash}'`)
  })
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
