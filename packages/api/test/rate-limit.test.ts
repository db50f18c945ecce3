import { RateLimit, sourceOf } from '@milagro-ts/api/rate-limit'
import { expect, test } from 'vitest'

const clock = { now: 1_000_000 }
const limit = (capacity?: number) => new RateLimit({ perSecond: 2, burst: 3 }, () => clock.now, capacity)
const refused = (take: () => void): number | undefined => {
  try {
    take()
  } catch (error) {
    return (error as { retryAfter: number }).retryAfter
  }
  return undefined
}

test('a burst, then the rate, then the whole burst again', () => {
  const bucket = limit()
  for (let i = 0; i < 3; i++) bucket.take('a')
  expect(refused(() => bucket.take('a'))).toBe(1)
  clock.now += 500
  bucket.take('a')
  expect(refused(() => bucket.take('a'))).toBe(1)
  clock.now += 60_000
  for (let i = 0; i < 3; i++) bucket.take('a')
  expect(refused(() => bucket.take('a'))).toBe(1)
})

test('Retry-After is when the next token is there', () => {
  const slow = new RateLimit({ perSecond: 0.1, burst: 1 }, () => clock.now)
  slow.take('a')
  expect(refused(() => slow.take('a'))).toBe(10)
  clock.now += 4_000
  expect(refused(() => slow.take('a'))).toBe(6)
  clock.now += 6_000
  slow.take('a')
})

test('keys have buckets of their own', () => {
  const bucket = limit()
  for (let i = 0; i < 3; i++) bucket.take('a')
  bucket.take('b')
})

test('a clock that goes back neither gives nor takes', () => {
  const bucket = limit()
  for (let i = 0; i < 2; i++) bucket.take('a')
  clock.now -= 3_600_000
  bucket.take('a')
  expect(refused(() => bucket.take('a'))).toBe(1)
})

test('memory is bounded: the longest quiet key makes room', () => {
  const bucket = limit(100)
  for (let i = 0; i < 3; i++) bucket.take('busy')
  for (let i = 0; i < 10_000; i++) {
    bucket.take(`stranger ${i}`)
    if (i % 50 === 0) refused(() => bucket.take('busy'))
  }
  expect(bucket.size).toBe(100)
  expect(refused(() => bucket.take('busy'))).toBe(1)
})

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:db8:1:2::9', '2001:db8:1:2'],
  ['2001:0db8:0001:0002::9', '2001:db8:1:2'],
  ['::1', '0:0:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
])('the source of %s is %s', (ip, source) => {
  expect(sourceOf(ip)).toBe(source)
})
