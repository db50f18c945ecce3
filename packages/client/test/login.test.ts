/** What an enrolled device does, repeats, refuses to repeat, and doesn't believe. */
import { Unreachable } from '@milagro-ts/api/call'
import { Refused } from '@milagro-ts/api/problem'
import { Device } from '@milagro-ts/client/device'
import { adviceOn, ClientError } from '@milagro-ts/client/errors'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { callbackUnlocker } from '@milagro-ts/client/unlocker'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { parseAuthorization } from '@milagro-ts/crypto/mpin'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { slotStart } from '@milagro-ts/crypto/time-permit'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { CAR, JO, TRACKING, VIN, World } from './world.js'

let world: World
let enrolledText: string
beforeAll(async () => {
  world = await World.start({ n: 1, t: 1 })
  const store = memoryTokenStore()
  const car = await Device.enrol({
    ...world.ports,
    store,
    code: world.code(),
    attributes: CAR,
    instance: VIN,
  })
  await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
  enrolledText = (await store.read()) as string
})
afterEach(() => {
  world.tamper = {}
  world.lost.length = 0
  world.banned.clear()
  world.unlock()
})
afterAll(() => world.close())

async function copyOf(text: string): Promise<TokenStore> {
  const store = memoryTokenStore()
  await store.replace(null, text)
  return store
}
const open = async (more: object = {}) =>
  Device.open({ ...world.ports, store: await copyOf(enrolledText), ...more })
const jo = { audience: TRACKING, user: 'Jo', pin: '1234' }
const asked = async (work: () => Promise<unknown>) => {
  world.seen.length = 0
  await work()
  return [...world.seen]
}

describe('what is repeated', () => {
  test('a login of the device alone, after a lost answer, with a fresh nonce', async () => {
    const car = await open()
    world.lost.push('/v1/logins')
    expect(await asked(() => car.login({ audience: TRACKING }))).toEqual(['nonce', 'login', 'nonce', 'login'])
  })

  test('fetching a nonce, before a login with a PIN', async () => {
    const car = await open()
    world.lost.push('/v1/nonces')
    expect(await asked(() => car.login(jo))).toEqual(['nonce', 'nonce', 'login'])
  })

  test.each(['EXPIRED', 'REPLAYED', 'CLOCK', 'WRONG_PERMIT', 'PERMIT_EXPIRED'] as const)(
    'a login with a PIN that is refused as %s, before the PIN is looked at: once',
    async code => {
      const car = await open()
      let left = 1
      world.tamper = {
        login: (answer: never) => {
          if (left-- > 0) throw new Refused(code)
          return answer
        },
      }
      await car.login(jo)
      left = 2
      await expect(car.login(jo)).rejects.toMatchObject({ code })
    },
  )

  test('a slot that ended between nonce and login', async () => {
    const car = await open()
    let late = true
    world.tamper = {
      nonce: ((answer: { slot: number }) => {
        if (!late) return answer
        late = false
        return { ...answer, slot: answer.slot - 1 }
      }) as never,
    }
    const before = world.now
    // A minute after midnight the former slot is still near enough to be believed, and the RPS has no grace.
    world.now = Date.UTC(2026, 5, 2, 0, 1)
    try {
      expect(await asked(() => car.login(jo))).toEqual(['nonce', 'login', 'group', 'nonce', 'login'])
    } finally {
      world.now = before
    }
  })
})

describe('what is not repeated', () => {
  test('a login with a PIN whose answer was lost: the caller is told that it may count', async () => {
    const car = await open()
    world.lost.push('/v1/logins')
    world.seen.length = 0
    const error = await car.login(jo).catch(reason => reason)
    expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
    expect(error.cause).toBeInstanceOf(Unreachable)
    expect(adviceOn(error)).toBe('strike')
    expect(world.seen).toEqual(['nonce', 'login'])
  })

  test('a signature with a PIN likewise', async () => {
    const car = await open()
    world.lost.push('/v1/signatures')
    await expect(car.sign({ ...jo, payload: Uint8Array.of(1) })).rejects.toMatchObject({
      code: 'OUTCOME_UNKNOWN',
    })
  })

  test('a wrong PIN; three lock the account, and the right one is refused then', async () => {
    const car = await open()
    for (let attempt = 0; attempt < 3; attempt++)
      expect(
        await asked(() =>
          expect(car.login({ ...jo, pin: '0000' })).rejects.toMatchObject({ code: 'WRONG_PIN' }),
        ),
      ).toEqual(['nonce', 'login'])
    await expect(car.login(jo)).rejects.toMatchObject({ code: 'LOCKED' })
    world.unlock()
    await car.login(jo)
  })

  test('logins of one account overtake each other never', async () => {
    const car = await open()
    const seen = await asked(() => Promise.all([car.login(jo), car.login(jo), car.login(jo)]))
    expect(seen).toEqual(['nonce', 'login', 'nonce', 'login', 'nonce', 'login'])
  })

  test('and a refused one lets the next go on', async () => {
    const car = await open()
    const [bad, good] = await Promise.allSettled([car.login({ ...jo, pin: '0000' }), car.login(jo)])
    expect([bad.status, good.status]).toEqual(['rejected', 'fulfilled'])
  })
})

test('in the group’s first minute, whose clock tolerance reaches back before its first slot, it logs in', async () => {
  const later = world.now
  world.now = world.group.slotRule.origin * 1000 + 30_000
  try {
    const car = await Device.open({ ...world.ports, store: await copyOf(withoutPermit(enrolledText)) })
    await expect(car.login(jo)).resolves.toMatchObject({
      authenticated: { amr: ['device', 'pin'], slot: 0 },
    })
  } finally {
    world.now = later
  }
})

describe('what is not believed', () => {
  test('a slot far from the device’s clock', async () => {
    const car = await open()
    world.tamper = { nonce: ((answer: { slot: number }) => ({ ...answer, slot: answer.slot + 2 })) as never }
    await expect(car.login(jo)).rejects.toMatchObject({ code: 'WRONG_ANSWER' })
  })

  test.each(['deviceEpoch', 'pinEpoch'])('a %s that the group document doesn’t have', async field => {
    const car = await open()
    world.tamper = { nonce: ((answer: object) => ({ ...answer, [field]: 2 })) as never }
    await expect(car.login(jo)).rejects.toMatchObject({ code: 'WRONG_ANSWER' })
  })

  test.each([
    { idCore: toBase64Url(new Uint8Array(39)) },
    { amr: ['device'] },
    { userCore: toBase64Url(new Uint8Array(32)) },
    { audience: 'https://other.test' },
  ])('a login of somebody else: %o', async other => {
    const car = await open()
    world.tamper = {
      login: ((answer: { authenticated: object }) => ({
        ...answer,
        authenticated: { ...answer.authenticated, ...other },
      })) as never,
    }
    await expect(car.login(jo)).rejects.toMatchObject({ code: 'WRONG_ANSWER' })
  })

  test('a garbage permit, one of another slot, one that is no permit', async () => {
    const car = await Device.open({ ...world.ports, store: await copyOf(withoutPermit(enrolledText)) })
    const { anotherSecret } = world
    const permits = [
      world.permitOf(car.idCore, world.slot(), anotherSecret),
      world.permitOf(car.idCore, world.slot() + 1),
      toBase64Url(Uint8Array.of(1, 2, 3)),
    ]
    for (const permit of permits) {
      world.tamper = { permit: ((answer: object) => ({ ...answer, permit })) as never }
      await expect(car.permit()).rejects.toMatchObject({ code: 'WRONG_ANSWER' })
    }
    world.tamper = {}
    await car.permit()
  })

  test('a permit of the next slot is none, unless that slot has begun while the RPS was busy', async () => {
    const car = await Device.open({ ...world.ports, store: await copyOf(withoutPermit(enrolledText)) })
    const next = world.slot() + 1
    const { now } = world
    world.tamper = {
      permit: ((answer: object) => {
        world.now = slotStart(world.group.slotRule, next) * 1000
        return { ...answer, permit: world.permitOf(car.idCore, next) }
      }) as never,
    }
    expect((await car.permit()).slot).toBe(next)
    world.tamper = {}
    world.now = now
  })

  test('a receipt for another payload', async () => {
    const car = await open()
    let other: string | undefined
    world.tamper = {
      sign: ((answer: { receipt: string }) => {
        other ??= answer.receipt
        return { receipt: other }
      }) as never,
    }
    await car.sign({ audience: TRACKING, payload: Uint8Array.of(1) })
    await expect(car.sign({ audience: TRACKING, payload: Uint8Array.of(2) })).rejects.toMatchObject({
      code: 'WRONG_ANSWER',
    })
  })

  test('a group document that goes back', async () => {
    const store = await copyOf(enrolledText)
    const car = await Device.open({ ...world.ports, store })
    const [first] = world.revisions
    await world.revise()
    await car.enrolUser({
      code: world.code({ driverName: 'Kim' }),
      attributes: { driverName: 'Kim' },
      pin: '1',
    })
    expect(JSON.parse((await store.read()) as string).identities[0].revisions).toHaveLength(2)
    world.tamper = { group: () => first }
    const again = await Device.open({ ...world.ports, store })
    await expect(
      again.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' }),
    ).rejects.toMatchObject({ code: 'WRONG_GROUP' })
  })
})

describe('time permits', () => {
  test('one request a slot, however many ask; it is stored, and carried by the next login', async () => {
    const store = await copyOf(withoutPermit(enrolledText))
    const car = await Device.open({ ...world.ports, store })
    const seen = await asked(() => Promise.all([car.permit(), car.permit(), car.permit()]))
    expect(seen).toEqual(['nonce', 'permit'])
    const again = await Device.open({ ...world.ports, store })
    expect(await asked(() => again.permit())).toEqual([])
    const message = parseAuthorization(await again.onePass({ audience: TRACKING }))
    expect(message.permit?.slot).toBe(world.slot())
    world.now += 86_400_000
    expect(await asked(() => again.permit())).toEqual(['nonce', 'permit'])
    world.now -= 86_400_000
  })

  test('a banned device gets none', async () => {
    const car = await Device.open({ ...world.ports, store: await copyOf(withoutPermit(enrolledText)) })
    world.banned.add(car.mpinId)
    await expect(car.permit()).rejects.toMatchObject({ code: 'BANNED' })
  })

  test('one that spoiled in the store is not carried', async () => {
    const record = JSON.parse(enrolledText)
    const car = await open()
    record.identities[0].permit = world.permitOf(car.idCore, world.slot(), world.anotherSecret)
    const again = await Device.open({ ...world.ports, store: await copyOf(JSON.stringify(record)) })
    expect(parseAuthorization(await again.onePass({ audience: TRACKING })).permit).toBeUndefined()
  })
})

describe('sessions', () => {
  const ticking = () => {
    let now = 0
    return { ticks: () => now, pass: (seconds: number) => (now += seconds * 1000) }
  }

  test('renew silently before the token ends, once however many ask, and without the PIN', async () => {
    const { ticks, pass } = ticking()
    const car = await open({ ticks })
    const session = await car.session(jo)
    const first = await session.accessToken()
    pass(230)
    expect(await asked(() => session.accessToken())).toEqual([])
    pass(20)
    const renewed: string[] = []
    const seen = await asked(async () => {
      renewed.push(...(await Promise.all([session.accessToken(), session.accessToken()])))
    })
    expect(seen).toEqual(['nonce', 'login'])
    expect(renewed[0]).toBe(renewed[1])
    expect(renewed[0]).not.toBe(first)
    expect(await session.authorization()).toBe(`Bearer ${renewed[0]}`)
    expect(await asked(() => session.accessToken({ fresh: true }))).toEqual(['nonce', 'login'])
  })

  test('go on with the token in hand while the RPS is away, to its end', async () => {
    const { ticks, pass } = ticking()
    let away = false
    const fetching: typeof fetch = (input, init) =>
      away ? Promise.reject(new TypeError('no route')) : fetch(input, init)
    const car = await open({ ticks, fetch: fetching })
    const session = await car.session({ audience: TRACKING })
    const first = await session.accessToken()
    away = true
    pass(299)
    expect(await session.accessToken()).toBe(first)
    pass(2)
    await expect(session.accessToken()).rejects.toThrow(Unreachable)
    away = false
    expect(await session.accessToken()).not.toBe(first)
  })

  test('do not try again behind the caller’s back what may have been counted', async () => {
    const { ticks, pass } = ticking()
    const car = await open({ ticks })
    const session = await car.session(jo)
    const first = await session.accessToken()
    pass(250)
    world.lost.push('/v1/logins', '/v1/logins')
    expect(await asked(() => session.accessToken())).toEqual(['nonce', 'login'])
    expect(await asked(() => session.accessToken())).toEqual([])
    expect(await session.accessToken()).toBe(first)
    pass(51)
    await expect(session.accessToken()).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
    await session.accessToken()
  })

  test('end with a ban, and when they are closed', async () => {
    const { ticks, pass } = ticking()
    const car = await open({ ticks })
    const session = await car.session(jo)
    pass(250)
    world.banned.add(car.mpinId)
    await expect(session.accessToken()).rejects.toMatchObject({ code: 'BANNED' })
    world.banned.clear()
    session.close()
    await expect(session.accessToken()).rejects.toThrow(TypeError)
  })

  test('a wrong PIN shows at once', async () => {
    const car = await open()
    await expect(car.session({ ...jo, pin: '0000' })).rejects.toMatchObject({ code: 'WRONG_PIN' })
  })
})

describe('clocks', () => {
  test('a signature falls back to a nonce when the clock is wrong', async () => {
    const car = await open({ clock: () => world.now - 120_000 })
    const seen = await asked(() => car.sign({ audience: TRACKING, payload: new Uint8Array() }))
    expect(seen).toEqual(['sign', 'nonce', 'sign', 'jwks'])
  })

  test('a device without a clock takes the RPS’ signed time, once', async () => {
    const car = await open({ clock: 'none', ticks: () => 0 })
    const seen = await asked(async () => {
      await car.onePass({ audience: TRACKING })
      await car.sign({ audience: TRACKING, payload: new Uint8Array() })
      await car.login(jo)
    })
    expect(seen).toEqual(['time', 'jwks', 'sign', 'nonce', 'login'])
  })

  test('not one that is said over another nonce, nor one that took too long', async () => {
    let stale: unknown
    world.tamper = {
      time: (answer: never) => {
        stale ??= answer
        return stale
      },
    }
    await (await open({ clock: 'none' })).onePass({ audience: TRACKING })
    const car = await open({ clock: 'none' })
    await expect(car.onePass({ audience: TRACKING })).rejects.toMatchObject({ code: 'WRONG_ANSWER' })
    world.tamper = {}
    let now = 0
    const slow = await open({ clock: 'none', ticks: () => (now += 11_000) })
    await expect(slow.onePass({ audience: TRACKING })).rejects.toMatchObject({ code: 'WRONG_ANSWER' })
  })
})

describe('the unlocker', () => {
  const secret = new Uint8Array(32).fill(7)
  const enrolLocked = async () => {
    const store = memoryTokenStore()
    const options = { ...world.ports, store, code: world.code(), attributes: CAR, instance: VIN }
    await Device.enrol({ ...options, unlocker: callbackUnlocker(async () => secret) })
    return store
  }

  test('a copied store without it, or with another one, opens nothing', async () => {
    const store = await enrolLocked()
    const car = await Device.open({ ...world.ports, store, unlocker: callbackUnlocker(async () => secret) })
    await car.login({ audience: TRACKING })
    const others = [
      undefined,
      callbackUnlocker(async () => new Uint8Array(32)),
      callbackUnlocker(async () => new Uint8Array(31)),
    ]
    for (const unlocker of others) {
      const copy = await Device.open({
        ...world.ports,
        store,
        ...(unlocker === undefined ? {} : { unlocker }),
      })
      await expect(copy.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'WRONG_UNLOCKER' })
    }
  })

  test('what is stored is not the device key', async () => {
    const locked = JSON.parse((await (await enrolLocked()).read()) as string).identities[0].device
    const plain = JSON.parse(enrolledText).identities[0].device
    expect(locked.unlocker).toBe('callback')
    expect(plain.unlocker).toBeUndefined()
    const hashOf = (device: { key: string }) => toBase64Url(sha256(fromBase64Url(device.key, 'key')))
    expect(hashOf(plain)).toBe(plain.keyHash)
    expect(hashOf(locked)).not.toBe(locked.keyHash)
  })
})

describe('stores', () => {
  test('an empty one holds no device', async () => {
    await expect(Device.open({ ...world.ports, store: memoryTokenStore() })).rejects.toMatchObject({
      code: 'NOT_ENROLLED',
    })
  })

  test('another identity under the hands of an open device is noticed', async () => {
    const store = await copyOf(enrolledText)
    const car = await Device.open({ ...world.ports, store })
    const record = JSON.parse(enrolledText)
    record.identities[0].device.idCore = toBase64Url(new Uint8Array(39))
    await store.replace(enrolledText, JSON.stringify(record))
    await expect(car.login(jo)).rejects.toMatchObject({ code: 'STORE_CHANGED' })
  })
})

test('advice for everything that can be thrown', () => {
  expect(adviceOn(new ClientError('STILL_PENDING'))).toBe('later')
  expect(adviceOn(new Refused('RETRY_LATER'))).toBe('later')
  expect(adviceOn(new Refused('WRONG_PIN'))).toBe('never')
  expect(adviceOn(new Unreachable('x'))).toBe('later')
  expect(adviceOn(new Error('x'))).toBe('never')
})

function withoutPermit(text: string): string {
  const record = JSON.parse(text)
  delete record.identities[0].permit
  return JSON.stringify(record)
}
