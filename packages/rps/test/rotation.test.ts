/** Two key epochs and more at the RPS: what is served by which, who gets delta shares for what, and when S goes. */

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { deltaTerms, type KeyRotation, keyRotationPayload } from '@milagro-ts/api/key-rotation'
import { generateHpkeKey, type HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Body } from '@milagro-ts/api/route'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { open } from '@milagro-ts/api/seal'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, fromUtf8, toBase64Url } from '@milagro-ts/crypto/bytes'
import { MODE } from '@milagro-ts/crypto/mpin'
import type { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { readSealedFile } from '@milagro-ts/store/sealed-file'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type Driver,
  type MessageOptions,
  NOON,
  OWN,
  PASSPHRASE,
  type RunningRps,
  SLOT,
  until,
  World,
} from './world.js'

let world: World
let rps: RunningRps
let car: Car
let driver: Driver
let mine: HpkeKeyPair
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
  await publish(await world.rotate())
  world.clock.now = NOON + SLOT.length * 1000
})
afterAll(() => world.close())
beforeEach(async () => {
  car = world.makeCar()
  driver = world.makeDriver(car)
  mine = await generateHpkeKey(systemRandom)
})

/** The RPS takes it in, and has the keys of its epochs. */
async function publish(document: Awaited<ReturnType<World['rotate']>>): Promise<void> {
  const kept = world.group.epochs('device').length
  await publishOnce(document)
  await until(async () => (await heldEpochs()).length === 2 * kept)
}

/** It may have it from an authority by now. */
async function publishOnce(document: Awaited<ReturnType<World['rotate']>>): Promise<void> {
  const published = rps.client.publishRevision({ body: { document } })
  await published.catch((error: unknown) => {
    if (!(error instanceof Refused && error.code === 'CONFLICT')) throw error
  })
  expect((await rps.client.group({ query: {} })).revision).toBe(document.revision)
}

const sealedKeys = () => join(world.dataDir, 'server-keys.sealed')
async function heldEpochs(): Promise<string[]> {
  const bytes = await readSealedFile(sealedKeys(), PASSPHRASE)
  const { keys } = JSON.parse(fromUtf8(bytes, 'keys')) as { keys: { purpose: string; epoch: number }[] }
  return keys.map(({ purpose, epoch }) => `${purpose}/${epoch}`).sort()
}

const step = { from: 1, to: 2 }
type RotationBody = Body<typeof rpsRoutes.rotateKey>

/** A request to go over; the proof is over `signed`, if that is something else than what is sent. */
async function request(
  steps: Pick<KeyRotation, 'device' | 'pin'>,
  options: MessageOptions & { signed?: KeyRotation; sent?: Partial<RotationBody> } = {},
): Promise<RotationBody> {
  const { signed, sent, ...terms } = options
  const rotation: KeyRotation = { ...steps, hpkeKey: mine.publicKey }
  const message = await world.message(rps, car, {
    mode: MODE.sign,
    audience: OWN,
    payload: keyRotationPayload(signed ?? rotation),
    ...terms,
  })
  const hpkeKey = toBase64Url(mine.publicKey)
  const { device, pin } = steps
  return { message: asFields(message), hpkeKey, ...(device && { device }), ...(pin && { pin }), ...sent }
}

/** Δ·A, as the device makes it. */
async function deltaOf(
  answer: Awaited<ReturnType<typeof rps.client.rotateKey>>,
  purpose: 'device' | 'pin',
  rotation: KeyRotation,
): Promise<G1> {
  const account = { userCore: driver.userCore, pinGen: 1 }
  const points: { index: number; point: G1 }[] = []
  for (const { index, sealed } of answer[purpose] ?? []) {
    const terms = deltaTerms(world.group, rotation, { idCore: car.idCore, account }, purpose, index)
    if (terms === null) throw new Error('no such step')
    const plaintext = await open(mine, terms.ctx, fromBase64Url(sealed, 'sealed'))
    if (plaintext === null) throw new Error('not sealed to the device')
    const share = KeyShare.decode(plaintext)
    expect(shareVerify(terms, share)).toBe(true)
    points.push({ index, point: share.d })
  }
  return combineG1(points.slice(0, world.group.t))
}

const deltasAsked = () => world.authorities.reduce((sum, { asked }) => sum + asked.deltas, 0)
/** The code that it is refused with; no authority has been asked for anything. */
async function refusedAlone(body: RotationBody): Promise<string> {
  const before = deltasAsked()
  const code = await codeOf(rps.client.rotateKey({ body }))
  expect(deltasAsked()).toBe(before)
  return code
}

describe('a key of the former epoch', () => {
  test('logs in nowhere, and the present one does', async () => {
    for (const options of [{ deviceEpoch: 1 }, { deviceEpoch: 2, pinEpoch: 1, driver }])
      expect(await codeOf(world.login(rps, car, options))).toBe('EXPIRED')
    const former = (terms: MessageOptions) => world.message(rps, car, { deviceEpoch: 1, ...terms })
    const permit = asFields(await former({ audience: OWN }))
    expect(await codeOf(rps.client.permit({ body: { login: permit } }))).toBe('EXPIRED')
    const message = asFields(await former({ mode: MODE.sign, payload: Uint8Array.of(1) }))
    expect(await codeOf(rps.client.sign({ body: { message, payload: 'AQ' } }))).toBe('EXPIRED')
    expect((await world.login(rps, car, { deviceEpoch: 2 })).authenticated.amr).toEqual(['device'])
    const { authenticated } = await world.login(rps, car, { deviceEpoch: 2, pinEpoch: 2, driver })
    expect(authenticated.amr).toEqual(['device', 'pin'])
  })

  test('gets what makes the present one of it; with the PIN, the PIN’s too', async () => {
    const rotation = { hpkeKey: mine.publicKey, device: step, pin: step }
    const answer = await rps.client.rotateKey({
      body: await request({ device: step, pin: step }, { driver }),
    })
    const device = world.deviceKeyOf(car.idCore, 1).add(await deltaOf(answer, 'device', rotation))
    expect(device.equals(world.deviceKeyOf(car.idCore, 2))).toBe(true)
    const [before, after] = [1, 2].map(epoch => world.pinKeyOf(car, driver, epoch)) as [G1, G1]
    expect(before.add(await deltaOf(answer, 'pin', rotation)).equals(after)).toBe(true)
  })

  test('of the device can be the present one, with the PIN’s still to follow', async () => {
    const body = await request({ pin: step }, { driver, deviceEpoch: 2 })
    expect((await rps.client.rotateKey({ body })).pin).toHaveLength(3)
  })

  test('is served with one authority down, and is not with two', async () => {
    const [one, two] = world.authorities as [(typeof world.authorities)[0], (typeof world.authorities)[0]]
    world.unreachable.add(one.url)
    const answer = await rps.client.rotateKey({ body: await request({ device: step }) })
    expect(answer.device?.map(({ index }) => index).sort()).toEqual([2, 3])
    world.unreachable.add(two.url)
    expect(await codeOf(rps.client.rotateKey({ body: await request({ device: step }) }))).toBe('RETRY_LATER')
    world.unreachable.clear()
    for (const authority of [one, two]) authority.behaviour = 'frozen'
    expect(await codeOf(rps.client.rotateKey({ body: await request({ device: step }) }))).toBe('FROZEN')
    for (const authority of [one, two]) authority.behaviour = 'honest'
  })
})

describe('no delta share', () => {
  test('without a device proof', async () => {
    const deviceKey = world.deviceKeyOf(world.makeCar().idCore, 1)
    expect(await refusedAlone(await request({ device: step }, { deviceKey }))).toBe('WRONG_PROOF')
  })

  test('with a proof by the key that is still to come: it is one of another epoch', async () => {
    const deviceKey = world.deviceKeyOf(car.idCore, 2)
    expect(await refusedAlone(await request({ device: step }, { deviceKey }))).toBe('WRONG_PROOF')
  })

  test('for `pin` without the PIN, or with a wrong one, which is a strike', async () => {
    expect(await refusedAlone(await request({ pin: step }))).toBe('MALFORMED')
    expect(await refusedAlone(await request({ device: step, pin: step }))).toBe('MALFORMED')
    const wrong = () => request({ device: step, pin: step }, { driver, wrongPin: true })
    for (let i = 0; i < 3; i++) expect(await refusedAlone(await wrong())).toBe('WRONG_PIN')
    expect(await refusedAlone(await request({ pin: step }, { driver }))).toBe('LOCKED')
  })

  test('to another HPKE key, or for other steps, than were proven', async () => {
    const other = await generateHpkeKey(systemRandom)
    const hpkeKey = toBase64Url(other.publicKey)
    expect(await refusedAlone(await request({ device: step }, { sent: { hpkeKey } }))).toBe('MALFORMED')
    const signed = { hpkeKey: mine.publicKey, device: step }
    expect(await refusedAlone(await request({ device: step, pin: step }, { driver, signed }))).toBe(
      'MALFORMED',
    )
  })

  test('for steps that begin elsewhere than at the proven keys, go nowhere or back', async () => {
    const from2 = { from: 2, to: 2 }
    expect(await refusedAlone(await request({ device: from2 }))).toBe('MALFORMED')
    expect(await refusedAlone(await request({ pin: { from: 2, to: 3 } }, { driver }))).toBe('MALFORMED')
    expect(await refusedAlone(await request({ device: { from: 1, to: 1 } }))).toBe('EXPIRED')
    expect(await refusedAlone(await request({ device: { from: 1, to: 3 } }))).toBe('EXPIRED')
    expect(await refusedAlone(await request({ device: { from: 2, to: 1 } }, { deviceEpoch: 2 }))).toBe(
      'EXPIRED',
    )
    expect(await refusedAlone(await request({}))).toBe('MALFORMED')
  })

  test('twice for one proof, for a login, or to a banned car', async () => {
    const body = await request({ device: step })
    await rps.client.rotateKey({ body })
    expect(await refusedAlone(body)).toBe('REPLAYED')
    const login = asFields(await world.message(rps, car, { audience: OWN }))
    expect(await refusedAlone({ ...body, message: login })).toBe('MALFORMED')
    const { message, hpkeKey } = await request({ device: step })
    const payload = toBase64Url(keyRotationPayload({ hpkeKey: mine.publicKey, device: step }))
    expect(await codeOf(rps.client.sign({ body: { message, payload } }))).toBe('MALFORMED')
    expect(hpkeKey).toBe(toBase64Url(mine.publicKey))
    await world.ban(rps, car)
    expect(await refusedAlone(await request({ device: step }))).toBe('BANNED')
    await world.unban(rps, car)
  })

  test('for an identity that nobody knows', async () => {
    car = world.makeCar({ isRegistered: false })
    expect(await refusedAlone(await request({ device: step }))).toBe('WRONG_PROOF')
  })
})

test('permits are of the key epoch of their slot, before and after it begins', async () => {
  const { permit } = await world.login(rps, car, { deviceEpoch: 2 })
  expect(permit).toBe(toBase64Url(world.permitOf(car.idCore).encode()))
  expect(world.group.epochAt('permit', world.slot)).toBe(2)
})

test('S of a key epoch goes when three later ones are there, and not before', async () => {
  expect(await heldEpochs()).toEqual(['device/1', 'device/2', 'pin/1', 'pin/2'])
  await publish(await world.rotate())
  world.clock.now += SLOT.length * 1000
  expect(await heldEpochs()).toEqual(['device/1', 'device/2', 'device/3', 'pin/1', 'pin/2', 'pin/3'])
  // Silent for two key epochs: one step.
  const far = { from: 1, to: 3 }
  const rotation = { hpkeKey: mine.publicKey, device: far }
  const answer = await rps.client.rotateKey({ body: await request({ device: far }) })
  const device = world.deviceKeyOf(car.idCore, 1).add(await deltaOf(answer, 'device', rotation))
  expect(device.equals(world.deviceKeyOf(car.idCore, 3))).toBe(true)

  const backup = await readFile(sealedKeys())
  const last = await world.rotate()
  await publishOnce(last)
  await until(async () => (await heldEpochs()).includes('device/4'))
  world.clock.now += SLOT.length * 1000
  expect(await heldEpochs()).toEqual(['device/2', 'device/3', 'device/4', 'pin/2', 'pin/3', 'pin/4'])
  expect(await refusedAlone(await request({ device: { from: 1, to: 4 } }))).toBe('EPOCH_ENDED')
  const body = await request({ device: { from: 2, to: 4 } }, { deviceEpoch: 2 })
  expect((await rps.client.rotateKey({ body })).device).toHaveLength(3)
  expect(await codeOf(world.login(rps, car, { deviceEpoch: 1 }))).toBe('EXPIRED')

  // A file with an ended key, as a backup has it, is rid of it at the start.
  await rps.close()
  await writeFile(sealedKeys(), backup)
  rps = await world.startRps()
  expect(await heldEpochs()).toEqual(['device/2', 'device/3', 'device/4', 'pin/2', 'pin/3', 'pin/4'])
  expect((await world.login(rps, car, { deviceEpoch: 4 })).authenticated.amr).toEqual(['device'])
})
