import { createServer } from 'node:net'
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { ConfigError } from '@milagro-ts/api/config'
import { PortTaken } from '@milagro-ts/api/listen'
import { REDACTED } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { NoQuorum } from '@milagro-ts/api/quorum'
import { ClientError } from '@milagro-ts/client/errors'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { StoreError } from '@milagro-ts/store/store-error'
import { PeerRefused } from '@milagro-ts/tls/peer'
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

  const printed = (error: unknown) => {
    const { log, lines } = testLog()
    log.warn({ err: error }, 'x')
    return JSON.parse(lines[0] ?? '').err
  }

  test('that is a refusal says its code, its message and what is for the log', () => {
    expect(printed(new Refused('CONFLICT', { detail: 'taken', log: 'by car 7' }))).toEqual({
      type: 'Refused',
      says: 'CONFLICT: taken',
      why: 'by car 7',
      system: 'CONFLICT',
    })
  })

  test('of a message that a peer has made long says the beginning', () => {
    const detail = `${' '.repeat(1_000_000)}\n`.repeat(2)
    const { says } = printed(new Refused('CONFLICT', { detail }))
    expect(says).toHaveLength(2_000)
    expect(printed(new Refused('CONFLICT', { detail: 'one\r\n  two' })).says).toBe('CONFLICT: one two')
  })

  test.each<[string, Error]>([
    ['a refusal', new Refused('FROZEN')],
    ['too few authorities', new NoQuorum('RETRY_LATER', [], {})],
    ['a server that is away', new Unreachable('GET https://rps/v1/group got no answer')],
    ['an answer that fits nothing', new UnexpectedAnswer('/v1/group answered 200')],
    ['a wrong setting', new ConfigError("setting 'name' is missing")],
    ['a taken port', new PortTaken("setting 'listen': taken")],
    ['a device’s own no', new ClientError('WRONG_GROUP')],
    ['a full queue', new PoolUnavailable('full', 1)],
    ['a store that can’t be used', new StoreError('unavailable', 'full')],
    ['a peer that may not speak', new PeerRefused('no permit')],
  ])('that is expected says its message and no stack: %s', (_, error) => {
    const { type, says, stack } = printed(error)
    expect({ type, says, stack }).toEqual({ type: error.name, says: error.message, stack: undefined })
  })

  test('of a connection, or of a fetch over it, has no stack either', async () => {
    const server = createServer()
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    await new Promise(resolve => server.close(resolve))
    const error = await fetch(`http://127.0.0.1:${port}/`).catch((failed: unknown) => failed)
    const refused = {
      type: 'Error',
      says: `connect ECONNREFUSED 127.0.0.1:${port}`,
      system: 'ECONNREFUSED',
    }
    expect(printed(error)).toEqual({ type: 'TypeError', says: 'fetch failed', cause: refused })
    expect(printed((error as Error).cause)).toEqual(refused)
  })

  test.each<[string, Error]>([
    ['a TypeError', new TypeError('x is not a function')],
    ['one of a file', Object.assign(new Error('ENOENT: open'), { code: 'ENOENT', syscall: 'open' })],
    ['one that says what fetch says', new TypeError('fetch failed', { cause: new RangeError('mine') })],
    ['one whose cause is expected', new Error('broken', { cause: new Refused('FROZEN') })],
  ])('that is not expected keeps its stack: %s', (_, error) => {
    expect(printed(error)).toMatchObject({ stack: expect.stringContaining('log.test.ts') })
    expect(printed(error)).not.toHaveProperty('says')
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
