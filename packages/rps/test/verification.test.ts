/** Steps 1 and 2 of the order: what is refused from the message alone, and by the device proof. */
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { authorizationHeader, type LoginJson, MODE } from '@milagro-ts/crypto/mpin'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type Driver,
  FLEET,
  type MessageOptions,
  NOON,
  OWN,
  type RunningRps,
  TRACKING,
  World,
} from './world.js'

let world: World
let rps: RunningRps
let car: Car
let driver: Driver
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = NOON + 600_000
  car = world.makeCar()
  driver = world.makeDriver(car)
})

const send = (login: LoginJson) => codeOf(rps.client.login({ body: { login: asFields(login) } }))
const refusal = async (options: MessageOptions, who: Car = car) =>
  send(await world.message(rps, who, options))

describe('nonces', () => {
  test('a nonce is used once', async () => {
    const login = asFields(await world.message(rps, car))
    await rps.client.login({ body: { login } })
    expect(await send(login)).toBe('REPLAYED')
  })

  test('a nonce that this server never gave', async () => {
    expect(await refusal({ nonce: toBase64Url(sha256(utf8('mine'))) })).toBe('REPLAYED')
  })

  test('a message with the nonce of another', async () => {
    const [one, other] = [await world.message(rps, car), await world.message(rps, world.makeCar())]
    expect(await send({ ...one, nonce: other.nonce! })).toBe('WRONG_PROOF')
    expect(await send(other)).toBe('REPLAYED')
  })

  test('a nonce holds for 30 seconds, is then too old, and later unknown', async () => {
    const late = await world.message(rps, car)
    world.clock.turn(30_000)
    await rps.client.login({ body: { login: asFields(late) } })
    const tooLate = await world.message(rps, car)
    world.clock.turn(30_001)
    expect(await send(tooLate)).toBe('EXPIRED')
    expect(await send(tooLate)).toBe('REPLAYED')
  })

  test('a failed proof uses its nonce up', async () => {
    const login = await world.message(rps, car)
    expect(await send({ ...login, vDev: login.uDev })).toBe('WRONG_PROOF')
    expect(await send(login)).toBe('REPLAYED')
  })
})

describe('what a message must say', () => {
  test.each<[string, MessageOptions]>([
    ['an audience that nobody has', { audience: 'https://tracking.example/' }],
    ['an audience in other letters', { audience: 'https://Tracking.example' }],
    ['no PIN where the service wants one', { audience: FLEET }],
    ['a signature as login', { mode: MODE.sign, payload: utf8('x') }],
  ])('%s is MALFORMED', async (_, options) => {
    expect(await refusal(options)).toBe('MALFORMED')
  })

  test('a PIN where the service wants none', async () => {
    expect(await refusal({ audience: 'devices-only', driver })).toBe('MALFORMED')
    await world.login(rps, car, { audience: 'devices-only' })
  })

  test('factors of the identity: 0 takes no PIN, 1 wants one', async () => {
    const [sensor, personal] = [world.makeCar({ factors: 0 }), world.makeCar({ factors: 1 })]
    expect(await refusal({ driver: world.makeDriver(sensor) }, sensor)).toBe('MALFORMED')
    expect(await refusal({ audience: FLEET }, sensor)).toBe('MALFORMED')
    await world.login(rps, sensor)
    expect(await refusal({}, personal)).toBe('MALFORMED')
    const own = world.makeOwnPin(personal)
    expect((await world.login(rps, personal, { driver: own })).authenticated).toEqual({
      idCore: personal.idCore.mpinId,
      amr: ['device', 'pin'],
      slot: world.slot,
      audience: TRACKING,
    })
  })

  test.each<[string, MessageOptions]>([
    ['the slot to come', { slot: 1_001 }],
    ['a slot long ago', { slot: 998 }],
    ['another device epoch', { deviceEpoch: 2 }],
    ['device epoch 0', { deviceEpoch: 0 }],
  ])('%s is EXPIRED', async (_, options) => {
    expect(await refusal(options)).toBe('EXPIRED')
  })

  test('another PIN epoch is EXPIRED', async () => {
    expect(await refusal({ driver, pinEpoch: 2 })).toBe('EXPIRED')
  })

  test('the former slot within its grace, and not after it', async () => {
    const [early, late] = [car, world.makeCar()]
    world.clock.now = NOON + 600_000
    await world.login(rps, early)
    await world.login(rps, late)
    const end = (world.group.slotRule.origin + 1_001 * 3_600) * 1000
    world.clock.now = end + 299_999
    await world.login(rps, early, { slot: 1_000 })
    world.clock.now = end + 300_000
    expect(await refusal({ slot: 1_000 }, late)).toBe('EXPIRED')
  })

  test('an audience that wants the TLS exporter, on a connection that has none', async () => {
    expect(await refusal({ audience: 'bound' })).toBe('MALFORMED')
    expect(await refusal({ audience: 'bound', tlsExporter: new Uint8Array(32) })).toBe('MALFORMED')
  })

  test('nothing of this costs the nonce', async () => {
    const { nonce } = await rps.client.nonce({ body: {} })
    expect(await refusal({ nonce, slot: 1_001 })).toBe('EXPIRED')
    await world.login(rps, car, { nonce })
  })
})

describe('modes don’t pass for each other', () => {
  test('a login as signature, and back', async () => {
    const payload = utf8('a position')
    const signed = asFields(await world.message(rps, car, { mode: MODE.sign, payload }))
    expect(await send(signed)).toBe('MALFORMED')
    const { payloadHash: _, ...rest } = signed
    expect(await send({ ...rest, mode: MODE.nonce })).toBe('WRONG_PROOF')
    const login = asFields(await world.message(rps, car))
    const asSignature = { ...login, mode: MODE.sign, payloadHash: signed.payloadHash! }
    const body = { message: asSignature, payload: toBase64Url(payload) }
    expect(await codeOf(rps.client.sign({ body }))).toBe('WRONG_PROOF')
    expect(await codeOf(rps.client.sign({ body: { ...body, message: login } }))).toBe('MALFORMED')
  })

  test('a nonce login as one pass, and a one pass login as nonce', async () => {
    const { nonce } = await rps.client.nonce({ body: {} })
    const credential = authorizationHeader(world.prove(car, { nonce, audience: OWN }))
    expect(await codeOf(rps.client.whoami({ authorization: credential }))).toBe('MALFORMED')
    const { clientTime: _, ...timed } = world.prove(car).toJson()
    expect(await send({ ...timed, mode: MODE.nonce, nonce })).toBe('WRONG_PROOF')
  })

  test('an application’s signature is never one for the RPS itself', async () => {
    const payload = utf8('sign this, please')
    const message = asFields(await world.message(rps, car, { mode: MODE.sign, payload, audience: OWN }))
    expect(await codeOf(rps.client.sign({ body: { message, payload: toBase64Url(payload) } }))).toBe(
      'MALFORMED',
    )
  })

  test('another payload than the one that was signed', async () => {
    const message = asFields(await world.message(rps, car, { mode: MODE.sign, payload: utf8('here') }))
    const body = { message, payload: toBase64Url(utf8('there')) }
    expect(await codeOf(rps.client.sign({ body }))).toBe('MALFORMED')
  })
})

describe('one pass', () => {
  const whoami = (options: MessageOptions, who = car) =>
    rps.client.whoami({ authorization: authorizationHeader(world.prove(who, { audience: OWN, ...options })) })

  test.each([-60, 60])('clientTime %i seconds off is taken', async off => {
    expect(await whoami({ clientTime: world.seconds + off })).toMatchObject({ idCore: car.idCore.mpinId })
  })

  test.each([-61, 61])('clientTime %i seconds off is CLOCK', async off => {
    expect(await codeOf(whoami({ clientTime: world.seconds + off }))).toBe('CLOCK')
  })

  test('a message is good once, here and on a replica, as long as its time is', async () => {
    const replica = await world.startRps()
    const authorization = authorizationHeader(
      world.prove(car, { audience: OWN, clientTime: world.seconds + 60 }),
    )
    await rps.client.whoami({ authorization })
    expect(await codeOf(rps.client.whoami({ authorization }))).toBe('REPLAYED')
    expect(await codeOf(replica.client.whoami({ authorization }))).toBe('REPLAYED')
    world.clock.turn(120_000)
    expect(await codeOf(replica.client.whoami({ authorization }))).toBe('REPLAYED')
    world.clock.turn(1_000)
    expect(await codeOf(replica.client.whoami({ authorization }))).toBe('CLOCK')
    await replica.close()
  })

  test('a signature over a time is good once, too', async () => {
    const payload = utf8('a position')
    const message = asFields(world.prove(car, { mode: MODE.sign, payload }).toJson())
    const body = { message, payload: toBase64Url(payload) }
    await rps.client.sign({ body })
    expect(await codeOf(rps.client.sign({ body }))).toBe('REPLAYED')
  })

  test('a server with an empty record knows nothing of before: T0 + Δ is refused, a second later not', async () => {
    const start = world.clock.now
    const fresh = await world.startRps({ store: ':memory:' })
    const at = (clientTime: number) =>
      fresh.client.whoami({
        authorization: authorizationHeader(world.prove(car, { audience: OWN, clientTime })),
      })
    expect(await codeOf(at(start / 1000))).toBe('CLOCK')
    expect(await codeOf(at(start / 1000 + 60))).toBe('CLOCK')
    world.clock.turn(1_000)
    await at(start / 1000 + 61)
    await world.login(fresh, car)
    await fresh.close()
  })

  test('not for the service that asks', async () => {
    const message = toBase64Url(world.prove(car, { audience: TRACKING }).encode())
    expect(await codeOf(rps.as(world.fleet).verifyOnePass({ body: { message } }))).toBe('MALFORMED')
    expect(await codeOf(rps.client.verifyOnePass({ body: { message } }))).toBe('UNAUTHENTICATED')
    const own = toBase64Url(world.prove(car, { audience: OWN }).encode())
    expect(await codeOf(rps.as(world.tracking).verifyOnePass({ body: { message: own } }))).toBe('MALFORMED')
    await rps.as(world.tracking).verifyOnePass({ body: { message } })
  })

  test('a service’s garbage is paid for by nobody’s source', async () => {
    const strict = await world.startRps({
      config: { rateLimit: { failedProofs: { perSecond: 1, burst: 2 } } },
    })
    const garbage = () => toBase64Url(world.prove(car, { deviceKey: G1.generator }).encode())
    for (let i = 0; i < 4; i++) {
      const asked = strict.as(world.tracking).verifyOnePass({ body: { message: garbage() } })
      expect(await codeOf(asked)).toBe('WRONG_PROOF')
    }
    await strict
      .as(world.tracking)
      .verifyOnePass({ body: { message: toBase64Url(world.prove(car).encode()) } })
    await strict.close()
  })

  test('no credential, another scheme, a token of somebody else', async () => {
    expect(await codeOf(rps.client.whoami({}))).toBe('UNAUTHENTICATED')
    expect(await codeOf(rps.client.whoami({ authorization: 'Basic YTpi' }))).toBe('UNAUTHENTICATED')
    expect(await codeOf(rps.client.whoami({ authorization: 'Bearer a.b.c' }))).toBe('UNAUTHENTICATED')
    expect(await codeOf(rps.client.whoami({ authorization: 'MPIN AAAA' }))).toBe('MALFORMED')
  })
})

describe('every field of a login', () => {
  /** Another value of the right form for each field. */
  const others: Partial<Record<keyof LoginJson, () => string | number | Promise<string>>> = {
    mode: () => MODE.time,
    audience: () => 'devices-only',
    deviceEpoch: () => 2,
    slot: () => 999,
    nonce: async () => (await rps.client.nonce({ body: {} })).nonce,
    idCore: () => world.makeCar().idCore.mpinId,
    userCore: () => toBase64Url(sha256(utf8('another driver'))),
    uDev: point,
    vDev: point,
    uPin: point,
    t: point,
    vPin: point,
    z: () => toBase64Url(Scalar.fromNumber(7).encode()),
    pinGen: () => 2,
    pinEpoch: () => 2,
    permit: () => toBase64Url(world.permitOf(world.makeCar().idCore).encode()),
  }
  function point() {
    return toBase64Url(
      G1.generator
        .mulSecret(Scalar.random(length => crypto.getRandomValues(new Uint8Array(length))))
        .encode(),
    )
  }
  /** After the device proof these are what is wrong. */
  const after: Partial<Record<keyof LoginJson, string>> = {
    vPin: 'WRONG_PIN',
    z: 'WRONG_PIN',
    permit: 'WRONG_PERMIT',
  }
  const before: Partial<Record<keyof LoginJson, string>> = {
    mode: 'MALFORMED',
    audience: 'MALFORMED',
    deviceEpoch: 'EXPIRED',
    slot: 'EXPIRED',
    pinEpoch: 'EXPIRED',
  }

  test.each(Object.keys(others) as (keyof LoginJson)[])('another %s', async field => {
    const permit = world.permitOf(car.idCore)
    const login = await world.message(rps, car, { driver, permit })
    const changed = { ...login, [field]: await others[field]!() }
    expect(await send(changed)).toBe(after[field] ?? before[field] ?? 'WRONG_PROOF')
  })

  test('each byte field with one bit changed, too short, and left out', async () => {
    const permit = world.permitOf(car.idCore)
    const login = await world.message(rps, car, { driver, permit })
    const codes = new Set<string>()
    for (const [field, value] of Object.entries(login)) {
      if (typeof value !== 'string' || field === 'audience' || field === 'suite') continue
      const bytes = fromBase64Url(value, field)
      const flipped = bytes.slice()
      flipped[flipped.length - 1]! ^= 1
      const { [field as 'nonce']: _, ...without } = login
      for (const changed of [
        { ...login, [field]: toBase64Url(flipped) },
        { ...login, [field]: toBase64Url(bytes.slice(1)) },
        without,
      ]) {
        if (field === 'permit' && changed === without) continue
        codes.add(await send(changed as LoginJson))
      }
    }
    expect([...codes].sort()).toEqual(['MALFORMED', 'REPLAYED', 'WRONG_PROOF'])
  })

  test('a field that no message has', async () => {
    const login = { ...(await world.message(rps, car)), admin: true }
    expect(await send(login)).toBe('MALFORMED')
  })
})

describe('a valid device proof is answered with what is the case', () => {
  test('banned, revoked, or not in the register', async () => {
    await world.ban(rps, car)
    expect(await refusal({})).toBe('BANNED')
    const gone = world.makeCar()
    await rps.client.pushEvent({ body: { event: await world.event('revoke', gone.idCore) } })
    expect(await refusal({}, gone)).toBe('REVOKED')
    // Issued by the authorities once, but not in the register: not to be let in.
    expect(await refusal({}, world.makeCar({ isRegistered: false }))).toBe('WRONG_PROOF')
  })
})

describe('algebra that must not get through', () => {
  test('U chosen after an unbound challenge, V to match', async () => {
    // For some y: U = tB − yA, V = −t·sB would satisfy the equation for c = y; c hashes U, so it isn't y.
    const login = await world.message(rps, car)
    const t = Scalar.fromNumber(5)
    const U = car.D_dev.mulSecret(t)
    expect(
      await send({ ...login, uDev: toBase64Url(U.encode()), vDev: toBase64Url(U.negate().encode()) }),
    ).toBe('WRONG_PROOF')
  })

  test('the key of another car', async () => {
    expect(await refusal({ deviceKey: world.makeCar().D_dev })).toBe('WRONG_PROOF')
  })

  test('one half of a message with the other half of another', async () => {
    const [one, other] = [await world.message(rps, car), await world.message(rps, car)]
    expect(await send({ ...one, uDev: other.uDev })).toBe('WRONG_PROOF')
  })

  test('a PIN proof without its device proof', async () => {
    expect(await refusal({ driver, deviceKey: G1.generator })).toBe('WRONG_PROOF')
  })
})

test('a source whose proofs fail is slowed down; others are not', async () => {
  const strict = await world.startRps({ config: { rateLimit: { failedProofs: { perSecond: 2, burst: 3 } } } })
  const login = async (ip: string, options: MessageOptions) => {
    const body = JSON.stringify({ login: await world.message(strict, car, options) })
    const headers = { 'content-type': 'application/json', 'x-forwarded-for': ip }
    const answer = await fetch(`${strict.url}/v1/logins`, { method: 'POST', headers, body })
    return ((await answer.json()) as { code?: string }).code
  }
  const codes: (string | undefined)[] = []
  for (let i = 0; i < 5; i++) codes.push(await login('192.0.2.1', { deviceKey: G1.generator }))
  expect(codes).toEqual(['WRONG_PROOF', 'WRONG_PROOF', 'WRONG_PROOF', 'RETRY_LATER', 'RETRY_LATER'])
  expect(await login('192.0.2.1', {})).toBe('RETRY_LATER')
  expect(await login('192.0.2.2', {})).toBeUndefined()
  world.clock.turn(1_000)
  expect(await login('192.0.2.1', {})).toBeUndefined()
  await strict.close()
})
