/** A device's own slot key: on its signature and its permit of that slot, and on nobody else's word. */
import { generateHpkeKey, type HpkeKeyPair } from '@milagro-ts/api/keys'
import { open } from '@milagro-ts/api/seal'
import { signedFields } from '@milagro-ts/api/signed-message'
import {
  SLOT_KEY_CONTEXT,
  type SlotKeyPurpose,
  type SlotKeyRequest,
  slotKeyMessage,
} from '@milagro-ts/api/slot-key-request'
import { signLeaves } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { decapsulate, encapsulate } from '@milagro-ts/crypto/ibe'
import { sign } from '@milagro-ts/crypto/ibs'
import { agreePointG2, encodeName, encryptPoint, type IdCore } from '@milagro-ts/crypto/identity'
import { CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1, type G2 } from '@milagro-ts/crypto/points'
import { combineG1, combineG2 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareContext, shareVerify, shareVerifyG2 } from '@milagro-ts/crypto/share-proof'
import {
  AgreeClientKey,
  AgreeSlotKey,
  ClientAgreement,
  PskIdentity,
  serverAgree,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { Permit } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import {
  type Car,
  clientOf,
  codeOf,
  collectKey,
  type Founded,
  foundWorld,
  leavesPayload,
  MIDDAY_SLOT,
  makeCar,
  permitFor,
  type Running,
} from './world.js'

interface Peer extends Car {
  readonly agreeKey: AgreeClientKey
  readonly signKey: G1
}

let world: Founded
let one: Peer
let other: Peer
beforeAll(async () => {
  world = await foundWorld({ n: 2 })
  one = await enrolled()
  other = await enrolled()
})
afterAll(() => world.close())

const first = (): Running => world.authorities[0] as Running

async function enrolled(): Promise<Peer> {
  const car = await makeCar(world)
  const owner = { groupId: world.group.groupId, idCore: car.idCore, epoch: 1 }
  const agreeKey = AgreeClientKey.of(owner, await collectKey(world, car, 'agree'))
  return { ...car, agreeKey, signKey: await collectKey(world, car, 'sign') }
}
const permitOf = (car: Car, slot = MIDDAY_SLOT) => permitFor(world, car, slot)

interface Asked {
  readonly body: SlotKeyRequest
  readonly keyPair: HpkeKeyPair
  readonly jti: Uint8Array
}
async function request(
  device: Peer,
  changes: {
    slot?: number
    permit?: Permit
    context?: string
    signKey?: G1
    idCore?: IdCore
    purpose?: SlotKeyPurpose
  } = {},
): Promise<Asked> {
  const { purpose = 'agree' } = changes
  const { slot = MIDDAY_SLOT, context = SLOT_KEY_CONTEXT, signKey = device.signKey } = changes
  const { idCore = device.idCore } = changes
  const permit = changes.permit ?? (await permitOf(device, slot))
  const keyPair = await generateHpkeKey(systemRandom)
  const jti = systemRandom(16)
  const terms = { groupId: world.group.groupId, idCore, slot, context, signEpoch: 1 }
  const signature = sign(
    terms,
    signKey,
    slotKeyMessage({ purpose, hpkeKey: keyPair.publicKey, jti }),
    systemRandom,
  )
  const signed = signedFields(terms, signature, permit)
  const asked = { signed, hpkeKey: toBase64Url(keyPair.publicKey), jti: toBase64Url(jti) }
  const body = purpose === 'agree' ? asked : { ...asked, purpose }
  return { body, keyPair, jti }
}

const ask = (body: SlotKeyRequest, at = first()) =>
  at.client.slotKeys({ params: { groupId: world.groupId }, body })

/** d_j, if the answer is a good share of this name's. */
async function shareIn(
  { index, shareEpoch, sealed }: Awaited<ReturnType<typeof ask>>,
  { keyPair, jti }: Asked,
  identity: Uint8Array,
): Promise<G2 | null> {
  const ctx = shareContext({
    groupId: world.group.groupId,
    purpose: 'agree',
    index,
    shareEpoch,
    identity,
    jti,
  })
  const plaintext = await open(keyPair, ctx, fromBase64Url(sealed, 'sealed'))
  if (plaintext === null) return null
  const share = KeyShare.decodeG2(plaintext)
  const commitment = mustBe(world.group.keys('agree').commitments[index - 1])
  return shareVerifyG2({ ctx, commitment, A: agreePointG2(identity) }, share) ? share.d : null
}

const nameOf = ({ idCore }: Car, slot: number) => slotName(world.group.groupId, { kind: 1, idCore }, slot)

test('a device gets the key of its own name for this slot and the next, and another device agrees with it', async () => {
  for (const slot of [MIDDAY_SLOT, MIDDAY_SLOT + 1]) {
    const asked = await request(one, { slot })
    const shares = await Promise.all(
      world.authorities.map(async authority => {
        const answer = await ask(asked.body, authority)
        return { index: answer.index, point: mustBe(await shareIn(answer, asked, nameOf(one, slot))) }
      }),
    )
    const party = { kind: 1, idCore: one.idCore } as const
    const claim = { groupId: world.group.groupId, party, slot, epoch: 1 }
    const key = mustBe(AgreeSlotKey.verify(claim, world.group.keys('agree').ivk, combineG2(shares)))
    const { identity, psk } = ClientAgreement.begin(other.agreeKey, { party, slot }, systemRandom).psk('m1')
    expect(serverAgree(key, PskIdentity.decode(identity))).toEqual(psk)
  }
})

test('of `encrypt`: the key that opens what is for the device at this slot, and nothing else', async () => {
  const { group } = world
  const asked = await request(one, { purpose: 'encrypt' })
  const identity = nameOf(one, MIDDAY_SLOT)
  const shares = await Promise.all(
    world.authorities.map(async authority => {
      const { index, shareEpoch, sealed } = await ask(asked.body, authority)
      const terms = { groupId: group.groupId, purpose: 'encrypt', index, shareEpoch, identity } as const
      const ctx = shareContext({ ...terms, jti: asked.jti })
      const share = KeyShare.decode(mustBe(await open(asked.keyPair, ctx, fromBase64Url(sealed, 'sealed'))))
      const commitment = mustBe(group.keys('encrypt').commitments[index - 1])
      expect(shareVerify({ ctx, commitment, A: encryptPoint(identity) }, share)).toBe(true)
      return { index, point: share.d }
    }),
  )
  const key = combineG1(shares)
  const opens = (name: Uint8Array) => {
    const terms = { name, Ppub: group.keys('encrypt').pub as G2 }
    return decapsulate(terms, key, encapsulate(terms, systemRandom).encapsulation) !== null
  }
  const always = encodeName(group.groupId, { kind: 1, idCore: one.idCore })
  const names = [identity, nameOf(one, MIDDAY_SLOT + 1), nameOf(other, MIDDAY_SLOT), always]
  expect(names.map(opens)).toEqual([true, false, false, false])
  const { entries } = await first().client.log({ params: { groupId: world.groupId }, query: {} })
  expect(entries.at(-1)).toMatchObject({ purpose: 'encrypt', kind: 'slot' })
})

test('the purpose is signed: who relays the request can’t say another', async () => {
  const { body } = await request(one)
  expect(await codeOf(ask({ ...body, purpose: 'encrypt' }))).toBe('WRONG_PROOF')
  const { purpose: _, ...rest } = (await request(one, { purpose: 'encrypt' })).body
  expect(await codeOf(ask(rest))).toBe('WRONG_PROOF')
})

test('it is no other device’s key, nor another slot’s', async () => {
  const asked = await request(one)
  const answer = await ask(asked.body)
  expect(await shareIn(answer, asked, nameOf(one, MIDDAY_SLOT))).not.toBeNull()
  expect(await shareIn(answer, asked, nameOf(other, MIDDAY_SLOT))).toBeNull()
  expect(await shareIn(answer, asked, nameOf(one, MIDDAY_SLOT + 1))).toBeNull()
})

test('none for a slot beyond lead, nor for one that is over', async () => {
  const permit = await permitOf(one)
  for (const slot of [MIDDAY_SLOT + 2, MIDDAY_SLOT - 1, 0, 0xffff_ffff])
    expect(await codeOf(ask((await request(one, { slot, permit })).body))).toBe('EXPIRED')
})

test('a banned device has no permit for the next slot, and no other’s serves it', async () => {
  const slot = MIDDAY_SLOT + 1
  const forged = Permit.of(slot, { type: 'id', idCore: one.idCore }, G1.generator)
  const borrowed = Permit.of(slot, { type: 'id', idCore: one.idCore }, (await permitOf(other, slot)).point)
  for (const permit of [await permitOf(one), await permitOf(other, slot), forged, borrowed])
    expect(await codeOf(ask((await request(one, { slot, permit })).body))).toBe('WRONG_PERMIT')
})

test('an authority that has heard of the ban issues none against the permit of before it', async () => {
  const banned = await enrolled()
  const { body } = await request(banned)
  const leaves = [banned.idCore.leaf]
  const signed = await signLeaves(leavesPayload(world, leaves, 7), { key: world.ra, kid: 'ra1' })
  const params = { groupId: world.groupId }
  await clientOf(world, first(), world.rps).leaves({ params, body: { leaves: signed } })
  expect(await codeOf(ask(body))).toBe('BANNED')
})

test('who relays the request can’t have the key sealed to another one, nor say another slot', async () => {
  const { body } = await request(one)
  const thief = toBase64Url((await generateHpkeKey(systemRandom)).publicKey)
  const permit = toBase64Url((await permitOf(one, MIDDAY_SLOT + 1)).encode())
  const changed = [
    { ...body, hpkeKey: thief },
    { ...body, jti: toBase64Url(systemRandom(16)) },
    { ...body, signed: { ...body.signed, slot: MIDDAY_SLOT + 1, permit } },
  ]
  for (const request of changed) expect(await codeOf(ask(request))).toBe('WRONG_PROOF')
})

test('another device’s key signs for nobody else, and what is signed for something else is no request', async () => {
  const permit = await permitOf(one)
  const attempts = [
    await request(other, { idCore: one.idCore, permit }),
    await request(one, { permit, context: 'track of the day' }),
    // The key of `agree` is none of `sign`: who stole it alone gets no slot key.
    await request(one, { permit, signKey: one.agreeKey.point }),
  ]
  for (const { body } of attempts) expect(await codeOf(ask(body))).toBe('WRONG_PROOF')
  const { body } = await request(one, { permit, context: 'track of the day' })
  const renamed = { ...body, signed: { ...body.signed, context: SLOT_KEY_CONTEXT } }
  expect(await codeOf(ask(renamed))).toBe('WRONG_PROOF')
})

test('signed in another group', async () => {
  const { body } = await request(one)
  const signed = { ...body.signed, groupId: toBase64Url(systemRandom(32)) }
  expect(await codeOf(ask({ ...body, signed }))).toBe('NOT_APPROVED')
})

test('points that are none', async () => {
  const { body } = await request(one)
  const signature = toBase64Url(new Uint8Array(96).fill(0xc0))
  expect(await codeOf(ask({ ...body, signed: { ...body.signed, signature } }))).toBe('MALFORMED')
})

test('whose turn it takes in the pool is its source’s', async () => {
  const signature = vi.spyOn(CryptoPool.prototype, 'signature')
  await ask((await request(one)).body)
  expect(signature.mock.lastCall?.[1]).toEqual({ source: '127.0.0.1', identity: one.idCore.mpinId })
  signature.mockRestore()
})

test('the same request again has the same share, and one line in the log; another has another', async () => {
  const slot = MIDDAY_SLOT + 1
  const device = await enrolled()
  const log = async () => {
    const { entries } = await first().client.log({ params: { groupId: world.groupId }, query: {} })
    return entries.filter(({ kind }) => kind === 'slot')
  }
  const before = (await log()).length
  const asked = await request(device, { slot })
  const points = [await ask(asked.body), await ask(asked.body)].map(answer =>
    shareIn(answer, asked, nameOf(device, slot)),
  )
  const [point, again] = await Promise.all(points)
  expect(mustBe(point).equals(mustBe(again))).toBe(true)
  expect((await log()).length).toBe(before + 1)
  await ask((await request(device, { slot })).body)
  expect((await log()).map(({ purpose }) => purpose).slice(before)).toEqual(['agree', 'agree'])
})

test('so many for a device and slot, and others have theirs all the same', async () => {
  const device = await enrolled()
  const permit = await permitOf(device)
  const { body } = await request(device, { permit })
  await ask(body)
  for (let i = 1; i < 8; i++) await ask((await request(device, { permit })).body)
  expect(await codeOf(ask((await request(device, { permit })).body))).toBe('RETRY_LATER')
  // What it has asked before it may ask again.
  await ask(body)
  await ask((await request(device, { slot: MIDDAY_SLOT + 1 })).body)
  await ask((await request(await enrolled())).body)
})

test('who repeats a device’s request uses up the repetitions of that request, and nothing of the device’s', async () => {
  const device = await enrolled()
  const permit = await permitOf(device)
  const { body } = await request(device, { permit })
  // Copies that come before the first one is in the log are repetitions too.
  await Promise.all(Array.from({ length: 8 }, () => ask(body)))
  await ask(body)
  expect(await codeOf(ask(body))).toBe('RETRY_LATER')
  for (let i = 1; i < 8; i++) await ask((await request(device, { permit })).body)
  expect(await codeOf(ask((await request(device, { permit })).body))).toBe('RETRY_LATER')
})

test('what came to nothing is not counted', async () => {
  const device = await enrolled()
  const permit = await permitOf(device)
  const { body } = await request(device, { permit })
  const run = vi.spyOn(CryptoPool.prototype, 'run').mockRejectedValue(new PoolUnavailable('too many wait', 1))
  for (let i = 0; i < 9; i++) expect(await codeOf(ask(body))).toBe('RETRY_LATER')
  run.mockRestore()
  await ask(body)
  for (let i = 1; i < 8; i++) await ask((await request(device, { permit })).body)
})

test('frozen: none, and no line in the log', async () => {
  const params = { groupId: world.groupId }
  const { body } = await request(other)
  const entries = async () => (await first().client.log({ params, query: {} })).entries.length
  const before = await entries()
  await first().admin.freeze({ params, body: {} })
  expect(await codeOf(ask(body))).toBe('FROZEN')
  await first().admin.unfreeze({ params, body: {} })
  expect(await entries()).toBe(before)
  await ask(body)
})

function mustBe<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) throw new Error('expected a value')
  return value
}
