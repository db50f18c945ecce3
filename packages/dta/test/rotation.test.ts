/** Authorities on real sockets rotate a group's keys: what they serve before and after, and what they give deltas for. */
import { type CeremonyProposal, ceremonyHash } from '@milagro-ts/api/ceremony'
import { type CeremonyClient, ceremonyRun, verifyTranscript } from '@milagro-ts/api/ceremony-run'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash } from '@milagro-ts/api/group'
import { deltaTerms, type KeyRotation } from '@milagro-ts/api/key-rotation'
import { generateHpkeKey, type HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Body } from '@milagro-ts/api/route'
import { open } from '@milagro-ts/api/seal'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { NO_USER } from '@milagro-ts/crypto/identity'
import type { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { SUITE } from '@milagro-ts/crypto/suite'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  acceptAll,
  type Car,
  clientOf,
  codeOf,
  type Founded,
  fetchServerKey,
  foundWorld,
  MIDDAY_SLOT,
  makeCar,
  openShare,
  type Running,
  restart,
  rotated,
  rotationOf,
  SLOT,
  statementFor,
  ticketFor,
} from './world.js'

let world: Founded
let car: Car
/** Two authorities are enough for what isn't about t. */
const begin = async () => {
  world = await foundWorld({ n: 2 })
  car = await makeCar(world)
}

/** Slots pass; days, here. */
const pass = (slots: number) => {
  world.clock.now += slots * SLOT.length * 1000
}
const slotNow = () => MIDDAY_SLOT + Math.round((world.clock.now / 1000 - SLOT.origin) / SLOT.length - 300.5)

/** D of this epoch, out of a ticket's shares. */
async function keyOf(epoch: number): Promise<G1> {
  const ticket = await ticketFor(world, car, { keyEpochs: { device: epoch } })
  const shares = await Promise.all(
    world.authorities.map(async ({ client }) => {
      const body = { ticket, purpose: 'device' as const }
      const answer = await client.shares({ params: { groupId: world.groupId }, body })
      const verified = await verifyTicket({ ticket, group: world.group, now: world.clock.now })
      const terms = verified.shareTerms('device', answer.index, answer.shareEpoch)
      const commitment = world.group.keysOf('device', epoch)?.commitments[answer.index - 1] as G1
      const share = await openShare(world, answer, car, 'device', terms, commitment)
      if (share === null) throw new Error(`no good share from ${answer.index}`)
      return { index: answer.index, point: share.d }
    }),
  )
  return combineG1(shares)
}

type Deltas = Body<typeof dtaRoutes.deltas>
async function asked(key: HpkeKeyPair, more: Partial<Deltas> = {}): Promise<Deltas> {
  const permitEpoch = world.group.epochAt('permit', slotNow()) as number
  return {
    statement: await statementFor(world, car, { slot: slotNow(), keyEpoch: permitEpoch }),
    hpkeKey: toBase64Url(key.publicKey),
    ...more,
  }
}
const ask = (body: Deltas, { at = world.authorities[0] as Running, by = world.rps } = {}) =>
  clientOf(world, at, by).deltas({ params: { groupId: world.groupId }, body })

/** Δ·A of the car, from all authorities. */
async function deltaOf(from: number, to: number): Promise<G1> {
  const key = await generateHpkeKey(systemRandom)
  const rotation: KeyRotation = { hpkeKey: key.publicKey, device: { from, to } }
  const body = await asked(key, { device: { from, to } })
  const shares = await Promise.all(
    world.authorities.map(async at => {
      const { device } = await ask(body, { at })
      const { index, sealed } = device as NonNullable<typeof device>
      const terms = deltaTerms(world.group, rotation, { idCore: car.idCore }, 'device', index)
      if (terms === null) throw new Error('no such step')
      const plaintext = await open(key, terms.ctx, fromBase64Url(sealed, 'sealed'))
      if (plaintext === null) throw new Error('not sealed to the key')
      const share = KeyShare.decode(plaintext)
      expect(shareVerify(terms, share)).toBe(true)
      return { index, point: share.d }
    }),
  )
  return combineG1(shares)
}

describe('authorities', () => {
  beforeEach(begin)
  afterEach(() => world.close())

  test('both key epochs are served, each in its slots, and the delta leads from one to the other', async () => {
    const former = await keyOf(1)
    const S = await fetchServerKey(world, 'pin')
    world = await rotated(world)
    expect([world.group.revision, world.group.shareEpoch]).toEqual([2, 2])
    // Announced: tickets and server keys of the epoch in force as before, and the keys to come for the server.
    expect((await keyOf(1)).equals(former)).toBe(true)
    expect((await fetchServerKey(world, 'pin')).encode()).toEqual(S.encode())
    expect((await fetchServerKey(world, 'pin', 2)).encode()).not.toEqual(S.encode())
    await expect(keyOf(2)).rejects.toMatchObject({ code: 'EXPIRED' })
    const ahead = await deltaOf(1, 2)

    pass(2)
    expect(await codeOf(keyOf(1))).toBe('EXPIRED')
    const next = await keyOf(2)
    expect(former.add(ahead).equals(next)).toBe(true)
    expect(former.add(await deltaOf(1, 2)).equals(next)).toBe(true)

    // Refreshed and started again: the former epoch's shares are other ones of the same secret.
    const refresh: CeremonyProposal = {
      suite: SUITE,
      v: 1,
      kind: 'refresh',
      groupId: world.groupId,
      previous: toBase64Url(documentHash(world.group.document)),
      nonce: toBase64Url(systemRandom(32)),
    }
    await acceptAll(world, toBase64Url(ceremonyHash(refresh)))
    const { group, transcript } = await ceremonyRun({
      proposal: refresh,
      clients: byName(),
      revisions: world.group.documents,
    })
    expect(await verifyTranscript(transcript)).toMatchObject({ valid: true })
    const C = (of: typeof group) => of.keysOf('device', 1)?.commitments[0] as G1
    expect(C(group).equals(C(world.group))).toBe(false)
    world = { ...world, group }
    for (const [i, running] of world.authorities.entries()) {
      world.authorities[i] = await restart(running, { clock: world.clock })
    }
    expect(former.add(await deltaOf(1, 2)).equals(next)).toBe(true)
    expect((await keyOf(2)).equals(next)).toBe(true)
    expect((await fetchServerKey(world, 'pin')).encode()).toEqual(S.encode())

    // A second key for the same identity is refused in the new epoch as in the old.
    const thief: Car = { idCore: car.idCore, enrolmentKey: await generateHpkeKey(systemRandom) }
    const ticket = await ticketFor(world, thief, { keyEpochs: { device: 2 } })
    for (const { client } of world.authorities) {
      const body = { ticket, purpose: 'device' as const }
      expect(await codeOf(client.shares({ params: { groupId: world.groupId }, body }))).toBe('ALREADY_ISSUED')
    }
  })

  test('three key epochs are kept: then the oldest has ended, for deltas and for server keys', async () => {
    const first = await keyOf(1)
    for (let i = 0; i < 2; i++) {
      world = await rotated(world)
      pass(2)
    }
    expect(first.add(await deltaOf(1, 3)).equals(await keyOf(3))).toBe(true)
    world = await rotated(world)
    expect(world.group.epochs('device').map(({ epoch }) => epoch)).toEqual([4, 3, 2])
    const key = await generateHpkeKey(systemRandom)
    expect(await codeOf(ask(await asked(key, { device: { from: 1, to: 3 } })))).toBe('EXPIRED')
    const body = { purpose: 'pin' as const, keyEpoch: 1, nonce: toBase64Url(systemRandom(16)) }
    const rps = clientOf(world, world.authorities[0] as Running, world.rps)
    expect(await codeOf(rps.serverKeys({ params: { groupId: world.groupId }, body }))).toBe('EXPIRED')
  })
})

describe('a delta share', () => {
  let key: HpkeKeyPair
  beforeAll(async () => {
    await begin()
    world = await rotated(world)
  })
  afterAll(() => world.close())
  beforeEach(async () => {
    car = await makeCar(world)
    key = await generateHpkeKey(systemRandom)
  })
  const device = { from: 1, to: 2 }

  test('goes only to a recipient of that purpose', async () => {
    expect(await codeOf(ask(await asked(key, { device }), { by: world.tracking }))).toBe('FORBIDDEN')
  })

  test('wants the RA’s word, of now, that the vehicle is not banned', async () => {
    const stranger = { key: world.tracking.requestKey, kid: 'ra1' }
    const forged = await statementFor(world, car, {}, stranger)
    expect(await codeOf(ask(await asked(key, { device, statement: forged })))).toBe('NOT_APPROVED')
    const seconds = Math.floor(world.clock.now / 1000)
    const old = await statementFor(world, car, { iat: seconds - 120, exp: seconds - 60 })
    expect(await codeOf(ask(await asked(key, { device, statement: old })))).toBe('EXPIRED')
    const over = await statementFor(world, car, { slot: MIDDAY_SLOT - 1 })
    expect(await codeOf(ask(await asked(key, { device, statement: over })))).toBe('EXPIRED')
  })

  test('leads from a kept epoch to a later one, and says whose PIN key it is for', async () => {
    for (const [from, to] of [
      [2, 1],
      [1, 1],
      [1, 3],
      [0, 2],
    ] as const)
      expect(await codeOf(ask(await asked(key, { device: { from, to } })))).toBe('EXPIRED')
    expect(await codeOf(ask(await asked(key)))).toBe('MALFORMED')
    expect(await codeOf(ask(await asked(key, { pin: device })))).toBe('MALFORMED')
    expect(await codeOf(ask(await asked(key, { device, pinGen: 1 })))).toBe('MALFORMED')
    const userCore = toBase64Url(systemRandom(32))
    expect(await codeOf(ask(await asked(key, { device, userCore })))).toBe('MALFORMED')
    expect(Object.keys(await ask(await asked(key, { pin: device, userCore, pinGen: 1 })))).toEqual(['pin'])
  })

  test('of a frozen group is not given', async () => {
    const { admin } = world.authorities[0] as Running
    await admin.freeze({ params: { groupId: world.groupId }, body: {} })
    expect(await codeOf(ask(await asked(key, { device })))).toBe('FROZEN')
    await admin.unfreeze({ params: { groupId: world.groupId }, body: {} })
    await ask(await asked(key, { device }))
  })

  test('is for one identity, one PIN, one pair of epochs and one key: nothing else opens or verifies it', async () => {
    const rotation: KeyRotation = { hpkeKey: key.publicKey, device, pin: device }
    const account = { userCore: NO_USER, pinGen: 1 }
    const answer = await ask(await asked(key, { device, pin: device, pinGen: 1 }))
    const opens = async (
      of: 'device' | 'pin',
      {
        as = of,
        by = key,
        ...changed
      }: Partial<Parameters<typeof check>[1]> & { as?: 'device' | 'pin'; by?: HpkeKeyPair } = {},
    ) =>
      check(
        answer[of]?.sealed as string,
        { rotation, idCore: car.idCore, account, index: 1, ...changed },
        as,
        by,
      )
    const check = async (
      sealed: string,
      it: { rotation: KeyRotation; idCore: Car['idCore']; account: typeof account; index: number },
      purpose: 'device' | 'pin',
      by: HpkeKeyPair,
    ) => {
      const terms = deltaTerms(world.group, it.rotation, it, purpose, it.index)
      const plaintext = terms && (await open(by, terms.ctx, fromBase64Url(sealed, 'sealed')))
      return terms !== null && plaintext !== null && shareVerify(terms, KeyShare.decode(plaintext))
    }
    expect([await opens('device'), await opens('pin')]).toEqual([true, true])
    expect(await opens('device', { idCore: (await makeCar(world)).idCore })).toBe(false)
    expect(await opens('device', { index: 2 })).toBe(false)
    expect(await opens('device', { as: 'pin' })).toBe(false)
    expect(await opens('pin', { as: 'device' })).toBe(false)
    expect(await opens('pin', { account: { ...account, pinGen: 2 } })).toBe(false)
    expect(await opens('pin', { account: { ...account, userCore: systemRandom(32) } })).toBe(false)
    const other = await generateHpkeKey(systemRandom)
    expect(await opens('device', { by: other })).toBe(false)
    // Sealed again by somebody in between: what is inside was proven for another key.
    expect(await opens('device', { rotation: { ...rotation, hpkeKey: other.publicKey } })).toBe(false)
    expect(await opens('device', { rotation: { ...rotation, device: { from: 1, to: 3 } } })).toBe(false)
  })

  test('has a line in the log, and another one for another identity', async () => {
    const lines = async () => {
      const { client } = world.authorities[0] as Running
      return (await client.log({ params: { groupId: world.groupId }, query: {} })).entries
    }
    const before = (await lines()).length
    await ask(await asked(key, { device }))
    await ask(await asked(key, { device }))
    expect(await lines()).toHaveLength(before + 1)
    const other = await makeCar(world)
    const statement = await statementFor(world, other)
    await ask(await asked(key, { device, statement }))
    const entries = (await lines()).slice(before)
    expect(entries).toHaveLength(2)
    expect(new Set(entries.map(({ idCoreHash }) => idCoreHash)).size).toBe(2)
  })
})

const byName = (): Map<string, CeremonyClient> =>
  new Map(world.authorities.map(({ config, client }) => [config.name, client]))

describe('a rotation', () => {
  beforeEach(begin)
  afterEach(() => world.close())
  const propose = async (firstSlot: number): Promise<CeremonyProposal> => {
    const proposal = rotationOf(world.group, { firstSlot })
    await acceptAll(world, toBase64Url(ceremonyHash(proposal)))
    return proposal
  }
  const run = (proposal: CeremonyProposal, clients = byName()) =>
    ceremonyRun({ proposal, clients, revisions: world.group.documents })

  test('interrupted at each step leaves the keys that are there, and goes on after a restart', async () => {
    const former = await keyOf(1)
    const proposal = await propose(MIDDAY_SLOT + 2)
    for (const stopAt of ['commit', 'open', 'deal', 'answer', 'result', 'sign', 'conclude'] as const) {
      const clients = byName()
      const ta2 = clients.get('ta2') as CeremonyClient
      const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
      clients.set('ta2', {
        ...ta2,
        ceremonyRound: input => (input.params.round === stopAt ? down() : ta2.ceremonyRound(input)),
        signCeremony: input => (stopAt === 'sign' ? down() : ta2.signCeremony(input)),
        concludeCeremony: input => (stopAt === 'conclude' ? down() : ta2.concludeCeremony(input)),
      })
      await expect(run(proposal, clients)).rejects.toMatchObject({ code: 'RETRY_LATER' })
      for (const [i, running] of world.authorities.entries())
        world.authorities[i] = await restart(running, { clock: world.clock })
      const { documents } = world.group
      if (stopAt !== 'conclude') expect((await keyOf(1)).equals(former)).toBe(true)
      const revisions = await Promise.all(
        world.authorities.map(async ({ client }) => {
          const { revision } = await client.group({ params: { groupId: world.groupId }, query: {} })
          return revision - documents.length
        }),
      )
      expect(revisions[1]).toBe(0)
    }
    const { group, transcript } = await run(proposal)
    expect(await verifyTranscript(transcript)).toMatchObject({ valid: true })
    world = { ...world, group }
    expect((await keyOf(1)).equals(former)).toBe(true)
    expect(former.add(await deltaOf(1, 2)).equals(former)).toBe(false)
  }, 60_000)

  test('that takes until its first slot is near is never signed; another one is', async () => {
    expect(await codeOf(run(await propose(MIDDAY_SLOT + 1)))).toBe('EXPIRED')
    const proposal = await propose(MIDDAY_SLOT + 2)
    const clients = byName()
    const ta2 = clients.get('ta2') as CeremonyClient
    clients.set('ta2', {
      ...ta2,
      signCeremony: input => {
        pass(1)
        return ta2.signCeremony(input)
      },
    })
    expect(await codeOf(run(proposal, clients))).toBe('EXPIRED')
    const { group } = await run(await propose(MIDDAY_SLOT + 4))
    expect(group.keys('device')).toMatchObject({ epoch: 2, firstSlot: MIDDAY_SLOT + 4 })
  })

  test('comes after the last one has begun', async () => {
    world = await rotated(world)
    expect(await codeOf(run(await propose(MIDDAY_SLOT + 9)))).toBe('CONFLICT')
    pass(2)
    const { group } = await run(await propose(MIDDAY_SLOT + 9))
    expect(group.keys('device').epoch).toBe(3)
  })

  test('of some purposes leaves the others as they are', async () => {
    const before = world.group
    world = await rotated(world, { purposes: ['pin', 'permit'] })
    expect(world.group.epochs('pin').map(({ epoch }) => epoch)).toEqual([2, 1])
    expect(world.group.keys('device').ivk.equals(before.keys('device').ivk)).toBe(true)
    expect(world.group.epochs('device')).toHaveLength(1)
    await keyOf(1)
    expect((await fetchServerKey(world, 'pin', 2)).encode()).toHaveLength(96)
  })
})
