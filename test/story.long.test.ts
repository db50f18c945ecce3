/** The story against an RPS that tells of bans, but too late; and against doors that leave the banned inside. */
import { mosquittoFile } from '@milagro-ts/car-tracking/broker'
import { describe, test } from 'vitest'
import { stopsAt, stopsAtDoorOf } from './story-check.js'

test('stops at an RPS that tells of bans too late', () => stopsAt('tells-bans-late', 'driver-banned'))

// A second is not what tells them from others here: a connection without requests ends by itself before the limit.
describe('stops at a door that ignores bans, however slow the machine is', () => {
  const why = (server: string) =>
    `the door of ${server} says that it closed the car’s connection: not within 10 s`
  test('tracking', () => stopsAtDoorOf('tracking', 'car-banned', why('tracking')))
  test.skipIf(mosquittoFile() === undefined)('gateway', () =>
    stopsAtDoorOf('gateway', 'car-banned', why('gateway')),
  )
})
