/** Starts, restarts, and what a start refuses. */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { authorizationHeader } from '@milagro-ts/crypto/mpin'
import { G2 } from '@milagro-ts/crypto/points'
import { sql } from '@milagro-ts/store/kysely'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { asFields, codeOf, OWN, PASSPHRASE, type RunningRps, until, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.make()
})
afterEach(() => world.close())

async function restart(rps: RunningRps): Promise<RunningRps> {
  await rps.close()
  return world.startRps()
}

test('a restart forgets no nonce, no replay, no strike, no ban, no permit, and asks no authority again', async () => {
  let rps = await world.startRps()
  const [car, banned] = [world.makeCar(), world.makeCar()]
  const driver = world.makeDriver(car)
  world.clock.turn(121_000)
  const authorization = authorizationHeader(world.prove(car, { audience: OWN }))
  await rps.client.whoami({ authorization })
  const used = asFields(await world.message(rps, car))
  await rps.client.login({ body: { login: used } })
  const unused = asFields(await world.message(rps, car))
  for (let i = 0; i < 2; i++) await codeOf(world.login(rps, car, { driver, wrongPin: true }))
  await world.ban(rps, banned)
  const { accessToken } = await world.login(rps, car, { audience: OWN })

  rps = await restart(rps)
  expect(world.authorities.map(({ asked }) => asked.serverKeys)).toEqual([2, 2, 2])
  expect(await codeOf(rps.client.whoami({ authorization }))).toBe('REPLAYED')
  expect(await codeOf(rps.client.login({ body: { login: used } }))).toBe('REPLAYED')
  await rps.client.login({ body: { login: unused } })
  expect(await codeOf(world.login(rps, car, { driver, wrongPin: true }))).toBe('WRONG_PIN')
  expect(await codeOf(world.login(rps, car, { driver }))).toBe('LOCKED')
  expect(await codeOf(world.login(rps, banned))).toBe('BANNED')
  expect(world.authorities[0]!.asked.permits).toBe(1)
  expect(await rps.client.whoami({ authorization: `Bearer ${accessToken}` })).toMatchObject({
    amr: ['device'],
  })
  // The record is older than this start: one pass works at once.
  await rps.client.whoami({ authorization: authorizationHeader(world.prove(car, { audience: OWN })) })
})

describe('server keys', () => {
  test('one authority that lies is done without, and named', async () => {
    world.authorities[1]!.behaviour = 'lying'
    const rps = await world.startRps()
    await world.login(rps, world.makeCar())
    expect(world.logged.some(line => line.includes('wrong-share') && line.includes('ta2'))).toBe(true)
  })

  test('while they can’t be had nobody is let in; then by itself', async () => {
    for (const { url } of world.authorities.slice(1)) world.unreachable.add(url)
    const rps = await world.startRps()
    const car = world.makeCar()
    expect(await codeOf(world.login(rps, car))).toBe('RETRY_LATER')
    const ready = await fetch(`${rps.adminUrl}/health/ready`)
    expect(await ready.json()).toMatchObject({
      ok: false,
      checks: { serverKeys: 'not fetched from the authorities yet', store: true, clock: true },
    })
    world.unreachable.clear()
    world.clock.turn(5_000)
    await until(async () => (await fetch(`${rps.adminUrl}/health/ready`)).ok)
    await world.login(rps, car)
  })

  test('are not believed from a file that fits another group’s', async () => {
    const other = await World.make()
    const rps = await other.startRps()
    await rps.close()
    await (await world.startRps()).close()
    const file = 'server-keys.sealed'
    await writeFile(join(world.dataDir, file), await readFile(join(other.dataDir, file)))
    await expect(world.startRps()).rejects.toThrow('belongs to another group')
    await other.close()
  })

  test('lie sealed: no file of the data folder holds one in clear', async () => {
    const rps = await world.startRps()
    const car = world.makeCar()
    const driver = world.makeDriver(car)
    await world.login(rps, car, { driver })
    await codeOf(world.login(rps, car, { driver, wrongPin: true }))
    const secrets = [
      G2.generator.mulSecret(world.secrets.device).encode(),
      G2.generator.mulSecret(world.secrets.pin).encode(),
      car.D_dev.encode(),
      pinIdentityPoint(world.group.groupId, car.idCore, driver.userCore, 1)
        .mulSecret(world.secrets.pin)
        .encode(),
    ]
    const forms = secrets.flatMap(secret => [
      Buffer.from(secret),
      Buffer.from(toBase64Url(secret)),
      Buffer.from(Buffer.from(secret).toString('hex')),
    ])
    const names = await readdir(world.dataDir)
    expect(names).toEqual(
      expect.arrayContaining(['admin-token', 'keys.sealed', 'rps.sqlite', 'server-keys.sealed']),
    )
    for (const name of names) {
      const bytes = await readFile(join(world.dataDir, name))
      for (const form of forms) expect(bytes.includes(form)).toBe(false)
    }
    const log = world.logged.join('')
    for (const form of forms) expect(log.includes(form.toString('latin1'))).toBe(false)
  })
})

test('the log holds no token, no proof, no name and no code', async () => {
  const rps = await world.startRps()
  const car = world.makeCar()
  const driver = world.makeDriver(car, 'Ada Lovelace')
  const message = await world.message(rps, car, { driver })
  const login = await rps.client.login({ body: { login: asFields(message), authOtt: true } })
  const wrong = await world.message(rps, car, { driver, wrongPin: true })
  await codeOf(rps.client.login({ body: { login: asFields(wrong) } }))
  await codeOf(
    rps.client.login({ body: { login: asFields({ ...wrong, uDev: `${wrong.uDev.slice(0, -4)}AAAA` }) } }),
  )
  const authorization = authorizationHeader(world.prove(car, { audience: OWN }))
  await codeOf(rps.client.whoami({ authorization }))
  const [hpkeKey, nonce, codeId, mac] = [2, 3, 4, 5].map(fill => toBase64Url(new Uint8Array(32).fill(fill)))
  const attributes = { driverName: 'Ada Lovelace' }
  const device = { kind: 'device' as const, attributes, instance: 'VIN', hpkeKey: hpkeKey!, nonce: nonce! }
  await rps.client.register({ body: { ...device, codeId: codeId!.slice(0, 22), mac: mac! } })
  world.rpa.isDown = true
  await codeOf(rps.client.register({ body: { ...device, hpkeKey: nonce!, nonce: nonce! } }))
  const log = world.logged.join('')
  expect(log).toContain('request refused')
  const { uDev, vDev, uPin, t, vPin, z } = message
  const secrets = [
    login.accessToken,
    login.authOtt!,
    authorization.slice(5),
    codeId!.slice(0, 22),
    mac!,
    hpkeKey!,
  ]
  for (const secret of [
    ...secrets,
    uDev,
    vDev,
    uPin!,
    t!,
    vPin!,
    z!,
    wrong.vPin!,
    wrong.z!,
    'Lovelace',
    PASSPHRASE,
  ])
    expect(log.includes(secret)).toBe(false)
})

describe('a start is refused', () => {
  test('with another passphrase', async () => {
    await (await world.startRps()).close()
    await expect(world.startRps({ passphrase: `${PASSPHRASE}!` })).rejects.toThrow('the passphrase is wrong')
  })

  test('with another group pinned', async () => {
    const groupId = toBase64Url(new Uint8Array(32).fill(1))
    await expect(world.startRps({ config: { groupId } })).rejects.toThrow('the document is of another group')
  })

  test('without a group document, or with one that isn’t JSON', async () => {
    const { groupFile: _, ...without } = world.configWith()
    const config = { ...without, groupFile: undefined as never }
    await expect(world.startRps({ config })).rejects.toThrow(`set 'groupFile' or 'groupUrl'`)
    await expect(world.startRps({ config: { groupFile: '/nowhere' } })).rejects.toThrow('ENOENT')
    const file = join(world.folder, 'not.json')
    await writeFile(file, '{')
    await expect(world.startRps({ config: { groupFile: file } })).rejects.toThrow('is not JSON')
  })

  test('under a name that the document doesn’t know, or with other keys than it says', async () => {
    const dataDir = join(world.folder, 'other')
    await expect(
      world.startRps({ config: { name: 'tracking', dataDir }, store: ':memory:' }),
    ).rejects.toThrow("gives 'tracking' no server key for device, pin")
    await expect(
      world.startRps({ config: { dataDir: join(world.folder, 'third') }, store: ':memory:' }),
    ).rejects.toThrow("other keys for 'rps'")
  })

  test('with a database whose keys are gone', async () => {
    await (await world.startRps()).close()
    await rm(join(world.dataDir, 'keys.sealed'))
    await expect(world.startRps()).rejects.toThrow('restore it from a backup')
  })
})

test('a store that can’t be written lets nobody in, and recovers by itself', async () => {
  const rps = await world.startRps()
  const car = world.makeCar()
  const login = asFields(await world.message(rps, car))
  await sql`PRAGMA query_only = ON`.execute(rps.store.db)
  expect(await codeOf(rps.client.login({ body: { login } }))).toBe('RETRY_LATER')
  expect(await codeOf(rps.client.nonce({ body: {} }))).toBe('RETRY_LATER')
  expect((await fetch(`${rps.adminUrl}/health/ready`)).status).toBe(503)
  await sql`PRAGMA query_only = OFF`.execute(rps.store.db)
  await rps.client.login({ body: { login } })
})
