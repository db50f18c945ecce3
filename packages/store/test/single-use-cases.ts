import type { SingleUse } from '@milagro-ts/store/single-use'
import { expect, test } from 'vitest'

const START = 1_800_000_000_000
const TERMS = { now: START, consecutiveLimit: 3, cumulativeLimit: 30, reservationMs: 30_000 }

/** What every adapter of the port must do. `make` gives an empty one each time. */
export function singleUseCases(make: () => Promise<SingleUse>): void {
  test('a nonce is put, taken once, and is gone', async () => {
    const port = await make()
    expect(
      await port.put('nonce', 'n1', { value: Uint8Array.of(1, 0, 255), expiresAt: START + 30_000 }),
    ).toBe(true)
    expect(await port.take('nonce', 'n1', START)).toEqual({
      value: Uint8Array.of(1, 0, 255),
      expiresAt: START + 30_000,
      expired: false,
    })
    expect(await port.take('nonce', 'n1', START)).toBeNull()
  })

  test('an entry without a value is empty bytes', async () => {
    const port = await make()
    await port.put('replay', 'r', { expiresAt: START })
    expect((await port.take('replay', 'r', START))?.value).toEqual(new Uint8Array())
  })

  test('an unknown key is null', async () => {
    expect(await (await make()).take('nonce', 'never', START)).toBeNull()
  })

  test('the last valid millisecond is expiresAt; what is taken later is gone all the same', async () => {
    const port = await make()
    await port.put('nonce', 'in-time', { expiresAt: START })
    await port.put('nonce', 'late', { expiresAt: START })
    expect(await port.take('nonce', 'in-time', START)).toMatchObject({ expired: false })
    expect(await port.take('nonce', 'late', START + 1)).toMatchObject({ expired: true, expiresAt: START })
    expect(await port.take('nonce', 'late', START + 1)).toBeNull()
  })

  test('a replayed put is refused and leaves the first value', async () => {
    const port = await make()
    await port.put('replay', 'r', { value: Uint8Array.of(1), expiresAt: START })
    expect(await port.put('replay', 'r', { value: Uint8Array.of(2), expiresAt: START + 9 })).toBe(false)
    expect(await port.take('replay', 'r', START)).toMatchObject({ value: Uint8Array.of(1), expiresAt: START })
  })

  test('a replayed put is refused after expiry too, until the purge', async () => {
    const port = await make()
    await port.put('replay', 'r', { expiresAt: START })
    expect(await port.put('replay', 'r', { expiresAt: START + 99 })).toBe(false)
    expect(await port.purge(START)).toBe(0)
    expect(await port.purge(START + 1)).toBe(1)
    expect(await port.put('replay', 'r', { expiresAt: START + 99 })).toBe(true)
  })

  test('kinds do not see each other', async () => {
    const port = await make()
    await port.put('nonce', 'k', { expiresAt: START })
    expect(await port.put('replay', 'k', { expiresAt: START })).toBe(true)
    expect(await port.take('waiting', 'k', START)).toBeNull()
    await port.take('nonce', 'k', START)
    expect(await port.take('replay', 'k', START)).not.toBeNull()
  })

  test('of 20 takes of one key at once one gets it', async () => {
    const port = await make()
    await port.put('nonce', 'n', { expiresAt: START })
    const taken = await Promise.all(Array.from({ length: 20 }, () => port.take('nonce', 'n', START)))
    expect(taken.filter(entry => entry !== null)).toHaveLength(1)
  })

  test('of 20 puts of one key at once one is the first', async () => {
    const port = await make()
    const put = await Promise.all(
      Array.from({ length: 20 }, () => port.put('replay', 'r', { expiresAt: START })),
    )
    expect(put.filter(first => first)).toHaveLength(1)
  })

  test('three wrong PINs lock, and the refusal changes nothing', async () => {
    const port = await make()
    for (let attempt = 1; attempt <= 3; attempt++) await guess(port, 'a', START, false)
    expect(await port.reserve('a', TERMS)).toEqual({ locked: 'consecutive' })
    expect(await port.strikes('a')).toEqual({ consecutive: 3, cumulative: 3 })
  })

  test('an unknown account has no strikes, and asking makes none', async () => {
    const port = await make()
    expect(await port.strikes('nobody')).toEqual({ consecutive: 0, cumulative: 0 })
    await port.unlock('nobody')
    expect(await port.strikes('nobody')).toEqual({ consecutive: 0, cumulative: 0 })
  })

  test('a right PIN clears consecutive and gives back its own cumulative unit only', async () => {
    const port = await make()
    await guess(port, 'a', START, false)
    await guess(port, 'a', START, false)
    await guess(port, 'a', START, true)
    expect(await port.strikes('a')).toEqual({ consecutive: 0, cumulative: 2 })
  })

  test('a right PIN leaves the attempts in flight counted', async () => {
    const port = await make()
    await guess(port, 'a', START, false)
    const right = await reserved(port, 'a', START)
    await reserved(port, 'a', START)
    await port.settle(right, { now: START, correct: true })
    expect(await port.strikes('a')).toEqual({ consecutive: 1, cumulative: 2 })
  })

  test('an attempt in flight belongs to its own account', async () => {
    const port = await make()
    await reserved(port, 'b', START)
    await guess(port, 'a', START, true)
    expect(await port.strikes('a')).toEqual({ consecutive: 0, cumulative: 0 })
    expect(await port.strikes('b')).toEqual({ consecutive: 1, cumulative: 1 })
  })

  test('an attempt without an answer stays a strike and is no longer in flight after reservationMs', async () => {
    const port = await make()
    await reserved(port, 'a', START)
    const within = await reserved(port, 'a', START + 30_000)
    await port.settle(within, { now: START + 30_000, correct: true })
    expect(await port.strikes('a')).toEqual({ consecutive: 1, cumulative: 1 })
    const after = await reserved(port, 'a', START + 30_001)
    await port.settle(after, { now: START + 30_001, correct: true })
    expect(await port.strikes('a')).toEqual({ consecutive: 0, cumulative: 1 })
  })

  test('a right answer after reservationMs gives nothing back', async () => {
    const port = await make()
    const late = await reserved(port, 'a', START)
    await port.settle(late, { now: START + 30_001, correct: true })
    expect(await port.strikes('a')).toEqual({ consecutive: 1, cumulative: 1 })
  })

  test('a second answer to one attempt gives nothing back', async () => {
    const port = await make()
    await guess(port, 'a', START, false)
    await guess(port, 'a', START, false)
    const right = await reserved(port, 'a', START)
    await port.settle(right, { now: START, correct: true })
    await guess(port, 'a', START, false)
    await port.settle(right, { now: START, correct: true })
    expect(await port.strikes('a')).toEqual({ consecutive: 1, cumulative: 3 })
  })

  test('a wrong answer cannot be turned into a right one', async () => {
    const port = await make()
    const attempt = await reserved(port, 'a', START)
    await port.settle(attempt, { now: START, correct: false })
    await port.settle(attempt, { now: START, correct: true })
    expect(await port.strikes('a')).toEqual({ consecutive: 1, cumulative: 1 })
  })

  test('an invented reservation settles nothing', async () => {
    const port = await make()
    await guess(port, 'a', START, false)
    for (const invented of ['', '0', '99', 'a', '1 OR 1=1']) {
      await port.settle(invented, { now: START, correct: true })
    }
    expect(await port.strikes('a')).toEqual({ consecutive: 1, cumulative: 1 })
  })

  test('the number of a purged reservation is not given to another attempt', async () => {
    const port = await make()
    const first = await reserved(port, 'a', START)
    expect(await port.purge(START + 30_001)).toBe(1)
    expect(await reserved(port, 'b', START + 30_001)).not.toBe(first)
    await port.settle(first, { now: START + 30_001, correct: true })
    expect(await port.strikes('b')).toEqual({ consecutive: 1, cumulative: 1 })
  })

  test('an unlock clears consecutive and never cumulative: the 31st wrong PIN is locked for good', async () => {
    const port = await make()
    for (let wrong = 0; wrong < 30; wrong++) {
      if (wrong % 3 === 0) await port.unlock('a')
      await guess(port, 'a', START, false)
    }
    await port.unlock('a')
    expect(await port.strikes('a')).toEqual({ consecutive: 0, cumulative: 30 })
    expect(await port.reserve('a', TERMS)).toEqual({ locked: 'cumulative' })
  })

  test('a hundred right PINs lock nobody', async () => {
    const port = await make()
    for (let login = 0; login < 100; login++) await guess(port, 'a', START + login, true)
    expect(await port.strikes('a')).toEqual({ consecutive: 0, cumulative: 0 })
  })

  test('of 50 guesses at once three are reserved', async () => {
    const port = await make()
    const outcomes = await Promise.all(Array.from({ length: 50 }, () => port.reserve('a', TERMS)))
    expect(outcomes.filter(outcome => 'reservation' in outcome)).toHaveLength(3)
    expect(await port.strikes('a')).toEqual({ consecutive: 3, cumulative: 3 })
  })
}

async function reserved(port: SingleUse, account: string, now: number): Promise<string> {
  const outcome = await port.reserve(account, { ...TERMS, now })
  if ('locked' in outcome) throw new Error(`${account} is locked: ${outcome.locked}`)
  return outcome.reservation
}

async function guess(port: SingleUse, account: string, now: number, correct: boolean): Promise<void> {
  await port.settle(await reserved(port, account, now), { now, correct })
}
