/**
 * The admin listener of a server: health and metrics for whoever reaches the loopback, and admin routes for whoever
 * can read the admin token in the data folder.
 */
import { timingSafeEqual } from 'node:crypto'
import { existsSync, linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { FastifyInstance } from 'fastify'
import { ConfigError } from './config.js'
import { Refused } from './problem.js'
import type { RouteTable } from './route.js'
import { type AppOptions, createApp, type Handlers, type Meta, mount } from './serve.js'

export interface Readiness {
  readonly ok: boolean
  /** Each check by name: true, or why not. */
  readonly checks: Readonly<Record<string, true | string>>
}

export interface AdminOptions<T extends RouteTable> extends AppOptions {
  readonly ready: () => Promise<Readiness>
  readonly adminToken: string
  readonly table: T
  readonly handlers: Handlers<T>
}

/** 32 bytes as base64url. */
const ADMIN_TOKEN = /^[A-Za-z0-9_-]{43}$/

/** TypeError for an empty token. */
export function createAdmin<T extends RouteTable>(options: AdminOptions<T>): FastifyInstance {
  if (options.adminToken === '') throw new TypeError('the admin token is empty')
  const app = createApp(options)
  app.get('/health/live', (_request, reply) => reply.send({ ok: true }))
  app.get('/health/ready', async (_request, reply) => {
    const readiness = await options.ready()
    return reply.code(readiness.ok ? 200 : 503).send(readiness)
  })
  app.get('/metrics', async (_request, reply) =>
    reply.type(options.metrics.registry.contentType).send(await options.metrics.registry.metrics()),
  )
  mount(app, options.table, options.handlers, { admin: adminCheck(options.adminToken) })
  return app
}

/** Refused('UNAUTHENTICATED') unless the request carries `Authorization: Bearer <admin token>`. */
function adminCheck(adminToken: string): (meta: Meta) => Promise<undefined> {
  const wanted = sha256(new TextEncoder().encode(`Bearer ${adminToken}`))
  return async meta => {
    const given = sha256(new TextEncoder().encode(meta.headers.authorization ?? ''))
    if (!timingSafeEqual(wanted, given)) throw new Refused('UNAUTHENTICATED')
    return undefined
  }
}

/**
 * The admin token of a data folder; made at first use, readable by its owner only. ConfigError when the file holds
 * something else.
 */
export function adminTokenOf(dataDir: string, random: Random): string {
  const path = join(dataDir, 'admin-token')
  if (!existsSync(path)) makeAdminToken(path, random)
  const token = readFileSync(path, 'utf8').trim()
  if (!ADMIN_TOKEN.test(token))
    throw new ConfigError(`'${path}' is damaged: delete it, and the next start makes a new token`)
  return token
}

/** Written beside its place and linked there whole: no crash leaves half a token, and of two starts one wins. */
function makeAdminToken(path: string, random: Random): void {
  const unfinished = `${path}.${process.pid}.tmp`
  writeFileSync(unfinished, `${toBase64Url(random(32))}\n`, { mode: 0o600 })
  try {
    linkSync(unfinished, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    rmSync(unfinished)
  }
}
