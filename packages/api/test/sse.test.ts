import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { connect } from 'node:net'
import type { RouteTable } from '@milagro-ts/api/route'
import { readEvents, type ServerSentEvent, SseWriter } from '@milagro-ts/api/sse'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
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

/** A server whose stream is what `run` does with its writer. */
const streaming = (run: (writer: SseWriter, response: ServerResponse) => Promise<void> | void) =>
  serve(table, {
    follow: async (_input, response) => {
      await run(new SseWriter(response), response)
    },
  })

function stream(...chunks: (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks)
        controller.enqueue(typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk)
      controller.close()
    },
  })
}
async function all(body: ReadableStream<Uint8Array>): Promise<(ServerSentEvent | null)[]> {
  const events = []
  for await (const event of readEvents(body)) events.push(event)
  return events
}

describe('the reader', () => {
  test.each<[string, string, (ServerSentEvent | null)[]]>([
    ['an event', 'id: 7\nevent: state\ndata: x\n\n', [{ id: '7', event: 'state', data: 'x' }]],
    ['data alone', 'data: x\n\n', [{ data: 'x' }]],
    ['several lines', 'data: a\ndata:\ndata: b\n\n', [{ data: 'a\n\nb' }]],
    ['without the space', 'data:x\nid:1\n\n', [{ id: '1', data: 'x' }]],
    ['with two spaces', 'data:  x\n\n', [{ data: ' x' }]],
    ['a field without a colon', 'data\n\n', [{ data: '' }]],
    ['a colon in the data', 'data: a: b\n\n', [{ data: 'a: b' }]],
    ['unknown fields', 'retry: 10\nfoo: bar\ndata: x\nDATA: y\n\n', [{ data: 'x' }]],
    ['a heartbeat', ':\n\n', [null]],
    ['a comment within an event', ': hello\ndata: x\n\n', [{ data: 'x' }]],
    ['an id without data', 'id: 1\n\n', [null]],
    ['empty lines are no heartbeat', '\n\n\n\ndata: x\n\n\n\n', [{ data: 'x' }]],
    ['CR LF', 'id: 1\r\ndata: x\r\n\r\n:\r\n\r\n', [{ id: '1', data: 'x' }, null]],
    ['CR LF and then LF', 'data: x\r\n\ndata: y\r\n\n', [{ data: 'x' }, { data: 'y' }]],
    ['CR alone', 'id: 1\rdata: x\r\r:\r\r', [{ id: '1', data: 'x' }, null]],
    ['line ends of all kinds', 'data: a\r\ndata: b\rdata: c\n\r\n', [{ data: 'a\nb\nc' }]],
    ['a byte order mark', '\ufeffdata: x\n\n', [{ data: 'x' }]],
    ['an event that the end cuts off', 'data: x\n\ndata: y\n', [{ data: 'x' }]],
    ['nothing', '', []],
  ])('%s', async (_, text, expected) => {
    expect(await all(stream(text))).toEqual(expected)
    // Byte by byte: line ends and characters that chunks share.
    const bytes = [...new TextEncoder().encode(text)].map(byte => Uint8Array.of(byte))
    expect(await all(stream(...bytes))).toEqual(expected)
  })

  test('whatever the chunks, the events are the same', async () => {
    const part = fc.constantFrom('\n', '\r', '\r\n', 'data: x', 'data:', 'id: é🚗', ':', 'event', 'y', '\n\n')
    await fc.assert(
      fc.asyncProperty(
        fc.array(part, { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 30 }),
        async (parts, sizes) => {
          const bytes = new TextEncoder().encode(parts.join(''))
          const chunks: Uint8Array[] = []
          for (let start = 0, i = 0; start < bytes.length; i++) {
            const end = start + (sizes[i % sizes.length] ?? 1)
            chunks.push(bytes.slice(start, end))
            start = end
          }
          expect(await all(stream(...chunks))).toEqual(await all(stream(bytes)))
        },
      ),
    )
  })

  test('an event beyond all measure ends in an error, in one line or in many', async () => {
    const megabyte = 'x'.repeat(1_048_576)
    await expect(all(stream('data: ', ...Array(17).fill(megabyte)))).rejects.toThrow(RangeError)
    await expect(all(stream(...Array(17).fill(`data: ${megabyte}\n`)))).rejects.toThrow(RangeError)
    expect(await all(stream('data: ', ...Array(15).fill(megabyte), '\n\n'))).toHaveLength(1)
  })

  test('a long event in small chunks takes no square of its length', async () => {
    const chunk = new TextEncoder().encode('x'.repeat(1024))
    const before = performance.now()
    const [event] = await all(stream('data: ', ...Array(8192).fill(chunk), '\n\n'))
    expect(event?.data).toHaveLength(8_388_608)
    // Searching all that has come at each chunk would look at 34 thousand million characters.
    expect(performance.now() - before).toBeLessThan(10_000)
  })

  test('a stream that fails is no end', async () => {
    const body = new ReadableStream<Uint8Array>({
      pull: controller => controller.error(new Error('reset')),
    })
    await expect(all(body)).rejects.toThrow('reset')
  })
})

describe('the writer', () => {
  const events: ServerSentEvent[] = [
    { id: '1', event: 'state', data: '{"a":"é🚗"}' },
    { data: 'two\nlines' },
    { data: 'an\r\nold\rend' },
    { data: '' },
    { id: '', event: '', data: ' x' },
  ]

  test('and the reader agree', async () => {
    const { url } = await streaming(writer => {
      for (const event of events) writer.send(event)
      writer.heartbeat()
    })
    const response = await fetch(`${url}/follow`)
    expect(response.headers.get('content-type')).toBe('text/event-stream')
    expect(response.headers.get('cache-control')).toBe('no-store')
    const seen = await all(response.body as ReadableStream<Uint8Array>)
    const sent = events.map(event => ({ ...event, data: event.data.replaceAll(/\r\n?/g, '\n') }))
    expect(seen).toEqual([...sent, null])
  })

  test('begins before there is an event, so that a reader knows that it is connected', async () => {
    const { url } = await streaming(writer => writer.closed)
    const gone = new AbortController()
    const response = await fetch(`${url}/follow`, { signal: gone.signal })
    expect(response.status).toBe(200)
    gone.abort()
  })

  test.each([{ id: '1\ndata: forged' }, { id: '1\r2' }, { event: 'a\nb' }, { id: 'a\0b' }])(
    'lets nobody write another line: %j',
    async part => {
      const outcomes: unknown[] = []
      const { url } = await streaming(writer => {
        try {
          writer.send({ data: 'x', ...part })
        } catch (error) {
          outcomes.push(error)
        }
      })
      expect(await (await fetch(`${url}/follow`)).text()).toBe('')
      expect(outcomes).toEqual([expect.any(TypeError)])
    },
  )

  test('learns that its reader has gone', async () => {
    let learnt = () => {}
    const done = new Promise<void>(resolve => {
      learnt = resolve
    })
    const { url } = await streaming(async writer => {
      writer.send({ data: 'hello' })
      await writer.closed
      writer.send({ data: 'to nobody' })
      writer.heartbeat()
      writer.close()
      learnt()
    })
    const gone = new AbortController()
    const response = await fetch(`${url}/follow`, { signal: gone.signal })
    await response.body?.getReader().read()
    gone.abort()
    await done
  })

  test('learns it too when the reader had gone before it began', async () => {
    let learnt = () => {}
    const done = new Promise<void>(resolve => {
      learnt = resolve
    })
    const { port } = await serve(table, {
      follow: async (_input, response) => {
        const closed = once(response, 'close')
        response.req.socket.destroy()
        await closed
        await new SseWriter(response).closed
        learnt()
      },
    })
    const socket = connect(port, '127.0.0.1')
    onTestFinished(() => void socket.destroy())
    socket.on('error', () => socket.destroy())
    socket.write('GET /follow HTTP/1.1\r\nHost: x\r\n\r\n')
    await done
  })

  test('cuts off a reader that does not read, and keeps no more for it than its limit', async () => {
    let most = 0
    const { port } = await streaming(async (writer, response) => {
      let open = true
      const closed = writer.closed.then(() => {
        open = false
      })
      const data = 'x'.repeat(65_536)
      while (open && most < 100_000_000) {
        writer.send({ data })
        if (!response.destroyed) most = Math.max(most, response.writableLength)
        await new Promise(resolve => setImmediate(resolve))
      }
      await closed
    })
    const socket = connect(port, '127.0.0.1')
    socket.pause()
    const closed = new Promise(resolve => socket.once('close', resolve))
    socket.on('error', () => socket.destroy())
    socket.write('GET /follow HTTP/1.1\r\nHost: x\r\n\r\n')
    await new Promise(resolve => socket.once('connect', resolve))
    // The kernel's own buffers fill first; when the writer has given up, what is left of them ends in a close.
    await expect.poll(() => most, { timeout: 20_000 }).toBeGreaterThan(900_000)
    socket.resume()
    await closed
    expect(most).toBeLessThanOrEqual(1_048_576)
  })
})
