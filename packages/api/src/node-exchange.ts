/**
 * How a server asks another: by node's own HTTP client. That takes half of what the platform's `fetch` takes of the processor, which
 * whoever asks about every device that comes notices. Browsers, streams and devices go by `fetch`.
 */
import { type IncomingMessage, type RequestOptions, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { urlToHttpOptions } from 'node:url'
import { type Answered, type Exchange, tooLarge } from './call.js'

/** By the global agent, which keeps connections for some seconds and goes by what the program or its environment says of proxies. */
export const nodeExchange: Exchange = ({ method, url, headers, body, signal, timeout, limit }) =>
  new Promise<Answered>((resolve, reject) => {
    const { protocol, hostname, port, path } = urlToHttpOptions(new URL(url))
    const options: RequestOptions = { protocol, hostname, port, path, method, headers: { ...headers } }
    const request = (protocol === 'https:' ? requestHttps : requestHttp)(options)
    const cancel = () => request.destroy(signal?.reason as Error)
    const timer = setTimeout(() => request.destroy(new NoAnswerInTime()), timeout)
    timer.unref()
    const over = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', cancel)
    }
    const fail = (error: unknown) => {
      over()
      reject(error)
    }
    request.on('error', fail)
    request.on('response', (response: IncomingMessage) => {
      const { statusCode, headers: given } = response
      const status = statusCode as number
      const most = limit(status)
      const chunks: Buffer[] = []
      let length = 0
      // Also what is told of the request once there is a response, and an answer that breaks off.
      response.on('error', fail)
      response.on('data', (chunk: Buffer) => {
        length += chunk.length
        if (length <= most) chunks.push(chunk)
        else response.destroy(tooLarge(most))
      })
      response.on('end', () => {
        over()
        const bytes = chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks)
        resolve({ status, contentType: given['content-type'], retryAfter: given['retry-after'], bytes })
      })
    })
    signal?.addEventListener('abort', cancel)
    if (signal?.aborted) cancel()
    request.end(body.length === 0 ? undefined : body)
  })

/** As the platform calls it with `fetch`. */
class NoAnswerInTime extends Error {
  override readonly name = 'TimeoutError'
}
