import { BAN_WITHIN, banLimit, MOST_SLOWNESS } from '@milagro-ts/car-tracking/ban-limit'
import { expect, test } from 'vitest'

const measured = (...values: number[]) => banLimit({ measure: () => values.shift() as number })()

test('a ban has a second, more on a machine that was slow before or after, and never more than the cap', () => {
  expect(measured(1, 1)).toEqual({ slowness: 1, allowed: 1_000 })
  expect(measured(3, 1)).toEqual({ slowness: 3, allowed: 3_000 })
  expect(measured(1, 2.5)).toEqual({ slowness: 2.5, allowed: 2_500 })
  expect(measured(1, 1_000)).toEqual({ slowness: MOST_SLOWNESS, allowed: 8_000 })
  expect(measured(0.9, 0.8)).toEqual({ slowness: 1, allowed: 1_000 })
})

test('this machine is measured', () => {
  const { slowness, allowed } = banLimit()()
  expect(slowness).toBeGreaterThanOrEqual(1)
  expect(allowed).toBeLessThanOrEqual(BAN_WITHIN * MOST_SLOWNESS)
})
