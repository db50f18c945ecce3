/** Mutations from a seed, for tests that throw bytes at a decode: a budget of cases, and not of seconds. */
import { concat } from '@milagro-ts/crypto/bytes'
import { seeded } from './world.js'

/** `npm run test:long`, `npm run fuzz`: more cases, from the seed that is printed. */
const isLong = process.env.MILAGRO_LONG === '1'
export const LONGER = isLong ? 25 : 1

export type Roll = (bound: number) => number

/** Numbers from 0 up to a bound, from a seed. */
export function dice(name: string): Roll {
  const random = seeded(`${name} ${isLong ? process.env.MILAGRO_SEED : ''}`)
  return (bound: number): number => new DataView(random(4).buffer).getUint32(0) % bound
}

export function mutate(bytes: Uint8Array, roll: Roll): Uint8Array {
  const at = roll(bytes.length + 1)
  switch (roll(7)) {
    case 0: // flip a bit
      return bytes.map((byte, i) => (i === at ? byte ^ (1 << roll(8)) : byte))
    case 1: // another byte
      return bytes.map((byte, i) => (i === at ? roll(256) : byte))
    case 2: // cut off
      return bytes.slice(0, at)
    case 3: // take out
      return concat(bytes.slice(0, at), bytes.slice(at + 1 + roll(8)))
    case 4: // put in
      return concat(bytes.slice(0, at), seeded(`in ${roll(2 ** 30)}`)(1 + roll(8)), bytes.slice(at))
    case 5: // a boundary value in four places
      return bytes.map((byte, i) => (i >= at && i < at + 4 ? ([0, 255, 128, 127][roll(4)] as number) : byte))
    default: // one part twice
      return concat(bytes.slice(0, at), bytes.slice(Math.max(0, at - roll(60))))
  }
}
