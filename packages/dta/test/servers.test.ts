/** What servers of the group may ask an authority for: server keys and permit shares. */
import { generateEs256 } from '@milagro-ts/api/keys'
import { signRequest } from '@milagro-ts/api/request-auth'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { KeyShare } from '@milagro-ts/crypto/share-proof'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  clientOf,
  codeOf,
  type Founded,
  fetchServerKey,
  foundWorld,
  MIDDAY_SLOT,
  makeCar,
  type Running,
  type Server,
  SLOT,
  statementFor,
} from './world.js'

let world: Founded
beforeAll(async () => {
  world = await foundWorld({ n: 2 })
})
afterAll(() => world.close())

const first = (): Running => world.authorities[0] as Running
const freshNonce = () => toBase64Url(systemRandom(16))

describe('server keys', () => {
  const ask = (server: Server, purpose: Purpose, at = first()) =>
    clientOf(world, at, server).serverKeys({
      params: { groupId: world.groupId },
      body: { purpose, keyEpoch: 1, nonce: freshNonce() },
    })

  test('the RPS gets S_dev and S_pin', async () => {
    const [device, pin] = [await fetchServerKey(world, 'device'), await fetchServerKey(world, 'pin')]
    expect(device.point.equals(pin.point)).toBe(false)
  })

  test('a recipient asking for a purpose that is not its own', async () => {
    expect(await codeOf(ask(world.tracking, 'device'))).toBe('FORBIDDEN')
    expect(await codeOf(ask(world.tracking, 'pin'))).toBe('FORBIDDEN')
  })

  test.each(['permit', 'sign', 'encrypt'] as const)('nobody gets a server key of %s', async purpose => {
    expect(await codeOf(ask(world.rps, purpose))).toBe('FORBIDDEN')
  })

  test('keys of agree for servers are not issued, not even to their recipient', async () => {
    expect(await codeOf(ask(world.tracking, 'agree'))).toBe('FORBIDDEN')
  })

  test('a stranger, and a server under the name of another', async () => {
    const stranger = { ...world.rps, name: 'stranger' }
    expect(await codeOf(ask(stranger, 'pin'))).toBe('UNAUTHENTICATED')
    const impostor = { ...world.tracking, name: world.rps.name }
    expect(await codeOf(ask(impostor, 'pin'))).toBe('UNAUTHENTICATED')
    const guess = { ...world.rps, requestKey: await generateEs256() }
    expect(await codeOf(ask(guess, 'pin'))).toBe('UNAUTHENTICATED')
  })

  test('no request JWT at all', async () => {
    const params = { groupId: world.groupId }
    const body = { purpose: 'pin', keyEpoch: 1, nonce: freshNonce() } as const
    expect(await codeOf(first().client.serverKeys({ params, body }))).toBe('UNAUTHENTICATED')
  })

  test('a request JWT again, for another body, or at another authority', async () => {
    const params = { groupId: world.groupId }
    const body = { purpose: 'device', keyEpoch: 1, nonce: freshNonce() } as const
    const url = `${first().url}/v1/groups/${world.groupId}/server-keys`
    const { name, requestKey: key } = world.rps
    const authorization = await signRequest(
      { method: 'POST', url, body: utf8(JSON.stringify(body)) },
      { name, key, clock: () => world.clock.now, random: systemRandom },
    )
    const other = world.authorities[1] as Running
    expect(await codeOf(other.client.serverKeys({ params, body, authorization }))).toBe('UNAUTHENTICATED')
    const swapped = { ...body, purpose: 'pin' } as const
    expect(await codeOf(first().client.serverKeys({ params, body: swapped, authorization }))).toBe(
      'UNAUTHENTICATED',
    )
    await first().client.serverKeys({ params, body, authorization })
    expect(await codeOf(first().client.serverKeys({ params, body, authorization }))).toBe('REPLAYED')
    world.clock.now += 61_000
    expect(await codeOf(first().client.serverKeys({ params, body, authorization }))).toBe('REPLAYED')
  })

  test('a request of a clock that is an hour ahead is CLOCK, and says both times', async () => {
    const params = { groupId: world.groupId }
    const body = { purpose: 'device', keyEpoch: 1, nonce: freshNonce() } as const
    const url = `${first().url}/v1/groups/${world.groupId}/server-keys`
    const { name, requestKey: key } = world.rps
    const authorization = await signRequest(
      { method: 'POST', url, body: utf8(JSON.stringify(body)) },
      { name, key, clock: () => world.clock.now + 3_600_000, random: systemRandom },
    )
    await expect(first().client.serverKeys({ params, body, authorization })).rejects.toMatchObject({
      code: 'CLOCK',
      field: 'iat',
      detail: expect.stringMatching(/^signed at .*, arrived at .*: 3600 s apart$/),
    })
  })

  test('a frozen recipient gets nothing, others do', async () => {
    const params = { groupId: world.groupId }
    const recipient = { recipient: world.rps.name }
    expect(await first().admin.freeze({ params, body: recipient })).toEqual({ frozen: true })
    expect(await codeOf(ask(world.rps, 'device'))).toBe('FROZEN')
    expect((await first().admin.status({})).groups[0]?.frozen).toBe(false)
    await ask(world.rps, 'device', world.authorities[1])
    await first().admin.unfreeze({ params, body: recipient })
    await ask(world.rps, 'device')
  })

  test('freezing a recipient that does not exist is an error, not a comfort', async () => {
    const params = { groupId: world.groupId }
    expect(await codeOf(first().admin.freeze({ params, body: { recipient: 'rsp' } }))).toBe('NOT_FOUND')
  })
})

describe('permit shares', () => {
  const ask = (statement: string, server = world.rps, at = first()) =>
    clientOf(world, at, server).permits({ params: { groupId: world.groupId }, body: { statement } })

  test('without a statement of the RA', async () => {
    const { client } = first()
    const params = { groupId: world.groupId }
    const url = `${first().url}/v1/groups/${world.groupId}/permits`
    const body = utf8('{}')
    const { name, requestKey: key } = world.rps
    const authorization = await signRequest(
      { method: 'POST', url, body },
      { name, key, clock: () => world.clock.now, random: systemRandom },
    )
    const headers = { authorization, 'content-type': 'application/json' }
    const answer = await fetch(url, { method: 'POST', headers, body: '{}' })
    expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([400, 'MALFORMED'])
    const statement = await statementFor(world, await makeCar(world))
    expect(await codeOf(client.permits({ params, body: { statement } }))).toBe('UNAUTHENTICATED')
  })

  test('a stale statement', async () => {
    const statement = await statementFor(world, await makeCar(world))
    world.clock.now += 60_000
    expect(await codeOf(ask(statement))).toBe('EXPIRED')
  })

  test('a statement that wants to live longer than a minute', async () => {
    const iat = Math.floor(world.clock.now / 1000)
    const statement = await statementFor(world, await makeCar(world), { iat, exp: iat + 61 })
    expect(await codeOf(ask(statement))).toBe('EXPIRED')
  })

  test('a forged statement', async () => {
    const car = await makeCar(world)
    const forged = await statementFor(world, car, {}, { key: world.rps.requestKey, kid: 'ra1' })
    expect(await codeOf(ask(forged))).toBe('NOT_APPROVED')
  })

  test('a statement for another group', async () => {
    const changes = { groupId: toBase64Url(systemRandom(32)) }
    expect(await codeOf(ask(await statementFor(world, await makeCar(world), changes)))).toBe('NOT_APPROVED')
  })

  test('a statement for another permit epoch', async () => {
    expect(await codeOf(ask(await statementFor(world, await makeCar(world), { keyEpoch: 2 })))).toBe(
      'EXPIRED',
    )
  })

  test('a slot within lead, and one beyond', async () => {
    const car = await makeCar(world)
    await ask(await statementFor(world, car, { slot: MIDDAY_SLOT + 1 }))
    expect(await codeOf(ask(await statementFor(world, car, { slot: MIDDAY_SLOT + 2 })))).toBe('EXPIRED')
  })

  test('a slot that has ended, even a second ago', async () => {
    const car = await makeCar(world)
    const before = world.clock.now
    world.clock.now = (SLOT.origin + (MIDDAY_SLOT + 1) * SLOT.length + 1) * 1000
    const code = await codeOf(ask(await statementFor(world, car, { slot: MIDDAY_SLOT })))
    world.clock.now = before
    expect(code).toBe('EXPIRED')
  })

  test('the same statement again gives the same share, another one under its jti is REPLAYED', async () => {
    const car = await makeCar(world)
    const jti = freshNonce()
    const statement = await statementFor(world, car, { jti })
    const point = async () => KeyShare.decode(fromBase64Url((await ask(statement)).share, 'share')).d
    const [one, other] = [await point(), await point()]
    expect(one.equals(other)).toBe(true)
    const second = await statementFor(world, await makeCar(world), { jti })
    expect(await codeOf(ask(second))).toBe('REPLAYED')
  })

  test('a server that composes no permits', async () => {
    const statement = await statementFor(world, await makeCar(world))
    expect(await codeOf(ask(statement, world.tracking))).toBe('FORBIDDEN')
  })

  test('frozen: no permit shares', async () => {
    const params = { groupId: world.groupId }
    const statement = await statementFor(world, await makeCar(world))
    await first().admin.freeze({ params, body: {} })
    expect(await codeOf(ask(statement))).toBe('FROZEN')
    await first().admin.unfreeze({ params, body: {} })
    await ask(statement)
  })
})
