import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { serverCallerCheck } from '@milagro-ts/api/request-auth'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { ALICE, GOLF, refusal, until, World } from './fleet-world.js'

interface Call {
  readonly url: string
  readonly body: Record<string, unknown>
  /** Who signed it; null when the request JWT doesn't hold for this address and body. */
  readonly by: string | null
}
type Answer = { status?: number; headers?: Record<string, string>; body?: unknown } | 'hang' | 'cut'

/** The customer's own system, which checks every call as any server checks another's. */
class Customer {
  readonly calls: Call[] = []
  answer: (call: Call) => Answer = () => ({ body: {} })
  readonly #server: Server
  readonly #used = new Set<string>()

  constructor(world: () => World) {
    this.#server = createServer((request, response) => {
      const serve = async () => {
        const chunks: Buffer[] = []
        for await (const chunk of request) chunks.push(chunk as Buffer)
        const bytes = new Uint8Array(Buffer.concat(chunks))
        const check = serverCallerCheck({
          keyOf: name => world().group.recipient(name)?.requestKey,
          singleUse: { put: async (_kind, key) => !this.#used.has(key) && this.#used.add(key).size > 0 },
          clock: world().time.clock,
          publicUrl: this.url,
        })
        const asked = { method: request.method ?? '', url: request.url ?? '', headers: request.headers }
        const by = await check({ ...asked, bodyHash: sha256(bytes) }).then(
          ({ name }) => name,
          () => null,
        )
        const call = { url: asked.url, body: JSON.parse(Buffer.from(bytes).toString() || '{}'), by }
        this.calls.push(call)
        const answer = this.answer(call)
        if (answer === 'hang') return
        if (answer === 'cut') return void request.socket.destroy()
        const { status = 200, headers = { 'content-type': 'application/json' }, body = {} } = answer
        response.writeHead(status, headers).end(typeof body === 'string' ? body : JSON.stringify(body))
      }
      serve().catch((error: unknown) => response.writeHead(500).end(String(error)))
    })
  }
  listen(): Promise<void> {
    return new Promise(resolve => this.#server.listen(0, '127.0.0.1', resolve))
  }
  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }
  close(): Promise<unknown> {
    this.#server.closeAllConnections()
    return new Promise(resolve => this.#server.close(resolve))
  }
  of(path: string): Call[] {
    return this.calls.filter(({ url }) => url === path)
  }
}

let world: World
let customer: Customer
beforeAll(async () => {
  customer = new Customer(() => world)
  await customer.listen()
})
afterAll(() => customer.close())
beforeEach(() => {
  customer.calls.length = 0
  customer.answer = () => ({ body: {} })
})
const BEFORE = '/v1/before-registration'
const AFTER = '/v1/after-login'
const allow = () => ({ body: { decision: 'allow' } })

const verify = (body: Parameters<ReturnType<World['asRps']>['verify']>[0]['body']) =>
  world.asRps().verify({ body })
async function invited(instance: string) {
  const { code } = await world.api.addVehicle({ body: { instance, attributes: GOLF } })
  return (await world.registration({ instance, code: code!.code })).body
}

describe('before a registration', () => {
  beforeAll(async () => {
    customer.answer = allow
    world = await World.start({ hooks: { beforeRegistration: customer.url, deadline: 1000 } })
    // The operator's own device is asked about, too.
    await world.operatorToken()
    expect(customer.calls[0]?.body).toMatchObject({ instance: 'operator:admin' })
  })
  afterAll(() => world.stop())
  beforeEach(() => {
    customer.answer = allow
  })

  test('the customer’s system is asked once, by a signed call, and again never', async () => {
    const body = await invited('VIN-201')
    const first = await verify(body)
    expect(first.state).toBe('approved')
    expect(await verify(body)).toEqual(first)
    expect(customer.calls).toHaveLength(1)
    expect(customer.calls[0]).toMatchObject({
      url: BEFORE,
      by: 'fleet',
      body: { kind: 'device', by: 'code', instance: 'VIN-201', attributes: GOLF },
    })
  })

  test('its no is final, and is not asked for twice', async () => {
    customer.answer = () => ({ body: { decision: 'refuse' } })
    const body = await invited('VIN-301')
    expect(await refusal(verify(body))).toBe('NOT_APPROVED')
    customer.answer = allow
    expect(await refusal(verify(body))).toBe('NOT_APPROVED')
    expect(customer.calls).toHaveLength(1)
    const { vehicles } = await world.api.listVehicles({ query: { instance: 'VIN-301' } })
    expect(vehicles[0]).toMatchObject({ state: 'invited' })
  })

  test('its note stands beside the six words', async () => {
    customer.answer = () => ({ body: { decision: 'allow', note: 'sold in May' } })
    const { body } = await world.registration({ instance: 'VIN-402' })
    expect(await verify(body)).toEqual({ state: 'pending' })
    const { approvals } = await world.api.listApprovals({})
    expect(approvals).toMatchObject([{ instance: 'VIN-402', note: 'sold in May' }])
    expect(customer.calls[0]?.body).toMatchObject({ by: 'words' })
  })

  test('a note that can’t be shown as it is is left out', async () => {
    customer.answer = () => ({ body: { decision: 'allow', note: 'a\u001b[2Jb' } })
    const { body } = await world.registration({ instance: 'VIN-502' })
    await verify(body)
    const { approvals } = await world.api.listApprovals({})
    expect(approvals.find(({ instance }) => instance === body.instance)).toMatchObject({ kind: 'device' })
    expect(JSON.stringify(approvals)).not.toContain('2Jb')
  })

  test('drivers are asked about, new PINs are not', async () => {
    const car = await world.car('VIN-601')
    const driver = await world.driverOn(car)
    expect(customer.calls.map(({ body }) => body.kind)).toEqual(['device', 'user'])
    expect(customer.calls[1]?.body).toMatchObject({ attributes: ALICE, idCore: car.device.idCore })
    const body = {
      kind: 'pin' as const,
      idCore: car.device.idCore,
      userCore: driver.user.userCore!,
      pinGen: 1,
      hpkeKey: (await world.registration({ instance: 'x' })).body.hpkeKey,
    }
    expect((await verify(body)).state).toBe('approved')
    expect(customer.calls).toHaveLength(2)
  })

  const failures: Record<string, () => Answer> = {
    'no connection': () => 'cut',
    'no answer in time': () => 'hang',
    'an error': () => ({ status: 500, body: 'oops' }),
    'a refusal of the call': () => ({ status: 401, body: {} }),
    'a redirect': () => ({ status: 307, headers: { location: `${customer.url}/elsewhere` }, body: '' }),
    'an answer that says neither': () => ({ body: { decision: 'maybe' } }),
    'an answer without end': () => ({ body: { decision: 'allow', note: 'x'.repeat(20_000) } }),
    'no JSON': () => ({ body: '<html>' }),
  }
  test.each(Object.entries(failures))(
    '%s: nothing is decided, and it may be asked again',
    async (name, answer) => {
      const body = await invited(`VIN ${name}`)
      customer.answer = answer
      expect(await refusal(verify(body))).toBe('RETRY_LATER')
      expect(customer.of('/elsewhere')).toEqual([])
      customer.answer = allow
      expect((await verify(body)).state).toBe('approved')
      expect(customer.of(BEFORE)).toHaveLength(2)
      expect(new Set(customer.calls.map(({ body: { id } }) => id)).size).toBe(1)
    },
  )

  test('a wrong MAC is refused before anybody is asked', async () => {
    const body = await invited('VIN-801')
    expect(await refusal(verify({ ...body, instance: 'VIN-809' }))).toBe('NOT_APPROVED')
    expect(customer.calls).toEqual([])
  })
})

describe('after a login', () => {
  const happened = (idCore: string, event: 'login' | 'locked' | 'wrong-pin' = 'login', userCore?: string) =>
    world.happened({
      event,
      idCore,
      amr: ['device'],
      audience: 'https://shop.example',
      slot: world.slot,
      ...(userCore === undefined ? {} : { userCore }),
    })
  const status = async () => (await world.api.status({})).hooks
  afterEach(() => world.stop())

  test('each target is told, signed, by numbers alone', async () => {
    world = await World.start({ hooks: { afterLogin: [customer.url] } })
    const car = await world.car('VIN-SECRET')
    const driver = await world.driverOn(car)
    await happened(car.device.idCore, 'login', driver.user.userCore)
    await until(() => customer.calls.length === 1)
    expect(customer.calls[0]).toEqual({
      url: AFTER,
      by: 'fleet',
      body: {
        id: expect.any(String),
        event: 'login',
        at: world.seconds,
        idCore: car.device.idCore,
        userCore: driver.user.userCore,
        vehicle: car.id,
        amr: ['device'],
        audience: 'https://shop.example',
        slot: world.slot,
      },
    })
    await until(async () => (await status()).waiting === 0)
    const told = JSON.stringify(customer.calls) + world.logLines.join('')
    for (const secret of ['Alice', 'Golf', 'VIN-SECRET']) expect(told.includes(secret)).toBe(false)
  })

  test('wrong PINs and identities of nobody are not told', async () => {
    world = await World.start({ hooks: { afterLogin: [customer.url] } })
    const car = await world.car('VIN-1')
    await happened(car.device.idCore, 'wrong-pin')
    const nobody = Buffer.alloc(39).toString('base64url')
    expect(await happened(nobody)).toHaveLength(1)
    await happened(car.device.idCore, 'locked')
    await until(() => customer.calls.length === 1)
    expect(customer.calls[0]?.body).toMatchObject({ event: 'locked' })
  })

  test('many at once: each in its order, under the id and the time of the RPS; nobody’s are named to it', async () => {
    world = await World.start({ hooks: { afterLogin: [customer.url] } })
    const cars = [await world.car('VIN-1'), await world.car('VIN-2')]
    const nobody = Buffer.alloc(39).toString('base64url')
    const notices = [cars[1]!.device.idCore, nobody, cars[0]!.device.idCore, cars[1]!.device.idCore].map(
      (idCore, i) => ({
        id: Buffer.alloc(16, i + 1).toString('base64url'),
        at: world.seconds - 60 + i,
        event: 'login' as const,
        idCore,
        amr: ['device' as const],
        audience: 'x',
        slot: world.slot,
      }),
    )
    const told = () => world.asRps().authenticated({ body: { notices } })
    expect(await told()).toEqual({ unknown: [notices[1]!.id] })
    const known = notices.filter(({ idCore }) => idCore !== nobody)
    await until(() => customer.calls.length === 3)
    expect(customer.calls.map(({ body }) => [body.id, body.at, body.idCore])).toEqual(
      known.map(({ id, at, idCore }) => [id, at, idCore]),
    )
    const { entries } = await world.api.audit({ query: {} })
    expect(
      entries.filter(({ action }) => action === 'login').map(({ subject, outcome }) => [subject, outcome]),
    ).toEqual([
      [`device ${cars[1]!.id}`, 'noted'],
      [`device ${cars[0]!.id}`, 'noted'],
      [`identity ${nobody}`, 'NOT_FOUND'],
      [`device ${cars[1]!.id}`, 'noted'],
    ])
    // Told again, as when the answer was lost, it is the same to whoever hears it.
    await told()
    await until(() => customer.calls.length === 6)
    expect(customer.calls.slice(3).map(({ body }) => body.id)).toEqual(known.map(({ id }) => id))
  })

  test('a target that is away hears everything in order, through a restart, under the same ids', async () => {
    world = await World.start({ hooks: { afterLogin: [customer.url] } })
    const cars = [await world.car('VIN-1'), await world.car('VIN-2'), await world.car('VIN-3')]
    customer.answer = () => 'cut'
    for (const { device } of cars) await happened(device.idCore)
    await until(async () => (await status()).trouble !== undefined)
    expect(await status()).toEqual({ waiting: 3, dead: 0, trouble: 'the target can’t be reached' })
    const firstId = customer.calls[0]?.body.id
    await world.restart()
    await until(() => customer.calls.length >= 2)
    customer.answer = () => ({ body: {} })
    customer.calls.length = 0
    await until(async () => {
      world.time.advance(1000)
      return (await status()).waiting === 0
    })
    expect(customer.calls.map(({ body }) => body.idCore)).toEqual(cars.map(({ device }) => device.idCore))
    expect(customer.calls[0]?.body.id).toBe(firstId)
    expect((await status()).trouble).toBeUndefined()
  })

  test('one that never takes it: dead after the limit, the next one’s turn, and an operator may try again', async () => {
    world = await World.start({ hooks: { afterLogin: [customer.url], attempts: 3 } })
    const [one, two] = [await world.car('VIN-1'), await world.car('VIN-2')]
    customer.answer = ({ body }) =>
      body.idCore === one.device.idCore ? { status: 500, body: 'no' } : { body: {} }
    await happened(one.device.idCore)
    await happened(two.device.idCore)
    await until(async () => {
      world.time.advance(1000)
      return (await status()).waiting === 0
    })
    expect(customer.calls.map(({ body }) => body.vehicle)).toEqual([one.id, one.id, one.id, two.id])
    const { deliveries } = await world.api.listDeliveries({ query: {} })
    expect(deliveries).toMatchObject([{ target: customer.url, state: 'dead', attempts: 3 }])
    customer.answer = () => ({ body: {} })
    const params = { id: String(deliveries[0]!.id) }
    await world.api.retryDelivery({ params, body: {} })
    await until(async () => (await status()).dead === 0 && (await status()).waiting === 0)
    expect(customer.calls.at(-1)?.body).toMatchObject({ vehicle: one.id, id: customer.calls[0]?.body.id })
    expect(await refusal(world.api.retryDelivery({ params, body: {} }))).toBe('CONFLICT')
    expect(await refusal(world.api.retryDelivery({ params: { id: '4711' }, body: {} }))).toBe('NOT_FOUND')
  })

  test('one slow target keeps no other from hearing', async () => {
    const other = new Customer(() => world)
    await other.listen()
    world = await World.start({ hooks: { afterLogin: [customer.url, other.url] } })
    customer.answer = () => 'hang'
    const car = await world.car('VIN-1')
    await happened(car.device.idCore)
    await happened(car.device.idCore)
    await until(() => other.calls.length === 2)
    customer.answer = () => ({ body: {} })
    await other.close()
  })

  test('neither a redirect nor a long answer is taken for a yes', async () => {
    world = await World.start({ hooks: { afterLogin: [customer.url], attempts: 1 } })
    const car = await world.car('VIN-1')
    const answers: Answer[] = [
      { status: 302, headers: { location: `${customer.url}/elsewhere` }, body: '' },
      { body: { long: 'x'.repeat(100_000) } },
      { status: 204, headers: {}, body: '' },
    ]
    for (const [number, answer] of answers.entries()) {
      customer.answer = () => answer
      await happened(car.device.idCore)
      await until(async () => {
        world.time.advance(1000)
        return (await status()).dead === number + 1
      })
    }
    expect(customer.of('/elsewhere')).toEqual([])
  })
})

test('without a setting nobody is called and nothing waits', async () => {
  world = await World.start()
  const car = await world.car('VIN-1')
  await world.happened({
    event: 'login',
    idCore: car.device.idCore,
    amr: ['device'],
    audience: 'x',
    slot: world.slot,
  })
  expect((await world.api.status({})).hooks).toEqual({ waiting: 0, dead: 0 })
  expect(customer.calls).toEqual([])
  await world.stop()
})
