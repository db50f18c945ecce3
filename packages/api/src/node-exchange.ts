/**
 * How a guard asks the RPS: by node's own HTTP client. That takes half of what the platform's `fetch` takes of the processor, which whoever
 * asks about every device that comes notices.
 *
 * It says of itself when it is over. Node's client tells of some ends by nothing but its `close`, as of an upgrade that nobody asked for.
 */
import { type IncomingMessage, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { urlToHttpOptions } from 'node:url'
import { type Answered, type Exchange, tooLarge } from './call.js'

/**
 * By the global agent, which keeps connections for some seconds and goes by what the program has set there; from Node 22.21 and 24.5 on
 * also by proxies of the environment, with NODE_USE_ENV_PROXY. A plain http request shows such a proxy its path and Authorization.
 */
export const nodeExchange: Exchange = ({ method, url, headers, body, signal, timeout, limit }) =>
  new Promise<Answered>((resolve, reject) => {
    signal?.throwIfAborted()
    const { protocol, hostname, port, path, auth } = urlToHttpOptions(new URL(url))
    if (auth !== undefined) throw new TypeError('a URL with the name of a user')
    // Node frames a body by nothing where a method doesn't need one.
    const framing = body.length === 0 ? {} : { 'content-length': String(body.length) }
    const request = (protocol === 'https:' ? requestHttps : requestHttp)({
      protocol,
      hostname,
      port,
      path,
      method,
      headers: { 'user-agent': 'milagro-ts', ...headers, ...framing },
    })
    let isOver = false
    const over = () => {
      isOver = true
      clearTimeout(timer)
      signal?.removeEventListener('abort', cancel)
    }
    const fail = (error: unknown) => {
      over()
      reject(error)
      request.destroy()
    }
    const cancel = () => fail(signal?.reason)
    const timer = setTimeout(() => fail(new NoAnswerInTime()), timeout)
    timer.unref()
    signal?.addEventListener('abort', cancel)
    request.on('error', fail)
    request.on('close', () => {
      if (!isOver) fail(Object.assign(new Error('no answer'), { code: 'ECONNRESET' }))
    })
    request.on('response', (response: IncomingMessage) => {
      const status = response.statusCode as number
      const most = limit(status)
      const answer = new Growing()
      response.on('error', fail)
      response.on('data', (chunk: Buffer) => {
        if (answer.length + chunk.length > most) fail(tooLarge(most))
        else answer.add(chunk)
      })
      response.on('end', () => {
        over()
        resolve({
          status,
          // Two that differ are none.
          contentType: response.headersDistinct['content-type']?.join(),
          retryAfter: response.headers['retry-after'],
          bytes: answer.bytes,
        })
        // Nobody reads the rest of a request that was answered before its end.
        if (!request.writableFinished) request.destroy()
      })
    })
    request.end(body.length === 0 ? undefined : body)
  })

/** Bytes that come in pieces, however small: a list of pieces takes hundreds of bytes for each. */
class Growing {
  #held: Buffer = Buffer.alloc(0)
  length = 0

  add(chunk: Buffer): void {
    const length = this.length + chunk.length
    if (this.length === 0) this.#held = chunk
    else {
      if (length > this.#held.length) {
        const grown = Buffer.alloc(2 * length)
        this.#held.copy(grown, 0, 0, this.length)
        this.#held = grown
      }
      chunk.copy(this.#held, this.length)
    }
    this.length = length
  }

  get bytes(): Uint8Array {
    return this.#held.subarray(0, this.length)
  }
}

/** As the platform calls it with `fetch`. */
class NoAnswerInTime extends Error {
  override readonly name = 'TimeoutError'
}
