/** A file of `s1.` keys, kept current by bans, the list of devices and the ban events; and mosquitto that reads it. */
import { mkdir, readFile, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import type { Readiness } from '@milagro-ts/api/admin'
import { Unreachable } from '@milagro-ts/api/call'
import { ConfigError } from '@milagro-ts/api/config'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { systemRandom, type Timers } from '@milagro-ts/api/system'
import { toHex } from '@milagro-ts/crypto/bytes'
import { agreePointG1, encodeName } from '@milagro-ts/crypto/identity'
import { AgreeClientKey, clientAgreeStatic } from '@milagro-ts/crypto/static-agreement'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { connect } from '@milagro-ts/tls/mqtt'
import { openPskFile, type PskFileWriter, written } from '@milagro-ts/tls/psk-file-process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { freePort } from '../../../test/free-port.js'
import { type Car, NOON, OWN, type RunningRps, until, World } from '../../rps/test/world.js'
import { haveTools, type Running, ran, started } from './tools.js'

const hasMosquitto = haveTools('no PSK file of mosquitto’s is tested', 'mosquitto', 'mosquitto_pub')

let world: World
let rps: RunningRps
let writer: PskFileWriter
let logged: string[]
let file: string
let devices: string
let told: string
let metrics: ReturnType<typeof createMetrics>
let reload: { command?: string[]; pidFile?: string }
let name: string
/** Servers at whose addresses nobody answers. */
let away: string[]
beforeEach(async () => {
  world = await World.make({ trackingKind: 3 })
  world.clock.now = NOON
  rps = await world.startRps()
  logged = []
  metrics = createMetrics('psk_file')
  file = join(world.folder, 'psk')
  devices = join(world.folder, 'devices')
  told = join(world.folder, 'told')
  // Each reload is a line with what the broker would have read.
  reload = { command: ['sh', '-c', `wc -l < ${file} >> ${told}`] }
  name = 'tracking'
  away = []
  await writeFile(devices, '')
})
afterEach(async () => {
  await writer.close()
  await world.close()
})

const OURS = { MILAGRO_PSK_FILE_PASSPHRASE: 'one word', milagro_other: 'another word' }
/** Times that authorities are being asked for shares: deadlines of that that aren't over. */
let asking = 0
const after: Timers['after'] = (milliseconds, run) => {
  const isDeadline = milliseconds === 10_000
  if (isDeadline) asking++
  const end = world.clock.after(milliseconds, run)
  let isOver = false
  return () => {
    if (isDeadline && !isOver) asking--
    isOver = true
    end()
  }
}
const open = async (group = world.group) => {
  writer = await openPskFile({
    settings: () => ({
      name,
      dataDir: world.folder,
      groupId: world.groupId,
      groupFile: join(world.folder, 'group.json'),
      rps: { url: OWN },
      file,
      devicesFile: devices,
      reload,
    }),
    keys: world.tracking,
    group,
    log: createLog('psk-file', { destination: { write: line => void logged.push(line) } }),
    metrics,
    clock: () => world.clock.now,
    random: systemRandom,
    timers: { every: (milliseconds, run) => world.clock.every(milliseconds, run), after },
    fetch: async (input, init) => {
      if (away.includes(new URL(String(input)).origin)) throw new TypeError('fetch failed')
      return fetch(String(input).replace(OWN, rps.url), init)
    },
    env: { ...process.env, ...OURS, OF_THE_BROKER: 'seen' },
  })
}
/** Milliseconds in one turn: heartbeats of the stream come meanwhile. */
const TURN = 5
async function pass(milliseconds: number): Promise<void> {
  const end = world.clock.now + milliseconds
  await until(() => {
    world.clock.turn(TURN)
    return world.clock.now >= end
  })
}
/** What the car's own side computes. */
function lineOf({ idCore }: Car, generation = 1): string {
  const { groupId } = world.group
  const C = encodeName(groupId, { kind: 1, idCore })
  const key = AgreeClientKey.of({ groupId, idCore, epoch: 1 }, agreePointG1(C).mulSecret(world.secrets.agree))
  const { identity, psk } = clientAgreeStatic(key, { kind: 3, name: 'tracking', generation })
  return `${identity}:${toHex(psk)}`
}
const lines = async () =>
  (await readFile(file, 'utf8').catch(() => '')).split('\n').filter(line => line !== '')
/** As a whole, like whoever keeps such a file: half of it is another list. */
const write = (text: string) => writeFileAtomic(devices, text)
const list = (...cars: Car[]) => write(`# fleet\n${cars.map(car => car.idCore.mpinId).join('\n')}\n`)
const holds = (...cars: Car[]) => {
  const expected = JSON.stringify(cars.map(car => lineOf(car)).sort())
  return until(async () => {
    world.clock.turn(TURN)
    return JSON.stringify((await lines()).sort()) === expected
  })
}

test('the static key is asked for without a slot, and each line is what the device computes', async () => {
  const cars = [world.makeCar(), world.makeCar(), world.makeCar()]
  await list(...cars)
  await open()
  await holds(...cars)
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  await until(() => writer.readiness.ok)
  expect((await readFile(told, 'utf8')).trim().endsWith('3')).toBe(true)
})

test('a ban removes a line, its end brings it back, a new device gets one, one that leaves the list loses it', async () => {
  const [one, two, three] = [world.makeCar(), world.makeCar(), world.makeCar()]
  await list(one, two)
  await open()
  await holds(one, two)
  await world.ban(rps, one)
  await holds(two)
  await world.unban(rps, one)
  await holds(one, two)
  await list(two, three)
  await holds(two, three)
  // Nothing new, nothing written: no reload for nothing.
  await until(() => writer.readiness.ok)
  const before = await readFile(told, 'utf8')
  await pass(25_000)
  await until(() => writer.readiness.ok)
  expect(await readFile(told, 'utf8')).toBe(before)
})

test('ban events lost for half a minute: the file is empty, and full again when they are back', async () => {
  const car = world.makeCar()
  await list(car)
  await open()
  await holds(car)
  const { port } = new URL(rps.url)
  await rps.close()
  world.clock.turn(29_000)
  expect(await lines()).toEqual([lineOf(car)])
  await holds()
  await until(() => logged.join('').includes('the PSK file is empty'))
  rps = await world.startRps({ config: { listen: { host: '127.0.0.1', port: Number(port) } } })
  await holds(car)
})

test('started without ban events: the former file stays for half a minute, and is emptied then', async () => {
  const car = world.makeCar()
  await list(car)
  await writeFile(file, `${lineOf(car)}\n`)
  away = [OWN]
  await open()
  await pass(29_000)
  expect(await lines()).toEqual([lineOf(car)])
  await pass(2_000)
  await until(async () => (await lines()).length === 0)
})

test('a restart keeps the lines that are there, and a list that can’t be read adds and removes nobody', async () => {
  const [car, banned] = [world.makeCar(), world.makeCar()]
  await list(car, banned)
  await open()
  await holds(car, banned)
  await writer.close()
  for (const authority of world.authorities) authority.behaviour = 'frozen'
  await world.ban(rps, banned)
  await open()
  expect(await lines()).toEqual([lineOf(car), lineOf(banned)].sort())
  // Without a key of its own yet, bans still count.
  await holds(car)
  await write('no M-Pin ID\n')
  await until(() => {
    world.clock.turn(TURN)
    return logged.join('').includes('the register was not read')
  })
  expect(await lines()).toEqual([lineOf(car)])
})

test('started with a group of before the next generation of its name: it reads the one in force at once', async () => {
  const before = world.group
  const recipients = before.document.recipients.map(one =>
    one.name === 'tracking' ? { ...one, generation: 2 } : one,
  )
  const document = await world.nextRevision({ recipients })
  await rps.client.publishRevision({ body: { document } })
  await world.follow(document)
  const car = world.makeCar()
  await list(car)
  await open(before)
  await until(async () => {
    world.clock.turn(TURN)
    return (await lines()).includes(lineOf(car, 2))
  })
  expect(world.clock.now - NOON).toBeLessThan(60_000)
})

test('the reload command gets the environment without what is ours: no passphrase is the broker’s to read', async () => {
  reload.command = ['sh', '-c', `env > ${told}`]
  await list(world.makeCar())
  await open()
  await until(() => writer.readiness.ok)
  const seen = await readFile(told, 'utf8')
  expect(seen).toContain('OF_THE_BROKER=seen\n')
  expect(seen).not.toMatch(/milagro_|word/i)
})

test('a reload command that never ends is killed after ten seconds, and the broker told at the next attempt', async () => {
  const { command } = reload
  reload.command = ['sh', '-c', `echo hangs $$ >> ${told}; exec sleep 1000`]
  await list(world.makeCar())
  await open()
  await until(async () => {
    world.clock.turn(TURN)
    return (await readFile(told, 'utf8').catch(() => '')).includes('hangs')
  })
  const pid = Number(/hangs (\d+)/.exec(await readFile(told, 'utf8'))?.[1])
  process.kill(pid, 0)
  if (command !== undefined) reload.command = command
  await pass(10_000)
  await until(() => logged.join('').includes('the reload command did not end in time'))
  await until(() => {
    try {
      process.kill(pid, 0)
      return false
    } catch {
      return true
    }
  })
  expect(await metrics.registry.metrics()).toContain('psk_file_reloads_timed_out_total 1')
  await pass(6_000)
  await until(() => {
    world.clock.turn(TURN)
    return writer.readiness.ok
  })
  expect((await readFile(told, 'utf8')).trim().endsWith('1')).toBe(true)
})

test('frozen from the start: no line, and the log says why', async () => {
  for (const authority of world.authorities) authority.behaviour = 'frozen'
  await list(world.makeCar())
  await open()
  await until(() => {
    world.clock.turn(TURN)
    return logged.join('').includes('the PSK file is not current')
  })
  expect(await lines()).toEqual([])
  expect(writer.readiness.ok).toBe(false)
})

test('readiness names what is lacking, metrics count it, and nobody’s identity or key is in either', async () => {
  const READY: Readiness = {
    ok: true,
    checks: { events: true, register: true, key: true, file: true, broker: true },
  }
  const lacking = (checks: Readiness['checks']) => ({ ok: false, checks: { ...READY.checks, ...checks } })
  const said: string[] = []
  const says = async (readiness: Readiness) => {
    await until(() => {
      world.clock.turn(TURN)
      return JSON.stringify(writer.readiness) === JSON.stringify(readiness)
    })
    said.push(JSON.stringify(readiness))
  }
  const failed = (step: string) =>
    until(async () => (await metrics.registry.metrics()).includes(`psk_file_failures_total{step="${step}"} `))
  const FILE = { file: 'the file is not written for those who may come in now' }
  const [car, second, third] = [world.makeCar(), world.makeCar(), world.makeCar()]
  await list(car)

  for (const authority of world.authorities) authority.behaviour = 'frozen'
  await open()
  await says(lacking({ key: 'no static key from the authorities', ...FILE }))
  await failed('key')
  for (const authority of world.authorities) authority.behaviour = 'honest'
  await says(READY)
  expect(await metrics.registry.metrics()).toContain('psk_file_lines 1\n')

  await write('no M-Pin ID\n')
  await says(lacking({ register: 'the register was not read' }))
  await failed('register')
  expect(await lines()).toEqual([lineOf(car)])
  await list(car, second)
  await says(READY)

  const { command } = reload
  reload = { command: ['false'] }
  await list(car)
  await says(lacking({ broker: 'the broker was not told of the file' }))
  await failed('broker')
  if (command !== undefined) reload = { command }
  await says(READY)

  await rm(file)
  await mkdir(file)
  await list(car, second, third)
  await says(lacking(FILE))
  await failed('write')
  await rmdir(file)
  await says(READY)
  const { now } = world.clock
  expect(await lines()).toHaveLength(3)

  const { port } = new URL(rps.url)
  await rps.close()
  world.clock.turn(31_000)
  await says(
    lacking({ events: 'the ban events are not heard: the file is emptied, at the start after 30 s' }),
  )
  expect(await metrics.registry.metrics()).toContain('psk_file_lines 0\n')
  rps = await world.startRps({ config: { listen: { host: '127.0.0.1', port: Number(port) } } })
  await says(READY)

  const text = await metrics.registry.metrics()
  const value = (name: string) =>
    Number(
      text
        .split('\n')
        .find(line => line.startsWith(`psk_file_${name} `))
        ?.split(' ')[1],
    )
  expect(value('lines')).toBe(3)
  expect(value('writes_total')).toBeGreaterThanOrEqual(6)
  expect(value('reloads_total')).toBe(value('writes_total'))
  expect(value('written_timestamp_seconds')).toBeGreaterThanOrEqual(Math.floor(now / 1000))
  for (const secret of [car, second, third].flatMap(one => [...lineOf(one).split(':'), one.idCore.mpinId]))
    for (const out of [text, ...said, ...logged]) expect(out).not.toContain(secret)
})

test('another register is read at once, the former file staying until it is there', async () => {
  const [one, two] = [world.makeCar(), world.makeCar()]
  await list(one)
  await open()
  await holds(one)
  await until(() => writer.readiness.ok)
  const former = devices
  devices = join(world.folder, 'missing')
  writer.lookAnew()
  expect(writer.readiness.checks.register).toBe('the register was not read')
  await until(() => logged.join('').includes('the register was not read'))
  expect(await lines()).toEqual([lineOf(one)])
  // No time passes: it waits for no turn.
  devices = former
  await list(two)
  writer.lookAnew()
  expect(writer.readiness.ok).toBe(false)
  await until(() => writer.readiness.ok)
  expect(await lines()).toEqual([lineOf(two)])
})

test('a file that can’t be read ends the start', async () => {
  await open()
  await writer.close()
  await rm(file, { force: true })
  await mkdir(file)
  await expect(open()).rejects.toThrow('EISDIR')
})

describe('once', () => {
  /**
   * What it ends with, and after how many milliseconds of the world, which turns slowly: servers and files take their own time
   * meanwhile. Faster only once something has failed.
   */
  async function once(turn = 0.25): Promise<[unknown, number]> {
    await open()
    if (turn > TURN) await until(() => writer.troubles.length > 0)
    const begun = world.clock.now
    let end: unknown
    const ending = written(writer, { clock: () => world.clock.now, timers: world.clock }).then(
      () => {
        end = 'written'
      },
      (error: unknown) => {
        end = error
      },
    )
    await until(() => {
      // Authorities, and who opens their shares, compute in the world's time.
      const isIdle = turn <= TURN || asking === 0
      world.clock.turn(end === undefined && isIdle ? turn : 0)
      return end !== undefined
    })
    await ending
    return [end, world.clock.now - begun]
  }
  /** Milliseconds; an attempt or two, which take some of the world's time. */
  const AT_ONCE = 25_000

  test('written', async () => {
    const car = world.makeCar()
    reload = {}
    await list(car)
    expect((await once())[0]).toBe('written')
    expect(await lines()).toEqual([lineOf(car)])
  })

  test.each(['other', 'fleet'])('%s: no static server, at once', async other => {
    name = other
    const [end, after] = await once()
    expect(end).toEqual(
      new ConfigError(`setting 'name': the group names no static server ${other} with keys of agree`),
    )
    expect(after).toBeLessThan(AT_ONCE)
  })

  test('frozen, at once', async () => {
    for (const authority of world.authorities) authority.behaviour = 'frozen'
    const [end, after] = await once()
    expect(end).toMatchObject({ name: 'Refused', code: 'FROZEN' })
    expect(after).toBeLessThan(AT_ONCE)
  })

  test.each<[string, () => unknown, string]>([
    [
      'a list of devices that isn’t there',
      () => {
        devices = `${devices}-none`
      },
      "setting 'devicesFile': cannot read '…/devices-none' (ENOENT)",
    ],
    [
      'a line of it that is no device',
      () => write('# fleet\n\nVIN7\n'),
      "setting 'devicesFile': '…/devices' line 3 is no M-Pin ID",
    ],
    [
      'a pid file that isn’t there',
      () => {
        reload = { pidFile: join(world.folder, 'pid') }
        return list(world.makeCar())
      },
      "setting 'reload.pidFile': cannot read '…/pid' (ENOENT)",
    ],
    [
      'a pid file of nobody',
      async () => {
        reload = { pidFile: join(world.folder, 'pid') }
        // More than Linux gives out.
        await writeFile(reload.pidFile as string, '4194305')
        await list(world.makeCar())
      },
      "setting 'reload.pidFile': process 4194305 can't be told (ESRCH)",
    ],
  ])('%s, at once', async (_, prepare, says) => {
    await prepare()
    const [end, after] = await once()
    expect(end).toBeInstanceOf(ConfigError)
    expect((end as Error).message.replace(world.folder, '…')).toBe(says)
    expect(after).toBeLessThan(AT_ONCE)
  })

  test('authorities that don’t answer: unreachable, after half a minute', async () => {
    away = world.authorities.map(({ url }) => url)
    const [end, after] = await once(20)
    expect(end).toBeInstanceOf(Unreachable)
    expect((end as Error).message).toMatch(/^RETRY_LATER: no answer from ta1, ta2, ta3 \(ta1: unreachable/)
    expect(after).toBeGreaterThanOrEqual(30_000)
  })

  test('closed while nobody answers, it ends without waiting for anybody', async () => {
    away = [OWN, ...world.authorities.map(({ url }) => url)]
    await open()
    await until(() => writer.troubles.length > 0)
    for (let turns = 0; turns < 100; turns++) await new Promise(setImmediate)
    await writer.close()
  }, 20_000)

  test('an RPS that doesn’t answer: the same', async () => {
    away = [OWN]
    const [end, after] = await once(20)
    expect(end).toBeInstanceOf(Unreachable)
    expect((end as Error).message).toContain(`GET ${OWN}/v1/events gives no answer`)
    expect(after).toBeGreaterThanOrEqual(30_000)
  })
})

describe.skipIf(!hasMosquitto)('mosquitto', () => {
  /** MQTT.js with TLS of ours at the device's end and this line as its key: `in`, or the error. */
  async function oursBy(port: number, identity: string, key: string): Promise<string> {
    const line = {
      identity,
      psk: Buffer.from(key, 'hex'),
      slot: world.slot,
      endsAt: Number.POSITIVE_INFINITY,
    }
    const device = { externalPsk: async () => line }
    const to = { identity: device, host: '127.0.0.1', port, servername: 'tracking', timers: world.clock }
    const client = connect({ ...to, reconnectPeriod: 0, protocolVersion: 5 })
    const came = new Promise<string>(resolve => {
      // MQTT.js writes before the handshake is over: then it is the write that fails, with EPROTO, and says of which alert.
      client.on('error', error => {
        const { code } = error as { code?: unknown }
        resolve(code === 'EPROTO' ? error.message.trim() : String(code))
      })
      client.once('close', () => resolve('closed'))
      client.once('connect', () => resolve('in'))
    })
    try {
      if ((await came) === 'in') await client.publishAsync('t', 'ours', { qos: 1 })
      return await came
    } finally {
      await client.endAsync(true)
    }
  }

  test('takes the car by its line, not by a wrong key, an unknown identity, or after its ban', async () => {
    const [car, other] = [world.makeCar(), world.makeCar()]
    await list(car)
    const port = await freePort()
    const config = join(world.folder, 'mosquitto.conf')
    const pidFile = join(world.folder, 'mosquitto.pid')
    await writeFile(file, '', { mode: 0o600 })
    await writeFile(
      config,
      [
        `listener ${port} 127.0.0.1`,
        'allow_anonymous true',
        `psk_file ${file}`,
        'psk_hint milagro',
        'use_identity_as_username true',
        `pid_file ${pidFile}`,
        `user ${userInfo().username}`,
        'log_type all',
        '',
      ].join('\n'),
    )
    const broker: Running = started(['mosquitto', '-c', config])
    try {
      await broker.said(/mosquitto version .* running/)
      reload = { pidFile }
      await open()
      await holds(car)
      await until(() => writer.readiness.ok)
      await broker.said(/Reloading config/)
      const publish = (identity: string, key: string) =>
        ran([
          'mosquitto_pub',
          ...['-h', '127.0.0.1', '-p', String(port), '--psk-identity', identity, '--psk', key],
          ...['-q', '1', '-t', 't', '-m', 'm'],
        ])
      const [identity = '', key = ''] = lineOf(car).split(':')
      const [unknown = '', itsKey = ''] = lineOf(other).split(':')
      expect(await publish(identity, key)).toMatchObject({ status: 0 })
      expect(broker.text()).toContain(`u'${identity}'`)
      expect((await publish(identity, itsKey)).status).not.toBe(0)
      expect((await publish(unknown, itsKey)).status).not.toBe(0)
      // And so with TLS of ours at the device's end.
      const REFUSED = /^ERR_SSL_.*ALERT|^the server refuses this key.*: write EPROTO .*SSL alert number \d+/s
      expect(await oursBy(port, identity, key)).toBe('in')
      await broker.said(/New client connected from \S+ as mqttjs_\w+ \(p5, .*u's1\./)
      expect(await oursBy(port, identity, itsKey)).toMatch(REFUSED)
      expect(await oursBy(port, unknown, itsKey)).toMatch(REFUSED)
      await world.ban(rps, car)
      await holds()
      await until(async () => (await publish(identity, key)).status !== 0)
      expect(await oursBy(port, identity, key)).toMatch(REFUSED)
    } finally {
      await broker.end()
    }
  })
})
