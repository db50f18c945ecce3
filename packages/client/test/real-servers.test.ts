/** The SDK against the servers themselves: three authorities, the RPS and fleet, in one process, over HTTP. */
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { RunningServers } from './running-servers.js'
import { CAR, JO, TRACKING, VIN } from './world.js'

let servers: RunningServers
let fleet: RunningServers['fleet']
const act = () => servers.act()
const ports = () => ({ ...servers.ports, store: memoryTokenStore() })
beforeAll(async () => {
  servers = await RunningServers.start()
  fleet = servers.fleet
}, 180_000)
afterAll(() => servers.close())

test('a car and its driver live through their whole story', { timeout: 120_000 }, async () => {
  const { id, code } = await fleet.addVehicle({
    ...(await act()),
    body: { instance: VIN, attributes: { ...CAR } },
  })
  const store = memoryTokenStore()
  const car = await Device.enrol({
    ...ports(),
    store,
    code: code?.code as string,
    attributes: CAR,
    instance: VIN,
  })
  const vehicle = { params: { id: String(id) } }

  const invited = await fleet.assignDriver({ ...(await act()), ...vehicle, body: { attributes: { ...JO } } })
  await car.enrolUser({ code: invited.code.code, attributes: JO, pin: '1234' })
  const jo = (pin: string) => car.login({ audience: TRACKING, user: 'Jo', pin })
  expect((await jo('1234')).authenticated.amr).toEqual(['device', 'pin'])

  const permit = await car.permit()
  expect(permit.covers(car.idCore)).toBe(true)
  const receipt = await car.sign({ audience: TRACKING, payload: Uint8Array.of(1, 2, 3) })
  expect(receipt.split('.')).toHaveLength(3)

  await car.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
  await jo('1234')
  await jo('4321')
  await expect(jo('1234')).rejects.toMatchObject({ code: 'WRONG_PIN' })

  // With the old PIN just now that makes three in a row.
  for (const wrong of ['0000', '1111']) await expect(jo(wrong)).rejects.toMatchObject({ code: 'WRONG_PIN' })
  await expect(jo('4321')).rejects.toMatchObject({ code: 'LOCKED' })
  const unlocking = { params: { id: String(id), driver: String(invited.driver) } }
  await fleet.unlock({ ...(await act()), ...unlocking, body: {} })
  await jo('4321')

  const reset = await fleet.resetPin({ ...(await act()), ...unlocking, body: {} })
  await car.enrolUser({ code: reset.code, attributes: JO, pin: '9876' })
  await jo('9876')
  await expect(jo('4321')).rejects.toMatchObject({ code: 'WRONG_PIN' })

  const banned = await fleet.ban({ ...(await act()), body: { vehicle: id, reason: 'stolen' } })
  await expect(car.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'BANNED' })
  await fleet.unban({ ...(await act()), params: { id: String(banned.id) } })
  await car.login({ audience: TRACKING })

  const next = await fleet.nextGeneration({ ...(await act()), ...vehicle, body: {} })
  const claim = { ...ports(), store, code: next.code, attributes: CAR, instance: VIN }
  await expect(Device.enrol(claim)).rejects.toMatchObject({ code: 'ALREADY_ENROLLED' })
  const renewed = await Device.enrol({ ...claim, replace: true })
  expect(renewed.idCore.generation).toBe(car.idCore.generation + 1)
  await renewed.login({ audience: TRACKING })
  await expect(car.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'STORE_CHANGED' })
})

test('a car that nobody knows is approved by its six words', { timeout: 60_000 }, async () => {
  const instance = 'WVWZZZ1JZXW000002'
  let shown = ''
  const car = await Device.enrol({
    ...ports(),
    groupId: servers.groupId,
    attributes: CAR,
    instance,
    onWords: words => {
      shown = words
    },
    wait: async () => {
      const { approvals } = await fleet.listApprovals(await act())
      const waiting = approvals.find(approval => approval.words === shown)
      if (waiting !== undefined)
        await fleet.approve({
          ...(await act()),
          params: { id: String(waiting.id) },
          body: { words: shown, factors: 2 },
        })
    },
  })
  await car.login({ audience: TRACKING })
})
