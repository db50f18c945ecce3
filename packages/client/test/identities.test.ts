/** Several identities in one token store, and several processes at one. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CAR, JO, TRACKING, VIN, World } from './world.js'

const VAN = 'WVWZZZ1JZXW000777'

let world: World
let other: World
let store: TokenStore
let folder: string
beforeAll(async () => {
  ;[world, other] = await Promise.all([World.start({ n: 1, t: 1 }), World.start({ n: 1, t: 1 })])
})
beforeEach(async () => {
  store = memoryTokenStore()
  folder = await mkdtemp(join(tmpdir(), 'milagro-identities-'))
})
afterEach(() => rm(folder, { recursive: true }))
afterAll(() => Promise.all([world.close(), other.close()]))

const enrol = (instance: string, of = world, into = store) =>
  Device.enrol({ ...of.ports, store: into, code: of.code(), attributes: CAR, instance })
const open = (identity?: string, of = world) =>
  Device.open({ ...of.ports, store, ...(identity === undefined ? {} : { identity }) })

describe('several identities in one store', () => {
  test('each is opened by its instance or its M-Pin ID, logs in, and leaves the others alone', async () => {
    const [car, van] = [await enrol(VIN), await enrol(VAN)]
    await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
    await van.permit()
    expect(await Device.list(store)).toMatchObject([
      { instance: VIN, mpinId: car.mpinId, users: [{ name: 'Jo', pinGen: 1 }], underWay: 0 },
      { instance: VAN, mpinId: van.mpinId, users: [], underWay: 0 },
    ])
    expect((await open(VAN)).mpinId).toBe(van.mpinId)
    const again = await open(car.mpinId)
    expect(again.instance).toBe(VIN)
    await again.login({ audience: TRACKING, user: 'Jo', pin: '1234' })
    await (await open(VAN)).login({ audience: TRACKING })
  })

  test('unnamed is the only one; of several it must be said which', async () => {
    const car = await enrol(VIN)
    expect((await open()).mpinId).toBe(car.mpinId)
    await enrol(VAN)
    await expect(open()).rejects.toMatchObject({ code: 'WHICH_IDENTITY' })
    await expect(open('WVWZZZ1JZXW000000')).rejects.toMatchObject({
      code: 'NOT_ENROLLED',
      message: expect.stringContaining('other identities'),
    })
  })

  test('of two groups, with one instance in both', async () => {
    const [car, double] = [await enrol(VIN), await enrol(VIN, other)]
    expect(toBase64Url(car.groupId)).not.toBe(toBase64Url(double.groupId))
    await expect(open(VIN)).rejects.toMatchObject({ code: 'WHICH_IDENTITY' })
    await (await open(car.mpinId)).login({ audience: TRACKING })
    await (await open(double.mpinId, other)).login({ audience: TRACKING })
  })

  test('the next generation of one takes that one’s place', async () => {
    const [car, van] = [await enrol(VIN), await enrol(VAN)]
    await expect(enrol(VIN)).rejects.toMatchObject({ code: 'ALREADY_ENROLLED' })
    const next = await Device.enrol({
      ...world.ports,
      store,
      code: world.code(),
      attributes: CAR,
      instance: VIN,
      replace: true,
    })
    expect(next.mpinId).not.toBe(car.mpinId)
    expect((await Device.list(store)).map(({ mpinId }) => mpinId)).toEqual([next.mpinId, van.mpinId])
    await expect(car.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'STORE_CHANGED' })
    await van.login({ audience: TRACKING })
  })

  test('one that is refused leaves no trace, one under way is listed, and the others go on', async () => {
    const car = await enrol(VIN)
    const byHand = { ...world.ports, store, groupId: toBase64Url(world.group.groupId), attributes: CAR }
    await expect(Device.enrol({ ...byHand, instance: VAN, patience: 1 })).rejects.toMatchObject({
      code: 'STILL_PENDING',
    })
    const listed = await Device.list(store)
    expect(listed).toMatchObject([{ instance: VIN }, { instance: VAN, mpinId: undefined, underWay: 1 }])
    expect((await open()).mpinId).toBe(car.mpinId)
    world.refuseAll('refused')
    await expect(Device.enrol({ ...byHand, instance: VAN })).rejects.toMatchObject({
      code: 'ENROLMENT_REFUSED',
    })
    expect(await Device.list(store)).toMatchObject([{ instance: VIN }])
    expect(await store.read()).not.toContain(VAN)
  })

  test('what is damaged of one stops that one alone', async () => {
    await enrol(VIN)
    const van = await enrol(VAN)
    const text = (await store.read()) as string
    const record = JSON.parse(text)
    record.identities[0].device.key = toBase64Url(new Uint8Array(48))
    await store.replace(text, JSON.stringify(record))
    await van.login({ audience: TRACKING })
    await expect(open(VIN)).rejects.toMatchObject({ code: 'STORE_DAMAGED' })
  })

  test('two devices of one process that write at once lose nothing of each other', async () => {
    const [car, van] = [await enrol(VIN), await enrol(VAN)]
    await Promise.all([
      car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' }),
      van.enrolUser({ code: world.code(JO), attributes: JO, pin: '5678' }),
      car.permit(),
      van.permit(),
    ])
    await (await open(VIN)).login({ audience: TRACKING, user: 'Jo', pin: '1234' })
    await (await open(VAN)).login({ audience: TRACKING, user: 'Jo', pin: '5678' })
  })
})

describe('several processes at one file', () => {
  /** A process that has opened the device and waits for the word. */
  async function process_(file: string, code: string, pin: string) {
    const script = fileURLToPath(new URL('./enrol-user.mjs', import.meta.url))
    const child = spawn(process.execPath, [script, world.url, file, String(world.now), code, pin], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    expect((await lines.next()).value).toBe('open')
    return {
      async goOn(): Promise<{ pid: number; name?: string; code?: string }> {
        child.stdin.write('go\n')
        const said = JSON.parse((await lines.next()).value)
        if (child.exitCode === null) await once(child, 'close')
        return said
      },
    }
  }

  test('that enrol one user at once split the PIN key once', async () => {
    const file = join(folder, 'device', 'store.json')
    await enrol(VIN, world, fileTokenStore(file))
    const code = world.code(JO)
    const pins = ['1111', '2222', '3333']
    const processes = await Promise.all(pins.map(pin => process_(file, code, pin)))
    const said = await Promise.all(processes.map(one => one.goOn()))
    for (const { name, code: why } of said) expect([name, why]).toContain(name ?? 'STORE_CHANGED')
    // One that finds the user there already, by this very code, has nothing to do, and is done.
    const car = await Device.open({ ...world.ports, store: fileTokenStore(file) })
    if (said.every(({ name }) => name === undefined))
      await car.enrolUser({ code, attributes: JO, pin: '1111' })
    const outcomes = []
    for (const pin of pins)
      outcomes.push(
        await car.login({ audience: TRACKING, user: 'Jo', pin }).then(
          () => 'in',
          error => error.code,
        ),
      )
    expect(outcomes.filter(outcome => outcome === 'in')).toHaveLength(1)
    const { identities } = JSON.parse(await readFile(file, 'utf8'))
    expect(identities[0].pending).toEqual([])
    expect(identities[0].users).toHaveLength(1)
  })
})
