import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { parseAuthorization } from '@milagro-ts/crypto/mpin'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CAR, JO, TRACKING, VIN, World } from './world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.close())

test('a car enrols, a driver enrols in it, both log in, sign and carry a permit', async () => {
  const store = memoryTokenStore()
  const options = { ...world.ports, store }
  const car = await Device.enrol({ ...options, code: world.code(), attributes: CAR, instance: VIN })
  expect(car.idCore.factors).toBe(2)
  expect(world.direct).toBe(3)

  const alone = await car.login({ audience: TRACKING })
  expect(alone.authenticated).toMatchObject({ idCore: car.mpinId, amr: ['device'], audience: TRACKING })

  const code = world.code(JO)
  expect(await car.enrolUser({ code, attributes: JO, pin: '1234' })).toBe('Jo')
  const withJo = await car.login({ audience: TRACKING, user: 'Jo', pin: '1234', authOtt: true })
  expect(withJo.authenticated.amr).toEqual(['device', 'pin'])
  expect(withJo.authOtt).toHaveLength(43)

  const receipt = await car.sign({ audience: TRACKING, payload: Uint8Array.of(1, 2, 3) })
  expect(receipt.split('.')).toHaveLength(3)
  const message = parseAuthorization(await car.onePass({ audience: TRACKING, user: 'Jo', pin: '1234' }))
  expect(message.permit?.slot).toBe(world.slot())
  const permit = await car.permit()
  expect(permit.covers(car.idCore)).toBe(true)

  const again = await Device.open(options)
  expect(again.mpinId).toBe(car.mpinId)
  expect((await again.users()).map(({ name, pinGen }) => ({ name, pinGen }))).toEqual([
    { name: 'Jo', pinGen: 1 },
  ])
  await again.login({ audience: TRACKING, user: 'Jo', pin: '1234' })
})
