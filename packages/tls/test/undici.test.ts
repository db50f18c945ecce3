/** Connections that undici keeps, at the end of a slot. */
import { channel } from 'node:diagnostics_channel'
import type { ServerResponse } from 'node:http'
import { createServer } from '@milagro-ts/tls/https'
import { buildConnector } from '@milagro-ts/tls/undici'
import { Agent, fetch } from 'undici'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { NAME, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

/** Half a minute before the notice of a minute. */
const BEFORE = 1_800_000 - 90_000

test('a connection whose slot is about to end takes no other request, and what is under way is answered', async () => {
  const { door, timers, log } = world
  let connections = 0
  let held: ServerResponse | undefined
  const server = createServer({ door, timers, log }, (request, response) => {
    if (request.url !== '/held') return void response.end('ok')
    response.write('half, ')
    held = response
  })
  server.on('secureConnection', () => connections++)
  const port = await world.listen(server)
  const clock = () => world.now
  const connector = buildConnector({ identity: world.car(1), servername: NAME, clock, timers })
  const dispatcher = new Agent({ connections: 1, connect: connector })
  world.onClose(() => dispatcher.destroy())
  const get = async (path: string) => (await fetch(`https://127.0.0.1:${port}${path}`, { dispatcher })).text()

  world.turn(BEFORE)
  expect([await get('/'), await get('/'), connections]).toEqual(['ok', 'ok', 1])
  // One that is kept goes at once.
  world.turn(31_000)
  expect([await get('/'), connections]).toEqual(['ok', 2])

  world.now -= 31_000
  const second = new Agent({ connections: 1, connect: connector })
  world.onClose(() => second.destroy())
  const response = await fetch(`https://127.0.0.1:${port}/held`, { dispatcher: second })
  world.turn(31_000)
  held?.end('and whole')
  expect(await response.text()).toBe('half, and whole')
  const before = connections
  expect(await (await fetch(`https://127.0.0.1:${port}/`, { dispatcher: second })).text()).toBe('ok')
  expect(connections).toBe(before + 1)
})

test('a request of somebody else in the process that ends is looked for on none of our connections', async () => {
  const { door, timers, log } = world
  const server = createServer({ door, timers, log }, (_, response) => void response.end('ok'))
  const port = await world.listen(server)
  const clock = () => world.now
  const connect = buildConnector({ identity: world.car(1), servername: NAME, clock, timers })
  const dispatcher = new Agent({ connections: 1, connect })
  world.onClose(() => dispatcher.destroy())
  await (await fetch(`https://127.0.0.1:${port}/`, { dispatcher })).text()
  const request = {}
  const looked = vi.spyOn(Set.prototype, 'delete')
  try {
    for (const end of ['trailers', 'error']) channel(`undici:request:${end}`).publish({ request })
    expect(looked.mock.calls.filter(([sought]) => sought === request)).toEqual([])
  } finally {
    looked.mockRestore()
  }
})
