/**
 * A guard before an existing web application: a middleware of the kind that Express, Connect and node:http listeners
 * take. It answers refusals itself (problem+json), and hands on requests of proven devices alone, with `request.proven`.
 *
 *   const guard = await openGuard({ rps, audience, name, keyFile, groupFile, groupId })
 *   app.use(protect(guard))
 */
import { readFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { exporterOf } from '@milagro-ts/api/channel-binding'
import { pinnedGroup } from '@milagro-ts/api/group-file'
import { Es256PrivateKey } from '@milagro-ts/api/keys'
import { createLog, type Log } from '@milagro-ts/api/log'
import { nodeExchange } from '@milagro-ts/api/node-exchange'
import { toRefused } from '@milagro-ts/api/serve'
import { threadKeyCheck } from '@milagro-ts/api/server-pool'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { Guard, type Holder } from './guard.js'

export interface GuardSettings {
  /** The RPS' origin. */
  readonly rps: string
  /** What devices log in for; byte for byte as the RPS knows it. */
  readonly audience: string
  /** The service's name among the recipients of the group document. */
  readonly name: string
  /** Its private request key, a P-256 JWK; nobody else may read the file. */
  readonly keyFile: string
  /** The group document's first revision, or an array of all, and the groupId that pins it. */
  readonly groupFile: string
  readonly groupId: string
  readonly log?: Log
  /** For every request. Unless said it is the platform's for the stream of ban events, and node's own HTTP client for all else. */
  readonly fetch?: typeof fetch
}

/** A request that has passed: who made it. */
export type ProvenRequest = IncomingMessage & { proven: Holder }

/** Reads and checks the files, and begins to follow the bans. Rejects for what can't be read, or is of another group. */
export async function openGuard(settings: GuardSettings): Promise<Guard> {
  const { rps, audience, name, keyFile, groupFile, groupId, log = createLog(settings.name) } = settings
  const ports = { random: systemRandom, clock: systemClock, timers: systemTimers }
  const guard = new Guard({
    rpsUrl: rps,
    audience,
    name,
    requestKey: await Es256PrivateKey.fromJwk(JSON.parse(await readFile(keyFile, 'utf8')), 'keyFile'),
    group: await pinnedGroup({ groupFile, groupId }, threadKeyCheck(ports)),
    ...ports,
    fetch: settings.fetch ?? fetch,
    exchange: settings.fetch === undefined ? nodeExchange : undefined,
    log,
  })
  guard.start()
  return guard
}

/** Everything behind this middleware is reached by proven devices alone. */
export function protect(
  guard: Pick<Guard, 'check'>,
): (request: IncomingMessage, response: ServerResponse, next: () => void) => void {
  return (request, response, next) => {
    guard.check(request.headers.authorization, exporterOf(request.socket)).then(
      proven => {
        Object.assign(request, { proven } satisfies Pick<ProvenRequest, 'proven'>)
        next()
      },
      (error: unknown) => {
        const refused = toRefused(error)
        response
          .writeHead(refused.status, {
            'content-type': 'application/problem+json',
            'cache-control': 'no-store',
            ...(refused.status === 401 ? { 'www-authenticate': 'Bearer, MPIN' } : {}),
            ...(refused.retryAfter === undefined ? {} : { 'retry-after': String(refused.retryAfter) }),
          })
          .end(JSON.stringify(refused.toProblem()))
      },
    )
  }
}
