/** A car's publisher while there is no broker; with one, `--check` plays it. */
import { type LiveEvent, LivePositions, topicOf } from '@milagro-ts/car-tracking/live-positions'
import { freePorts } from '@milagro-ts/car-tracking/processes'
import { expect, test } from 'vitest'
import { CAR } from './tracking-world.js'

const POSITION = { at: 1, latE7: 0, lonE7: 0, speed: 0, heading: 0 }

test('a car writes under its own name', () => {
  expect(topicOf(CAR.mpinId)).toBe(`cars/${CAR.mpinId}/position`)
})

test('a gateway that is away is tried again and again, said once, and nothing waits for it', async () => {
  const [port = 0] = await freePorts(1)
  const events: LiveEvent[] = []
  let attempts = 0
  const identity = {
    mpinId: CAR.mpinId,
    async externalPsk() {
      attempts++
      return { identity: 'm1.x', psk: new Uint8Array(32), slot: 0, endsAt: Number.MAX_SAFE_INTEGER }
    },
  }
  const gateway = { host: '127.0.0.1', port, name: 'gateway' }
  const live = new LivePositions(identity, gateway, { again: 10, say: event => void events.push(event) })
  live.publish(POSITION)
  await expect.poll(() => attempts, { timeout: 20_000 }).toBeGreaterThan(2)
  expect(events).toEqual([
    { event: 'broker-trouble', why: expect.stringContaining(`ECONNREFUSED 127.0.0.1:${port}`) },
  ])
  await live.close()
  const before = attempts
  live.publish(POSITION)
  expect(attempts).toBe(before)
})
