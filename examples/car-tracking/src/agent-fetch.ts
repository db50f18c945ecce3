/** A `fetch` by an agent of node:https, for clients that take one: what it sends goes over the agent's connections alone. */
import { type Agent, request } from 'node:https'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'

/** Answers that have no body (Fetch standard, "null body status"). */
const WITHOUT_BODY: readonly (number | undefined)[] = [204, 205, 304]

/**
 * For https addresses, and bodies that are bytes or text; TypeError for others. Like fetch it rejects only when there is
 * no answer. `onConnection` is told of every connection that the agent opens, before its first request.
 */
export function agentFetch(agent: Agent, onConnection: (socket: Socket) => void = () => {}): typeof fetch {
  const known = new WeakSet<Socket>()
  return async (input, init = {}) => {
    const { method = 'GET', body, signal } = init
    if (body !== undefined && body !== null && typeof body !== 'string' && !(body instanceof Uint8Array))
      throw new TypeError('a body of bytes or text')
    const headers = Object.fromEntries(new Headers(init.headers))
    return new Promise((resolve, reject) => {
      const outgoing = request(String(input), { agent, method, headers, ...(signal ? { signal } : {}) })
      outgoing.once('error', reject)
      outgoing.once('socket', socket => {
        if (known.has(socket)) return
        known.add(socket)
        onConnection(socket)
      })
      outgoing.once('response', incoming => {
        const { statusCode: status = 0, rawHeaders } = incoming
        const pairs = rawHeaders.flatMap((name, i) => (i % 2 === 0 ? [[name, rawHeaders[i + 1]]] : []))
        const isEmpty = WITHOUT_BODY.includes(status)
        if (isEmpty) incoming.resume()
        // The same class, under two names for its type.
        const stream = isEmpty ? null : (Readable.toWeb(incoming) as unknown as ReadableStream)
        resolve(new Response(stream, { status, headers: pairs as [string, string][] }))
      })
      outgoing.end(body ?? undefined)
    })
  }
}
