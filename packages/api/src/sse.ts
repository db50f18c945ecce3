/** Server-sent events (WHATWG HTML §9.2), both ends: a bounded writer and a reader over fetch. */
import type { ServerResponse } from 'node:http'

export interface ServerSentEvent {
  readonly id?: string
  readonly event?: string
  readonly data: string
}

/** Bytes that may wait for a slow reader before it is cut off. */
const WRITE_BUFFER = 1_048_576
/** Characters of one event at most. */
const READ_BUFFER = 16_777_216

export class SseWriter {
  readonly #response: ServerResponse
  /** Settles when the reader has gone or was cut off. */
  readonly closed: Promise<void>

  constructor(response: ServerResponse) {
    this.#response = response
    this.closed = new Promise(resolve => response.once('close', resolve))
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    response.flushHeaders()
  }

  send(event: ServerSentEvent): void {
    const id = event.id === undefined ? '' : `id: ${event.id}\n`
    const name = event.event === undefined ? '' : `event: ${event.event}\n`
    const data = event.data.split('\n').map(line => `data: ${line}\n`)
    this.#write(`${id}${name}${data.join('')}\n`)
  }

  /** A comment: keeps the connection known to be alive. */
  heartbeat(): void {
    this.#write(':\n\n')
  }

  close(): void {
    this.#response.end()
  }

  #write(text: string): void {
    if (this.#response.destroyed || this.#response.writableEnded) return
    this.#response.write(text)
    if (this.#response.writableLength > WRITE_BUFFER) this.#response.destroy()
  }
}

/**
 * Reads events until the stream ends or `signal` fires. `null` stands for a heartbeat, so that a caller can tell a
 * silent stream from a living one.
 * @param body The body of a fetch answer with content type text/event-stream.
 */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerSentEvent | null> {
  const decoder = new TextDecoder()
  let buffer = ''
  for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
    buffer += decoder.decode(chunk, { stream: true })
    if (buffer.length > READ_BUFFER) throw new RangeError('an event is longer than the reader takes')
    let end = buffer.search(/\r?\n\r?\n/)
    while (end >= 0) {
      yield parseEvent(buffer.slice(0, end))
      buffer = buffer.slice(end).replace(/^\r?\n\r?\n/, '')
      end = buffer.search(/\r?\n\r?\n/)
    }
  }
}

function parseEvent(block: string): ServerSentEvent | null {
  const fields = { id: undefined as string | undefined, event: undefined as string | undefined }
  const data: string[] = []
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(':')
    if (colon === 0) continue
    const name = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (name === 'data') data.push(value)
    else if (name === 'id') fields.id = value
    else if (name === 'event') fields.event = value
  }
  if (data.length === 0) return null
  return {
    data: data.join('\n'),
    ...(fields.id === undefined ? {} : { id: fields.id }),
    ...(fields.event === undefined ? {} : { event: fields.event }),
  }
}
