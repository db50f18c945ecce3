import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError, loadConfig, readSecret } from '@milagro-ts/api/config'
import { Strict } from '@milagro-ts/api/schemas'
import { GroupIdSetting, UrlSetting } from '@milagro-ts/api/settings'
import Type from '@milagro-ts/api/typebox'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const Schema = Strict({
  name: Type.String({ minLength: 1 }),
  publicUrl: Type.Optional(Type.String()),
  deltaSeconds: Type.Optional(Type.Integer({ minimum: 0, maximum: 300 })),
  listen: Strict({ host: Type.Optional(Type.String()), port: Type.Integer({ minimum: 0, maximum: 65_535 }) }),
  trustProxy: Type.Optional(Type.Array(Type.String())),
  audiences: Type.Optional(
    Type.Array(Strict({ name: Type.String(), pin: Type.Enum(['never', 'required']) })),
  ),
  open: Type.Optional(Type.Boolean()),
  rps: Type.Optional(Strict({ url: UrlSetting })),
  others: Type.Optional(Type.Array(UrlSetting)),
  groupId: Type.Optional(GroupIdSetting),
  only: Type.Optional(Type.Enum(['this'])),
})

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'milagro-config-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

function file(content: unknown): string {
  const path = join(folder, 'config.json')
  writeFileSync(
    path,
    typeof content === 'string' || content instanceof Uint8Array ? content : JSON.stringify(content),
  )
  return path
}
const load = (content: unknown, env: Record<string, string> = {}, flags: Record<string, unknown> = {}) =>
  loadConfig(Schema, { prefix: 'MILAGRO_RPS', file: file(content), env, flags })

/** The one line that an operator reads. */
function complaint(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    expect(error.message).not.toMatch(/[\r\n]/)
    return error.message.replaceAll(folder, '…')
  }
  throw new Error('nothing was wrong')
}

describe('a file is overruled by the environment, and that by flags', () => {
  const low = { name: 'file', listen: { host: 'file', port: 1 }, publicUrl: 'file' }

  test('setting by setting, nested ones too', () => {
    const env = { MILAGRO_RPS_NAME: 'env', MILAGRO_RPS_LISTEN_PORT: '2', MILAGRO_RPS_PUBLIC_URL: 'env' }
    expect(load(low)).toEqual(low)
    expect(load(low, env)).toEqual({ name: 'env', listen: { host: 'file', port: 2 }, publicUrl: 'env' })
    expect(load(low, env, { listen: { port: 3 }, publicUrl: 'flag', name: undefined })).toEqual({
      name: 'env',
      listen: { host: 'file', port: 3 },
      publicUrl: 'flag',
    })
  })
  test('without a file', () => {
    const env = { MILAGRO_RPS_NAME: 'env', MILAGRO_RPS_LISTEN_PORT: '0' }
    expect(loadConfig(Schema, { prefix: 'MILAGRO_RPS', env })).toEqual({ name: 'env', listen: { port: 0 } })
  })
  test('a list is replaced as a whole', () => {
    const lists = { ...low, trustProxy: ['a', 'b'] }
    expect(load(lists, { MILAGRO_RPS_TRUST_PROXY: '["c"]' }).trustProxy).toEqual(['c'])
  })
  test('numbers, truth values and lists are read as JSON, text as it is', () => {
    const env = { MILAGRO_RPS_NAME: '12', MILAGRO_RPS_DELTA_SECONDS: '60', MILAGRO_RPS_OPEN: 'true' }
    expect(load(low, env)).toMatchObject({ name: '12', deltaSeconds: 60, open: true })
  })
  test('variables of others are not looked at', () => {
    expect(load(low, { MILAGRO_DTA_NAME: 'other', NAME: 'other', MILAGRO_RPS: 'other' })).toEqual(low)
  })
})

describe('what is wrong is said in one line', () => {
  const good = { name: 'rps', listen: { port: 1 } }
  const ORIGIN = 'an origin such as https://rps.example:8080'
  test.each<[unknown, Record<string, string>, string]>([
    [{ listen: { port: 1 } }, {}, "setting 'name' is missing"],
    [{ name: 'rps', listen: {} }, {}, "setting 'listen.port' is missing"],
    [{ ...good, nmae: 'x' }, {}, "setting 'nmae' is not known"],
    [{ ...good, listen: { port: 1, prot: 2 } }, {}, "setting 'listen.prot' is not known"],
    [{ ...good, listen: { port: 70_000 } }, {}, "setting 'listen.port': must be <= 65535"],
    [{ ...good, listen: { port: '1' } }, {}, "setting 'listen.port': must be integer"],
    [
      { ...good, audiences: [{ name: 'a', pin: 'hunter2' }] },
      {},
      "setting 'audiences.0.pin': must be 'never' or 'required'",
    ],
    [{ ...good, only: 7 }, {}, "setting 'only': must be 'this'"],
    ...['', 'hunter2.example:8080', 7].flatMap(url => [
      [{ ...good, rps: { url } }, {}, `setting 'rps.url': must be ${ORIGIN}`],
      [{ ...good, others: ['https://a.example', url] }, {}, `setting 'others.1': must be ${ORIGIN}`],
    ]),
    [{ ...good, rps: {} }, {}, "setting 'rps.url' is missing"],
    ...['…', `${'A'.repeat(42)}B`].map(groupId => [
      { ...good, groupId },
      {},
      "setting 'groupId': must be 32 bytes in base64url, which are 43 characters",
    ]),
    [good, { MILAGRO_RPS_LISTEN_PORT: 'eighty' }, "MILAGRO_RPS_LISTEN_PORT: 'integer' expected"],
    [good, { MILAGRO_RPS_LISTEN_PORT: '' }, "MILAGRO_RPS_LISTEN_PORT: 'integer' expected"],
    [good, { MILAGRO_RPS_LISTEN_PORT: '-1' }, "setting 'listen.port': must be >= 0"],
    [good, { MILAGRO_RPS_OPEN: 'yes' }, "MILAGRO_RPS_OPEN: 'boolean' expected"],
    [good, { MILAGRO_RPS_NAME: '' }, /^setting 'name': must not have fewer than 1 char/],
    ['{"name":"a","name":"b"}', {}, "config file '…/config.json': a key stands twice"],
    ['{"__proto__":{"name":"a"}}', {}, "config file '…/config.json': a key is not allowed"],
    ['{name:"hunter2"}', {}, "config file '…/config.json': this is not JSON"],
    ['[]', {}, "config file '…/config.json' is not a JSON object"],
    [Uint8Array.of(0xff), {}, "config file '…/config.json': this is not JSON"],
  ] as [unknown, Record<string, string>, string][])('%j %j: %s', (content, env, line) => {
    const said = complaint(() => load(content, env))
    if (typeof line === 'string') expect(said).toBe(line)
    else expect(said).toMatch(line)
    expect(said).not.toContain('hunter2')
  })

  test('a file that is not there, or is a folder', () => {
    const missing = join(folder, 'none.json')
    expect(complaint(() => loadConfig(Schema, { prefix: 'X', file: missing, env: {} }))).toBe(
      "config: cannot read '…/none.json' (ENOENT)",
    )
    expect(complaint(() => loadConfig(Schema, { prefix: 'X', file: folder, env: {} }))).toBe(
      "config: cannot read '…' (EISDIR)",
    )
  })
})

describe('a secret', () => {
  const NAME = 'MILAGRO_RPS_PASSPHRASE'
  const fromFile = (content: string) => readSecret(NAME, { [`${NAME}_FILE`]: file(content) })

  test('comes from the environment, or from the file that it names', () => {
    expect(readSecret(NAME, { [NAME]: ' as it is\n' })).toBe(' as it is\n')
    expect(fromFile('secret')).toBe('secret')
  })
  test.each([
    ['secret\n', 'secret'],
    ['secret\r\n', 'secret'],
    ['secret\n\n', 'secret\n'],
    [' secret \n', ' secret '],
    ['zwei\nZeilen\n', 'zwei\nZeilen'],
  ])('loses only its last newline: %j', (content, secret) => {
    expect(fromFile(content)).toBe(secret)
  })
  test.each<[string, () => unknown, string]>([
    [
      'both are given',
      () => readSecret(NAME, { [NAME]: 'a', [`${NAME}_FILE`]: 'b' }),
      `${NAME} and ${NAME}_FILE are both set`,
    ],
    ['neither is given', () => readSecret(NAME, {}), `set ${NAME}_FILE (or ${NAME})`],
    ['it is empty', () => readSecret(NAME, { [NAME]: '' }), `${NAME} is empty`],
    ['its file is empty', () => fromFile('\n'), `${NAME}_FILE is empty`],
    [
      'its file is not there',
      () => readSecret(NAME, { [`${NAME}_FILE`]: join(folder, 'none') }),
      `${NAME}_FILE: cannot read '…/none' (ENOENT)`,
    ],
  ])('is refused when %s', (_, read, line) => {
    expect(complaint(read)).toBe(line)
  })
  test('is not read from the settings', () => {
    expect(() => load({ name: 'a', listen: { port: 1 }, passphrase: 'hunter2' })).toThrow(
      "setting 'passphrase' is not known",
    )
  })
})
