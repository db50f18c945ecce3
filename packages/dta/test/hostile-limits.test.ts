/** What a stranger, or a device with a ticket, can take from everybody else: no permits. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  clientOf,
  codeOf,
  type Founded,
  foundWorld,
  makeCar,
  type Running,
  restart,
  statementFor,
  ticketFor,
} from './world.js'

let world: Founded
beforeAll(async () => {
  world = await foundWorld({ n: 1 })
})
afterAll(() => world.close())
const first = (): Running => world.authorities[0] as Running

async function askForPermit() {
  const statement = await statementFor(world, await makeCar(world))
  const params = { groupId: world.groupId }
  return clientOf(world, first(), world.rps).permits({ params, body: { statement } })
}
async function limitedTo(rateLimit: NonNullable<Running['config']['rateLimit']>): Promise<void> {
  const { config } = first()
  world.authorities[0] = await restart({ ...first(), config: { ...config, rateLimit } }, world)
}

test('an RPS whose address is flooded by what it relays still gets its permits', async () => {
  await limitedTo({ address: { perSecond: 0.1, burst: 3 } })
  const stranger = () => fetch(`${first().url}/v1/authority`)
  for (let i = 0; i < 3; i++) expect((await stranger()).status).toBe(200)
  expect((await stranger()).status).toBe(503)
  // They have a limit, too.
  for (let i = 0; i < 3; i++) await askForPermit()
  expect(await codeOf(askForPermit())).toBe('RETRY_LATER')
})

test('one device that asks for its shares without end uses up no permits', async () => {
  await limitedTo({ group: { perSecond: 0.1, burst: 2 } })
  const ticket = await ticketFor(world, await makeCar(world))
  const ask = () =>
    first().client.shares({ params: { groupId: world.groupId }, body: { ticket, purpose: 'device' } })
  await ask()
  await ask()
  expect(await codeOf(ask())).toBe('RETRY_LATER')
  await askForPermit()
})
