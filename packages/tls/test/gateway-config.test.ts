/** Where the service behind a gateway is: host and port, or a path; by file, environment and flags. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError } from '@milagro-ts/api/config'
import { loadGatewayConfig, loadOutboundConfig, serviceFlag } from '@milagro-ts/tls/gateway-config'
import { LONGEST_SOCKET_PATH } from '@milagro-ts/tls/service-address'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const SERVICE = { host: '127.0.0.1', port: 8080 }
const SOCKET = '/run/service/socket'
const others = {
  name: 'gw.example',
  dataDir: 'gateway',
  listen: { host: '127.0.0.1', port: 0 },
  adminListen: { port: 0 },
  rps: { url: 'https://rps.example' },
  pass: 'none',
}

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-gateway-config-'))
})
afterEach(() => rm(folder, { recursive: true }))

/** Settings of a file with this `to`, this environment and this flag. */
async function toOf(
  to: unknown,
  { env = {}, flag }: { env?: Record<string, string>; flag?: string } = {},
): Promise<unknown> {
  const file = join(folder, 'gateway.json')
  await writeFile(file, JSON.stringify({ ...others, to }))
  return loadGatewayConfig({ file, env, flags: flag === undefined ? {} : { to: serviceFlag(flag) } }).to
}

test.each([[SERVICE], [{ path: SOCKET }]])('%j is an address', async to => {
  expect(await toOf(to)).toEqual(to)
})

describe('the strongest source that has one decides, whichever kind a weaker one has', () => {
  const byPath = { MILAGRO_GATEWAY_TO_PATH: '/run/environment' }
  const byPort = { MILAGRO_GATEWAY_TO_HOST: 'other', MILAGRO_GATEWAY_TO_PORT: '1' }
  test.each([
    ['environment over file: a path', SERVICE, { env: byPath }, { path: '/run/environment' }],
    ['environment over file: a port', { path: SOCKET }, { env: byPort }, { host: 'other', port: 1 }],
    [
      'the other half stays the file’s',
      SERVICE,
      { env: { MILAGRO_GATEWAY_TO_PORT: '2' } },
      { ...SERVICE, port: 2 },
    ],
    ['flag over both: a path', SERVICE, { env: byPort, flag: '/run/flag' }, { path: '/run/flag' }],
    ['flag over both: a port', { path: SOCKET }, { env: byPath, flag: '[::1]:3' }, { host: '::1', port: 3 }],
    ['none in the file', undefined, { env: byPath }, { path: '/run/environment' }],
  ])('%s', async (_, to, more, expected) => {
    expect(await toOf(to, more)).toEqual(expected)
  })
})

describe('refused, and the setting is named', () => {
  const both = "setting 'to': say either host and port, or path, not both"
  const absolute = "setting 'to.path': must be an absolute path"
  test.each([
    ['both in one source', { ...SERVICE, path: SOCKET }, {}, both],
    ['a host and a path', { host: 'h', path: SOCKET }, {}, both],
    [
      'both in the environment',
      SERVICE,
      { env: { MILAGRO_GATEWAY_TO_PATH: '/x', MILAGRO_GATEWAY_TO_PORT: '1' } },
      both,
    ],
    [
      'both in the file, under an environment that says one',
      { ...SERVICE, path: SOCKET },
      { env: { MILAGRO_GATEWAY_TO_PATH: '/x' } },
      both,
    ],
    ['both in the file, under a flag', { ...SERVICE, path: SOCKET }, { flag: '/x' }, both],
    [
      'both in the environment, under a flag',
      SERVICE,
      { env: { MILAGRO_GATEWAY_TO_PATH: '/x', MILAGRO_GATEWAY_TO_PORT: '1' }, flag: 'h:1' },
      both,
    ],
    ['neither', {}, {}, "setting 'to': say either host and port, or path"],
    ['nothing at all', undefined, {}, "setting 'to' is missing"],
    ['a host alone', { host: 'h' }, {}, "setting 'to.port' is missing"],
    ['a port alone', { port: 1 }, {}, "setting 'to.host' is missing"],
    [
      'a port from the environment beside a path',
      { path: SOCKET },
      { env: { MILAGRO_GATEWAY_TO_PORT: '1' } },
      "setting 'to.host' is missing",
    ],
    ['a relative path', { path: 'run/service' }, {}, absolute],
    ['no path', { path: '' }, {}, absolute],
    ['a name without a file', { path: '\0service' }, {}, absolute],
    ['another setting', { path: SOCKET, mode: 1 }, {}, "setting 'to.mode' is not known"],
    [
      'a flag that is neither',
      SERVICE,
      { flag: 'run/service' },
      "--to: 'run/service' is no host:port and no absolute path",
    ],
  ])('%s', async (_, to, more, why) => {
    await expect(toOf(to, more)).rejects.toThrow(new ConfigError(why))
  })

  test('a path that is longer than a socket’s may be, in bytes', async () => {
    const longest = `/${'x'.repeat(LONGEST_SOCKET_PATH - 1)}`
    expect(await toOf({ path: longest })).toEqual({ path: longest })
    const why = `setting 'to.path': a socket's path has at most ${LONGEST_SOCKET_PATH} bytes here, this one ${LONGEST_SOCKET_PATH + 1}`
    for (const path of [`${longest}x`, `${longest.slice(1)}ä`.replace(/^x/, '/')]) {
      await expect(toOf({ path })).rejects.toThrow(new ConfigError(why))
      await expect(toOf(SERVICE, { flag: path })).rejects.toThrow(new ConfigError(why))
    }
  })

  test('an outbound gateway reaches hosts and ports alone', () => {
    const { listen, rps } = others
    const flags = { listen, rps, server: 'gw.example', store: 'car.json', to: { path: SOCKET } }
    expect(() => loadOutboundConfig({ env: {}, flags })).toThrow(ConfigError)
  })
})

describe('pairings of one source', () => {
  const of = (rate: unknown, env: Record<string, string> = {}) =>
    loadGatewayConfig({ env, flags: { ...others, to: SERVICE, pairingsPerSource: rate } }).pairingsPerSource

  test('are a burst and a rate, from the environment as well; none is the default', () => {
    expect(of({ burst: 5_000, perSecond: 500 })).toEqual({ burst: 5_000, perSecond: 500 })
    const env = {
      MILAGRO_GATEWAY_PAIRINGS_PER_SOURCE_BURST: '7',
      MILAGRO_GATEWAY_PAIRINGS_PER_SOURCE_PER_SECOND: '0.5',
    }
    expect(of(undefined, env)).toEqual({ burst: 7, perSecond: 0.5 })
    expect(of(undefined)).toBeUndefined()
  })

  test.each([
    [{ burst: 5 }, "setting 'pairingsPerSource.perSecond' is missing"],
    [{ perSecond: 5 }, "setting 'pairingsPerSource.burst' is missing"],
    [{ burst: 0, perSecond: 5 }, "setting 'pairingsPerSource.burst'"],
    [{ burst: 5, perSecond: 0 }, "setting 'pairingsPerSource.perSecond'"],
    [50, "setting 'pairingsPerSource'"],
  ])('%j is refused, and the setting is named', (rate, why) => {
    expect(() => of(rate)).toThrow(ConfigError)
    expect(() => of(rate)).toThrow(why)
  })
})

describe('balancers', () => {
  const of = (balancers: unknown, env: Record<string, string> = {}) =>
    loadGatewayConfig({ env, flags: { ...others, to: SERVICE, balancers } }).balancers

  test('are addresses, each in its one spelling', () => {
    expect(of(['192.0.2.1', '::ffff:192.0.2.2', '2001:DB8:0::1'])).toEqual([
      '192.0.2.1',
      '192.0.2.2',
      '2001:db8::1',
    ])
    expect(of(undefined, { MILAGRO_GATEWAY_BALANCERS: '["192.0.2.1"]' })).toEqual(['192.0.2.1'])
    expect(of(undefined)).toBeUndefined()
  })

  test.each(['192.0.2.0/24', 'balancer.example', '192.0.2.1:443', ' 192.0.2.1', '192.0.2'])(
    '%j is none, and is named by its place',
    text => {
      expect(() => of(['192.0.2.1', text])).toThrow(
        new ConfigError("setting 'balancers.1': must be an IP address"),
      )
    },
  )
})
