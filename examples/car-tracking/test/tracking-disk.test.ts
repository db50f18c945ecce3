/** The tracking server on a full disk: a position that is confirmed is stored, and one that isn't can be sent again. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { TrackStore } from '@milagro-ts/car-tracking/track-store'
import { StoreError } from '@milagro-ts/store/store-error'
import { expect, test } from 'vitest'
import { SmallDisk } from '../../../packages/store/test/small-disk.js'
import { CAR, OPERATOR, TrackingWorld } from './tracking-world.js'

test('fails closed and recovers by itself; a read-only folder ends the start', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'milagro-tracks-'))
  const disk = SmallDisk.mount(folder, 1)
  const file = join(folder, 'tracks.sqlite')
  const world = await TrackingWorld.make({ file })
  try {
    await world.follow()
    const bearer = `Bearer ${await world.token(CAR)}`
    let [batch, end] = world.batch(CAR, world.start(CAR), world.positions(3))
    const send = async () => world.send(batch, bearer, await world.receipt(CAR, batch))
    expect((await send()).status).toBe(200)
    let sent = 3
    const next = () => {
      ;[batch, end] = world.batch(CAR, end, world.positions(50, end.at + 1))
    }
    next()
    await disk?.fill()
    // What still fits is stored; the first that doesn't is refused, with nothing of it kept.
    for (let number = 0; disk !== null && number < 500; number++) {
      const { status, body } = await send()
      if (status === 200) {
        sent += 50
        next()
        continue
      }
      expect([status, body.code]).toEqual([503, 'RETRY_LATER'])
      break
    }
    const stored = async () => {
      const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
      const { body } = await world.call('GET', '/v1/vehicles', operator)
      return (body.vehicles as { positions: number }[])[0]?.positions
    }
    expect(await stored()).toBe(sent)
    await disk?.free()
    expect((await send()).status).toBe(200)
    expect(await stored()).toBe(sent + 50)
  } finally {
    await world.close()
  }
  if (disk !== null) {
    await expect(TrackStore.open(join(disk.readOnly(), 'tracks.sqlite'))).rejects.toBeInstanceOf(StoreError)
    await (await TrackStore.open(file)).close()
    disk.unmount()
  }
  rmSync(folder, { recursive: true })
})
