/**
 * The trust authorities as the RPS meets them: some down, one slow, one lying; whoever deals new shares meanwhile; and
 * all of them away for a day. They are HTTP servers on 127.0.0.1, the clock is turned by hand.
 */
import { toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { targetBytes } from '@milagro-ts/crypto/time-permit'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type FakeAuthority,
  NOON,
  NOON_SLOT,
  OWN,
  type RunningRps,
  SLOT,
  until,
  World,
} from './world.js'

const lines = ({ logged }: World) => logged.map(line => JSON.parse(line) as Record<string, unknown>)
const said = (world: World, message: string) => lines(world).filter(({ msg }) => msg === message)
const metricsOf = async ({ adminUrl }: RunningRps) => (await fetch(`${adminUrl}/metrics`)).text()
const readyOf = async ({ adminUrl }: RunningRps) => {
  const answer = await fetch(`${adminUrl}/health/ready`)
  const { checks } = (await answer.json()) as { checks: Record<string, true | string> }
  return { status: answer.status, checks, authorities: checks.authorities }
}
/** The RPS has had its look at each authority. */
const looked = async (world: World, rps: RunningRps, count: number) => {
  await until(() => world.authorities.every(({ asked }) => asked.group >= count))
  await eventually(() => metricsOf(rps), 'authorities_live')
}
const eventually = (read: () => Promise<unknown>, expected: string) =>
  expect.poll(read, { timeout: 20_000 }).toContain(expected)
const cut = (world: World, ...some: FakeAuthority[]) => {
  for (const { url } of some) world.unreachable.add(url)
}

describe.each([
  [3, 2],
  [5, 3],
])('%i authorities of which %i suffice', (n, t) => {
  let world: World
  beforeEach(async () => {
    world = await World.make({ n, t })
  })
  afterEach(() => world.close())

  test('one has announced its departure: readiness warns in time, and nothing else changes', async () => {
    const [leaving] = world.authorities as [FakeAuthority]
    leaving.leavesAt = Date.parse('2030-01-31T12:00:00Z') / 1000
    const rps = await world.startRps()
    await eventually(
      async () => (await readyOf(rps)).authorities,
      `${leaving.name} leaves 2030-01-31T12:00:00.000Z`,
    )
    expect((await readyOf(rps)).status).toBe(200)
    expect(said(world, 'an authority has announced its departure')).toHaveLength(1)
    expect(await metricsOf(rps)).toContain(`\nrps_authorities_live ${n}\n`)
    await world.login(rps, world.makeCar())
  })

  test('n − t of them are down: the server starts, permits and logins go, and the margin is told', async () => {
    const down = world.authorities.slice(t)
    cut(world, ...down)
    const rps = await world.startRps()
    const car = world.makeCar()
    const login = await world.login(rps, car, { driver: world.makeDriver(car) })
    expect(login.permit).toBe(toBase64Url(world.permitOf(car.idCore).encode()))
    const silent = down.map(({ name }) => `${name} silent`).join(', ')
    const warning = `${t} of ${n} authorities answer, ${t} are needed (${silent})`
    await eventually(async () => (await readyOf(rps)).authorities, warning)
    expect((await readyOf(rps)).status).toBe(200)
    const metrics = await metricsOf(rps)
    expect(metrics).toContain(`\nrps_authorities_live ${t}\n`)
    expect(metrics).toContain(`\nrps_authorities_needed ${t}\n`)
    expect(said(world, 'the margin of authorities shrinks').length).toBeGreaterThan(0)
    expect(said(world, 'alarm: fewer authorities answer than are needed')).toEqual([])

    // One more: too few, said at the first call that shows it.
    cut(world, world.authorities[0]!)
    expect(await codeOf(world.login(rps, world.makeCar()))).toBe('RETRY_LATER')
    expect(said(world, 'alarm: fewer authorities answer than are needed')).toHaveLength(1)
    expect((await readyOf(rps)).authorities).toContain('alarm: no permit or key can be had')
    expect((await readyOf(rps)).status).toBe(200)

    // The next look finds them back.
    world.unreachable.clear()
    world.clock.turn(30_000)
    await until(() => said(world, 'all authorities answer again').length === 1)
    expect((await readyOf(rps)).authorities).toBe(true)
    expect(await metricsOf(rps)).toContain(`\nrps_authorities_live ${n}\n`)
    await world.login(rps, world.makeCar())
  })

  test('one never answers: a login waits for t others, and for no deadline', async () => {
    const rps = await world.startRps()
    let isHeld = false
    const slow = world.authorities[0]!
    // The clock stands still: no timer can end anything here.
    slow.beforePermit = () =>
      new Promise<void>(() => {
        isHeld = true
      })
    const before = world.clock.now
    await world.login(rps, world.makeCar())
    await until(() => isHeld)
    expect(world.clock.now).toBe(before)
    expect(slow.asked.permits).toBe(1)
  })

  test('one lies: it is named, and then left out for a minute, two, four …', async () => {
    const rps = await world.startRps()
    await looked(world, rps, 1)
    const [liar, ...others] = world.authorities as [FakeAuthority, ...FakeAuthority[]]
    liar.behaviour = 'lying'
    // The liar answers first, so that its share is looked at.
    let isAnswered: () => void = () => undefined
    const lie = () => {
      const answered = new Promise<void>(resolve => {
        isAnswered = resolve
      })
      for (const honest of others) honest.beforePermit = () => answered
      return world.login(rps, world.makeCar())
    }
    const wrong = () => said(world, 'an authority gave a wrong share and is quarantined')
    const minutes: number[] = []
    for (let time = 1; time <= 4; time++) {
      const login = lie()
      await until(() => wrong().length === time)
      isAnswered()
      await login
      const asked = liar.asked.permits
      minutes.push((Number(wrong().at(-1)?.until) - world.clock.now) / 60_000)
      for (const honest of others) honest.beforePermit = undefined
      // Left out to the last moment.
      world.clock.leap(minutes.at(-1)! * 60_000 - 1)
      await world.login(rps, world.makeCar())
      expect(liar.asked.permits).toBe(asked)
      world.clock.turn(1)
    }
    expect(minutes).toEqual([1, 2, 4, 8])

    // What its operator needs to find it, and no more: no share, no identity.
    const evidence = wrong()[0]!
    expect(evidence).toMatchObject({ authority: liar.name, purpose: 'permit', why: 'does not verify' })
    expect(evidence.request).toMatch(/^[\w-]{43}$/)
    expect(evidence.answer).toMatch(/^[\w-]{43}$/)
    expect(await metricsOf(rps)).toContain(
      `rps_authority_faults_total{authority="${liar.name}",purpose="permit",kind="wrong-share"} 4`,
    )
  })

  test('one that is quarantined is asked as the last resort: it costs no login', async () => {
    const rps = await world.startRps()
    const [liar, ...others] = world.authorities as [FakeAuthority, ...FakeAuthority[]]
    liar.behaviour = 'lying'
    const wrong = () => said(world, 'an authority gave a wrong share and is quarantined')
    let go: () => void = () => undefined
    const gate = new Promise<void>(resolve => {
      go = resolve
    })
    for (const honest of others) honest.beforePermit = () => gate
    const login = world.login(rps, world.makeCar())
    await until(() => wrong().length === 1)
    go()
    await login
    for (const honest of others) honest.beforePermit = undefined
    await eventually(async () => (await readyOf(rps)).authorities, `${liar.name} quarantined`)
    expect(await metricsOf(rps)).toContain('\nrps_authorities_quarantined 1\n')

    liar.behaviour = 'honest'
    cut(world, ...others.slice(t - 1))
    await world.login(rps, world.makeCar())
    expect(liar.asked.permits).toBe(2)
  })

  test('those that are in the way from the start: server keys come from the rest', async () => {
    world.authorities[0]!.behaviour = 'lying'
    cut(world, ...world.authorities.slice(t + 1))
    const rps = await world.startRps()
    expect((await readyOf(rps)).checks.serverKeys).toBe(true)
    await world.login(rps, world.makeCar())
  })
})

test('the evidence of a wrong share is the hash of the statement that asked for it', async () => {
  const world = await World.make({ t: 3 })
  const rps = await world.startRps()
  const statements: string[] = []
  world.authorities[1]!.behaviour = 'lying'
  world.authorities[0]!.onStatement = statement => statements.push(statement)
  expect(await codeOf(world.login(rps, world.makeCar()))).toBe('WRONG_SHARE')
  const [evidence] = said(world, 'an authority gave a wrong share and is quarantined')
  expect(evidence?.request).toBe(toBase64Url(sha256(utf8(statements[0]!))))
  expect(world.logged.join('\n')).not.toContain(statements[0])
  await world.close()
})

test('a service of the group hears how the authorities are, and nobody else', async () => {
  const world = await World.make({ t: 3 })
  const rps = await world.startRps()
  await looked(world, rps, 1)
  world.authorities[1]!.behaviour = 'lying'
  expect(await codeOf(world.login(rps, world.makeCar()))).toBe('WRONG_SHARE')
  const { live, needed, authorities } = await rps.as(world.fleet).authorities({})
  expect([live, needed]).toEqual([2, 3])
  expect(authorities.map(({ name, trouble }) => [name, trouble])).toEqual([
    ['ta1', undefined],
    ['ta2', 'quarantined'],
    ['ta3', undefined],
  ])
  const [evidence] = said(world, 'an authority gave a wrong share and is quarantined')
  expect(authorities[1]).toMatchObject({
    wrongShares: 1,
    quarantinedUntil: world.seconds + 60,
    requestHash: evidence?.request,
    answerHash: evidence?.answer,
  })
  expect(await codeOf(rps.client.authorities({}))).toBe('UNAUTHENTICATED')
  await world.close()
})

describe('new shares of the same keys', () => {
  let world: World
  let rps: RunningRps
  let car: Car
  beforeEach(async () => {
    world = await World.make({ n: 3, t: 3 })
    rps = await world.startRps()
    await looked(world, rps, 1)
    car = world.makeCar()
  })
  afterEach(() => world.close())
  const revision = async () => (await rps.client.group({ query: {} })).revision

  test.each<[string, (world: World) => Promise<Parameters<World['reshare']>[0]>]>([
    ['a refresh', async () => ({})],
    ['a lower t', async () => ({ t: 2 })],
    [
      'a member replaced',
      async world => ({
        members: [world.authorities[2]!, await world.newAuthority('ta4'), world.authorities[0]!],
      }),
    ],
    [
      'five members',
      async world => ({
        t: 3,
        members: [...world.authorities, await world.newAuthority('ta4'), await world.newAuthority('ta5')],
      }),
    ],
  ])(
    '%s: a login that meets the new epoch has to come again, and nothing is restarted',
    async (_, change) => {
      await world.login(rps, car)
      const options = await change(world)
      const { document, moveOn } = await world.reshare(options)
      const members = options?.members ?? world.authorities
      moveOn(...members)
      const error = await world.login(rps, world.makeCar()).then(
        () => undefined,
        reason => reason,
      )
      // Whoever is in no later epoch is asked still; where that is too few the answer says which way to go.
      if (error !== undefined) expect(error).toMatchObject({ code: 'RETRY_LATER' })
      expect(said(world, 'an authority gave a wrong share and is quarantined')).toEqual([])
      await world.follow(document)
      world.authorities = [...members]
      world.clock.turn(30_000)
      await expect.poll(revision, { timeout: 20_000 }).toBe(2)
      await world.login(rps, world.makeCar())
      await expect.poll(async () => (await readyOf(rps)).authorities).toBe(true)
      expect(await metricsOf(rps)).toContain(`\nrps_authorities_needed ${document.t}\n`)
    },
  )

  test('the signal alone has it look, before the timer does', async () => {
    const { moveOn } = await world.reshare({ t: 2 })
    // Not within five seconds of the look before.
    world.clock.now += 5_000
    moveOn(...world.authorities)
    expect(await codeOf(world.login(rps, car))).toBe('RETRY_LATER')
    await expect.poll(revision, { timeout: 20_000 }).toBe(2)
    await world.login(rps, car)
  })

  test('while some have moved on and others not, t of one epoch do', async () => {
    const { document, moveOn } = await world.reshare({ t: 2 })
    moveOn(...world.authorities)
    await rps.client.publishRevision({ body: { document } })
    await world.follow(document)
    const next = await world.reshare({ t: 2 })
    const [first, ...others] = world.authorities as [FakeAuthority, ...FakeAuthority[]]
    next.moveOn(first)
    for (let i = 0; i < 4; i++) await world.login(rps, world.makeCar())
    next.moveOn(...others)
    world.clock.turn(30_000)
    await expect.poll(revision, { timeout: 20_000 }).toBe(3)
    await world.login(rps, car)
  })

  test('several revisions at once are walked one by one', async () => {
    for (const t of [2, 3, 2]) {
      const { document, moveOn } = await world.reshare({ t })
      moveOn(...world.authorities)
      await world.follow(document)
    }
    world.clock.turn(30_000)
    await expect.poll(revision, { timeout: 20_000 }).toBe(4)
    await world.login(rps, car)
    expect(said(world, 'a new revision of the group document').map(({ revision }) => revision)).toEqual([
      2, 3, 4,
    ])
  })

  test('an authority that shows a document nobody signed changes nothing', async () => {
    const { document } = await world.reshare({ t: 2 })
    const [first] = world.authorities as [FakeAuthority]
    first.document = { ...document, signatures: document.signatures.slice(0, 1) }
    // A look that was under way when the clock was turned has not seen it.
    const refused = () => {
      world.clock.turn(30_000)
      return said(world, "an authority's group document was not taken").length
    }
    await expect.poll(refused, { timeout: 20_000, interval: 500 }).toBeGreaterThan(0)
    expect(await revision()).toBe(1)
    await world.login(rps, car)
  })

  test('a share that was wrong is no fault of the next epoch', async () => {
    const [liar] = world.authorities as [FakeAuthority]
    liar.behaviour = 'lying'
    expect(await codeOf(world.login(rps, car))).toBe('WRONG_SHARE')
    expect((await readyOf(rps)).authorities).toContain('ta1 quarantined')
    liar.behaviour = 'honest'
    const { document, moveOn } = await world.reshare()
    moveOn(...world.authorities)
    await rps.client.publishRevision({ body: { document } })
    await world.follow(document)
    expect((await readyOf(rps)).authorities).toBe(true)
    await world.login(rps, car)
  })
})

describe('all authorities are down for a day', () => {
  const DAY = { origin: SLOT.origin, length: 86_400 }
  let world: World
  let rps: RunningRps
  beforeAll(async () => {
    world = await World.make({ n: 3, t: 2, slot: DAY, policy: { lead: 1, grace: 300 } })
    rps = await world.startRps()
  })
  afterAll(() => world.close())

  test('no car that logged in before is refused, but for the banned; the alarm is at once', {
    timeout: 120_000,
  }, async () => {
    const morning = world.slot
    const cars = Array.from({ length: 5 }, () => world.makeCar())
    const driver = world.makeDriver(cars[0]!)
    const fleet = () =>
      Promise.all(
        cars.map((car, i) =>
          world.login(rps, car, i === 0 ? { driver } : {}).then(
            ({ authenticated }) => authenticated.slot,
            error => error.code ?? error,
          ),
        ),
      )
    await fleet()
    await eventually(() => metricsOf(rps), 'rps_permits_ahead_total 5')
    cut(world, ...world.authorities)
    world.clock.turn(30_000)
    await until(() => said(world, 'alarm: fewer authorities answer than are needed').length === 1)

    for (let hour = 0; hour < 24; hour += 3) {
      world.clock.leap(3 * 3_600_000)
      const slot = world.slot
      expect(await fleet()).toEqual(cars.map(() => slot))
    }
    expect(world.slot).toBe(morning + 1)
    // The permit was made before the ban; the deny list refuses all the same.
    await world.ban(rps, cars[1]!)
    expect(await codeOf(world.login(rps, cars[1]!))).toBe('BANNED')
    const asking = asFields(await world.message(rps, cars[1]!, { audience: OWN }))
    expect(await codeOf(rps.client.permit({ body: { login: asking } }))).toBe('BANNED')
    // Who comes for the first time has no permit, and after the lead nobody has.
    expect(await codeOf(world.login(rps, world.makeCar()))).toBe('RETRY_LATER')
    world.clock.leap(86_400_000)
    expect(await codeOf(world.login(rps, cars[2]!))).toBe('RETRY_LATER')

    world.unreachable.clear()
    world.clock.turn(30_000)
    await until(() => said(world, 'all authorities answer again').length === 1)
    await world.login(rps, cars[2]!)
    await world.unban(rps, cars[1]!)
    await world.login(rps, cars[1]!)
  })
})

describe('permits ahead', () => {
  let world: World
  let rps: RunningRps
  beforeEach(async () => {
    world = await World.make({ policy: { lead: 3, grace: 0 } })
    rps = await world.startRps()
  })
  afterEach(() => world.close())
  const held = async (car: Car) => {
    const rows = await rps.store.atomic(connection =>
      connection.all('SELECT slot FROM permit WHERE target = ? ORDER BY slot', [
        targetBytes({ type: 'id', idCore: car.idCore }),
      ]),
    )
    return rows.map(({ slot }) => Number(slot) - NOON_SLOT)
  }

  test('as many as lead says, each once, however often it logs in', async () => {
    const car = world.makeCar()
    for (let i = 0; i < 3; i++) await world.login(rps, car)
    await until(async () => (await held(car)).length === 4)
    await world.login(rps, car)
    expect(world.rpa.asked.permit).toBe(4)
    // An hour later there is one to make.
    world.clock.turn(3_600_000)
    await world.login(rps, car)
    await until(async () => (await held(car)).includes(4))
    expect(world.rpa.asked.permit).toBe(5)
  })

  test('none where the group’s lead is 0', async () => {
    const strict = await World.make({ policy: { lead: 0, grace: 0 } })
    const server = await strict.startRps()
    await strict.login(server, strict.makeCar())
    await server.close()
    expect(strict.rpa.asked.permit).toBe(1)
    await strict.close()
  })

  test('nobody waits for them, and what fails pauses them for half a minute', async () => {
    const car = world.makeCar()
    let go: () => void = () => undefined
    const gate = new Promise<void>(resolve => {
      go = resolve
    })
    await world.login(rps, car, { permit: world.permitOf(car.idCore) })
    await until(async () => (await held(car)).length === 4)

    const other = world.makeCar()
    world.rpa.beforePermit = () => gate
    await world.login(rps, other, { permit: world.permitOf(other.idCore) })
    cut(world, ...world.authorities)
    go()
    await until(() => said(world, 'no permits ahead for now').length === 1)
    const asked = world.rpa.asked.permit
    await world.login(rps, other)
    world.clock.now += 29_999
    await world.login(rps, other)
    expect(world.rpa.asked.permit).toBe(asked)
    world.unreachable.clear()
    world.clock.now += 1
    await world.login(rps, other)
    await until(async () => (await held(other)).length === 4)
    expect(await metricsOf(rps)).toContain('rps_permits_ahead_failed_total{code="RETRY_LATER"} 1')
  })

  test('for the vehicle alone: one that the RPA bans gets none, and is not asked for again and again', async () => {
    const car = world.makeCar()
    world.rpa.identities.get(car.idCore.mpinId)!.banned = true
    for (let i = 0; i < 3; i++) await world.login(rps, car, { permit: world.permitOf(car.idCore) })
    await eventually(() => metricsOf(rps), 'rps_permits_ahead_failed_total{code="BANNED"}')
    await world.login(rps, car)
    expect(world.rpa.asked.permit).toBeLessThanOrEqual(3)
    expect(await held(car)).toEqual([0])
    expect(world.clock.now).toBe(NOON)
  })

  test('what the RPA said of an identity stays with the slot in which it said it', async () => {
    const car = world.makeCar()
    await world.login(rps, car)
    await until(async () => (await held(car)).length === 4)
    const asked = world.rpa.asked.permit
    await rps.as(world.tracking).identity({ params: { idCore: car.idCore.mpinId }, query: {} })
    expect(world.rpa.asked.permit).toBe(asked)
  })
})
