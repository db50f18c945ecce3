import type { Batch, TrackEnd } from '@milagro-ts/car-tracking/track-chain'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { FAIL_CLOSED_AFTER } from '@milagro-ts/rpa/ban-events'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { CAR, DRIVER, idCoreOf, OPERATOR, OTHER_CAR, PUBLIC_URL, TrackingWorld } from './tracking-world.js'

/** The built file: a thread can't load a source. */
const BUILT = new URL('../../../packages/crypto/dist/node-pool.js', import.meta.url)

let world: TrackingWorld
let first: Batch
let afterFirst: TrackEnd
let bearer: string

beforeEach(async () => {
  world = await TrackingWorld.make()
  await world.follow()
  ;[first, afterFirst] = world.batch(CAR, world.start(CAR), world.positions(3))
  bearer = `Bearer ${await world.token(CAR)}`
})
afterEach(() => world.close())

const stored = async () => {
  const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
  const { body } = await world.call('GET', '/v1/vehicles', operator)
  return (body.vehicles as { idCore: string; positions: number }[]).map(({ idCore, positions }) => [
    idCore,
    positions,
  ])
}

test('a proven car reports, and an operator sees where it is and its track', async () => {
  const answer = await world.send(first, bearer, await world.receipt(CAR, first))
  expect(answer).toEqual({
    status: 200,
    body: { end: { next: 2, head: toBase64Url(first.head), at: first.positions.at(-1)!.at }, stored: 3 },
  })
  const [second] = world.batch(CAR, afterFirst, world.positions(1, world.clock.now))
  expect((await world.send(second, bearer, await world.receipt(CAR, second))).status).toBe(200)

  const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
  expect((await world.call('GET', '/v1/vehicles', operator)).body).toEqual({
    vehicles: [
      { idCore: CAR.mpinId, position: second.positions[0], batches: 2, positions: 4, banned: false },
    ],
  })
  const track = await world.call('GET', `/v1/vehicles/${CAR.mpinId}/track?from=2`, operator)
  expect(track.body).toMatchObject({
    start: toBase64Url(world.start(CAR).head),
    batches: [{ number: 2, positions: second.positions, head: toBase64Url(second.head) }],
  })
  expect(track.body).not.toHaveProperty('more')
  expect((await world.call('GET', '/v1/tracks/end', bearer)).body).toMatchObject({ next: 3 })
})

test('a one-pass proof that the RPS confirms is as good as a token', async () => {
  world.onePass.set('AAAA', { idCore: CAR.mpinId, amr: ['device'], slot: 1, audience: PUBLIC_URL })
  expect((await world.send(first, 'MPIN AAAA', await world.receipt(CAR, first))).status).toBe(200)
  expect(world.requests.at(-1)).toMatch(/^MPIN-Request /)
})

describe('without a proven identity nothing is written', () => {
  test.each([
    ['no credential', async () => undefined, 'UNAUTHENTICATED'],
    ['the id alone', async () => `Bearer ${CAR.mpinId}`, 'UNAUTHENTICATED'],
    ['a scheme of no meaning', async () => `Basic ${CAR.mpinId}`, 'UNAUTHENTICATED'],
    [
      'a token by somebody else',
      async () => `Bearer ${await world.token(CAR, { by: 'stranger' })}`,
      'UNAUTHENTICATED',
    ],
    [
      'a token for another service',
      async () => `Bearer ${await world.token(CAR, { aud: 'http://other.test' })}`,
      'UNAUTHENTICATED',
    ],
    [
      'a token of another issuer',
      async () => `Bearer ${await world.token(CAR, { iss: 'http://other.test' })}`,
      'UNAUTHENTICATED',
    ],
    ['a receipt as token', async () => `Bearer ${await world.receipt(CAR, first)}`, 'UNAUTHENTICATED'],
    ['a proof that does not hold', async () => 'MPIN BBBB', 'WRONG_PROOF'],
  ])('%s', async (_what, credential, code) => {
    const answer = await world.send(first, await credential(), await world.receipt(CAR, first))
    expect(answer.body.code).toBe(code)
    expect(await stored()).toEqual([])
  })

  test('a token that has run out', async () => {
    const token = await world.token(CAR, { lifetime: 20 })
    world.clock.turn(20_000)
    const answer = await world.send(first, `Bearer ${token}`, await world.receipt(CAR, first))
    expect(answer.body.code).toBe('UNAUTHENTICATED')
  })

  test('a proof for another audience', async () => {
    world.onePass.set('AAAA', { idCore: CAR.mpinId, amr: ['device'], slot: 1, audience: 'http://other.test' })
    const answer = await world.send(first, 'MPIN AAAA', await world.receipt(CAR, first))
    expect(answer.body.code).toBe('UNAUTHENTICATED')
  })
})

describe('a receipt is for one head of one vehicle', () => {
  test.each([
    ['of another car', () => world.receipt(OTHER_CAR, first)],
    [
      'over another head',
      () => world.receipt(CAR, world.batch(CAR, world.start(CAR), world.positions(2))[0]),
    ],
    ['over another number', () => world.receipt(CAR, { ...first, number: 2 })],
    ['for another service', () => world.receipt(CAR, first, { aud: 'http://other.test' })],
  ])('%s', async (_what, receipt) => {
    expect((await world.send(first, bearer, await receipt())).body.code).toBe('WRONG_PROOF')
    expect(await stored()).toEqual([])
  })

  test.each([
    ['by somebody else', () => world.receipt(CAR, first, { by: 'stranger' })],
    ['of another issuer', () => world.receipt(CAR, first, { iss: 'http://other.test' })],
    ['an access token instead', () => world.token(CAR)],
  ])('%s', async (_what, receipt) => {
    const answer = await world.send(first, bearer, await receipt())
    expect(answer.body.code).toBe('WRONG_PROOF')
    expect(await stored()).toEqual([])
  })

  test('another car’s token does not carry a car’s receipt', async () => {
    const other = `Bearer ${await world.token(OTHER_CAR)}`
    expect((await world.send(first, other, await world.receipt(CAR, first))).body.code).toBe('CONFLICT')
    const [its] = world.batch(OTHER_CAR, world.start(OTHER_CAR), world.positions(3))
    expect((await world.send(its, other, await world.receipt(CAR, its))).body.code).toBe('WRONG_PROOF')
  })
})

describe('a head that the vehicle signs itself', () => {
  test('is stored, and shown as it was signed', async () => {
    const signed = world.signed(CAR, first)
    expect((await world.send(first, bearer, signed)).body).toMatchObject({ stored: 3 })
    const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
    const track = await world.call('GET', `/v1/vehicles/${CAR.mpinId}/track`, operator)
    expect(track.body.batches).toMatchObject([{ number: 1, signed }])
    expect((track.body.batches as object[])[0]).not.toHaveProperty('receipt')
  })

  test.each([
    ['of another car', () => world.signed(OTHER_CAR, first), 'WRONG_PROOF'],
    ['in this car’s name', () => ({ ...world.signed(OTHER_CAR, first), idCore: CAR.mpinId }), 'WRONG_PERMIT'],
    ['over another number', () => world.signed(CAR, { ...first, number: 2 }), 'WRONG_PROOF'],
    ['for another purpose', () => world.signed(CAR, first, { context: 'opens a door' }), 'WRONG_PROOF'],
    ['with another car’s permit', () => world.signed(CAR, first, { permitOf: OTHER_CAR }), 'WRONG_PERMIT'],
    ['of a slot that is over', () => world.signed(CAR, first, { slot: 100 }), 'EXPIRED'],
    [
      'of another group',
      () => ({ ...world.signed(CAR, first), groupId: toBase64Url(world.start(CAR).head) }),
      'WRONG_PROOF',
    ],
    [
      'with points that are none',
      () => ({ ...world.signed(CAR, first), signature: toBase64Url(new Uint8Array(96).fill(7)) }),
      'MALFORMED',
    ],
  ])('%s: refused', async (_what, signed, code) => {
    expect((await world.send(first, bearer, signed())).body.code).toBe(code)
    expect(await stored()).toEqual([])
  })

  test('banned since its permit was made: refused', async () => {
    const signed = world.signed(CAR, first)
    await world.event('ban', CAR)
    await world.until(() => world.server.follower.list.number === 6)
    expect((await world.send(first, bearer, signed)).body.code).toBe('BANNED')
  })

  test('both a receipt and a signature, or neither', async () => {
    const body = {
      number: 1,
      previous: toBase64Url(first.previous),
      positions: first.positions,
      head: toBase64Url(first.head),
    }
    const both = { ...body, receipt: await world.receipt(CAR, first), signed: world.signed(CAR, first) }
    for (const sent of [both, body])
      expect((await world.call('POST', '/v1/tracks', bearer, sent)).body.code).toBe('MALFORMED')
    expect(await stored()).toEqual([])
    // Nor where it is the last batch again, or none that carries the track on.
    expect((await world.send(first, bearer, world.signed(CAR, first))).body).toMatchObject({ stored: 3 })
    for (const sent of [both, body, { ...both, number: 9 }])
      expect((await world.call('POST', '/v1/tracks', bearer, sent)).body.code).toBe('MALFORMED')
  })

  test('of many at once one product decides, and a false one is its own sender’s', async () => {
    const batches: number[] = []
    const busy = await TrackingWorld.make({
      // The window is the test's: it closes when all are there.
      pool: {
        batch: 6,
        wait: 60_000,
        workers: 1,
        script: BUILT,
        on: (event, { size }) => event === 'batch' && batches.push(size as number),
      },
    })
    try {
      await busy.follow()
      const cars = [1, 2, 3, 4, 5, 6].map(idCoreOf)
      const answers = await Promise.all(
        cars.map(async (idCore, i) => {
          const [batch] = busy.batch(idCore, busy.start(idCore), busy.positions(2))
          const signed = busy.signed(idCore, i === 3 ? { ...batch, number: 9 } : batch)
          return busy.send(batch, `Bearer ${await busy.token(idCore)}`, signed)
        }),
      )
      expect(answers.map(({ body }) => body.code ?? body.stored)).toEqual([2, 2, 2, 'WRONG_PROOF', 2, 2])
      // The permits in one, the signatures in another.
      expect(batches).toEqual([6, 6])
    } finally {
      await busy.close()
    }
  })

  test('too many at once: those that find no room come again later', async () => {
    const busy = await TrackingWorld.make({
      pool: { limit: 2, batch: 64, wait: 60_000, workers: 1, script: BUILT },
    })
    try {
      await busy.follow()
      const waits = busy.send(first, `Bearer ${await busy.token(CAR)}`, busy.signed(CAR, first))
      await busy.until(() => busy.pool.waiting === 2)
      const [others] = busy.batch(OTHER_CAR, busy.start(OTHER_CAR), busy.positions(1))
      const otherToken = `Bearer ${await busy.token(OTHER_CAR)}`
      const turnedAway = await busy.send(others, otherToken, busy.signed(OTHER_CAR, others))
      expect(turnedAway).toMatchObject({ status: 503, body: { code: 'RETRY_LATER' } })
      await busy.pool.close()
      expect((await waits).body.code).toBe('RETRY_LATER')
    } finally {
      await busy.close()
    }
  })
})

describe('what a vehicle can have verified', () => {
  /** Batches of pairings that were done. */
  let batches: number
  let counted: TrackingWorld
  beforeEach(async () => {
    batches = 0
    counted = await TrackingWorld.make({ pool: { on: event => event === 'batch' && batches++ } })
    await counted.follow()
  })
  afterEach(() => counted.close())
  const sendSigned = async (batch: Batch) =>
    (await counted.send(batch, `Bearer ${await counted.token(CAR)}`, counted.signed(CAR, batch))).body

  test('no batch that does not carry its track on', async () => {
    const [second] = counted.batch(CAR, afterFirst, counted.positions(1, counted.clock.now))
    const [fork] = counted.batch(CAR, { ...afterFirst, next: 1 }, counted.positions(1, counted.clock.now))
    const reordered = { ...first, positions: [...first.positions].reverse() }
    for (const batch of [second, fork, reordered, { ...first, head: fork.head }])
      expect((await sendSigned(batch)).code).toBe('CONFLICT')
    expect(batches).toBe(0)
    expect(await sendSigned(first)).toMatchObject({ stored: 3 })
    expect(batches).toBe(2)
  })

  test('nor its last one again', async () => {
    await sendSigned(first)
    for (let again = 0; again < 3; again++)
      expect(await sendSigned(first)).toMatchObject({ stored: 0, end: { next: 2 } })
    expect(batches).toBe(2)
  })

  test('one batch at a time, whatever others have under way', async () => {
    const busy = await TrackingWorld.make({ pool: { wait: 60_000, workers: 1, script: BUILT } })
    try {
      await busy.follow()
      const send = async (idCore: typeof CAR) => {
        const [batch] = busy.batch(idCore, busy.start(idCore), busy.positions(1))
        return busy.send(batch, `Bearer ${await busy.token(idCore)}`, busy.signed(idCore, batch))
      }
      const waits = [send(CAR), send(OTHER_CAR)]
      await busy.until(() => busy.pool.waiting === 4)
      for (let i = 0; i < 10; i++)
        expect(await send(CAR)).toMatchObject({ status: 503, body: { code: 'RETRY_LATER' } })
      expect(busy.pool.waiting).toBe(4)
      await busy.pool.close()
      await Promise.all(waits)
    } finally {
      await busy.close()
    }
  })

  test('and after a refusal the next', async () => {
    const forged = { ...counted.signed(CAR, first), signature: counted.signed(OTHER_CAR, first).signature }
    const token = `Bearer ${await counted.token(CAR)}`
    expect((await counted.send(first, token, forged)).body.code).toBe('WRONG_PROOF')
    expect(await sendSigned(first)).toMatchObject({ stored: 3 })
  })
})

describe('a track has no gap, no fork and one order', () => {
  const sendSigned = async (batch: Batch) => world.send(batch, bearer, await world.receipt(CAR, batch))

  test('a missing batch', async () => {
    const [second] = world.batch(CAR, afterFirst, world.positions(1, world.clock.now))
    const answer = await sendSigned(second)
    expect(answer.body).toMatchObject({ code: 'CONFLICT', detail: expect.stringMatching(/^gap/) })
  })

  test('batches in another order', async () => {
    await sendSigned(first)
    const [second, afterSecond] = world.batch(CAR, afterFirst, world.positions(1, world.clock.now))
    const [third] = world.batch(CAR, afterSecond, world.positions(1, world.clock.now + 1))
    expect((await sendSigned(third)).body.code).toBe('CONFLICT')
    expect((await sendSigned(second)).status).toBe(200)
    expect((await sendSigned(third)).status).toBe(200)
  })

  test('positions in another order', async () => {
    const answer = await sendSigned({ ...first, positions: [...first.positions].reverse() })
    expect(answer.body).toMatchObject({ code: 'CONFLICT', detail: expect.stringMatching(/^reordered/) })
  })

  test('a position that was changed on the way', async () => {
    const [one, ...rest] = first.positions
    const answer = await sendSigned({ ...first, positions: [{ ...one!, latE7: 0 }, ...rest] })
    expect(answer.body).toMatchObject({ code: 'CONFLICT', detail: expect.stringMatching(/^wrong-head/) })
  })

  test('the last batch again stores nothing twice; an older one is refused', async () => {
    await sendSigned(first)
    expect((await sendSigned(first)).body).toMatchObject({ stored: 0, end: { next: 2 } })
    const [second] = world.batch(CAR, afterFirst, world.positions(1, world.clock.now))
    await sendSigned(second)
    expect((await sendSigned(first)).body.code).toBe('REPLAYED')
    expect(await stored()).toEqual([[CAR.mpinId, 4]])
  })

  test('another batch under a number that is taken', async () => {
    await sendSigned(first)
    const [rival] = world.batch(CAR, world.start(CAR), world.positions(1))
    expect((await sendSigned(rival)).body.code).toBe('REPLAYED')
  })

  test('ten sendings of one batch at once store it once', async () => {
    const receipt = await world.receipt(CAR, first)
    const answers = await Promise.all(Array.from({ length: 10 }, () => world.send(first, bearer, receipt)))
    expect(new Set(answers.map(({ body }) => body.code))).toEqual(new Set([undefined, 'RETRY_LATER']))
    expect(answers.filter(({ body }) => body.stored === 3)).toHaveLength(1)
    expect(await stored()).toEqual([[CAR.mpinId, 3]])
  })

  test('ten at once in the store itself: one is stored, and all have the same end', async () => {
    const vehicle = { text: CAR.mpinId, bytes: CAR.bytes }
    const more = { userCore: undefined, receivedAt: world.clock.now, word: { receipt: 'its receipt' } }
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => world.store.append(vehicle, world.start(CAR), first, more)),
    )
    expect(answers).toEqual(answers.map((_, i) => ({ end: afterFirst, stored: i === 0 ? 3 : 0 })))
  })

  test('a position of the future', async () => {
    const [future] = world.batch(CAR, world.start(CAR), world.positions(1, world.clock.now + 60_001))
    expect((await sendSigned(future)).body.code).toBe('CLOCK')
  })

  test('no position at all', async () => {
    const answer = await sendSigned({ ...first, positions: [] })
    expect(answer.body.code).toBe('MALFORMED')
  })
})

describe('ban events', () => {
  test('a car that is banned in the stream is refused with the token it has, until it is un-banned', async () => {
    const receipt = await world.receipt(CAR, first)
    await world.event('ban', CAR)
    await world.until(() => world.server.follower.list.number === 6)
    expect((await world.send(first, bearer, receipt)).body.code).toBe('BANNED')
    expect((await world.call('GET', '/v1/tracks/end', bearer)).body.code).toBe('BANNED')
    await world.event('unban', CAR)
    await world.until(() => world.server.follower.list.number === 7)
    expect((await world.send(first, bearer, receipt)).status).toBe(200)
  })

  test('a driver who is banned is refused while the car alone goes on', async () => {
    const withDriver = `Bearer ${await world.token(CAR, { userCore: DRIVER, amr: ['device', 'pin'] })}`
    await world.event('ban', CAR, { userCore: DRIVER })
    await world.until(() => world.server.follower.list.number === 6)
    const receipt = await world.receipt(CAR, first)
    expect((await world.send(first, withDriver, receipt)).body.code).toBe('BANNED')
    const driversReceipt = await world.receipt(CAR, first, { userCore: DRIVER, amr: ['device', 'pin'] })
    expect((await world.send(first, bearer, driversReceipt)).body.code).toBe('BANNED')
    expect((await world.send(first, bearer, receipt)).status).toBe(200)
  })

  test('a revoked car stays refused, whatever is un-banned', async () => {
    await world.event('revoke', CAR)
    await world.event('unban', CAR)
    await world.until(() => world.server.follower.list.number === 7)
    expect((await world.send(first, bearer, await world.receipt(CAR, first))).body.code).toBe('REVOKED')
  })

  test('an event by anybody but the RA ends the connection and changes nothing', async () => {
    await world.event('ban', CAR, { by: 'stranger', number: 6 })
    await world.until(() => {
      world.clock.turnToAlarm()
      return world.requests.length === 2
    })
    expect((await world.send(first, bearer, await world.receipt(CAR, first))).status).toBe(200)
    expect(world.server.follower.list.number).toBe(5)
  })

  test('a hole in the numbers makes the server ask for the whole state again', async () => {
    world.banned = [{ idCore: CAR.mpinId }]
    await world.event('account', OTHER_CAR, { number: 8 })
    await world.until(() => {
      world.clock.turnToAlarm()
      return world.server.follower.list.denies(CAR.mpinId) !== null
    })
    expect((await world.send(first, bearer, await world.receipt(CAR, first))).body.code).toBe('BANNED')
  })

  test('30 seconds after the stream is lost nobody is believed, and after its return everybody is again', async () => {
    const long = `Bearer ${await world.token(CAR)}`
    expect((await world.call('GET', '/v1/tracks/end', long)).status).toBe(200)
    world.loseStream()
    world.clock.turn(FAIL_CLOSED_AFTER)
    expect((await world.call('GET', '/v1/tracks/end', long)).status).toBe(200)
    world.clock.turn(1)
    const refused = await world.call('GET', '/v1/tracks/end', long)
    expect(refused).toMatchObject({ status: 503, body: { code: 'RETRY_LATER' } })
    world.isRpsDown = false
    await world.until(() => {
      world.clock.turnToAlarm()
      return world.server.follower.fresh
    })
    expect((await world.call('GET', '/v1/tracks/end', long)).status).toBe(200)
  })

  test('heartbeats keep the list fresh; a stream that is only silent does not', async () => {
    const before = world.requests.length
    for (let beat = 0; beat < 6; beat++) {
      world.clock.turn(10_000)
      world.heartbeat()
      await world.until(() => world.server.follower.heardAt === world.clock.now)
    }
    expect(world.server.follower.fresh).toBe(true)
    expect(world.requests.length).toBe(before)
    world.isRpsDown = true
    world.clock.turn(FAIL_CLOSED_AFTER + 1)
    expect(world.server.follower.fresh).toBe(false)
  })

  test('before the first state nobody is believed', async () => {
    const early = await TrackingWorld.make()
    const token = `Bearer ${await early.token(CAR)}`
    expect((await early.call('GET', '/v1/tracks/end', token)).body.code).toBe('RETRY_LATER')
    await early.close()
  })
})

describe('readers', () => {
  test.each([
    ['a car', () => world.token(CAR, { amr: ['device', 'pin'] }), 'FORBIDDEN'],
    [
      'a stranger',
      () => world.token(OPERATOR, { amr: ['device', 'pin'], by: 'stranger' }),
      'UNAUTHENTICATED',
    ],
  ])('%s reads nothing', async (_who, token, code) => {
    for (const path of ['/v1/vehicles', `/v1/vehicles/${CAR.mpinId}/track`, '/v1/stream']) {
      expect((await world.call('GET', path, `Bearer ${await token()}`)).body.code).toBe(code)
    }
  })

  test('a vehicle without a track is not found', async () => {
    const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
    const answer = await world.call('GET', `/v1/vehicles/${CAR.mpinId}/track`, operator)
    expect(answer.body.code).toBe('NOT_FOUND')
  })

  test('the stream shows batches as they come, and ends when its reader is banned', async () => {
    const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
    const stream = await fetch(`${await world.url()}/v1/stream`, {
      headers: { authorization: operator },
    })
    const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
    await world.send(first, bearer, await world.receipt(CAR, first))
    const { value } = await reader.read()
    expect(value).toMatch(/^event: position\ndata: /)
    expect(JSON.parse(value!.split('data: ')[1]!)).toEqual({
      idCore: CAR.mpinId,
      number: 1,
      position: first.positions.at(-1),
    })
    await world.event('ban', OPERATOR)
    expect((await reader.read()).done).toBe(true)
  })
})

test('an idCore in the path is decoded strictly', async () => {
  const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
  const bytes = fromBase64Url(CAR.mpinId, 'idCore', 39).slice()
  bytes[6] = 7
  const answer = await world.call('GET', `/v1/vehicles/${toBase64Url(bytes)}/track`, operator)
  expect(answer.body.code).toBe('MALFORMED')
})
