/** A follower of ban events ends its stream when it is told to, whatever the collector has taken meanwhile. */
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { createLog } from '@milagro-ts/api/log'
import { systemClock, systemTimers } from '@milagro-ts/api/system'
import { EventFollower } from '@milagro-ts/rpa/ban-events'
import { expect, test } from 'vitest'

test('it stops after its request was collected, and the server sees the connection end', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  let stream: ServerResponse | undefined
  const server = createServer((_, response) => {
    stream = response
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('event: state\ndata: x\n\n')
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  let changed = () => {}
  const heard = new Promise<void>(resolve => {
    changed = resolve
  })
  const follower = new EventFollower({
    rpsUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    authorize: async () => 'Bearer x',
    verifyState: async () => ({ number: 1, payload: { banned: [], revoked: [] } }) as never,
    verifyEvent: () => Promise.reject(new Error('none comes')),
    clock: systemClock,
    timers: systemTimers,
    fetch,
    log: createLog('follower', { level: 'silent' }),
    changed,
  })
  follower.start()
  await heard
  const ended = new Promise(resolve => stream?.once('close', resolve))
  for (let i = 0; i < 5; i++) {
    collect()
    await new Promise(setImmediate)
  }
  await follower.stop()
  await ended
  expect(stream?.writableFinished).toBe(false)
  server.close()
})
