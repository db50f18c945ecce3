/** The landing page of `npm start`: one screen that says what is running. It knows no secret and changes nothing. */
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { servePages } from '@milagro-ts/api/pages'
import { createApp, mount } from '@milagro-ts/api/serve'
import type { Clock } from '@milagro-ts/crypto/ports'
import { landingRoutes, type Running } from './landing-routes.js'

export interface Party {
  readonly name: string
  readonly url: string
  /** Of its admin listener, which knows its health. */
  readonly adminUrl: string
}

export interface LandingOptions extends Omit<Running, 'parties' | 'cars'> {
  readonly port: number
  /** The page, as built. */
  readonly pagesFolder: string
  /** The project's documentation, shown as it is. */
  readonly docsFolder: string
  readonly parties: readonly Party[]
  readonly cars: () => Running['cars']
  readonly clock: Clock
  readonly fetch: typeof fetch
}

export interface Landing {
  readonly url: string
  close(): Promise<void>
}

/** Milliseconds that a look at everybody's health counts, and that one party may take to answer. */
const LOOK_LASTS = 1_000
const ANSWER_WITHIN = 3_000

/** Listens on the loopback alone. Rejects when the port is taken; ConfigError when the page wasn't built. */
export async function createLanding(options: LandingOptions): Promise<Landing> {
  const {
    port,
    pagesFolder,
    docsFolder,
    parties,
    cars,
    clock,
    group,
    console,
    operator,
    codeFile,
    commands,
  } = options
  const app = createApp({
    title: 'Landing page',
    log: createLog('landing', { level: 'warn' }),
    metrics: createMetrics('landing'),
  })
  let look: { readonly at: number; readonly health: Promise<Running['parties']> } | undefined
  const running = async (): Promise<Running> => {
    if (look === undefined || clock() - look.at >= LOOK_LASTS) {
      look = { at: clock(), health: Promise.all(parties.map(party => healthOf(party, options.fetch))) }
    }
    return { group, parties: await look.health, cars: cars(), console, operator, codeFile, commands }
  }
  mount(app, landingRoutes, { running }, {})
  await servePages(app, { folder: pagesFolder, entry: 'index.html', connectTo: [] })
  await servePages(app, { folder: docsFolder, entry: 'architecture.md', prefix: '/docs/', connectTo: [] })
  const url = await app.listen({ host: '127.0.0.1', port })
  return { url, close: () => app.close() }
}

/** Whoever doesn't answer is down: that is an answer too. */
async function healthOf(
  { name, url, adminUrl }: Party,
  fetch: typeof globalThis.fetch,
): Promise<Running['parties'][number]> {
  try {
    const answer = await fetch(`${adminUrl}/health/ready`, { signal: AbortSignal.timeout(ANSWER_WITHIN) })
    const { ok, checks } = (await answer.json()) as { ok: boolean; checks: Record<string, true | string> }
    const failing = Object.keys(checks).filter(check => checks[check] !== true)
    return { name, url, health: ok ? 'ready' : 'troubled', failing }
  } catch {
    return { name, url, health: 'down', failing: [] }
  }
}
