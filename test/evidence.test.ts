/** The search for secrets in what a test run has written: it finds each, in every spelling, and nothing else. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import {
  checkEvidence,
  Recorder,
  readEvidence,
  SECRETS_OF_STORES,
  type SecretKind,
  type Source,
  searchEvidence,
  unfoundPlants,
} from '../scripts/evidence.mjs'
import { ROOT } from '../scripts/prepare.mjs'

const KEY = Buffer.from(Array.from({ length: 48 }, (_, i) => (i * 57 + 3) & 0xff))

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-evidence-'))
})
afterEach(() => rm(folder, { recursive: true }))

const found = (kind: SecretKind, value: string, text: string, source: Source = 'log') =>
  searchEvidence({ lines: [{ source, text }], secrets: [{ kind, value }] }).findings.length > 0

test('a planted secret of each kind and spelling is found in a line of each source', () => {
  expect(unfoundPlants()).toEqual([])
})

describe('a secret is found', () => {
  test.each([
    ['as base64url', KEY.toString('base64url')],
    ['as base64', KEY.toString('base64')],
    ['as hex', KEY.toString('hex')],
    ['cut short', KEY.toString('base64url').slice(0, 20)],
    ['in the middle of a path', `/v1/x/${KEY.toString('base64url')}/y`],
  ])('%s', (_how, spelled) => {
    expect(found('key', KEY.toString('base64url'), `{"msg":"sent ${spelled}"}`)).toBe(true)
  })

  test('where a code is written without its dashes, in small letters, or as its secret’s bytes', () => {
    const code = 'ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23'
    for (const spelled of [
      code,
      code.replaceAll('-', ''),
      code.toLowerCase(),
      '00443214c74254b635cf84653a56d7c6',
    ])
      expect([spelled, found('code', code, `code ${spelled}.`)]).toEqual([spelled, true])
  })

  test.each([
    ['pin', '1234', '{"msg":"PIN 1234 is wrong"}'],
    ['pin', '1234', '{"pin":"1234"}'],
    ['name', 'Jo', '{"detail":"Jo is banned"}'],
    ['name', 'Ada Lovelace', 'driver Ada Lovelace'],
    ['name', 'Jörg', '"Jörg"'],
    ['passphrase', 'three words long', 'opened with three words long'],
  ] as const)('%s %s in %s', (kind, value, text) => {
    expect(found(kind, value, text)).toBe(true)
  })
})

test.each([
  ['pin', '1234', '{"time":1234,"pid":1234}'],
  ['pin', '1234', 'at file.ts:1234:12, 127.0.0.1:1234, 12345, 0.1234'],
  ['name', 'Jo', '{"msg":"Joined","id":"aa-Jo-bb"}'],
  ['key', KEY.toString('base64url'), Buffer.from(KEY).reverse().toString('base64url')],
  [
    'token',
    'eyJhbGciOiJFUzI1NiJ9.e30.AAAABBBBCCCCDDDDEEEE',
    'eyJhbGciOiJFUzI1NiJ9.e30.another_signature_of_it',
  ],
] as const)('%s %s is not found in %s', (kind, value, text) => {
  expect(found(kind, value, text)).toBe(false)
})

test('what a metric counts is no PIN, a label would be', () => {
  expect(found('pin', '1234', 'logins_total{code="OK"} 1234', 'metrics')).toBe(false)
  expect(found('pin', '1234', 'logins_total{code="1234"} 5', 'metrics')).toBe(true)
  expect(found('pin', '1234', '{"level":30,"slots":[1233,1234],"msg":"x"}')).toBe(false)
  expect(found('pin', '1234', '{"level":30,"slots":[1233,1234],"msg":"1234"}')).toBe(true)
  expect(found('pin', '1234', '{"level":30,"pins":[1233,1234],"msg":"x"}')).toBe(true)
})

test('what is recorded comes back, once, with the secrets of a token store but not the group’s public keys', () => {
  const recorder = new Recorder(folder)
  recorder.line('log', 'one\ntwo\n\n')
  recorder.line('log', 'one')
  recorder.secretsOf(SECRETS_OF_STORES, {
    identities: [{ revisions: [{ key: 'public-key-of-the-group' }], device: { key: 'a-device-key' } }],
  })
  expect(readEvidence(folder)).toEqual({
    lines: [
      { source: 'log', text: 'one' },
      { source: 'log', text: 'two' },
    ],
    secrets: [{ kind: 'key', value: 'a-device-key' }],
  })
})

describe('the last step of a run', () => {
  const silently = (isWhole: boolean) => {
    const said: string[] = []
    const spies = (['log', 'error'] as const).map(stream =>
      vi.spyOn(console, stream).mockImplementation(text => void said.push(String(text))),
    )
    const ok = checkEvidence(folder, { isWhole })
    for (const spy of spies) spy.mockRestore()
    return { ok, said: said.join('\n') }
  }

  test('fails, and names the line', () => {
    const recorder = new Recorder(folder)
    recorder.secret('key', KEY)
    recorder.line('metrics', 'all is well')
    expect(silently(false).ok).toBe(true)
    recorder.line('problem', `{"detail":"${KEY.toString('hex')}"}`)
    const { ok, said } = silently(false)
    expect(ok).toBe(false)
    expect(said).toContain(`a key stands in this problem line: {"detail":"${KEY.toString('hex')}"}`)
  })

  test('fails for a whole run in which nothing was recorded', () => {
    new Recorder(folder).line('log', 'alone')
    const { ok, said } = silently(true)
    expect(ok).toBe(false)
    for (const label of ['problem', 'stderr', 'pin', 'code']) expect(said).toContain(`'${label}'`)
    expect(said).not.toContain(`'log'`)
  })
})

test('a process of a run records its children’s standard error, and the tokens of its calls', async () => {
  const server = createServer((_request, response) => {
    const body = JSON.stringify({ accessToken: 'e30.e30.the-signature-of-an-answer' })
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length }).end(body)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const program = `
    const { spawn } = await import('node:child_process')
    const { once } = await import('node:events')
    const child = spawn(process.execPath, ['-e', 'console.error("first"); process.stderr.write("last")'])
    await once(child, 'close')
    const headers = { authorization: 'Bearer e30.e30.the-signature-of-a-call' }
    const { accessToken } = await (await fetch(${JSON.stringify(url)}, { headers })).json()
    if (!accessToken.endsWith('answer')) process.exit(1)`
  const hook = pathToFileURL(`${ROOT}scripts/evidence-hook.mjs`)
  hook.searchParams.set('folder', folder)
  const child = spawn(process.execPath, ['--import', hook.href, '--input-type=module', '-e', program], {
    stdio: 'inherit',
  })
  const [code] = await once(child, 'close')
  server.close()
  expect(code).toBe(0)
  const { lines, secrets } = readEvidence(folder)
  expect(lines.map(({ source, text }) => `${source} ${text}`)).toEqual(['stderr first', 'stderr last'])
  expect(secrets.map(({ value }) => value)).toEqual([
    'e30.e30.the-signature-of-a-call',
    'e30.e30.the-signature-of-an-answer',
  ])
})
