/** A small message to a name: what comes back, what is refused, and by whom it can't be opened. */
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import {
  MOST_MESSAGE,
  openMessage,
  openUnder,
  sealMessage,
  sealUnder,
} from '@milagro-ts/client/encrypted-message'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { concat, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { decapsulate, encapsulate } from '@milagro-ts/crypto/ibe'
import { encodeName, encryptPoint } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { expect, test } from 'vitest'
import { CAR, VIN, World } from './world.js'

const s = Scalar.random(systemRandom)
const Ppub = G2.generator.mulSecret(s)
const named = (name: string, slot: number) =>
  encodeName(new Uint8Array(32).fill(7), { kind: 4, name, generation: 0, slot })
const keyOf = (name: Uint8Array) => encryptPoint(name).mulSecret(s)
const terms = { name: named('workshop.example', 5), Ppub }
const seal = (message: Uint8Array) => sealMessage(terms, message, systemRandom)
const open = (sealed: Uint8Array, key = keyOf(terms.name), as = terms) =>
  openMessage(sealed, async encapsulation => decapsulate(as, key, encapsulation))

test.each([0, 1, 1_000, MOST_MESSAGE])('%i bytes come back, 176 longer under way', async length => {
  const message = Uint8Array.from({ length }, (_, i) => i & 255)
  const sealed = await seal(message)
  expect(sealed).toHaveLength(length + 176)
  expect(Buffer.from((await open(sealed)) as Uint8Array).equals(message)).toBe(true)
})

test('a car opens what is sent to it, by the key of its enrolment', async () => {
  const world = await World.start({ n: 3, t: 2 })
  try {
    world.devicePurposes = ['device', 'encrypt']
    const code = world.code()
    const car = await Device.enrol({
      ...world.ports,
      store: memoryTokenStore(),
      code,
      attributes: CAR,
      instance: VIN,
    })
    const keys = world.group.keysAt('encrypt', slotAt(world.group.slotRule, Math.floor(world.now / 1000)))
    const to = { name: car.encryptionName(undefined), Ppub: keys?.pub as G2 }
    const sealed = await sealMessage(to, utf8('come home'), systemRandom)
    const opened = await openMessage(sealed, bytes =>
      car.decapsulate(bytes, { epoch: keys?.epoch as number }),
    )
    expect(opened).toEqual(utf8('come home'))
  } finally {
    await world.close()
  }
})

test('one byte more than a message has is a file', async () => {
  await expect(seal(new Uint8Array(MOST_MESSAGE + 1))).rejects.toThrow(RangeError)
  await expect(open(new Uint8Array(MOST_MESSAGE + 177))).rejects.toThrow(DecodeError)
})

test.each([0, 159, 175])('%i bytes are no message', async length => {
  await expect(open(new Uint8Array(length))).rejects.toThrow(DecodeError)
})

test('any flipped bit behind U, a cut one, another key, another slot: null', async () => {
  const sealed = await seal(utf8('secret'))
  for (let at = 96; at < sealed.length; at += 5) {
    const changed = sealed.slice()
    changed[at] = (changed[at] as number) ^ 1
    expect(await open(changed), `byte ${at}`).toBeNull()
  }
  expect(await open(sealed.subarray(0, -1))).toBeNull()
  const tomorrow = named('workshop.example', 6)
  expect(await open(sealed, keyOf(tomorrow), { name: tomorrow, Ppub })).toBeNull()
  expect(await open(sealed, keyOf(named('thief.example', 5)))).toBeNull()
})

test('a file’s stanza is no message, and a message no stanza', async () => {
  const { encapsulation, key } = encapsulate(terms, systemRandom)
  const fileKey = new Uint8Array(16).fill(9)
  expect(await open(concat(encapsulation, await sealUnder(key, encapsulation, fileKey)))).toBeNull()
  const sealed = await seal(fileKey)
  const M = decapsulate(terms, keyOf(terms.name), sealed.subarray(0, 160)) as Uint8Array
  expect(await openUnder(M, sealed.subarray(0, 160), sealed.subarray(160))).toBeNull()
})

test('the same message twice is two', async () => {
  expect(await seal(utf8('x'))).not.toEqual(await seal(utf8('x')))
})
