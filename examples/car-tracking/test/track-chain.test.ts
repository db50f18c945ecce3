import {
  appendBatch,
  checkBatch,
  decodePositions,
  encodePosition,
  encodePositions,
  headPayload,
  type Position,
  trackStart,
} from '@milagro-ts/car-tracking/track-chain'
import { toHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import fc from 'fast-check'
import { expect, test } from 'vitest'

const groupId = new Uint8Array(32).fill(7)
const idCore = new Uint8Array(39).fill(1)
const another = new Uint8Array(39).fill(2)
const position = (at: number, latE7 = 481374000): Position => ({
  at,
  latE7,
  lonE7: 115755000,
  speed: 1390,
  heading: 45,
})
const start = trackStart(groupId, idCore)
const [first, afterFirst] = appendBatch(idCore, start, [position(1000), position(2000)])
const [second, afterSecond] = appendBatch(idCore, afterFirst, [position(3000)])

test('batches that follow each other are taken, and both sides agree where the track ends', () => {
  expect(checkBatch(idCore, start, first)).toEqual(afterFirst)
  expect(checkBatch(idCore, afterFirst, second)).toEqual(afterSecond)
  expect(afterSecond).toMatchObject({ next: 3, at: 3000 })
})

test.each([
  ['gap', start, second],
  ['repeated', afterFirst, first],
  ['fork', afterFirst, { ...second, previous: start.head }],
  ['reordered', start, { ...first, positions: [...first.positions].reverse() }],
  ['reordered', { ...afterFirst, at: 3000 }, second],
  ['wrong-head', start, { ...first, positions: [position(1000, 481374001), position(2000)] }],
  ['wrong-head', start, { ...first, positions: [position(1000)] }],
  ['wrong-head', start, { ...first, head: second.head }],
] as const)('%s', (fault, end, batch) => {
  expect(checkBatch(idCore, end, batch)).toBe(fault)
})

test('a batch of another vehicle does not fit, nor does the same vehicle of another group', () => {
  expect(checkBatch(another, trackStart(groupId, another), first)).toBe('fork')
  expect(checkBatch(another, start, first)).toBe('wrong-head')
  expect(checkBatch(idCore, trackStart(new Uint8Array(32), idCore), first)).toBe('fork')
})

test('a vehicle makes no empty batch and none that goes back in time', () => {
  expect(() => appendBatch(idCore, start, [])).toThrow(DecodeError)
  expect(() => appendBatch(idCore, start, [position(2), position(2)])).toThrow(DecodeError)
  expect(() => appendBatch(idCore, afterFirst, [position(2000)])).toThrow(DecodeError)
})

test('a position is 20 bytes, different for different positions', () => {
  const arbitrary = fc.record({
    at: fc.integer({ min: 1, max: 0xff_ffff_ffff_ff }),
    latE7: fc.integer({ min: -900_000_000, max: 900_000_000 }),
    lonE7: fc.integer({ min: -1_800_000_000, max: 1_800_000_000 }),
    speed: fc.integer({ min: 0, max: 0xffff }),
    heading: fc.integer({ min: 0, max: 359 }),
  })
  fc.assert(
    fc.property(arbitrary, arbitrary, (a, b) => {
      expect(encodePosition(a)).toHaveLength(20)
      expect(decodePositions(encodePositions([a, b]))).toEqual([a, b])
      expect(toHex(encodePosition(a)) === toHex(encodePosition(b))).toBe(
        JSON.stringify(a) === JSON.stringify(b),
      )
    }),
  )
  expect(toHex(encodePosition(position(1000, -900_000_000)))).toBe(
    `${'00000000000003e8'}00000000${'723019f8'}056e002d`,
  )
  expect(() => encodePosition(position(1, 900_000_001))).toThrow(RangeError)
})

test('positions are decoded whole and in range or not at all', () => {
  expect(() => decodePositions(new Uint8Array(19))).toThrow(DecodeError)
  expect(() => decodePositions(new Uint8Array(20).fill(255))).toThrow(DecodeError)
})

test('what is signed names the number and the head', () => {
  expect(toHex(headPayload(1, first.head))).not.toBe(toHex(headPayload(2, first.head)))
  expect(headPayload(1, first.head)).toHaveLength(5 + 10 + 5 + 4 + 5 + 32)
})
