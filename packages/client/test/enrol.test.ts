/** Enrolment through an RPS, a relay and authorities that can't be trusted: each lie is refused, and named. */
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import type { Fault } from '@milagro-ts/api/quorum'
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CAR, JO, type Lie, TRACKING, VIN, World } from './world.js'

let world: World
let store: TokenStore
beforeAll(async () => {
  world = await World.start()
})
beforeEach(() => {
  store = memoryTokenStore()
})
afterEach(() => {
  world.tamper = {}
  world.tamperRegistration = fields => fields
  world.lies.clear()
})
afterAll(() => world.close())

const claim = () => ({ ...world.ports, store, attributes: CAR, instance: VIN })
const byCode = (more: Partial<Parameters<typeof Device.enrol>[0]> = {}) =>
  Device.enrol({ ...claim(), code: world.code(), ...more })
/** Nobody approves at once: the operator comes while the device waits. */
const byHand = (onWords: (words: string) => Promise<void>, more: object = {}) => {
  let approval: Promise<void> | undefined
  let shown = ''
  return Device.enrol({
    ...claim(),
    groupId: toBase64Url(world.group.groupId),
    onWords: words => {
      shown = words
    },
    wait: async milliseconds => {
      approval ??= onWords(shown)
      await approval
      world.now += milliseconds
    },
    ...more,
  })
}

describe('by hand', () => {
  test('device and console show the same six words, and the device waits for the approval', async () => {
    const car = await byHand(words => {
      expect(words.split(' ')).toHaveLength(6)
      return world.approve(words)
    })
    await car.login({ audience: TRACKING })
  })

  test('patience ends, and the same call goes on waiting with the same key and words', async () => {
    const shown: string[] = []
    const waiting = () =>
      Device.enrol({
        ...claim(),
        groupId: toBase64Url(world.group.groupId),
        onWords: words => shown.push(words),
        patience: 60,
      })
    await expect(waiting()).rejects.toMatchObject({ code: 'STILL_PENDING' })
    await world.approve(shown[0] as string)
    await waiting()
    expect(shown).toEqual([shown[0], shown[0]])
  })

  test.each(['refused', 'expired'] as const)(
    '%s ends it, and the enrolment key is destroyed',
    async state => {
      await expect(byHand(async () => world.refuseAll(state))).rejects.toMatchObject({
        code: state === 'refused' ? 'ENROLMENT_REFUSED' : 'ENROLMENT_EXPIRED',
      })
      expect(await store.read()).not.toContain('"secret"')
    },
  )

  test('a relay that swaps the enrolment key shows the operator other words', async () => {
    const { publicKey } = await generateHpkeKey(systemRandom)
    world.tamperRegistration = fields => ({ ...fields, hpkeKey: toBase64Url(publicKey) })
    await expect(byHand(words => world.approve(words))).rejects.toThrow('nobody waits with these words')
  })

  test('and if the operator approves without looking, the device refuses the identity', async () => {
    const { publicKey } = await generateHpkeKey(systemRandom)
    world.tamperRegistration = fields => ({ ...fields, hpkeKey: toBase64Url(publicKey) })
    const { answer } = await world.blindApproval()
    world.tamper = { register: () => answer }
    await expect(byHand(async () => undefined)).rejects.toMatchObject({ code: 'WRONG_IDENTITY' })
  })
})

describe('by code', () => {
  test('a mistyped code is told at once', async () => {
    const code = world.code()
    const last = code.at(-1) === 'A' ? 'B' : 'A'
    await expect(byCode({ code: code.slice(0, -1) + last })).rejects.toThrow('mistyped')
    expect(world.seen).not.toContain('nonsense')
  })

  test('a code of another group than the pinned one is refused before anything is sent', async () => {
    await expect(byCode({ groupId: toBase64Url(new Uint8Array(32)) })).rejects.toMatchObject({
      code: 'WRONG_GROUP',
    })
  })

  test('without code and group there is nothing to trust', async () => {
    await expect(Device.enrol(claim())).rejects.toThrow(RangeError)
  })

  test('a relay that swaps the enrolment key fails at the code', async () => {
    const { publicKey } = await generateHpkeKey(systemRandom)
    world.tamperRegistration = fields => ({ ...fields, hpkeKey: toBase64Url(publicKey) })
    await expect(byCode()).rejects.toMatchObject({ code: 'NOT_APPROVED' })
  })

  test('so does one that swaps the vehicle', async () => {
    world.tamperRegistration = fields => ({ ...fields, instance: 'WVWZZZ1JZXW000666' })
    await expect(byCode()).rejects.toMatchObject({ code: 'NOT_APPROVED' })
  })

  test('a lost answer costs nothing: the same registration is sent again', async () => {
    world.seen.length = 0
    world.lost.push('/v1/registrations')
    await byCode()
    expect(world.seen.filter(name => name === 'register')).toHaveLength(2)
  })

  test('the same call opens what is enrolled; another claim is refused', async () => {
    const code = world.code()
    const car = await byCode({ code })
    expect((await byCode({ code })).mpinId).toBe(car.mpinId)
    await expect(byCode()).rejects.toMatchObject({ code: 'ALREADY_ENROLLED' })
  })

  test('a code that failed for now is not used up by trying another one in between', async () => {
    const [one, other] = [world.code(), world.code()]
    for (const index of [1, 2]) world.lies.set(index, 'down')
    for (const code of [one, other])
      await expect(byCode({ code })).rejects.toMatchObject({ code: 'RETRY_LATER' })
    world.lies.clear()
    await byCode({ code: one })
    expect(await store.read()).not.toContain('"secret"')
  })

  test('of two processes that begin at once one goes on, and the other may try again', async () => {
    const code = world.code()
    const both = await Promise.allSettled([byCode({ code }), byCode({ code })])
    for (const outcome of both)
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'STORE_CHANGED' })
    const cars = await Promise.all([byCode({ code }), byCode({ code })])
    expect(cars[0]?.mpinId).toBe(cars[1]?.mpinId)
  })

  test('a next generation replaces the former one when it is done', async () => {
    const car = await byCode()
    world.tamper = { register: () => ({ state: 'pending' }) }
    const next = { code: world.code(), replace: true, patience: 1 }
    await expect(byCode(next)).rejects.toMatchObject({ code: 'STILL_PENDING' })
    expect((await Device.open({ ...world.ports, store })).mpinId).toBe(car.mpinId)
    world.tamper = {}
    expect((await byCode(next)).mpinId).not.toBe(car.mpinId)
  })

  test('a device with a PIN of its own is asked for it, and goes on with it', async () => {
    const code = world.code(CAR, { factors: 1, ownPin: true })
    await expect(byCode({ code })).rejects.toMatchObject({ code: 'PIN_NEEDED' })
    const phone = await byCode({ code, pin: '1234' })
    await expect(phone.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'PIN_NEEDED' })
    const { authenticated } = await phone.login({ audience: TRACKING, pin: '1234' })
    expect(authenticated).toMatchObject({ amr: ['device', 'pin'] })
    expect(authenticated.userCore).toBeUndefined()
    await phone.changePin({ oldPin: '1234', newPin: '4321' })
    await phone.login({ audience: TRACKING, pin: '4321' })
    await phone.permit()
  })

  test('other factors than expected are refused', async () => {
    await expect(byCode({ factors: 1 })).rejects.toMatchObject({ code: 'WRONG_IDENTITY' })
  })
})

describe('a fake group document', () => {
  test('of another group', async () => {
    const other = await world.otherGroup()
    world.tamper = { group: () => other }
    await expect(byCode()).rejects.toMatchObject({ code: 'WRONG_GROUP' })
  })

  test('with an authority of the attacker’s', async () => {
    world.tamper = {
      group: (document: World['revisions'][number]) => ({
        ...document,
        authorities: document.authorities.map(authority => ({ ...authority, url: 'http://evil.test' })),
      }),
    }
    await expect(byCode()).rejects.toMatchObject({ code: 'WRONG_GROUP' })
  })

  test('with the RA’s keys swapped in a next revision that nobody signed', async () => {
    const signed = world.revisions[0] as World['revisions'][number]
    const evil = {
      ...signed,
      revision: 2,
      groupId: toBase64Url(world.group.groupId),
      previous: toBase64Url(world.group.groupId),
      ra: { m: 1, keys: [{ kid: 'ra1', key: signed.authorities[0]?.signKey as string }] },
    }
    world.tamper = { group: ((document: unknown) => (first() ? document : evil)) as never }
    let calls = 0
    const first = () => ++calls === 1
    await expect(byCode()).rejects.toMatchObject({ code: 'WRONG_GROUP' })
  })
})

describe('an approval for somebody else', () => {
  const changed = (change: (answer: Record<string, unknown>) => Record<string, unknown>) => {
    world.tamper = { register: ((answer: Record<string, unknown>) => change(answer)) as never }
    return expect(byCode()).rejects.toMatchObject({ code: 'WRONG_IDENTITY' })
  }

  test.each([
    ['leaf', 77],
    ['generation', 1],
    ['factors', 0],
    ['issueDate', '2026-06-02'],
    ['salt', toBase64Url(new Uint8Array(16))],
    ['idCore', IdCore.zero.mpinId],
  ])('another %s', (field, value) => changed(answer => ({ ...answer, [field]: value })))

  test('a day that is none', () => changed(answer => ({ ...answer, issueDate: '2026-99-99' })))

  test('other attributes, approved by an operator who saw those', async () => {
    world.tamperRegistration = fields => ({ ...fields, attributes: { ...CAR, model: 'Truck' } })
    const { answer } = await world.blindApproval()
    world.tamper = { register: () => answer }
    await expect(byHand(async () => undefined)).rejects.toMatchObject({ code: 'WRONG_IDENTITY' })
  })

  test('a PIN that the factors don’t know', () => changed(answer => ({ ...answer, user: { pinGen: 1 } })))

  test('a ticket that an RPS put in its place: for another identity', async () => {
    const { publicKey } = await generateHpkeKey(systemRandom)
    const ticket = await world.ticketFor(IdCore.zero, toBase64Url(publicKey), ['device'])
    await changed(answer => ({ ...answer, ticket }))
  })

  test('… for this identity and another enrolment key', async () => {
    const { publicKey } = await generateHpkeKey(systemRandom)
    world.tamper = {
      register: (async (answer: { idCore: string }) => ({
        ...answer,
        ticket: await world.ticketFor(IdCore.fromBase64Url(answer.idCore), toBase64Url(publicKey), [
          'device',
        ]),
      })) as never,
    }
    await expect(byCode()).rejects.toMatchObject({
      code: 'WRONG_IDENTITY',
      message: expect.stringContaining('enrolment key'),
    })
  })

  test('… for other purposes', async () => {
    world.tamper = {
      register: (async (answer: { idCore: string }) => ({
        ...answer,
        ticket: await world.ticketFor(IdCore.fromBase64Url(answer.idCore), world.lastHpkeKey, ['sign']),
      })) as never,
    }
    await expect(byCode()).rejects.toMatchObject({
      code: 'WRONG_IDENTITY',
      message: expect.stringContaining('purposes'),
    })
  })

  test('a ticket that no RA signed', () =>
    changed(answer => {
      const [jws] = answer.ticket as [string]
      const [header, payload] = jws.split('.')
      return { ...answer, ticket: [`${header}.${payload}.${toBase64Url(new Uint8Array(64).fill(1))}`] }
    }))
})

describe('authorities', () => {
  test.each(['share', 'identity', 'index', 'nonsense'] as const)(
    'one of three that lies (%s) is reported, and the other two suffice',
    async lie => {
      // The liar answers first, so that it is looked at before two good ones are there.
      const faults: Fault[] = []
      world.lies.set(1, lie)
      world.lies.set(3, 'down')
      const enrolment = byCode({ onFault: fault => faults.push(fault) })
      await expect(enrolment).rejects.toMatchObject({
        code: 'WRONG_SHARE',
        authorities: [{ index: 1, name: 'ta1', via: 'direct' }],
        message: expect.stringContaining('ta1'),
      })
      world.lies.delete(3)
      const car = await byCode({ onFault: fault => faults.push(fault) })
      await car.login({ audience: TRACKING })
      for (const fault of faults) expect(fault).toMatchObject({ index: 1, kind: 'wrong-share' })
    },
  )

  test('two that lie are both named', async () => {
    world.lies.set(2, 'share')
    world.lies.set(3, 'identity')
    const error = await byCode().catch(reason => reason)
    expect(error.code).toBe('WRONG_SHARE')
    expect(error.authorities.map(({ name }: { name: string }) => name).sort()).toEqual(['ta2', 'ta3'])
  })

  test('a share that the relay spoiled is told from one that the authority did', async () => {
    world.tamper = {
      relayShare: ((answer: { index: number; shareEpoch: number }) => ({
        ...answer,
        sealed: toBase64Url(systemRandom(200)),
      })) as never,
    }
    await expect(byCode({ reach: 'relay' })).rejects.toMatchObject({
      code: 'WRONG_SHARE',
      authorities: expect.arrayContaining([expect.objectContaining({ via: 'relay' })]),
    })
  })

  test('those that can’t be reached are asked through the RPS', async () => {
    const before = world.direct
    const car = await byCode({
      fetch: async (input, init) => {
        if (String(input).endsWith('/shares') && String(input).includes('/v1/groups/'))
          throw new TypeError('no route')
        return fetch(input, init)
      },
    })
    expect(world.direct).toBe(before)
    expect(dtaRoutes.shares.path).toContain('/v1/groups/')
    await car.login({ audience: TRACKING })
  })

  test('too few that answer: nothing is decided, and the same call goes on', async () => {
    for (const index of [1, 2]) world.lies.set(index, 'down')
    const code = world.code()
    await expect(byCode({ code })).rejects.toMatchObject({ code: 'RETRY_LATER' })
    world.lies.clear()
    await byCode({ code })
  })

  test('ALREADY_ISSUED is theirs to say', async () => {
    for (const index of [1, 2, 3]) world.lies.set(index, 'ledger' satisfies Lie)
    await expect(byCode()).rejects.toMatchObject({ code: 'ALREADY_ISSUED' })
  })
})

describe('a user', () => {
  const enrolled = async (car: Device, more: object = {}) =>
    car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234', ...more })
  const tampered = (car: Device, change: (answer: never) => unknown) => {
    world.tamper = { register: change }
    return expect(enrolled(car)).rejects.toMatchObject({ code: 'WRONG_IDENTITY' })
  }

  test('by hand, with the words of the person’s own enrolment', async () => {
    const car = await byCode()
    let words = ''
    const again = await Device.open({
      ...world.ports,
      store,
      wait: async milliseconds => {
        world.now += milliseconds
        if (words !== '') await world.approve(words)
      },
    })
    await again.enrolUser({
      attributes: JO,
      pin: '1234',
      onWords: shown => {
        words = shown
      },
    })
    await again.login({ audience: TRACKING, user: 'Jo', pin: '1234' })
    await expect(car.enrolUser({ attributes: JO, pin: '1234' })).rejects.toMatchObject({
      code: 'ALREADY_ENROLLED',
    })
  })

  test('several drive one car, each with a PIN', async () => {
    const car = await byCode()
    await enrolled(car)
    const kim = { driverName: 'Kim' }
    await car.enrolUser({ code: world.code(kim), attributes: kim, pin: '9999', name: 'second' })
    expect((await car.users()).map(({ name }) => name)).toEqual(['Jo', 'second'])
    const login = (user: string, pin: string) => car.login({ audience: TRACKING, user, pin })
    const [jo, second] = await Promise.all([login('Jo', '1234'), login('second', '9999')])
    expect(jo.authenticated.userCore).not.toBe(second.authenticated.userCore)
    await expect(login('Jo', '9999')).rejects.toMatchObject({ code: 'WRONG_PIN' })
    await expect(login('nobody', '1234')).rejects.toMatchObject({ code: 'UNKNOWN_USER' })
    await expect(car.login({ audience: TRACKING, user: 'Jo' })).rejects.toMatchObject({ code: 'PIN_NEEDED' })
  })

  test('whose vouch ran out while nobody looked gets a fresh one', async () => {
    const car = await byCode()
    let first = true
    world.seen.length = 0
    world.tamper = {
      nonce: ((answer: object) => {
        if (first) world.now += 31_000
        first = false
        return answer
      }) as never,
    }
    await enrolled(car)
    expect(world.seen.filter(name => name === 'register')).toHaveLength(2)
  })

  test('with a forgotten PIN gets the next generation by a new code', async () => {
    const car = await byCode()
    await enrolled(car)
    await enrolled(car, { pin: '5678' })
    expect(await car.users()).toMatchObject([{ name: 'Jo', pinGen: 2 }])
    await car.login({ audience: TRACKING, user: 'Jo', pin: '5678' })
  })

  test('approved for another device', async () => {
    const car = await byCode()
    await tampered(car, (answer: object) => ({ ...answer, idCore: IdCore.zero.mpinId }))
  })

  test('approved as another person', async () => {
    const car = await byCode()
    await tampered(car, (answer: { user: object }) => ({
      ...answer,
      user: { ...answer.user, userCore: toBase64Url(new Uint8Array(32)) },
    }))
    await tampered(car, (answer: { user: object }) => ({
      ...answer,
      user: { ...answer.user, salt: toBase64Url(new Uint8Array(16)) },
    }))
    await tampered(car, ({ user: _, ...answer }: { user: object }) => answer)
  })

  test('with a ticket for the device’s own key', async () => {
    const car = await byCode()
    await tampered(car, async (answer: object) => ({
      ...answer,
      ticket: await world.ticketFor(car.idCore, world.lastHpkeKey, ['device']),
    }))
  })

  test('approved a second time for a key that was split already', async () => {
    const car = await byCode()
    await enrolled(car)
    const [jo] = await car.users()
    const account = world.account(car.idCore, jo?.userCore ?? '')
    // RA and authorities all forget: only the device still knows.
    account.issued = 0
    world.forgetLedger()
    await expect(enrolled(car, { pin: '9999' })).rejects.toMatchObject({
      code: 'WRONG_IDENTITY',
      message: expect.stringContaining('generation'),
    })
  })

  test('of another group’s code', async () => {
    const car = await byCode()
    const other = await World.start({ n: 1, t: 1 })
    try {
      await expect(enrolled(car, { code: other.code(JO) })).rejects.toMatchObject({ code: 'WRONG_GROUP' })
    } finally {
      await other.close()
    }
  })
})

describe('a group that deals its shares anew', () => {
  let world: World
  beforeEach(async () => {
    world = await World.start({ n: 3, t: 3 })
  })
  afterEach(() => world.close())
  const enrol = (more: Partial<Parameters<typeof Device.enrol>[0]> = {}) =>
    Device.enrol({ ...world.ports, store, attributes: CAR, instance: VIN, code: world.code(), ...more })

  test.each([
    ['refreshed', {}],
    ['reshared with a lower t', { t: 2 }],
    ['grown to five', { n: 5, t: 3 }],
    ['moved to other addresses', { n: 3, t: 2, move: true }],
  ])('%s before the device comes: its key is the group’s', async (_, change) => {
    const publish = await world.reshare(change)
    publish()
    const car = await enrol()
    await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
    await car.login({ audience: TRACKING, user: 'Jo', pin: '1234' })
  })

  test.each<[string, Partial<Parameters<typeof Device.enrol>[0]>, Parameters<World['reshare']>[0]]>([
    ['asking authorities itself', { reach: 'direct' }, { t: 2 }],
    ['through the relay', { reach: 'relay' }, { n: 5, t: 3 }],
    ['when their addresses change, too', { reach: 'direct' }, { t: 2, move: true }],
  ])('in the middle of an enrolment, %s: the same ticket gets a share again', async (_, more, change) => {
    // The RPS learns of it while the device waits before it looks again.
    const waits: number[] = []
    let publish: (() => void) | undefined
    let tickets = 0
    world.tamper = {
      register: () => {
        tickets++
        return undefined
      },
      // The document is the last thing that a device asks for before the shares.
      group: async () => {
        if (tickets !== 1 || publish !== undefined) return undefined
        publish = await world.reshare(change)
        if (change?.move === true) publish()
        return undefined
      },
    }
    const car = await enrol({
      ...more,
      wait: async milliseconds => {
        waits.push(milliseconds)
        world.now += milliseconds
        if (milliseconds >= 5_000) publish?.()
      },
    })
    expect(publish).toBeDefined()
    expect(tickets).toBe(1)
    if (change?.move !== true) expect(waits).toContain(5_000)
    await car.login({ audience: TRACKING })
  })

  test('and an RPS that never hears of it: later, and the same call goes on', async () => {
    const publish = await world.reshare({ t: 2 })
    const code = world.code()
    const error = await enrol({ code }).catch(reason => reason)
    expect(error).toMatchObject({ code: 'RETRY_LATER', detail: 'in another share epoch: ta1, ta2, ta3' })
    publish()
    const car = await enrol({ code })
    await car.login({ audience: TRACKING })
  })
})

describe.each([
  [3, 2],
  [5, 3],
])('%i authorities of which %i suffice', (n, t) => {
  let world: World
  beforeAll(async () => {
    world = await World.start({ n, t })
  })
  afterEach(() => world.lies.clear())
  afterAll(() => world.close())
  const enrol = () => {
    const code = world.code(CAR, { factors: 1, ownPin: true })
    const claim = { ...world.ports, store, attributes: CAR, instance: VIN, code, pin: '1234' }
    return Device.enrol(claim).then(car => car.login({ audience: TRACKING, pin: '1234' }))
  }

  test.each<[string, Lie]>([
    ['down', 'down'],
    ['slow: nobody waits for them', 'slow'],
    ['lying', 'share'],
  ])('n − t of them are %s: a device with a PIN gets both keys and logs in', async (_, lie) => {
    for (let index = t + 1; index <= n; index++) world.lies.set(index, lie)
    await enrol()
  })

  test('one more is down: later, and the same device goes on when it is back', async () => {
    for (let index = t; index <= n; index++) world.lies.set(index, 'down')
    await expect(enrol()).rejects.toMatchObject({ code: 'RETRY_LATER' })
    world.lies.clear()
    await enrol()
  })
})
