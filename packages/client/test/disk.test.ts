/**
 * A full disk under each server in turn, and under a device: nobody says yes to what isn't kept, nothing is kept by
 * half, what was confirmed stays, and everything goes on once there is space.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Refused } from '@milagro-ts/api/problem'
import { Device } from '@milagro-ts/client/device'
import { ClientError } from '@milagro-ts/client/errors'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type Fillable, PageLimit, SmallDisk, withReadOnly } from '../../store/test/small-disk.js'
import { RunningServers, type ServerName } from './running-servers.js'
import { CAR, JO, TRACKING, VIN, World } from './world.js'

const LATER = 'RETRY_LATER'

describe('a full disk under a server', () => {
  const disks = new Map<ServerName, Fillable>()
  const folders = new Map<ServerName, string>()
  let servers: RunningServers
  let car: Device
  let vehicle: number
  beforeAll(async () => {
    servers = await RunningServers.start({
      onFolder(name, folder) {
        folders.set(name, folder)
        const disk = SmallDisk.mount(folder)
        if (disk === null) return () => undefined
        disks.set(name, disk)
        return () => disk.unmount()
      },
    })
    for (const [name, store] of servers.stores) if (!disks.has(name)) disks.set(name, new PageLimit(store))
    const added = await newVehicle(VIN)
    vehicle = added.id
    car = await Device.enrol(added.claim)
    const { driver, code } = await servers.fleet.assignDriver({
      ...(await servers.act()),
      params: { id: String(vehicle) },
      body: { attributes: { ...JO } },
    })
    expect(driver).toBeGreaterThan(0)
    await car.enrolUser({ code: code.code, attributes: JO, pin: '1234' })
    await login('1234')
  }, 180_000)
  afterAll(() => servers.close())

  const ports = () => ({ ...servers.ports, wait: () => Promise.resolve() })
  async function newVehicle(instance: string) {
    const attributes = { ...CAR }
    const { id, code } = await servers.fleet.addVehicle({
      ...(await servers.act()),
      body: { instance, attributes },
    })
    const claim = { ...ports(), store: memoryTokenStore(), code: code?.code as string, attributes, instance }
    return { id, claim }
  }
  const login = (pin: string) => car.login({ audience: TRACKING, user: 'Jo', pin })
  /** `OK`, or the code of a refusal; anything else is no answer to a full disk. */
  const outcome = (work: Promise<unknown>): Promise<string> =>
    work.then(
      () => 'OK',
      error => {
        if (error instanceof Refused) return error.code
        throw error
      },
    )
  /** Until it is refused for want of space: what still fits may succeed. */
  async function untilRefused(work: () => Promise<unknown>): Promise<string[]> {
    const outcomes: string[] = []
    while (outcomes.at(-1) !== LATER && outcomes.length < 100) outcomes.push(await outcome(work()))
    return outcomes
  }
  /** Nonces that nobody uses take up what room there still is. */
  const leaveNonces = () =>
    Promise.all(
      Array.from({ length: 20 }, () =>
        fetch(`${servers.rpsUrl}/v1/nonces`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: '{}',
        }).then(response => response.arrayBuffer()),
      ),
    )
  const isReady = async (name: ServerName) =>
    (await fetch(`${servers.adminUrls.get(name)}/health/ready`)).status
  async function during<T>(name: ServerName, work: () => Promise<T>): Promise<T> {
    const disk = disks.get(name) as Fillable
    await disk.fill()
    try {
      return await work()
    } finally {
      await disk.free()
    }
  }

  test('the authentication server lets nobody in, and forgets no strike', { timeout: 300_000 }, async () => {
    const account = async () => {
      const rps = servers.stores.get('rps')
      const rows = await rps?.atomic(connection => connection.all('SELECT cumulative FROM strike'))
      return Math.max(0, ...(rows ?? []).map(row => row.cumulative as number))
    }
    const before = await account()
    const wrong = await during('rps', async () => {
      const right = await untilRefused(async () => {
        await leaveNonces()
        return login('1234')
      })
      expect(right.at(-1)).toBe(LATER)
      expect([...new Set(right.slice(0, -1))].filter(code => code !== 'OK')).toEqual([])
      const guess = await outcome(login('0000'))
      expect([LATER, 'WRONG_PIN']).toContain(guess)
      if (disks.get('rps') instanceof SmallDisk) expect(await isReady('rps')).toBe(503)
      return guess === 'WRONG_PIN' ? 1 : 0
    })
    expect(await account()).toBeGreaterThanOrEqual(before + wrong)
    expect(await isReady('rps')).toBe(200)
    await login('1234')
    expect(await outcome(login('0000'))).toBe('WRONG_PIN')
    await login('1234')
  })

  test('an authority issues nothing that it could not write down, and the same call goes on', {
    timeout: 300_000,
  }, async () => {
    const claims: Awaited<ReturnType<typeof newVehicle>>[] = []
    for (let number = 1; number <= 3; number++) claims.push(await newVehicle(`FULL-${number}`))
    const outcomes = await during('ta2', async () => {
      const all: string[] = []
      for (const { claim } of claims) all.push(await outcome(Device.enrol(claim)))
      if (disks.get('ta2') instanceof SmallDisk) expect(await isReady('ta2')).toBe(503)
      return all
    })
    for (const code of outcomes) expect(['OK', LATER]).toContain(code)
    if (disks.get('ta2') instanceof SmallDisk) expect(outcomes).toContain(LATER)
    expect(await isReady('ta2')).toBe(200)
    for (const { claim } of claims) await (await Device.enrol(claim)).login({ audience: TRACKING })
    // One enrolment key for each, the same at each authority.
    const ledgers = await Promise.all(
      (['ta1', 'ta2', 'ta3'] as const).map(async name => {
        const rows = await servers.stores
          .get(name)
          ?.atomic(connection =>
            connection.all(
              'SELECT hex(identity_hash) AS identity, hex(enrolment_key_hash) AS hash FROM ledger',
            ),
          )
        return rows?.map(({ identity, hash }) => `${identity} ${hash}`).sort()
      }),
    )
    expect(ledgers[1]).toEqual(ledgers[0])
    expect(ledgers[2]).toEqual(ledgers[0])
  })

  test('fleet says no to what it cannot keep, and a ban is whole or not there', {
    timeout: 300_000,
  }, async () => {
    const { claim } = await newVehicle('FULL-FLEET')
    const act = await servers.act()
    const bans = async () => (await servers.fleet.listBans(await servers.act())).bans
    let number = 0
    const { added, banned, enrolled } = await during('fleet', async () => {
      const vehicles = await untilRefused(() =>
        servers.fleet.addVehicle({
          ...act,
          body: { instance: `FULL-FLEET-${++number}`, attributes: { ...CAR, brand: 'x'.repeat(200) } },
        }),
      )
      const ban = await outcome(servers.fleet.ban({ ...act, body: { vehicle, reason: 'y'.repeat(200) } }))
      return { added: vehicles, banned: ban, enrolled: await outcome(Device.enrol(claim)) }
    })
    expect(added.at(-1)).toBe(LATER)
    for (const code of [...added, banned, enrolled]) expect(['OK', LATER]).toContain(code)
    expect(await isReady('fleet')).toBe(200)
    const { vehicles } = await servers.fleet.listVehicles({ ...(await servers.act()), query: {} })
    const made = vehicles.filter(({ instance }) => instance.startsWith('FULL-FLEET-')).length
    expect(made).toBe(added.filter(code => code === 'OK').length)
    expect(await bans()).toHaveLength(banned === 'OK' ? 1 : 0)
    await (await Device.enrol(claim)).login({ audience: TRACKING })

    const [ban] =
      banned === 'OK'
        ? await bans()
        : [await servers.fleet.ban({ ...(await servers.act()), body: { vehicle, reason: 'stolen' } })]
    await expect.poll(() => outcome(login('1234')), { timeout: 20_000 }).toBe('BANNED')
    await servers.fleet.unban({ ...(await servers.act()), params: { id: String(ban?.id) } })
    await expect.poll(() => outcome(login('1234')), { timeout: 20_000 }).toBe('OK')
  })

  describe('a data folder that becomes read-only under a server that runs', () => {
    const readOnly = <T>(name: ServerName, work: () => Promise<T>) =>
      withReadOnly(folders.get(name) as string, servers.stores.get(name) as Store<unknown>, work)

    test('rps: nobody is let in, no guess is free, and it goes on where it was', async () => {
      expect(await outcome(login('0000'))).toBe('WRONG_PIN')
      await readOnly('rps', async () => {
        expect([await outcome(login('1234')), await outcome(login('0000'))]).toEqual([LATER, LATER])
        expect(await isReady('rps')).toBe(503)
      })
      expect(await isReady('rps')).toBe(200)
      expect(await outcome(login('0000'))).toBe('WRONG_PIN')
      await login('1234')
    })

    test('an authority: nothing is issued, and then to the same key', async () => {
      const { claim } = await newVehicle('READ-ONLY-1')
      await readOnly('ta2', async () => {
        expect(await outcome(Device.enrol(claim))).toBe(LATER)
        expect(await isReady('ta2')).toBe(503)
      })
      expect(await isReady('ta2')).toBe(200)
      await (await Device.enrol(claim)).login({ audience: TRACKING })
    })

    test('fleet: no vehicle, no ban, no leaf; then all of them', async () => {
      const { claim } = await newVehicle('READ-ONLY-2')
      const act = await servers.act()
      const add = (instance: string) =>
        servers.fleet.addVehicle({ ...act, body: { instance, attributes: { ...CAR } } })
      const { bans } = await servers.fleet.listBans(act)
      await readOnly('fleet', async () => {
        expect(await outcome(add('READ-ONLY-3'))).toBe(LATER)
        expect(await outcome(servers.fleet.ban({ ...act, body: { vehicle, reason: 'stolen' } }))).toBe(LATER)
        expect(await outcome(Device.enrol(claim))).toBe(LATER)
        expect(await isReady('fleet')).toBe(503)
      })
      expect(await isReady('fleet')).toBe(200)
      expect(await servers.fleet.listBans(act)).toEqual({ bans })
      await add('READ-ONLY-3')
      await (await Device.enrol(claim)).login({ audience: TRACKING })
    })
  })

  test('a read-only folder ends a start before anything is served, and nothing is changed', async () => {
    for (const [name, disk] of disks) {
      if (!(disk instanceof SmallDisk)) continue
      const file = join(disk.readOnly(), 'store.sqlite')
      await expect(openDatabase({ file, migrations: [] })).rejects.toMatchObject({ reason: 'unavailable' })
      expect([name, await isReady(name)]).toEqual([name, 200])
    }
    await login('1234')
  })
})

describe('a device whose disk', () => {
  let world: World
  let folder: string
  let disk: SmallDisk | null
  beforeAll(async () => {
    world = await World.start({ n: 1, t: 1 })
  })
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'milagro-disk-'))
    disk = SmallDisk.mount(folder, 1)
  })
  afterEach(() => {
    disk?.unmount()
    rmSync(folder, { recursive: true })
  })
  afterAll(() => world.close())
  const path = () => join(folder, 'device', 'store.json')
  const claim = () => ({ ...world.ports, store: fileTokenStore(path()), attributes: CAR, instance: VIN })
  const unavailable = expect.objectContaining({ code: 'STORE_UNAVAILABLE' })

  test('cannot be written from the start sends no registration, and enrols once it can', async () => {
    const code = world.code()
    world.seen.length = 0
    if (disk !== null) {
      mkdirSync(join(folder, 'device'))
      await disk.fill()
      await expect(Device.enrol({ ...claim(), code })).rejects.toEqual(unavailable)
      expect(world.seen).not.toContain('register')
      await disk.free()
      const store = fileTokenStore(join(disk.readOnly(), 'device', 'store.json'))
      await expect(Device.enrol({ ...claim(), store, code })).rejects.toEqual(unavailable)
      expect(world.seen).not.toContain('register')
    }
    const car = await Device.enrol({ ...claim(), code })
    await car.login({ audience: TRACKING })
  })

  test('is full or read-only in the middle keeps the former text, whole, and goes on', async () => {
    const car = await Device.enrol({ ...claim(), code: world.code() })
    await car.permit()
    await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
    const before = readFileSync(path(), 'utf8')
    const change = (at = car) => at.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
    const login = (pin: string, at = car) => at.login({ audience: TRACKING, user: 'Jo', pin })
    const isUntouched = () => {
      expect(readFileSync(path(), 'utf8') === before).toBe(true)
      expect(readdirSync(join(folder, 'device')).filter(name => name.endsWith('.new'))).toEqual([])
    }
    if (disk !== null) {
      await disk.fill()
      await expect(change()).rejects.toEqual(unavailable)
      isUntouched()
      await login('1234')
      await disk.free()

      const store = fileTokenStore(join(disk.readOnly(), 'device', 'store.json'))
      const readOnly = await Device.open({ ...world.ports, store })
      await expect(change(readOnly)).rejects.toEqual(unavailable)
      isUntouched()
      await login('1234', readOnly)
    }
    await change()
    await login('4321')
  })

  test('loses its folder altogether is told so', async () => {
    const car = await Device.enrol({ ...claim(), code: world.code() })
    rmSync(join(folder, 'device'), { recursive: true })
    await expect(car.login({ audience: TRACKING })).rejects.toBeInstanceOf(ClientError)
  })
})
