/** PINs: what counts as one, what it costs, and how one becomes another. */
import { readFileSync } from 'node:fs'
import { Device } from '@milagro-ts/client/device'
import { checkNewPin, DEFAULT_COST, LEAST_ITERATIONS, stretchPin } from '@milagro-ts/client/pin-stretch'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { fromHex, readInteger, toBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { IdCore, NO_USER, pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { parseAuthorization } from '@milagro-ts/crypto/mpin'
import { joinPin, splitPin } from '@milagro-ts/crypto/pin'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { CAR, CHEAP, TRACKING, VIN, World } from './world.js'

const account = { idCore: IdCore.zero, userCore: NO_USER, pinGen: 1 }
const alphaOf = async (pin: string) => toHex((await stretchPin(pin, account, 10)).encode())

describe('the text of a PIN', () => {
  test('is taken in NFKC: full-width digits, ligatures and composed letters are the same PIN', async () => {
    expect(await alphaOf('１２３４')).toBe(await alphaOf('1234'))
    expect(await alphaOf('ﬁn')).toBe(await alphaOf('fin'))
    expect(await alphaOf('é')).toBe(await alphaOf('é'))
  })

  test.each([
    ['11234', '1234'],
    ['01234', '1234'],
    ['1234 ', '1234'],
    ['0000', '0'],
    ['Pin', 'pin'],
    ['', '0000'],
  ])('%j is another PIN than %j', async (one, other) => {
    expect(await alphaOf(one)).not.toBe(await alphaOf(other))
  })

  test('has any length and any script', async () => {
    const pins = ['1', 'x'.repeat(100_000), '🚗🔑', 'пароль', '密码', '\u0000']
    expect(new Set(await Promise.all(pins.map(alphaOf))).size).toBe(pins.length)
    for (const pin of pins) checkNewPin(pin, CHEAP)
  })

  test('half a character is none', async () => {
    await expect(alphaOf('\ud83d')).rejects.toThrow('pin')
    expect(() => checkNewPin('\ud83d', CHEAP)).toThrow('pin')
  })

  test('nobody can choose an empty one', () => {
    expect(() => checkNewPin('', CHEAP)).toThrow(RangeError)
  })
})

describe('stretching', () => {
  test.each(['v1.json', 'enrolment-and-login.json'])('gives the value of vectors/%s', async file => {
    const { pin } = JSON.parse(readFileSync(new URL(`../../../vectors/${file}`, import.meta.url), 'utf8'))
    const salt = fromHex(pin.salt)
    const vector = {
      idCore: IdCore.decode(salt.slice(0, 39)),
      userCore: salt.slice(39, 71),
      pinGen: readInteger(salt.slice(71), 4, 'pinGen'),
    }
    const alpha = await stretchPin(pin.pin, vector, pin.iterations)
    expect(toHex(alpha.encode())).toBe(pin.alpha)
  })

  test('has a floor, below which a device must be said to be slow', () => {
    expect(DEFAULT_COST.iterations).toBe(LEAST_ITERATIONS)
    expect(LEAST_ITERATIONS).toBeGreaterThanOrEqual(600_000)
    checkNewPin('1234', { iterations: 600_000 })
    checkNewPin('1234', { iterations: 599_999, slowDevice: true })
    expect(() => checkNewPin('1234', { iterations: 599_999 })).toThrow(RangeError)
    for (const iterations of [0, -1, 1.5, Number.NaN, 2 ** 32])
      expect(() => checkNewPin('1234', { iterations, slowDevice: true })).toThrow(RangeError)
  })

  test('PIN 0000 hides the key like any other: α is never zero', async () => {
    const A_pin = pinIdentityPoint(new Uint8Array(32), IdCore.zero, NO_USER, 1)
    const D_pin = A_pin.mulSecret(Scalar.random(fixedRandom('s')))
    const alpha = await stretchPin('0000', account, 10)
    const token = splitPin(D_pin, alpha, A_pin)
    expect(token.equals(D_pin)).toBe(false)
    expect(joinPin(token, alpha, A_pin).equals(D_pin)).toBe(true)
  })
})

describe('a changed PIN', () => {
  let world: World
  let store: TokenStore
  let car: Device
  beforeAll(async () => {
    world = await World.start({ n: 1, t: 1 })
    const first = memoryTokenStore()
    const options = { ...world.ports, code: world.code(), attributes: CAR, instance: VIN }
    await Device.enrol({ ...options, store: first })
    enrolledText = (await first.read()) as string
  })
  let enrolledText: string
  let drivers = 0
  const enrolled = async () => {
    store = memoryTokenStore()
    await store.replace(null, enrolledText)
    car = await Device.open({ ...world.ports, store })
    const attributes = { driverName: `Jo ${drivers++}` }
    user = await car.enrolUser({ code: world.code(attributes), attributes, pin: '1111' })
  }
  let user = ''
  const login = (pin: string) => car.login({ audience: TRACKING, user, pin })
  const change = (oldPin: string, newPin: string) => car.changePin({ user, oldPin, newPin })
  const tokens = async () => {
    const [known] = JSON.parse((await store.read()) as string).identities[0].users
    return [known.token.pinGen, known.next?.pinGen]
  }
  afterEach(() => {
    world.tamper = {}
    world.lost.length = 0
    world.unlock()
  })
  afterAll(() => world.close())

  test('works at once; the old one until then, and never after', async () => {
    await enrolled()
    await login('1111')
    await change('1111', '2222')
    expect(await tokens()).toEqual([1, 2])
    await login('1111')
    await login('2222')
    expect(await tokens()).toEqual([2, undefined])
    await expect(login('1111')).rejects.toMatchObject({ code: 'WRONG_PIN' })
    expect(await car.users()).toMatchObject([{ pinGen: 2 }])
  })

  test('wants the old one', async () => {
    await enrolled()
    await expect(change('0000', '2222')).rejects.toMatchObject({ code: 'WRONG_PIN' })
    expect(await tokens()).toEqual([1, undefined])
    await change('1111', '2222')
    await login('2222')
  })

  test('a wrong PIN counts on both generations while there are two, and says WRONG_PIN', async () => {
    await enrolled()
    await change('1111', '2222')
    await expect(login('0000')).rejects.toMatchObject({ code: 'WRONG_PIN' })
    await login('2222')
  })

  test('the old one works even after three uses have locked the new one', async () => {
    await enrolled()
    await change('1111', '2222')
    for (let use = 0; use < 3; use++) await login('1111')
    await expect(login('2222')).rejects.toMatchObject({ code: 'LOCKED' })
    await login('1111')
    world.unlock()
    await login('2222')
  })

  test('twice: by the one that was chosen last, used or not', async () => {
    await enrolled()
    await change('1111', '2222')
    await change('2222', '3333')
    expect(await tokens()).toEqual([2, 3])
    await login('3333')
    expect(await tokens()).toEqual([3, undefined])
    await change('3333', '4444')
    await login('4444')
  })

  test('an unused one is not changed by the PIN before it', async () => {
    await enrolled()
    await change('1111', '2222')
    await expect(change('1111', '3333')).rejects.toMatchObject({ code: 'WRONG_PIN' })
  })

  test('a lost answer is asked for again with the same bytes: no second attempt, the same key', async () => {
    await enrolled()
    world.seen.length = 0
    world.lost.push('/v1/pin-changes')
    await change('1111', '2222')
    expect(world.seen.filter(name => name === 'changePin')).toHaveLength(2)
    expect(world.seen.filter(name => name === 'nonce')).toHaveLength(1)
    await login('2222')
  })

  test('three lost answers: the caller is told', async () => {
    await enrolled()
    world.lost.push('/v1/pin-changes', '/v1/pin-changes', '/v1/pin-changes')
    await expect(change('1111', '2222')).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
    await change('1111', '2222')
    await login('2222')
  })

  test.each([
    [
      'another user',
      (answer: { user: object }) => ({
        ...answer,
        user: { ...answer.user, userCore: toBase64Url(new Uint8Array(32)) },
      }),
    ],
    [
      'the generation that is there',
      (answer: { user: object }) => ({ ...answer, user: { ...answer.user, pinGen: 1 } }),
    ],
    ['another device', (answer: object) => ({ ...answer, idCore: IdCore.zero.mpinId })],
  ])('an approval for %s is refused, and the old PIN stays', async (_whose, changed) => {
    await enrolled()
    world.tamper = { changePin: changed as never }
    await expect(change('1111', '2222')).rejects.toMatchObject({ code: 'WRONG_IDENTITY' })
    await login('1111')
  })

  test('refused by the RA: the enrolment key is destroyed', async () => {
    await enrolled()
    world.tamper = { changePin: () => ({ state: 'refused' }) }
    await expect(change('1111', '2222')).rejects.toMatchObject({ code: 'ENROLMENT_REFUSED' })
    expect(await store.read()).not.toContain('"secret"')
  })

  test('one pass goes by the new one', async () => {
    await enrolled()
    await change('1111', '2222')
    const header = await car.onePass({ audience: TRACKING, user, pin: '2222' })
    expect(parseAuthorization(header).pin?.pinGen).toBe(2)
  })

  test('an empty new PIN, or a cheap one, is refused before anybody is asked', async () => {
    await enrolled()
    world.seen.length = 0
    await expect(change('1111', '')).rejects.toThrow(RangeError)
    const { pinCost: _, ...ports } = world.ports
    const strict = await Device.open({ ...ports, store, pinCost: { iterations: 1000 } })
    await expect(strict.changePin({ user, oldPin: '1111', newPin: '2222' })).rejects.toThrow(RangeError)
    expect(world.seen).not.toContain('changePin')
  })

  test('an empty PIN at a login is a wrong one, not none', async () => {
    await enrolled()
    await expect(login('')).rejects.toMatchObject({ code: 'WRONG_PIN' })
  })
})
