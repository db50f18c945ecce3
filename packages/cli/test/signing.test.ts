/** A car signs a file; whoever has the group document checks it without a network. */
import fs from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { systemClock } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagroAt, milagroWith, type Said } from './world.js'

let folder: Folder
let system: RunningFleet
let idCore: string
const SLOW = ['--slow-device', '1000']
const DAY = 86_400_000
const CONTEXT = 'position of a car'

const device = (env: Record<string, string>, ...argv: string[]) =>
  milagroWith({ MILAGRO_RPS_URL: system.rps, ...env }, ...argv, '--json')
const noNetwork: typeof fetch = () => Promise.reject(new Error('there is no network'))
interface Asked {
  readonly file?: string
  readonly signature?: string
  readonly context?: string
  readonly groupId?: string
  readonly later?: number
}
const verify = (asked: Asked = {}, ...more: string[]): Promise<Said> =>
  milagroAt(
    { fetch: noNetwork, clock: () => systemClock() + (asked.later ?? 0) },
    'verify',
    asked.file ?? folder.file('track.json'),
    '--signature',
    asked.signature ?? folder.file('track.sig'),
    '--group',
    folder.file('group.json'),
    '--group-id',
    asked.groupId ?? system.groupId,
    '--context',
    asked.context ?? CONTEXT,
    '--offline',
    ...more,
    '--json',
  )

beforeAll(async () => {
  folder = await Folder.make()
  system = await runFleet(folder)
  const operator = ['--store', folder.file('operator.json'), '--rps', system.rps]
  await milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_CODE: system.setupCode },
    ...['device', 'enroll', '--with-pin', '--instance', `operator:${system.operator}`],
    ...['--attribute', `operator=${system.operator}`, ...operator, ...SLOW],
  )
  const added = await milagroWith(
    { MILAGRO_PIN: '271828' },
    ...[
      'fleet',
      'add',
      'vehicle',
      'VIN-1',
      '--attribute',
      'brand=Fiat',
      ...operator,
      '--url',
      system.fleet,
      '--json',
    ],
  )
  const enrolled = await device(
    { MILAGRO_CODE: added.json.code as string },
    ...[
      'device',
      'enroll',
      '--instance',
      'VIN-1',
      '--attribute',
      'brand=Fiat',
      '--store',
      folder.file('car.json'),
    ],
  )
  idCore = enrolled.json.idCore as string
  await writeFile(folder.file('track.json'), '{"lat":52.5,"lon":13.4}')
  const signed = await device(
    {},
    ...['sign', folder.file('track.json'), '--context', CONTEXT],
    ...['--out', folder.file('track.sig'), '--store', folder.file('car.json')],
  )
  expect(signed).toMatchObject({ exit: 0, err: '' })
}, 180_000)
afterAll(() => folder.close())

test('signed today: valid, with nobody asked', async () => {
  expect(await verify()).toMatchObject({ exit: 0, json: { valid: true, idCore } })
})

test('the signing key and the permit lie in the token store', async () => {
  const stored = JSON.parse(await readFile(folder.file('car.json'), 'utf8'))
  expect(stored.identities[0].device.sign.key).toMatch(/^[A-Za-z0-9_-]{64}$/)
  expect(stored.identities[0].permit).toEqual(expect.any(String))
})

describe('as a compact JWS', () => {
  const signedAs = async (form: string, ...more: string[]) => {
    const out = folder.file(`track.${form}`)
    const said = await device(
      {},
      ...['sign', folder.file('track.json'), '--context', CONTEXT, '--form', form],
      ...['--out', out, '--store', folder.file('car.json'), ...more],
    )
    return { said, out, text: (await readFile(out, 'utf8').catch(() => '')).trim() }
  }

  test('with its payload, or detached; nobody is asked', async () => {
    for (const form of ['jws', 'jws-detached']) {
      const { said, out, text } = await signedAs(form)
      expect(said).toMatchObject({ exit: 0, json: { idCore, slot: expect.any(Number) } })
      const [head, payload] = text.split('.') as [string, string]
      const header = JSON.parse(Buffer.from(head, 'base64url').toString())
      expect(header).toMatchObject({
        alg: 'MPIN-IBS-BLS12381-SHA256-V1',
        typ: 'mpin-signed',
        kid: idCore,
        context: CONTEXT,
      })
      const carried = Buffer.from(payload, 'base64url').toString()
      expect(carried).toBe(form === 'jws' ? '{"lat":52.5,"lon":13.4}' : '')
      expect(await verify({ signature: out })).toMatchObject({ exit: 0, json: { valid: true, idCore } })
    }
  })

  test('refused: another message, another context, a changed header, payload or signature, another form', async () => {
    const { text } = await signedAs('jws')
    const [head, payload, signature] = text.split('.') as [string, string, string]
    const header = JSON.parse(Buffer.from(head, 'base64url').toString())
    const headed = (change: object) =>
      Buffer.from(JSON.stringify({ ...header, ...change })).toString('base64url')
    const said = async (jws: string, asked: Asked = {}) => {
      await writeFile(folder.file('changed.jws'), jws)
      const { exit, json } = await verify({ signature: folder.file('changed.jws'), ...asked })
      return exit === 0 ? 'valid' : json.code
    }
    expect(await said(text)).toBe('valid')
    await writeFile(folder.file('other.json'), '{"lat":0,"lon":0}')
    expect(await said(text, { file: folder.file('other.json') })).toBe('WRONG_PROOF')
    expect(await said(`${head}..${signature}`, { file: folder.file('other.json') })).toBe('WRONG_PROOF')
    expect(await said(text, { context: 'opens a door' })).toBe('WRONG_PROOF')
    expect(
      await said(`${headed({ context: 'opens a door' })}.${payload}.${signature}`, {
        context: 'opens a door',
      }),
    ).toBe('WRONG_PROOF')
    expect(await said(`${head}.${payload}x.${signature}`)).toBe('WRONG_PROOF')
    expect(await said(`${head}.${payload}.${signature}.`)).toBe('MALFORMED')
    expect(await said(`${head}.${payload}.${signature.slice(4)}`)).toBe('MALFORMED')
    for (const change of [
      { alg: 'none' },
      { alg: 'ES256' },
      { typ: 'JWT' },
      { crit: ['b64'] },
      { b64: false },
    ])
      expect(await said(`${headed(change)}.${payload}.${signature}`), JSON.stringify(change)).toBe(
        'MALFORMED',
      )
    // The same U and V as fields beside the message were never signed, nor those of the fields as a JWS.
    const { alg: _alg, typ: _typ, kid, ...rest } = header
    await writeFile(
      folder.file('from-jws.sig'),
      JSON.stringify({ suite: 'BLS12381-SHA256-V1', v: 1, idCore: kid, ...rest, signature }),
    )
    expect((await verify({ signature: folder.file('from-jws.sig') })).json.code).toBe('WRONG_PROOF')
    const fields = JSON.parse(await readFile(folder.file('track.sig'), 'utf8'))
    expect(await said(`${head}..${fields.signature}`)).toBe('WRONG_PROOF')
  })

  test('a form that is none, and a context that is JWS’ own', async () => {
    expect((await signedAs('cose')).said).toMatchObject({ exit: 2 })
    expect(await verify({ context: 'jws:x' })).toMatchObject({ exit: 1, json: { code: 'MALFORMED' } })
  })
})

describe('many messages in one file', () => {
  const CONTENTS = ['{"at":1}', '{"at":2}', '', '{"at":4}', '{"at":5}']
  const verifyLines = (file: string, ...more: string[]) =>
    milagroAt(
      { fetch: noNetwork },
      ...['verify', file, '--lines', '--offline', '--context', CONTEXT, ...more],
      ...['--group', folder.file('group.json'), '--group-id', system.groupId],
    )
  let lines: string[]

  test('each is signed, and all of them are checked in one', async () => {
    const messages = await folder.write('many.txt', CONTENTS.map(line => `${line}\n`).join(''))
    const out = folder.file('many.jsonl')
    const said = await device(
      {},
      ...['sign', messages, '--lines', '--context', CONTEXT, '--out', out],
      ...['--store', folder.file('car.json')],
    )
    expect(said).toMatchObject({ exit: 0, json: { idCore, messages: 5 } })
    lines = (await readFile(out, 'utf8')).trim().split('\n')
    const { exit, json } = await verifyLines(out, '--json')
    expect({ exit, json }).toMatchObject({ exit: 0, json: { valid: true, messages: 5, failed: 0 } })
    expect((json.lines as object[])[2]).toMatchObject({ line: 3, valid: true, idCore })
  })

  test('the lines that fail are named, each with its own reason, and no other', async () => {
    const changed = (
      at: number,
      change: (line: { message: string; signed: Record<string, unknown> }) => void,
    ) => {
      const line = JSON.parse(lines[at] as string)
      change(line)
      return JSON.stringify(line)
    }
    const file = await folder.write(
      'changed.jsonl',
      [
        lines[0],
        changed(1, line => {
          line.message = toBase64Url(Buffer.from('{"at":3}'))
        }),
        'no JSON',
        changed(3, line => {
          line.signed.slot = (line.signed.slot as number) + 1_000
        }),
        lines[4],
        // Another reader may take the first of two equal names.
        (lines[4] as string).replace('{', `{"message":"${toBase64Url(Buffer.from('{"at":9}'))}",`),
      ].join('\n'),
    )
    const { exit, out } = await verifyLines(file)
    expect(exit).toBe(1)
    expect(out.split('\n').map(line => line.split(':').slice(0, 2).join(':').split(',')[0])).toEqual([
      'line 1: valid',
      'line 2: WRONG_PROOF',
      'line 3: MALFORMED',
      'line 4: EXPIRED',
      'line 5: valid',
      'line 6: MALFORMED',
      '2 of 6 messages are valid',
      '',
    ])
    // A line that is too long is its own fault, too.
    const long = `${lines[0]}\n${'x'.repeat((3 << 20) + 1)}\n${lines[4]}\n`
    const { json: ofLong } = await verifyLines(await folder.write('long.jsonl', long), '--json')
    expect(ofLong).toMatchObject({
      ...{ valid: false, messages: 3, failed: 1 },
      lines: [
        { valid: true },
        { code: 'MALFORMED', why: 'line: longer than 3145728 bytes' },
        { valid: true },
      ],
    })
    // None at all is no proof of anything.
    expect(await verifyLines(await folder.write('empty.jsonl', ''), '--json')).toMatchObject({
      exit: 1,
      json: { valid: false, messages: 0, lines: [] },
    })
    expect(await verifyLines(folder.file('no such file'))).toMatchObject({ exit: 2, out: '' })
  })

  test('a message that is too long: none is signed, and nothing is written', async () => {
    const out = folder.file('never.jsonl')
    const sign = async (text: string) =>
      device(
        {},
        ...['sign', await folder.write('long.txt', text), '--lines', '--context', CONTEXT, '--out', out],
        ...['--form', 'jws', '--store', folder.file('car.json')],
      )
    const long = await sign(`{"at":1}\n${'x'.repeat((1 << 20) + 1)}`)
    expect(long).toMatchObject({
      exit: 1,
      json: { code: 'REFUSED', why: 'line 2: longer than 1048576 bytes; nothing is written' },
    })
    await expect(readFile(out)).rejects.toThrow('ENOENT')
    // The longest that is signed can be checked, in the form that takes most.
    const { exit } = await sign('x'.repeat(1 << 20))
    expect(exit).toBe(0)
    expect(await verifyLines(out, '--json')).toMatchObject({ exit: 0, json: { messages: 1 } })
  })

  test('more than are checked in one: each has the number of its line', async () => {
    const many = Array.from({ length: 1_100 }, (_, i) => (i === 1_050 ? 'no JSON' : (lines[i % 5] as string)))
    const { json } = await verifyLines(await folder.write('more.jsonl', many.join('\n')), '--json')
    expect(json).toMatchObject({ messages: 1_100, failed: 1 })
    const failed = (json.lines as { line: number; valid: boolean }[]).filter(({ valid }) => !valid)
    expect(failed).toMatchObject([{ line: 1_051, code: 'MALFORMED' }])
  })

  test('a file that can’t be read on: the answer is one JSON object, and says so', async () => {
    const many = Array.from({ length: 1_100 }, (_, i) => `${lines[i % 5]}\n`).join('')
    async function* broken() {
      yield Buffer.from(many)
      throw Object.assign(new Error('input/output error'), { code: 'EIO' })
    }
    const opened = vi.spyOn(fs, 'createReadStream').mockImplementation(() => broken() as never)
    syncBuiltinESMExports()
    try {
      const { exit, out } = await verifyLines('broken.jsonl', '--json')
      const { lines: verdicts, ...sum } = JSON.parse(out)
      expect(verdicts).toHaveLength(1_024)
      expect({ exit, ...sum }).toEqual({
        ...{ exit: 2, ok: false, valid: false, messages: 1_024, failed: 0 },
        ...{ code: 'USAGE', why: "cannot read 'broken.jsonl' (EIO)" },
      })
      expect(await verifyLines('broken.jsonl')).toMatchObject({
        exit: 2,
        err: "milagro: USAGE: cannot read 'broken.jsonl' (EIO)\n",
      })
    } finally {
      opened.mockRestore()
      syncBuiltinESMExports()
    }
  })
})

test('as of another time, where somebody says when it came', async () => {
  const now = new Date().toISOString()
  expect(await verify({ later: 2 * DAY }, '--at', now)).toMatchObject({ exit: 0, json: { valid: true } })
  const tomorrow = new Date(systemClock() + 2 * DAY).toISOString()
  expect(await verify({}, '--at', tomorrow)).toMatchObject({ exit: 1, json: { code: 'EXPIRED' } })
  expect(await verify({}, '--at', 'some day')).toMatchObject({ exit: 2 })
})

describe('refused', () => {
  const changed = async (name: string, change: (signed: Record<string, unknown>) => void) => {
    const signed = JSON.parse(await readFile(folder.file('track.sig'), 'utf8'))
    change(signed)
    await writeFile(folder.file(name), JSON.stringify(signed))
    return folder.file(name)
  }

  test('yesterday’s', async () => {
    expect(await verify({ later: 2 * DAY })).toMatchObject({ exit: 1, json: { code: 'EXPIRED' } })
  })

  test('yesterday’s that says it is of today: the permit is of its own slot', async () => {
    const signature = await changed('slot.sig', signed => {
      signed.slot = (signed.slot as number) + 2
    })
    expect(await verify({ signature, later: 2 * DAY })).toMatchObject({
      exit: 1,
      json: { code: 'WRONG_PERMIT' },
    })
  })

  test('tomorrow’s', async () => {
    expect(await verify({ later: -2 * DAY })).toMatchObject({ exit: 1, json: { code: 'EXPIRED' } })
  })

  test('another message', async () => {
    await writeFile(folder.file('other.json'), '{"lat":0,"lon":0}')
    const said = await verify({ file: folder.file('other.json') })
    expect(said).toMatchObject({ exit: 1, json: { code: 'WRONG_PROOF' } })
  })

  test('another context', async () => {
    expect(await verify({ context: 'opens a door' })).toMatchObject({
      exit: 1,
      json: { code: 'WRONG_PROOF' },
    })
  })

  test('somebody else’s name under it', async () => {
    const signature = await changed('name.sig', signed => {
      const bytes = Buffer.from(signed.idCore as string, 'base64url')
      bytes[38]! ^= 1
      signed.idCore = toBase64Url(bytes)
    })
    expect(await verify({ signature })).toMatchObject({ exit: 1, json: { code: 'WRONG_PROOF' } })
  })

  test('a permit that is no permit of the group', async () => {
    const signature = await changed('permit.sig', signed => {
      const permit = Buffer.from(signed.permit as string, 'base64url')
      Buffer.from(signed.signature as string, 'base64url').copy(permit, permit.length - 48, 0, 48)
      signed.permit = toBase64Url(permit)
    })
    expect(await verify({ signature })).toMatchObject({ exit: 1, json: { code: 'WRONG_PERMIT' } })
  })

  test('a file that is none, a group that is another, and neither --offline nor --rps', async () => {
    const signature = await changed('none.sig', signed => {
      delete signed.context
    })
    expect(await verify({ signature })).toMatchObject({ exit: 1, json: { code: 'MALFORMED' } })
    const groupId = toBase64Url(new Uint8Array(32))
    expect(await verify({ groupId })).toMatchObject({ exit: 1, json: { code: 'REFUSED' } })
    expect(await verify({}, '--rps', system.rps)).toMatchObject({ exit: 2 })
  })
})
