/** Gateways in front of what people have: mosquitto, PostgreSQL, SSH; their clients through a device's outbound gateway. */
import { existsSync, mkdirSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { toHex } from '@milagro-ts/crypto/bytes'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { freePort } from '../../../test/free-port.js'
import { heard, INSTANCE, startGateway, startOutbound } from './gateway-world.js'
import { haveTools, type Running, ran, started } from './tools.js'
import { type Car, NAME, World } from './world.js'

const hasMosquitto = haveTools(
  'no gateway in front of mosquitto is tested',
  'mosquitto',
  'mosquitto_pub',
  'mosquitto_sub',
)
const hasSsh = haveTools('no gateway in front of SSH is tested', 'sshd', 'ssh', 'ssh-keygen')
const POSTGRES = { host: '127.0.0.1', port: 5432 }
const hasPostgres =
  haveTools('no gateway in front of PostgreSQL is tested', 'psql') &&
  (await ran(['psql', '-h', POSTGRES.host, '-U', 'postgres', '-Atc', 'select 1'])).status === 0
if (!hasPostgres) console.log('no PostgreSQL on 127.0.0.1:5432: no gateway in front of it is tested')

let world: World
let folder: string
let running: Running[]
beforeEach(async () => {
  world = await World.start()
  folder = await mkdtemp(join(tmpdir(), 'milagro-gateway-'))
  running = []
})
afterEach(async () => {
  await world.close()
  for (const one of running) await one.end()
  await rm(folder, { recursive: true, force: true })
})
const start = (...command: [string, ...string[]]) => {
  const one = started(command)
  running.push(one)
  return one
}

describe.skipIf(!hasMosquitto)('mosquitto', () => {
  let broker: number
  beforeEach(async () => {
    broker = await freePort()
    const acl = join(folder, 'acl')
    await writeFile(acl, 'pattern write cars/%u/#\npattern read cars/%u/#\n', { mode: 0o600 })
    const config = join(folder, 'mosquitto.conf')
    const { username } = userInfo()
    await writeFile(
      config,
      `listener ${broker} 127.0.0.1\nallow_anonymous true\nacl_file ${acl}\nuser ${username}\nlog_type all\n`,
    )
    await start('mosquitto', '-c', config).said(/mosquitto version .* running/)
  })
  const at = (port: number) => ['-h', '127.0.0.1', '-p', String(port)]
  const outboundOf = async (car: Car) => {
    const { port } = await startGateway(world, { to: { host: '127.0.0.1', port: broker }, pass: 'mqtt' })
    return (await startOutbound(world, car, port)).port
  }

  test.each(['mqttv311', 'mqttv5'])(
    '%s: a car writes under its own name, and the broker’s rules go by it',
    async version => {
      const car = world.car(1)
      const port = await outboundOf(car)
      const topic = `cars/${car.mpinId}/position`
      const listener = start('mosquitto_sub', ...at(port), '-V', version, '-t', topic, '-C', '1', '-d')
      await running[0]?.said(/Sending SUBACK/)
      const said = await ran([
        'mosquitto_pub',
        ...at(port),
        '-V',
        version,
        '-q',
        '1',
        '-t',
        topic,
        '-m',
        '59.3 18.1',
      ])
      expect(said).toMatchObject({ status: 0 })
      await listener.said(/59\.3 18\.1/)
      // Under another's name the broker takes nothing: its own rule, by a user name that nobody can choose.
      const other = await ran([
        'mosquitto_pub',
        ...at(port),
        ...['-V', version, '-q', '1', '-t', `cars/${world.car(2).mpinId}/position`, '-m', 'x', '-d'],
      ])
      if (version === 'mqttv5') expect(other.text).toMatch(/[Nn]ot authori[sz]ed|rc135|RC:135/)
      expect(running[0]?.text()).toMatch(/Denied PUBLISH/)
    },
  )

  test('mosquitto_pub with TLS of its own: in by the device’s key; by another’s, or unknown, told the same no', async () => {
    const to = { host: '127.0.0.1', port: broker }
    const { port, gateway, metrics } = await startGateway(world, { to, pass: 'mqtt' })
    const protocols: (string | null)[] = []
    gateway.server.prependListener('secureConnection', socket => void protocols.push(socket.getProtocol()))
    const [car, other, unknown] = [world.car(1), world.car(2), world.car(3)]
    const { permitted } = world
    world.permitted = async (idCore, slot) =>
      idCore.mpinId === unknown.mpinId ? null : permitted(idCore, slot)
    const publish = (identity: string, psk: Uint8Array, ...more: string[]) =>
      ran([
        'mosquitto_pub',
        ...[...at(port), '--psk-identity', identity, '--psk', toHex(psk), ...more],
        ...['-q', '1', '-t', `cars/${car.mpinId}/position`, '-m', '59.3 18.1', '-d'],
      ])
    const { identity, psk } = await car.externalPsk(NAME)
    expect(await publish(identity, psk)).toMatchObject({ status: 0 })
    expect(await publish(identity, psk, '--tls-version', 'tlsv1.3')).toMatchObject({ status: 0 })
    await running[0]?.said(new RegExp(`New client connected .* u'${car.mpinId}'`))

    const its = await unknown.externalPsk(NAME)
    const refused = [
      await publish(identity, (await other.externalPsk(NAME)).psk),
      await publish(its.identity, its.psk),
      await publish('nobody', psk),
    ]
    const alerts = refused.map(({ text }) => /OpenSSL Error.* alert .*/.exec(text)?.[0])
    expect(alerts).toEqual([expect.any(String), alerts[0], alerts[0]])
    expect(refused.filter(({ status }) => status === 0)).toEqual([])
    expect(protocols).toEqual(['TLSv1.3', 'TLSv1.3'])
    expect(await metrics()).toContain('gateway_handshakes_failed_total 3')
  })

  test('another’s user name or client id is refused, and the broker never sees it', async () => {
    const port = await outboundOf(world.car(1))
    const as = (...more: string[]) =>
      ran(['mosquitto_pub', ...at(port), '-V', 'mqttv311', '-t', 'x', '-m', 'x', ...more])
    expect((await as('-u', world.car(2).mpinId, '-P', 'x')).text).toMatch(/not authori[sz]ed/i)
    expect((await as('-i', world.car(2).mpinId)).text).toMatch(/identifier rejected/i)
    expect(running[0]?.text()).not.toContain(world.car(2).mpinId)
    expect((await as('-i', `${world.car(1).mpinId}:2`, '-q', '1')).status).toBe(0)
  })

  test('by what the RA knows it by; a ban in the middle ends the subscription', async () => {
    const gateway = await startGateway(world, {
      to: { host: '127.0.0.1', port: broker },
      pass: 'mqtt',
      name: 'instance',
    })
    const car = world.car(1)
    const { port } = await startOutbound(world, car, gateway.port)
    const listener = start(
      'mosquitto_sub',
      ...at(port),
      '-t',
      `cars/${INSTANCE}/#`,
      '-d',
      '--disable-clean-session',
      '-i',
      INSTANCE,
    )
    await running[0]?.said(/Sending SUBACK/)
    expect(running[0]?.text()).toContain(`u'${INSTANCE}'`)
    world.banned.add(car.mpinId)
    world.door.look()
    await running[0]?.said(/closed its connection|disconnected/)
    expect(listener.text()).not.toContain('position')
  })

  test('at a Unix domain socket alone: the same rules, by the same name', async () => {
    const path = join(folder, 'socket')
    const config = join(folder, 'socket.conf')
    const { username } = userInfo()
    await writeFile(
      config,
      `listener 0 ${path}\nallow_anonymous true\nacl_file ${join(folder, 'acl')}\nuser ${username}\nlog_type all\n`,
    )
    const local = start('mosquitto', '-c', config)
    await local.said(/mosquitto version .* running/)
    const gateway = await startGateway(world, { to: { path }, pass: 'mqtt' })
    const car = world.car(1)
    const { port } = await startOutbound(world, car, gateway.port)
    const topic = (mpinId: string) => `cars/${mpinId}/position`
    const as = ['--unix', path, '-u', car.mpinId]
    const listener = start('mosquitto_sub', ...as, '-t', topic(car.mpinId), '-C', '1')
    await local.said(/Sending SUBACK/)
    const publish = (to: string) =>
      ran(['mosquitto_pub', ...at(port), '-V', 'mqttv5', '-q', '1', '-t', to, '-m', '59.3 18.1', '-d'])
    expect(await publish(topic(car.mpinId))).toMatchObject({ status: 0 })
    await listener.said(/59\.3 18\.1/)
    await publish(topic(world.car(2).mpinId))
    await local.said(/Denied PUBLISH/)
    // Nothing of this went by the port of the first.
    expect(running[0]?.text()).not.toContain('New connection')
  })

  test('what is no MQTT, or never says CONNECT, reaches no broker', async () => {
    const gateway = await startGateway(world, { to: { host: '127.0.0.1', port: broker }, pass: 'mqtt' })
    const dial = () =>
      secured(connect({ host: '127.0.0.1', port: gateway.port, servername: NAME, identity: world.car(1) }))
    const wrong = await dial()
    wrong.write('GET / HTTP/1.1\r\n\r\n')
    expect((await heard(wrong)).toString('hex')).toBe('20020001')
    const silent = await dial()
    const ended = heard(silent).catch(() => 'broken')
    silent.write(Buffer.from('10', 'hex'))
    for (let i = 0; i < 3; i++) await new Promise(resolve => setTimeout(resolve, 20))
    world.turn(10_000)
    await ended
    expect(running[0]?.text()).not.toContain('New connection')
  })
})

describe.skipIf(!hasPostgres)('PostgreSQL', () => {
  let port: number
  let car: Car
  beforeEach(async () => {
    const gateway = await startGateway(world, { to: POSTGRES, pass: 'none' })
    car = world.car(1)
    ;({ port } = await startOutbound(world, car, gateway.port))
  })
  const psql = (...more: string[]): [string, ...string[]] => [
    'psql',
    ...['-X', '-h', '127.0.0.1', '-p', String(port), '-U', 'postgres', '-At'],
    ...more,
  ]
  const env = { PGSSLMODE: 'disable', PGGSSENCMODE: 'disable' }

  test('psql asks, and a large table goes through both ways', async () => {
    expect(await ran(psql('-c', 'select 6 * 7'), { env })).toEqual({ status: 0, text: '42\n' })
    const rows = 200_000
    const copied = await ran(
      psql(
        ...['-q', '-c', 'create temporary table t (i int, s text)', '-c', '\\copy t from pstdin'],
        ...['-c', 'select count(*), sum(i), max(length(s)) from t'],
      ),
      { env, input: Array.from({ length: rows }, (_, i) => `${i}\tsome text of a row\n`).join('') },
    )
    expect(copied.text.trim()).toBe(`${rows}|${(rows * (rows - 1)) / 2}|18`)
    const large = await ran(psql('-c', "select repeat('x', 100) from generate_series(1, 50000)"), { env })
    expect(large.text.length).toBe(50_000 * 101)
  })

  test('a ban in the middle of a statement ends the session', async () => {
    const asking = started(psql('-c', 'select 1', '-c', 'select pg_sleep(100)'), env)
    running.push(asking)
    await asking.said(/1/)
    world.banned.add(car.mpinId)
    world.door.look()
    await expect(asking.said(/never said/)).rejects.toThrow(
      /server closed the connection|connection to server was lost/,
    )
    expect((await ran(psql('-c', 'select 1'), { env })).status).not.toBe(0)
  })
})

describe.skipIf(!hasSsh)('SSH', () => {
  test('a command over ssh, its own keys within ours; a stranger sees no banner', async () => {
    const key = async (name: string) => {
      const file = join(folder, name)
      await ran(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', file])
      return file
    }
    const [host, user] = [await key('host'), await key('user')]
    const daemon = await freePort()
    const config = join(folder, 'sshd_config')
    await writeFile(
      config,
      [
        `Port ${daemon}`,
        'ListenAddress 127.0.0.1',
        `HostKey ${host}`,
        `AuthorizedKeysFile ${user}.pub`,
        'PidFile none',
        'StrictModes no',
        'UsePAM no',
        'PasswordAuthentication no',
        'PermitRootLogin yes',
        '',
      ].join('\n'),
    )
    // sshd wants it where it is root's.
    if (userInfo().uid === 0 && !existsSync('/run/sshd')) mkdirSync('/run/sshd', { mode: 0o755 })
    const { text } = await ran(['sh', '-c', 'command -v sshd'])
    await start(text.trim() as string, '-D', '-e', '-f', config).said(/Server listening/)
    const gateway = await startGateway(world, { to: { host: '127.0.0.1', port: daemon }, pass: 'none' })
    const { port } = await startOutbound(world, world.car(1), gateway.port)
    const ssh = (to: number, command: string): [string, ...string[]] => [
      'ssh',
      ...['-F', 'none', '-p', String(to), '-i', user, '-o', 'IdentitiesOnly=yes', '-o', 'BatchMode=yes'],
      ...['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR'],
      ...[`${userInfo().username}@127.0.0.1`, command],
    ]
    expect(await ran(ssh(port, 'echo there; wc -c'), { input: 'x'.repeat(500_000) })).toEqual({
      status: 0,
      text: 'there\n500000\n',
    })
    // Without the device's key there is no SSH to talk to.
    const direct = await ran(ssh(gateway.port, 'true'))
    expect(direct.status).toBe(255)
    expect(running[0]?.text()).not.toContain('banner')
  })
})
