/** A server out of a small table on 127.0.0.1:0, its log as lines, and a raw socket to be rude with. */
import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { createLog, type Log } from '@milagro-ts/api/log'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import type { RouteTable } from '@milagro-ts/api/route'
import { type AppOptions, type CallerChecks, createApp, type Handlers, mount } from '@milagro-ts/api/serve'
import type { FastifyInstance } from 'fastify'
import { onTestFinished } from 'vitest'

export interface TestLog {
  readonly log: Log
  readonly lines: string[]
}

export function testLog(): TestLog {
  const lines: string[] = []
  return { lines, log: createLog('test', { destination: { write: line => void lines.push(line) } }) }
}

export interface Server {
  readonly url: string
  readonly port: number
  readonly lines: string[]
  readonly metrics: Metrics
  readonly app: FastifyInstance
}

/** Listens on a free port until the test ends. */
export async function listen(app: FastifyInstance): Promise<{ url: string; port: number }> {
  await app.listen({ host: '127.0.0.1', port: 0 })
  onTestFinished(() => app.close())
  const { port } = app.server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port }
}

export async function serve<T extends RouteTable, I = undefined, O = undefined>(
  table: T,
  handlers: Handlers<T, I, O>,
  checks: CallerChecks<I, O> = {},
  options: Partial<AppOptions> = {},
): Promise<Server> {
  const { log, lines } = testLog()
  const metrics = createMetrics('test')
  const app = createApp({ title: 'Test', log, metrics, ...options })
  mount(app, table, handlers, checks)
  return { ...(await listen(app)), lines, metrics, app }
}

/** Sends bytes as they are and gives everything that comes back until the server closes. */
export async function raw(port: number, ...parts: (string | Uint8Array)[]): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  let answer = ''
  socket.on('data', data => {
    answer += data.toString('latin1')
  })
  // A server that closes on an unfinished request may reset the connection; what it said before counts.
  socket.on('error', () => socket.destroy())
  for (const part of parts) socket.write(part)
  await once(socket, 'close')
  return answer
}

/** Status and problem code of an answer; the code is `OK` for an answer that is none. */
export async function outcome(response: Response): Promise<string> {
  const type = response.headers.get('content-type')?.split(';')[0]
  if (type !== 'application/problem+json') return `${response.status} OK`
  const { code, status } = (await response.json()) as { code: string; status: number }
  return status === response.status ? `${status} ${code}` : `status ${response.status}, said ${status}`
}
