/** What servers of the group may ask an authority for: server keys and permit shares. */
import { generateEs256 } from '@milagro-ts/api/keys'
import { signRequest } from '@milagro-ts/api/request-auth'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { decapsulate, encapsulate } from '@milagro-ts/crypto/ibe'
import { encodeName } from '@milagro-ts/crypto/identity'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import { KeyShare } from '@milagro-ts/crypto/share-proof'
import {
  AgreeClientKey,
  AgreeSlotKey,
  AgreeStaticKey,
  ClientAgreement,
  PskIdentity,
  serverAgree,
} from '@milagro-ts/crypto/static-agreement'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  clientOf,
  codeOf,
  combineShares,
  type Founded,
  fetchAgreeKey,
  fetchFileKey,
  fetchServerKey,
  foundWorld,
  MIDDAY_SLOT,
  makeCar,
  openShare,
  type Running,
  type Server,
  SLOT,
  statementFor,
  ticketFor,
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

describe('server keys of agree', () => {
  const name = 'tracking.example'
  const own = (slot: number) => ({ kind: 2, name, generation: 1, slot }) as const
  const ask = (server: Server, slot?: number, purpose: Purpose = 'agree', keyEpoch = 1) =>
    clientOf(world, first(), server).serverKeys({
      params: { groupId: world.groupId },
      body: { purpose, keyEpoch, nonce: freshNonce(), ...(slot === undefined ? {} : { slot }) },
    })

  test('a server gets the key of its own name for the current slot and the next, and devices agree with it', async () => {
    const { group } = world
    const car = await makeCar(world)
    const ticket = await ticketFor(world, car, { purposes: ['agree'] })
    const shares = await Promise.all(
      world.authorities.map(async ({ client }) => {
        const body = { ticket, purpose: 'agree' } as const
        const answer = await client.shares({ params: { groupId: world.groupId }, body })
        const verified = await verifyTicket({ ticket, group, now: world.clock.now })
        const terms = verified.shareTerms('agree', answer.index, answer.shareEpoch)
        const share = mustBe(await openShare(world, answer, car, 'agree', terms))
        return { index: answer.index, share }
      }),
    )
    const owner = { groupId: group.groupId, idCore: car.idCore, epoch: 1 }
    const key = AgreeClientKey.of(owner, combineShares(shares))
    const party = { kind: 2, name, generation: 1 } as const
    for (const slot of [MIDDAY_SLOT, MIDDAY_SLOT + 1]) {
      const S = mustBe(await fetchAgreeKey(world, world.tracking, own(slot), { slot }))
      const claim = { groupId: group.groupId, party, slot, epoch: 1 }
      const server = mustBe(AgreeSlotKey.verify(claim, group.keys('agree').ivk, S))
      const { identity, psk } = ClientAgreement.begin(key, { party, slot }, systemRandom).psk('m1')
      expect(serverAgree(server, PskIdentity.decode(identity))).toEqual(psk)
    }
  })

  test('none for a slot beyond lead, nor for one that is over', async () => {
    for (const slot of [MIDDAY_SLOT + 2, MIDDAY_SLOT - 1, 0, 0xffff_ffff])
      expect(await codeOf(ask(world.tracking, slot))).toBe('EXPIRED')
  })

  test('none of another key epoch', async () => {
    expect(await codeOf(ask(world.tracking, MIDDAY_SLOT, 'agree', 2))).toBe('EXPIRED')
  })

  test('the name is the caller’s own, whatever it would like to be', async () => {
    const asked = { slot: MIDDAY_SLOT }
    const other = { ...own(MIDDAY_SLOT), name: 'rps' }
    expect(await fetchAgreeKey(world, world.tracking, other, asked)).toBeNull()
    const generation = { ...own(MIDDAY_SLOT), generation: 2 }
    expect(await fetchAgreeKey(world, world.tracking, generation, asked)).toBeNull()
    const slotless = { kind: 3, name, generation: 1 } as const
    expect(await fetchAgreeKey(world, world.tracking, slotless, asked)).toBeNull()
  })

  test('a key without a slot goes to whom the group document names a static server, and nobody else', async () => {
    expect(await codeOf(ask(world.tracking))).toBe('MALFORMED')
    expect(await codeOf(ask(world.broker, MIDDAY_SLOT))).toBe('MALFORMED')
    const broker = { kind: 3, name: world.broker.name, generation: 1 } as const
    const S = mustBe(await fetchAgreeKey(world, world.broker, broker))
    const { group } = world
    const owner = { groupId: group.groupId, party: broker, epoch: 1 }
    expect(AgreeStaticKey.verify(owner, group.keys('agree').ivk, S)).not.toBeNull()
  })

  test('a recipient of other purposes gets none, and a slot goes with agree alone', async () => {
    expect(await codeOf(ask(world.rps, MIDDAY_SLOT))).toBe('FORBIDDEN')
    expect(await codeOf(ask(world.rps, MIDDAY_SLOT, 'device'))).toBe('MALFORMED')
  })

  test('frozen by name: at once no further key, and again after unfreezing', async () => {
    const params = { groupId: world.groupId }
    const body = { recipient: world.tracking.name }
    await ask(world.tracking, MIDDAY_SLOT)
    await first().admin.freeze({ params, body })
    expect(await codeOf(ask(world.tracking, MIDDAY_SLOT))).toBe('FROZEN')
    expect(await codeOf(ask(world.tracking, MIDDAY_SLOT + 1))).toBe('FROZEN')
    await first().admin.unfreeze({ params, body })
    await ask(world.tracking, MIDDAY_SLOT)
  })
})

describe('keys of encrypt, for public names', () => {
  const nameOf = (server: Server, slot?: number) =>
    ({ kind: 4, name: server.name, generation: 1, ...(slot === undefined ? {} : { slot }) }) as const
  const ask = (server: Server, slot?: number, keyEpoch = 1) =>
    clientOf(world, first(), server).serverKeys({
      params: { groupId: world.groupId },
      body: { purpose: 'encrypt', keyEpoch, nonce: freshNonce(), ...(slot === undefined ? {} : { slot }) },
    })
  const opens = (key: G1, name: ReturnType<typeof nameOf>): boolean => {
    const { group } = world
    const terms = { name: encodeName(group.groupId, name), Ppub: group.keys('encrypt').pub as G2 }
    const { encapsulation, key: M } = encapsulate(terms, systemRandom)
    const opened = decapsulate(terms, key, encapsulation)
    return opened !== null && equalBytes(opened, M)
  }

  test('a static server gets the key of its public name, and of the name at this slot and the next', async () => {
    const names = [undefined, MIDDAY_SLOT, MIDDAY_SLOT + 1].map(slot => nameOf(world.broker, slot))
    const keys = await Promise.all(
      names.map(async name => {
        const asked = 'slot' in name ? { slot: name.slot as number } : {}
        return mustBe(await fetchFileKey(world, world.broker, name, asked))
      }),
    )
    // Each opens what is for its own name and nothing else.
    for (const [i, key] of keys.entries())
      expect(names.map(name => opens(key, name))).toEqual(names.map((_, j) => i === j))
  })

  test('a server gets it for a slot alone, and for none that is over or far', async () => {
    const key = mustBe(
      await fetchFileKey(world, world.tracking, nameOf(world.tracking, MIDDAY_SLOT), { slot: MIDDAY_SLOT }),
    )
    expect(opens(key, nameOf(world.tracking, MIDDAY_SLOT))).toBe(true)
    expect(await codeOf(ask(world.tracking))).toBe('MALFORMED')
    for (const server of [world.tracking, world.broker])
      for (const slot of [MIDDAY_SLOT - 1, MIDDAY_SLOT + 2, 0, 0xffff_ffff])
        expect(await codeOf(ask(server, slot))).toBe('EXPIRED')
  })

  test('the name is the caller’s own; other recipients have none, nor other key epochs', async () => {
    const asked = { slot: MIDDAY_SLOT }
    const others = [
      { ...nameOf(world.tracking, MIDDAY_SLOT), name: 'rps' },
      { ...nameOf(world.tracking, MIDDAY_SLOT), generation: 2 },
      nameOf(world.tracking),
    ]
    for (const name of others) expect(await fetchFileKey(world, world.tracking, name, asked)).toBeNull()
    expect(await codeOf(ask(world.rps, MIDDAY_SLOT))).toBe('FORBIDDEN')
    expect(await codeOf(ask(world.tracking, MIDDAY_SLOT, 2))).toBe('EXPIRED')
    expect(await codeOf(ask(world.broker, undefined, 2))).toBe('EXPIRED')
  })

  test('frozen by name: at once no further key', async () => {
    const params = { groupId: world.groupId }
    const body = { recipient: world.broker.name }
    await first().admin.freeze({ params, body })
    expect(await codeOf(ask(world.broker))).toBe('FROZEN')
    expect(await codeOf(ask(world.broker, MIDDAY_SLOT))).toBe('FROZEN')
    await first().admin.unfreeze({ params, body })
    await ask(world.broker)
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

function mustBe<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) throw new Error('expected a value')
  return value
}
