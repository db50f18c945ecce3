import { REDACTED } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { describe, expect, test } from 'vitest'
import { testLog } from './http-server.js'

const SECRET = 'hunter2'

describe.each(REDACTED)('a field named %s', field => {
  test.each<[string, (value: unknown) => object]>([
    ['at the top', value => ({ [field]: value })],
    ['one level down', value => ({ a: { [field]: value } })],
    ['two levels down', value => ({ a: { b: { [field]: value } } })],
    ['five levels down', value => ({ a: { b: { c: { d: { e: { [field]: value } } } } } })],
    ['in a list', value => ({ list: [{ [field]: value }, [{ [field]: value }]] })],
    [
      'in other letters',
      value => ({ [field.toUpperCase()]: value, headers: { [field.toLowerCase()]: value } }),
    ],
    ['with a structure in it', value => ({ [field]: { deep: [value] } })],
  ])('is cut out %s', (_, fields) => {
    const { log, lines } = testLog()
    log.info(fields(SECRET), 'said')
    expect(lines).toHaveLength(1)
    expect(lines[0]).not.toContain(SECRET)
    expect(lines[0]).toContain('[redacted]')
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ msg: 'said', level: 30 })
  })

  test('is cut out of what a child log always says', () => {
    const { log, lines } = testLog()
    log.child({ [field]: SECRET, a: { [field]: SECRET, b: { [field]: SECRET } } }).info('x')
    expect(lines[0]).not.toContain(SECRET)
  })
})

describe('an error', () => {
  /** As libraries make them: the request, the row and the statement hang on it. */
  const loaded = (message: string) =>
    Object.assign(new Error(message), {
      code: 'SQLITE_CONSTRAINT',
      statement: SECRET,
      config: { headers: { 'x-key': SECRET } },
      row: [SECRET],
      toJSON: () => SECRET,
    })

  test.each<[string, (log: ReturnType<typeof testLog>['log']) => void]>([
    ['as err', log => log.error({ err: loaded('boom') }, 'failed')],
    ['alone', log => log.error(loaded('boom'))],
    ['alone with words', log => log.error(loaded('boom'), 'failed')],
    ['under another name', log => log.error({ why: loaded('boom') })],
    ['within a structure', log => log.error({ a: { list: [loaded('boom')] } })],
    ['of a child log', log => log.child({ err: loaded('boom') }).error('failed')],
    ['as a cause', log => log.error({ err: new Error('outer', { cause: loaded('boom') }) })],
    [
      'as a cause of a cause',
      log => log.error(new Error('x', { cause: new Error('y', { cause: loaded('boom') }) })),
    ],
  ])('says its type, message and stack and nothing that hangs on it: %s', (_, write) => {
    const { log, lines } = testLog()
    write(log)
    expect(lines[0]).toContain('boom')
    expect(lines[0]).toContain('log.test.ts')
    expect(lines[0]).not.toContain(SECRET)
  })

  test('says the platform’s name for it, so that an operator can look it up', () => {
    const { log, lines } = testLog()
    const cause = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' })
    log.error({ err: new Error('no answer', { cause }) })
    expect(JSON.parse(lines[0] ?? '').err.cause.system).toBe('ECONNREFUSED')
  })

  test('that uses the code for something else keeps it', () => {
    const { log, lines } = testLog()
    log.error({ err: Object.assign(new Error('x'), { code: SECRET }) })
    log.error({ err: Object.assign(new Error('x'), { code: { a: SECRET } }) })
    expect(lines.join('')).not.toContain(SECRET)
  })

  test('that has itself as its cause ends', () => {
    const { log, lines } = testLog()
    const error = new Error('round')
    error.cause = error
    log.error({ err: error })
    expect(lines).toHaveLength(1)
  })

  test('that is a refusal says its code and what is for the log in words', () => {
    const { log, lines } = testLog()
    log.error({ err: new Refused('CONFLICT', { detail: 'taken' }) })
    expect(lines[0]).toContain('CONFLICT: taken')
  })
})

describe('values', () => {
  const printed = (value: unknown) => {
    const { log, lines } = testLog()
    log.info({ value })
    return JSON.parse(lines[0] ?? '').value
  }
  class Key {
    secret = SECRET
    inner = SECRET
  }
  const round: Record<string, unknown> = {}
  round.again = round

  test.each<[string, unknown, unknown]>([
    ['bytes are counted', new Uint8Array(32), '[32 bytes]'],
    ['a buffer is counted', Buffer.from(SECRET), '[7 bytes]'],
    ['an object of a class is named', new Key(), '[Key]'],
    ['a map is named', new Map([['a', SECRET]]), '[Map]'],
    ['an address object is named', new URL(`http://x/?token=${SECRET}`), '[URL]'],
    ['a large integer is text', 2n ** 70n, '1180591620717411303424'],
    ['a date is a date', new Date(0), '1970-01-01T00:00:00.000Z'],
    ['plain values are themselves', { a: [1, 'x', true, null] }, { a: [1, 'x', true, null] }],
    ['an object without a prototype too', Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
  ])('%s', (_, value, expected) => {
    expect(printed(value)).toEqual(expected)
  })

  test('a structure that holds itself ends', () => {
    expect(JSON.stringify(printed(round))).toContain('[deep]')
  })
})

test('a level keeps the lower ones out', async () => {
  const { createLog } = await import('@milagro-ts/api/log')
  const lines: string[] = []
  const log = createLog('x', { level: 'error', destination: { write: line => void lines.push(line) } })
  log.info('no')
  log.error('yes')
  expect(lines).toHaveLength(1)
})
