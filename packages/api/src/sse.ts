/** Server-sent events (WHATWG HTML §9.2), both ends: a bounded writer and a reader over fetch. */
import type { ServerResponse } from 'node:http'

export interface ServerSentEvent {
  readonly id?: string
  readonly event?: string
  readonly data: string
}

/** Bytes that may wait for a slow reader before it is cut off; beside one event that is longer than this. */
const WRITE_BUFFER = 1_048_576
/** Characters of one event at most. */
const READ_BUFFER = 16_777_216
const LINE_END = /\r\n|\n|\r/g

export class SseWriter {
  readonly #response: ServerResponse
  /** Settles when the reader has gone or was cut off. */
  readonly closed: Promise<void>
  /** Bytes of the longest event so far: one that is sent whole may be longer than the buffer, and slow to leave. */
  #longest = 0

  constructor(response: ServerResponse) {
    this.#response = response
    this.closed = new Promise(resolve => {
      // A reader that has gone before the stream began fires no further event.
      if (response.destroyed || response.closed) resolve()
      else response.once('close', resolve)
    })
    response.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
    })
    response.flushHeaders()
  }

  /** TypeError for an id or a name that would end its own line. */
  send(event: ServerSentEvent): void {
    const id = event.id === undefined ? '' : `id: ${oneLine(event.id)}\n`
    const name = event.event === undefined ? '' : `event: ${oneLine(event.event)}\n`
    const data = event.data.split(LINE_END).map(line => `data: ${line}\n`)
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
    this.#longest = Math.max(this.#longest, Buffer.byteLength(text))
    this.#response.write(text)
    const most = WRITE_BUFFER + (this.#longest > WRITE_BUFFER ? this.#longest : 0)
    if (this.#response.writableLength > most) this.#response.destroy()
  }
}

function oneLine(text: string): string {
  if (/[\r\n\0]/.test(text)) throw new TypeError('id and event of a server-sent event are one line each')
  return text
}

/**
 * Reads events until the stream ends or fails. `null` stands for a heartbeat, so that a caller can tell a silent
 * stream from a living one. An event that the end cuts off is dropped. RangeError for an event that is too long.
 * @param body The body of a fetch answer with content type text/event-stream.
 */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerSentEvent | null> {
  const decoder = new TextDecoder()
  let lines: string[] = []
  let line = ''
  let length = 0
  let endedInCr = false
  for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
    let text = decoder.decode(chunk, { stream: true })
    if (text === '') continue
    // A CR LF that two chunks share is one line end.
    if (endedInCr && text.startsWith('\n')) text = text.slice(1)
    endedInCr = text.endsWith('\r')
    let start = 0
    for (const { index, 0: end } of text.matchAll(LINE_END)) {
      line += text.slice(start, index)
      start = index + end.length
      if (line !== '') {
        lines.push(line)
        length += line.length
        line = ''
      } else if (lines.length > 0) {
        yield parseEvent(lines)
        lines = []
        length = 0
      }
    }
    line += text.slice(start)
    if (length + line.length > READ_BUFFER) throw new RangeError('an event is longer than the reader takes')
  }
}

function parseEvent(lines: readonly string[]): ServerSentEvent | null {
  const fields = { id: undefined as string | undefined, event: undefined as string | undefined }
  const data: string[] = []
  for (const line of lines) {
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
