/** A server that passes requests on to another one, and may change what passes: the attackers of `--check`. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Passing {
  readonly method: string
  /** Path and query. */
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}
export interface Answered {
  readonly status: number
  readonly type: string
  readonly body: Buffer
}
export interface Forwarding {
  readonly port: number
  /** Where everything goes. */
  readonly target: string
  readonly onRequest?: (request: Passing) => Promise<Passing>
  readonly onAnswer?: (request: Passing, answer: Answered) => Promise<Answered>
}

/** Listens on the loopback; its address. SIGTERM ends the process. */
export async function forward({ port, target, onRequest, onAnswer }: Forwarding): Promise<string> {
  const pass = async (incoming: IncomingMessage, response: ServerResponse) => {
    const arrived = await read(incoming)
    const request = (await onRequest?.(arrived)) ?? arrived
    const reply = await fetch(target + request.url, {
      method: request.method,
      headers: request.headers,
      ...(request.body.length > 0 ? { body: new Uint8Array(request.body) } : {}),
    })
    const genuine: Answered = {
      status: reply.status,
      type: reply.headers.get('content-type') ?? 'application/json',
      body: Buffer.from(await reply.arrayBuffer()),
    }
    const answer = (await onAnswer?.(request, genuine)) ?? genuine
    response.writeHead(answer.status, { 'content-type': answer.type }).end(answer.body)
  }
  const server = createServer((incoming, response) => {
    pass(incoming, response).catch((error: Error) => {
      process.stderr.write(`forwarding: ${error.message}\n`)
      response.destroy()
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  process.once('SIGTERM', () => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function read(incoming: IncomingMessage): Promise<Passing> {
  const chunks: Buffer[] = []
  for await (const chunk of incoming) chunks.push(chunk as Buffer)
  const { authorization, 'content-type': type } = incoming.headers
  return {
    method: incoming.method ?? 'GET',
    url: incoming.url ?? '/',
    headers: {
      ...(authorization === undefined ? {} : { authorization }),
      ...(type === undefined ? {} : { 'content-type': type }),
    },
    body: Buffer.concat(chunks),
  }
}
