import { describe, expect, test } from 'vitest'
import { freeBase } from './free-port.js'

/** Gives what is free of a block of 127 ports in turn, as `freePorts` does, and lets others in between. */
function portsWithout(busy: (port: number) => boolean): (count: number) => Promise<number[]> {
  let looked = 0
  return async count => {
    const ports: number[] = []
    while (ports.length < count) {
      const port = 10_001 + (looked++ % 127)
      if (busy(port)) continue
      await Promise.resolve()
      ports.push(port)
    }
    return ports
  }
}

describe('a run of free ports', () => {
  test('begins behind what is busy', async () => {
    expect(
      await freeBase(
        [0, 63],
        portsWithout(port => port < 10_011 || port === 10_050),
      ),
    ).toBe(10_051)
    expect(
      await freeBase(
        [0, 1, 2],
        portsWithout(() => false),
      ),
    ).toBe(10_001)
  })

  test('is found by two who look at once, each its own', async () => {
    const ports = portsWithout(() => false)
    expect(await Promise.all([freeBase([0, 39], ports), freeBase([0, 39], ports)])).toEqual([10_001, 10_041])
  })

  test('that there is not is an error, and the next search is not its', async () => {
    const everyThird = portsWithout(port => port % 3 === 0)
    await expect(freeBase([0, 2], everyThird)).rejects.toThrow('no 3 free ports in a row')
    expect(await freeBase([0, 1], everyThird)).toBeGreaterThan(10_000)
  })
})
