/** A `fetch` by an agent of node:https, for clients that take one: what it sends goes over the agent's connections alone. */
import { type Agent, request } from 'node:https'
import { Readable } from 'node:stream'
import type { TLSSocket } from 'node:tls'

/** Answers that have no body (Fetch standard, "null body status"). */
const WITHOUT_BODY: readonly (number | undefined)[] = [204, 205, 304]

/** What a caller does about the connection that a request goes over. */
export interface OnConnections {
  /** Told of every connection that the agent opens, before its first request. */
  readonly opened?: (socket: TLSSocket) => void
  /** The Authorization header of a request that goes over this connection; undefined: the request's own, if it has one. */
  readonly authorization?: (socket: TLSSocket) => Promise<string | undefined>
  readonly answered?: (socket: TLSSocket, status: number) => void
}

/**
 * For https addresses, and bodies that are bytes or text; TypeError for others. Like fetch it rejects only when there is
 * no answer, and with what `authorization` rejects with.
 */
export function agentFetch(agent: Agent, on: OnConnections = {}): typeof fetch {
  const known = new WeakSet<TLSSocket>()
  return async (input, init = {}) => {
    const { method = 'GET', body, signal } = init
    if (body !== undefined && body !== null && typeof body !== 'string' && !(body instanceof Uint8Array))
      throw new TypeError('a body of bytes or text')
    const headers = Object.fromEntries(new Headers(init.headers))
    return new Promise((resolve, reject) => {
      const outgoing = request(String(input), { agent, method, headers, ...(signal ? { signal } : {}) })
      const send = async (socket: TLSSocket) => {
        if (!known.has(socket)) {
          known.add(socket)
          on.opened?.(socket)
        }
        const authorization = await on.authorization?.(socket)
        if (authorization !== undefined) outgoing.setHeader('authorization', authorization)
        outgoing.end(body ?? undefined)
      }
      outgoing.once('error', reject)
      // Whoever says what the header is has to know the connection, so nothing is sent before there is one.
      outgoing.once('socket', socket => {
        const begin = () => void send(socket as TLSSocket).catch(error => outgoing.destroy(error))
        // Node's types don't list it.
        if ((socket as { secureConnecting?: boolean }).secureConnecting) socket.once('secureConnect', begin)
        else begin()
      })
      outgoing.once('response', incoming => {
        const { statusCode: status = 0, rawHeaders } = incoming
        on.answered?.(incoming.socket as TLSSocket, status)
        const pairs = rawHeaders.flatMap((name, i) => (i % 2 === 0 ? [[name, rawHeaders[i + 1]]] : []))
        const isEmpty = WITHOUT_BODY.includes(status)
        if (isEmpty) incoming.resume()
        // The same class, under two names for its type.
        const stream = isEmpty ? null : (Readable.toWeb(incoming) as unknown as ReadableStream)
        resolve(new Response(stream, { status, headers: pairs as [string, string][] }))
      })
    })
  }
}
