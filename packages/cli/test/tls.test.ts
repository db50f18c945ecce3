/**
 * `milagro tls` as processes of their own, in a whole system: an enrolled car reaches a service through its outbound gateway
 * and the service's gateway, is known there, and is out when it is banned; a broker's PSK file follows the register.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { createServer, get } from 'node:http'
import { type AddressInfo, connect as connectTcp, createServer as createTcpServer } from 'node:net'
import { connect } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { fromUtf8, utf8 } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../../../test/free-port.js'
import { type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagro, milagroAt, milagroWith, piped } from './world.js'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const PIN = { MILAGRO_PIN: 'correct horse battery' }
const SECRETS = { MILAGRO_GATEWAY_PASSPHRASE: 'one word', MILAGRO_PSK_FILE_PASSPHRASE: 'another word' }

interface Started {
  readonly child: ChildProcess
  readonly out: () => string
  readonly err: () => string
  /** The JSON line with this event; rejects when the process ends before. */
  event(name: string): Promise<Record<string, string>>
  ended: Promise<number | null>
}
function start(...argv: string[]): Started {
  const child = spawn(process.execPath, [MAIN, ...argv], { env: { ...process.env, ...SECRETS } })
  let out = ''
  let err = ''
  const looks = new Set<() => void>()
  child.stderr.on('data', chunk => {
    err += chunk
  })
  const ended = new Promise<number | null>(resolve => child.once('close', resolve))
  const event = (name: string) =>
    new Promise<Record<string, string>>((resolve, reject) => {
      const look = () => {
        const lines = out.split('\n').slice(0, -1)
        const found = lines.map(line => JSON.parse(line)).find(line => line.event === name)
        if (found !== undefined) resolve(found)
      }
      looks.add(look)
      look()
      void ended.then(() => reject(new Error(`it ended: ${err}`)))
    })
  child.stdout.on('data', chunk => {
    out += chunk
    for (const look of looks) look()
  })
  return { child, out: () => out, err: () => err, event, ended }
}
async function until(holds: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 30_000
  while (!(await holds())) {
    if (performance.now() > end) throw new Error('it does not come about')
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}
const listens = ([host, port]: readonly string[]) =>
  new Promise<boolean>(resolve => {
    const socket = connectTcp({ host, port: Number(port) })
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
const body = (url: string) =>
  new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
    get(url, { agent: false }, async answer => {
      try {
        let text = ''
        for await (const chunk of answer) text += chunk
        resolve({ status: answer.statusCode, text })
      } catch (error) {
        reject(error)
      }
    }).on('error', reject)
  })

const hasOpenssl = spawnSync('openssl', ['version']).status === 0
if (!hasOpenssl) console.log('openssl is not here: it takes no PSK of the command')
/** Asks for a page with the program; both its outputs in one text. */
const openssl = (...argv: string[]) =>
  new Promise<string>((resolve, reject) => {
    const child = spawn('openssl', argv)
    let text = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', chunk => {
        text += chunk
      })
    child.once('error', reject)
    child.once('close', () => resolve(text))
    child.stdin.on('error', () => undefined)
    child.stdin.end('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  })

describe('exit code 2, and why, for wrong settings and flags', () => {
  let folder: Folder
  beforeAll(async () => {
    folder = await Folder.make()
  })
  afterAll(() => folder.close())

  test.each([
    ['--server without --outbound', ['--server', 'x'], '--server goes with --outbound'],
    ['--pass with --outbound', ['--outbound', '--pass', 'http'], '--pass goes without --outbound'],
  ])('%s', async (_, flags, why) => {
    expect(await milagro('tls', 'gateway', ...flags)).toMatchObject({
      exit: 2,
      err: expect.stringContaining(why),
    })
  })

  const outbound = [
    '--outbound',
    '--to',
    'h:1',
    '--server',
    'x',
    '--store',
    's',
    '--rps',
    'http://127.0.0.1:1',
  ]
  test.each([
    ['no settings', [], "setting 'name' is missing"],
    ['an address without a port', ['--listen', 'localhost'], "--listen: 'localhost' is no host:port"],
    [
      'a service that is neither a port nor a path',
      ['--to', 'run/service'],
      "--to: 'run/service' is no host:port and no absolute path",
    ],
    ['a path, outbound', ['--outbound', '--to', '/run/service'], "--to: '/run/service' is no host:port\n"],
    [
      'an outbound gateway outside the loopback',
      [...outbound, '--listen', '0.0.0.0:0'],
      'on the loopback only',
    ],
  ])('%s', async (_, flags, why) => {
    const process = start('tls', 'gateway', ...flags)
    expect(await process.ended).toBe(2)
    expect(process.err()).toContain(why)
    expect(process.err().trim().split('\n').length).toBe(1)
  })

  test('a PSK file without a list of devices', async () => {
    const config = await folder.write('p.json', {
      name: 'b',
      dataDir: folder.file('b'),
      rps: { url: 'http://127.0.0.1:1' },
      file: folder.file('psk'),
    })
    const process = start('tls', 'psk-file', '--config', config)
    expect(await process.ended).toBe(2)
    expect(process.err()).toContain("say one of the settings 'fleetUrl' and 'devicesFile'")
  })
})

describe('a whole system', () => {
  let folder: Folder
  let fleet: RunningFleet
  let service: { readonly port: number; readonly seen: (string | undefined)[] }
  let running: Started[]
  let operator: string[]
  const car = ['--store', 'car.json']
  let gatewayFile: string
  let pskFileConfig: string

  beforeAll(async () => {
    folder = await Folder.make()
    running = []
    service = await startService()
    const settings = {
      name: 'gw.example',
      dataDir: folder.file('gateway'),
      listen: { host: '127.0.0.1', port: await freePort() },
      adminListen: { host: '127.0.0.1', port: 0 },
      to: { host: '127.0.0.1', port: service.port },
      pass: 'http',
      passName: 'instance',
      workers: 1,
      rps: { url: 'http://127.0.0.1:1' },
    }
    const broker = { name: 'broker.example', dataDir: folder.file('broker'), rps: settings.rps }
    const files = { file: folder.file('psk'), fleetUrl: 'http://127.0.0.1:1' }
    gatewayFile = await folder.write('gateway.json', settings)
    pskFileConfig = await folder.write('psk-file.json', { ...broker, ...files })
    const initialised = async (verb: string, config: string, kind: 2 | 3) => {
      const { name, requestKey, hpkeKey } = await start('tls', verb, '--config', config, '--init').event(
        'initialised',
      )
      return { name, requestKey, hpkeKey, kind } as {
        name: string
        requestKey: string
        hpkeKey: string
        kind: 2 | 3
      }
    }
    fleet = await runFleet(folder, {
      recipients: [
        await initialised('gateway', gatewayFile, 2),
        await initialised('psk-file', pskFileConfig, 3),
      ],
      devicePurposes: ['device', 'agree', 'sign'],
    })
    const group = { groupId: fleet.groupId, groupFile: folder.file('group.json'), rps: { url: fleet.rps } }
    await writeFile(gatewayFile, JSON.stringify({ ...settings, ...group }))
    await writeFile(
      pskFileConfig,
      JSON.stringify({ ...broker, ...files, ...group, fleetUrl: fleet.fleet, everySeconds: 1 }),
    )
    car[1] = folder.file('car.json')
    car.push('--rps', fleet.rps)
    operator = ['--store', folder.file('op.json'), '--rps', fleet.rps]
    const said = await milagroWith(
      { ...PIN, MILAGRO_CODE: fleet.setupCode },
      ...['device', 'enroll', ...operator, '--instance', `operator:${fleet.operator}`],
      ...['--attribute', `operator=${fleet.operator}`, '--with-pin', '--slow-device', '1000'],
    )
    expect(said).toMatchObject({ exit: 0 })
    await enrol('VIN 1', car)
  })
  afterAll(async () => {
    for (const { child, ended } of running) {
      child.kill()
      await ended
    }
    await folder.close()
  })

  /** At a port, or at this path; it answers once a request is whole. */
  async function startService(path?: string) {
    const seen: (string | undefined)[] = []
    const server = createServer((request, response) => {
      const instance = request.headers['milagro-instance'] as string | undefined
      seen.push(instance)
      request.resume().once('end', () => response.end(`hello ${instance}`))
    })
    const at = path === undefined ? { port: 0, host: '127.0.0.1' } : { path }
    await new Promise<void>(resolve => server.listen(at, resolve))
    folder.onClose(async () => {
      server.closeAllConnections()
      server.close()
    })
    return { port: (server.address() as AddressInfo).port, seen }
  }
  /** Says back what it hears. */
  async function startEcho(): Promise<number> {
    const server = createTcpServer(socket => {
      socket.on('error', () => undefined)
      socket.pipe(socket)
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    folder.onClose(async () => void server.close())
    return (server.address() as AddressInfo).port
  }
  const asOperator = (...argv: string[]) =>
    milagroWith(PIN, 'fleet', ...argv, ...operator, '--url', fleet.fleet, '--json')
  async function enrol(vin: string, store: readonly string[]): Promise<string> {
    const { json } = await asOperator('add', 'vehicle', vin, '--factors', '0')
    const said = await milagroWith(
      { MILAGRO_CODE: json.code as string },
      ...['device', 'enroll', ...store, '--instance', vin, '--json'],
    )
    expect(said).toMatchObject({ exit: 0 })
    return said.json.idCore as string
  }
  const running1 = (...argv: string[]) => {
    const one = start(...argv)
    running.push(one)
    return one
  }
  const ban = async (vin: string) => {
    expect(await asOperator('ban', '--vehicle', vin, '--reason', 'test')).toMatchObject({ exit: 0 })
  }
  const unban = async () => {
    const { json } = await asOperator('list', 'bans')
    const [{ id }] = json.bans as [{ id: number }]
    expect(await asOperator('unban', String(id))).toMatchObject({ exit: 0 })
  }

  test('the smallest call of the page starts a gateway, and none of its settings can be spared', async () => {
    const page = await readFile(new URL('../../../docs/operations/gateway.md', import.meta.url), 'utf8')
    const [, block = ''] = /call without a file:\n\n +```sh\n(.*?)```/s.exec(page) ?? []
    const names = [...block.matchAll(/export (MILAGRO_GATEWAY_\w+)=/g)].map(([, name]) => name as string)
    const [, line = ''] = /milagro (tls gateway .*)/.exec(block) ?? []
    const { name, dataDir, groupId, groupFile, rps, to } = JSON.parse(await readFile(gatewayFile, 'utf8'))
    const env: Record<string, string> = {
      MILAGRO_GATEWAY_NAME: name,
      MILAGRO_GATEWAY_DATA_DIR: dataDir,
      MILAGRO_GATEWAY_GROUP_ID: groupId,
      MILAGRO_GATEWAY_GROUP_FILE: groupFile,
      MILAGRO_GATEWAY_RPS_URL: rps.url,
      MILAGRO_GATEWAY_ADMIN_LISTEN_PORT: '0',
      MILAGRO_GATEWAY_PASSPHRASE_FILE: await folder.write('smallest.passphrase', 'one word'),
    }
    expect(names).toEqual(Object.keys(env))
    const argv = line
      .replace('0.0.0.0:443', '127.0.0.1:0')
      .replace('127.0.0.1:8080', `127.0.0.1:${to.port}`)
      .split(' ')
    const help = spawnSync(process.execPath, [MAIN, 'tls', 'gateway', '--help'], { encoding: 'utf8' }).stdout
    const needed = 'name, dataDir, groupId, groupFile, rps.url and adminListen.port'
    expect(help.replaceAll(/\s+/g, ' ')).toContain(needed)
    expect(help).toContain('MILAGRO_GATEWAY_PASSPHRASE_FILE')
    const run = (given: typeof env, ...args: string[]) =>
      spawnSync(process.execPath, [MAIN, ...args], { env: given, encoding: 'utf8' })
    for (const without of names) {
      const { [without]: _, ...others } = env
      expect(run(others, ...argv)).toMatchObject({ status: 2, stderr: expect.stringMatching(/^milagro tls/) })
    }
    const child = spawn(process.execPath, [MAIN, ...argv], { env, stdio: ['ignore', 'pipe', 'inherit'] })
    const ended = new Promise<number | null>(resolve => child.once('close', resolve))
    await until(
      () => new Promise(resolve => child.stdout.once('data', text => resolve(/"ready"/.test(String(text))))),
    )
    child.kill()
    expect(await ended).toBe(0)
  })

  // Three processes start one after the other, which a busy machine may take minutes for.
  test('a car through both gateways; SIGHUP; a ban; SIGTERM', { timeout: 300_000 }, async () => {
    const gateway = running1('tls', 'gateway', '--config', gatewayFile)
    const { listen = '', adminUrl } = await gateway.event('ready')
    await until(async () => (await body(`${adminUrl}/health/ready`)).status === 200)
    const outbound = running1(
      ...['tls', 'gateway', '--outbound', '--listen', '127.0.0.1:0', '--to', listen],
      ...['--server', 'gw.example', ...car],
    )
    const { listen: near } = await outbound.event('ready')
    expect(await body(`http://${near}/`)).toEqual({ status: 200, text: 'hello VIN%201' })
    expect((await body(`${adminUrl}/metrics`)).text).toContain(
      'milagro_gateway_requests_passed_on_total{outcome="OK"} 1',
    )

    // The same direction by settings, with health, metrics and SIGHUP.
    const [host, port] = listen.split(':')
    const to = { host, port: Number(port) }
    const outboundFile = await folder.write('outbound.json', {
      ...{ listen: { host: '127.0.0.1', port: 0 }, adminListen: { host: '127.0.0.1', port: 0 } },
      ...{ to, server: 'gw.example', store: car[1], rps: { url: fleet.rps } },
    })
    const bySettings = running1('tls', 'gateway', '--outbound', '--config', outboundFile)
    const { listen: its, adminUrl: itsAdmin } = await bySettings.event('ready')
    const counted = async (outcome: string) => {
      const { text } = await body(`${itsAdmin}/metrics`)
      const count = `milagro_outbound_connections_taken_total{outcome="${outcome}"} `
      return text
        .split('\n')
        .find(line => line.startsWith(count))
        ?.slice(count.length)
    }
    const health = async () => {
      const { status, text } = await body(`${itsAdmin}/health/ready`)
      return { status, ...JSON.parse(text) }
    }
    const reload = async (settings: object, times: number) => {
      await writeFile(
        outboundFile,
        JSON.stringify({ ...JSON.parse(await readFile(outboundFile, 'utf8')), ...settings }),
      )
      bySettings.child.kill('SIGHUP')
      await until(async () => bySettings.err().split('the settings were read again').length === times + 1)
    }
    expect((await body(`http://${its}/`)).text).toBe('hello VIN%201')
    expect(await counted('OK')).toBe('1')
    expect(await health()).toEqual({ status: 200, ok: true, checks: { service: true } })
    await reload({ to: { host, port: await freePort() }, server: 'x' }, 1)
    expect(bySettings.err()).toMatch(/"settings":\["server"\].*these settings want a restart/)
    await expect(body(`http://${its}/`)).rejects.toThrow()
    expect(await counted('service-away')).toBe('1')
    expect(await health()).toMatchObject({
      status: 200,
      checks: { service: expect.stringContaining('ECONNREFUSED') },
    })
    await reload({ to }, 2)
    expect((await body(`http://${its}/`)).status).toBe(200)
    expect([await counted('OK'), await health()]).toMatchObject(['2', { checks: { service: true } }])
    bySettings.child.kill('SIGTERM')
    expect(await bySettings.ended).toBe(0)

    // Another service, at a Unix domain socket, from the next connection on; a wrong file changes nothing.
    const path = folder.file('other')
    const other = await startService(path)
    const settings = JSON.parse(await readFile(gatewayFile, 'utf8'))
    await writeFile(gatewayFile, '{"to":')
    gateway.child.kill('SIGHUP')
    await until(async () => gateway.err().includes('the settings were not read again'))
    expect((await body(`http://${near}/`)).status).toBe(200)
    await writeFile(gatewayFile, JSON.stringify({ ...settings, to: { path }, name: 'x' }))
    gateway.child.kill('SIGHUP')
    await until(async () => gateway.err().includes('the settings were read again'))
    expect(gateway.err()).toMatch(/"settings":\["name"\].*these settings want a restart/)
    await body(`http://${near}/`)
    expect(other.seen).toEqual(['VIN%201'])

    await writeFile(gatewayFile, JSON.stringify(settings))

    await ban('VIN 1')
    await until(async () => (await body(`http://${near}/`).catch(() => null)) === null)
    const before = other.seen.length
    await expect(body(`http://${near}/`)).rejects.toThrow()
    expect(other.seen.length).toBe(before)
    await unban()
    await until(async () => (await body(`http://${near}/`).catch(() => null))?.status === 200)

    gateway.child.kill('SIGTERM')
    expect(await gateway.ended).toBe(0)
    await expect(body(`http://${near}/`)).rejects.toThrow()
  })

  test('over a SIGHUP half a request goes on to the service that has it, and so does a stream', async () => {
    const settings = JSON.parse(await readFile(gatewayFile, 'utf8'))
    const path = folder.file('after')
    const [first, echo, after] = [await startService(), await startEcho(), await startService(path)]
    const [host, http, raw] = ['127.0.0.1', { pass: 'http' }, { pass: 'none' }]
    const file = folder.file('held.json')
    const write = (more: object) =>
      writeFile(file, JSON.stringify({ ...settings, listen: { host, port: 0 }, ...more }))
    await write({ ...http, to: { host, port: first.port } })
    const gateway = running1('tls', 'gateway', '--config', file)
    const { listen = '' } = await gateway.event('ready')
    const outbound = running1(
      ...['tls', 'gateway', '--outbound', '--listen', '127.0.0.1:0', '--to', listen],
      ...['--server', 'gw.example', ...car],
    )
    const { listen: near = '' } = await outbound.event('ready')
    await until(async () => (await body(`http://${near}/`).catch(() => null))?.status === 200)
    let reloads = 0
    const reload = async (more: object) => {
      await write(more)
      gateway.child.kill('SIGHUP')
      reloads++
      await until(async () => gateway.err().split('the settings were read again').length === reloads + 1)
    }
    const dial = () => {
      const socket = connectTcp(Number(near.split(':')[1]), host)
      let heard = ''
      socket.on('data', chunk => {
        heard += chunk
      })
      const ended = new Promise<string>((resolve, reject) => {
        socket.once('error', reject)
        socket.once('close', () => resolve(heard))
      })
      return { socket, heard: () => heard, ended }
    }

    const before = first.seen.length
    const request = dial()
    request.socket.write('POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\nhalf')
    await until(async () => first.seen.length === before + 1)

    await reload({ ...raw, to: { host, port: echo } })
    const stream = dial()
    stream.socket.write('one ')
    await until(async () => stream.heard() === 'one ')

    await reload({ ...http, to: { path } })
    expect((await body(`http://${near}/`)).status).toBe(200)
    expect(after.seen).toEqual(['VIN%201'])

    stream.socket.end('two')
    expect(await stream.ended).toBe('one two')
    expect(request.heard()).toBe('')
    request.socket.write('rest')
    expect(await request.ended).toMatch(/^HTTP\/1\.1 200 .*\r\n\r\nhello VIN%201$/s)
    expect([first.seen.length, after.seen.length]).toEqual([before + 1, 1])
    for (const { child, ended } of [outbound, gateway]) {
      child.kill()
      expect(await ended).toBe(0)
    }
  })

  test('flags go before the gateway’s settings; psk: identity and key for a foreign program, by an answer in JSON', async () => {
    // The settings name another port, another service, and another way to tell it.
    const path = folder.file('by-flag')
    const [other, near] = [await startService(path), `127.0.0.1:${await freePort()}`]
    const gateway = running1(
      ...['tls', 'gateway', '--config', gatewayFile, '--listen', near],
      ...['--to', path, '--pass', 'none'],
    )
    const { listen = '', pid } = await gateway.event('ready')
    expect(listen).toBe(near)
    const before = service.seen.length
    const { exit, json } = await milagro('tls', 'psk', '--to', 'gw.example', ...car, '--json')
    expect(exit).toBe(0)
    expect(json).toMatchObject({ identity: expect.stringMatching(/^m1\./), slot: expect.any(Number) })
    const { identity, key } = json as { identity: string; key: string }
    const [host, port] = listen.split(':')
    const answer = await new Promise<string>((resolve, reject) => {
      const socket = connect({
        host,
        port: Number(port),
        ciphers: 'TLS_AES_128_GCM_SHA256',
        minVersion: 'TLSv1.3',
        checkServerIdentity: () => new Error('no certificates'),
        pskCallback: () => ({ identity, psk: Buffer.from(key, 'hex') }),
      })
      socket.once('error', reject)
      socket.on('session', () => reject(new Error('the gateway sends session tickets')))
      socket.once('data', chunk => {
        socket.destroy()
        resolve(chunk.toString())
      })
      socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    })
    expect(answer).toMatch(/^HTTP\/1\.1 200 /)
    // What `pass` would have told is absent.
    expect([other.seen, service.seen.length]).toEqual([[undefined], before])

    // OpenSSL's own client, by the same answer.
    if (process.env.REQUIRE_SERVICES === '1') expect(hasOpenssl).toBe(true)
    if (hasOpenssl) {
      const asked = (psk: string) =>
        openssl(
          ...['s_client', '-connect', listen, '-tls1_3', '-ciphersuites', 'TLS_AES_128_GCM_SHA256'],
          ...['-psk_identity', identity, '-psk', psk, '-ign_eof'],
        )
      const theirs = await asked(key)
      expect(theirs).toMatch(/^(New|Reused), TLSv1\.3, Cipher is TLS_AES_128_GCM_SHA256$/m)
      expect(theirs).toContain('no peer certificate available')
      expect(theirs).toMatch(/^HTTP\/1\.1 200 .*hello undefined/ms)
      const wrong = await asked(key.replace(/.$/, last => (last === '0' ? '1' : '0')))
      expect(wrong).toMatch(/alert/)
      expect(wrong).not.toContain('HTTP/1.1')
      expect(other.seen).toEqual([undefined, undefined])
    }
    expect(await milagro('tls', 'psk', '--to', 'nobody.example', ...car)).toMatchObject({
      exit: 1,
      err: expect.stringContaining('UNKNOWN_SERVER'),
    })
    // A static name is no server's, and a server's no static one.
    expect(await milagro('tls', 'psk', '--to', 'broker.example', ...car)).toMatchObject({ exit: 1 })
    expect(await milagro('tls', 'psk', '--to', 'gw.example', '--static', ...car)).toMatchObject({ exit: 1 })

    // What listens is a process of its own (no-tickets.cnf), and none is left behind.
    expect(Number(pid)).not.toBe(gateway.child.pid)
    gateway.child.kill('SIGKILL')
    await until(async () => !(await listens(listen.split(':'))))
  })

  test('psk-file: fleet’s devices, their own keys, bans and those who come later; --once', async () => {
    const lineOf = async (store: readonly string[]) => {
      const { json } = await milagro('tls', 'psk', '--to', 'broker.example', '--static', ...store, '--json')
      return `${json.identity}:${json.key}`
    }
    const lines = async () => {
      const text = await readFile(folder.file('psk'), 'utf8').catch(() => '')
      return text.split('\n').filter(Boolean).sort()
    }
    const once = running1('tls', 'psk-file', '--config', pskFileConfig, '--once')
    expect(await once.event('written')).toMatchObject({ lines: 1 })
    expect(await once.ended).toBe(0)
    expect(await lines()).toEqual([await lineOf(car)])
    const writer = running1('tls', 'psk-file', '--config', pskFileConfig)
    await writer.event('ready')
    const second = ['--store', folder.file('second.json'), '--rps', fleet.rps]
    await enrol('VIN 2', second)
    const both = [await lineOf(car), await lineOf(second)].sort()
    await until(async () => JSON.stringify(await lines()) === JSON.stringify(both))
    await ban('VIN 2')
    await until(async () => (await lines()).length === 1)
    expect(await lines()).toEqual([await lineOf(car)])
    writer.child.kill()
    expect(await writer.ended).toBe(0)
  })

  test('psk-file: health, metrics, and SIGHUP with a wrong file and a right one', async () => {
    const settings = JSON.parse(await readFile(pskFileConfig, 'utf8'))
    const own = folder.file('psk-watched')
    const ownConfig = folder.file('psk-watched.json')
    const write = (more: object) =>
      writeFile(ownConfig, JSON.stringify({ ...settings, file: own, adminListen: { port: 0 }, ...more }))
    await write({ reload: { command: ['false'] } })
    const writer = running1('tls', 'psk-file', '--config', ownConfig)
    const { adminUrl = '' } = await writer.event('ready')
    expect(adminUrl).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
    const health = async () => {
      const { status, text } = await body(`${adminUrl}/health/ready`)
      return { status, ...JSON.parse(text) }
    }
    const metrics = async () => (await body(`${adminUrl}/metrics`)).text
    const isSaid = (text: string) => until(async () => writer.err().includes(text))
    const READY = { events: true, register: true, key: true, file: true, broker: true }
    const UNTOLD = {
      status: 503,
      ok: false,
      checks: { ...READY, broker: 'the broker was not told of the file' },
    }
    expect(await body(`${adminUrl}/health/live`)).toEqual({ status: 200, text: '{"ok":true}' })
    await until(async () => JSON.stringify(await health()) === JSON.stringify(UNTOLD))
    await until(async () => (await metrics()).includes('milagro_psk_file_failures_total{step="broker"} '))
    const before = await readFile(own, 'utf8')
    expect(before).toMatch(/^s1\./)

    await writeFile(ownConfig, '{"reload":')
    writer.child.kill('SIGHUP')
    await isSaid('the settings were not read again')
    expect(await health()).toEqual(UNTOLD)
    expect(await readFile(own, 'utf8')).toBe(before)

    await write({ reload: { command: ['true'] }, name: 'x' })
    writer.child.kill('SIGHUP')
    await isSaid('the settings were read again')
    expect(writer.err()).toMatch(/"settings":\["name"\].*these settings want a restart/)
    const IS_READY = { status: 200, ok: true, checks: READY }
    await until(async () => JSON.stringify(await health()) === JSON.stringify(IS_READY))
    expect(await readFile(own, 'utf8')).toBe(before)

    // Another list: a device of it has a line at once, and the former ones have none.
    const one = before.split('\n')[0] ?? ''
    const { json } = await milagro('device', 'list', '--store', car[1] as string, '--json')
    const [{ idCore }] = json.identities as [{ idCore: string }]
    const devicesFile = await folder.write('devices.txt', idCore)
    const { fleetUrl: _, ...listed } = settings
    const byFile = { ...listed, file: own, adminListen: { port: 0 }, reload: { command: ['true'] } }
    await writeFile(ownConfig, JSON.stringify({ ...byFile, devicesFile: folder.file('nowhere') }))
    writer.child.kill('SIGHUP')
    await isSaid('the register was not read')
    expect(await health()).toMatchObject({ status: 503, checks: { register: 'the register was not read' } })
    expect(await readFile(own, 'utf8')).toBe(before)
    await writeFile(ownConfig, JSON.stringify({ ...byFile, devicesFile }))
    writer.child.kill('SIGHUP')
    await until(async () => (await health()).status === 200)

    const text = await metrics()
    for (const line of [
      'milagro_psk_file_lines 1',
      'milagro_psk_file_writes_total 1',
      'milagro_psk_file_reloads_total 1',
      'milagro_psk_file_written_timestamp_seconds ',
      'milagro_psk_file_failures_total{step="register"} ',
    ])
      expect(text).toContain(`\n${line}`)
    const seen = [text, writer.out(), writer.err(), JSON.stringify(await health())].join()
    for (const secret of [idCore, ...one.split(':')]) expect(seen).not.toContain(secret)

    // A second one on the same port, or without a file that it can read, ends at once.
    await write({ file: folder.file('psk-other'), adminListen: { port: Number(new URL(adminUrl).port) } })
    const taken = running1('tls', 'psk-file', '--config', ownConfig)
    expect(await taken.ended).toBe(1)
    expect(taken.err()).toMatch(/^milagro tls psk-file: setting 'adminListen': 127\.0\.0\.1:\d+ is taken/m)
    await write({ file: folder.file('.') })
    const unreadable = running1('tls', 'psk-file', '--config', ownConfig)
    expect(await unreadable.ended).toBe(1)
    expect(unreadable.err()).toMatch(/^milagro tls psk-file: EISDIR/m)

    writer.child.kill()
    expect(await writer.ended).toBe(0)
  })

  test('peer: two devices that have prepared, and no network; each direction ends by itself', async () => {
    const other = ['--store', folder.file('third.json'), '--rps', fleet.rps]
    await enrol('VIN 3', other)
    const idOf = async (store: readonly string[]) => {
      const { json } = await milagro('device', 'list', '--store', store[1] as string, '--json')
      return (json.identities as { idCore: string }[])[0]?.idCore as string
    }
    const [own, its] = [await idOf(car), await idOf(other)]
    const at = `127.0.0.1:${await freePort()}`
    const offline: typeof fetch = () => Promise.reject(new TypeError('there is no network here'))
    const listening = (allow: string, says: string) => {
      const { bytes, output } = piped(utf8(says))
      let heard = ''
      let look = () => {}
      const hear = (text: string) => {
        heard += text
        look()
      }
      const listen = ['--listen', at, '--allow', allow]
      const ended = milagroAt({ fetch: offline, bytes, hear }, 'tls', 'peer', 'listen', ...listen, ...other)
      const isUp = new Promise<void>((resolve, reject) => {
        look = () => heard.includes('listening on') && resolve()
        void ended.then(({ err }) => reject(new Error(err)))
      })
      return { ended, isUp, output }
    }
    const dialling = async (says: string, to = its) => {
      const { bytes, output } = piped(utf8(says))
      const said = await milagroAt(
        { fetch: offline, bytes },
        ...['tls', 'peer', 'connect', '--to', to, '--at', at],
        ...car,
      )
      return { ...said, output: fromUtf8(output(), 'output') }
    }

    expect(await dialling('')).toMatchObject({ exit: 1, err: expect.stringContaining('peer prepare') })
    for (const store of [car, other]) {
      const { exit, json } = await milagro('tls', 'peer', 'prepare', ...store, '--json')
      expect(exit).toBe(0)
      expect(json.slots).toHaveLength(2)
    }

    expect(await dialling('')).toMatchObject({ exit: 3, err: expect.stringContaining('ECONNREFUSED') })
    const answering = listening(own, 'and a long answer. '.repeat(5_000))
    await answering.isUp
    const { exit, err, output } = await dialling('hello')
    expect([exit, err]).toEqual([0, `${its} has answered\n`])
    expect(output).toBe('and a long answer. '.repeat(5_000))
    expect((await answering.ended).err).toContain(`${own} has come in\n`)
    expect(fromUtf8(answering.output(), 'output')).toBe('hello')

    // Whoever isn't expected doesn't come in, and the one who waits goes on waiting.
    const choosy = listening(own, '')
    await choosy.isUp
    expect(
      await dialling(
        '',
        its.replace(/.$/, last => (last === 'A' ? 'Q' : 'A')),
      ),
    ).toMatchObject({ exit: 1 })
    expect(await dialling('hello again')).toMatchObject({ exit: 0 })
    await choosy.ended
    expect(fromUtf8(choosy.output(), 'output')).toBe('hello again')
    expect(await dialling('', own)).toMatchObject({ exit: 2 })
    expect(await dialling('', 'nobody')).toMatchObject({
      exit: 2,
      err: expect.stringContaining('no M-Pin ID'),
    })
  })
})
