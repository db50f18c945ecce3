/** A stream whose first event is longer than what may wait for a slow reader: a long revocation state. */
import type { RouteTable } from '@milagro-ts/api/route'
import { readEvents, SseWriter } from '@milagro-ts/api/sse'
import { expect, test } from 'vitest'
import { serve } from './http-server.js'

const table = {
  follow: {
    method: 'GET',
    path: '/follow',
    summary: 'A stream.',
    caller: 'open',
    stream: 'text/event-stream',
    refuses: [],
  },
} as const satisfies RouteTable

/** More than the writer's buffer and the kernel's together. */
const LONG = 'x'.repeat(15_000_000)

test('a long event reaches a reader that is slow to begin, and what comes behind it does too', async () => {
  let written = () => {}
  const sent = new Promise<void>(resolve => {
    written = resolve
  })
  const { url } = await serve(table, {
    follow: async (_input, response) => {
      const writer = new SseWriter(response)
      writer.send({ id: '1', event: 'state', data: LONG })
      writer.heartbeat()
      writer.send({ id: '2', event: 'event', data: 'a ban' })
      written()
      if (!response.destroyed) writer.close()
      await writer.closed
    },
  })
  const response = await fetch(`${url}/follow`)
  // Nothing is read before everything has been written.
  await sent
  const lengths: (number | undefined)[] = []
  for await (const event of readEvents(response.body as ReadableStream<Uint8Array>))
    lengths.push(event?.data.length)
  expect(lengths).toEqual([LONG.length, undefined, 5])
})

test('many short ones behind it do not wait without end', async () => {
  let most = 0
  let isCut = false
  const { url } = await serve(table, {
    follow: async (_input, response) => {
      const writer = new SseWriter(response)
      writer.send({ data: LONG })
      for (let i = 0; i < 100 && !response.destroyed; i++) {
        writer.send({ data: 'y'.repeat(50_000) })
        most = Math.max(most, response.writableLength)
      }
      isCut = response.destroyed
      await writer.closed
    },
  })
  const response = await fetch(`${url}/follow`)
  await expect(
    (async () => {
      for await (const event of readEvents(response.body as ReadableStream<Uint8Array>)) void event
    })(),
  ).rejects.toThrow()
  expect(isCut).toBe(true)
  expect(most).toBeLessThan(LONG.length + 1_200_000)
})
