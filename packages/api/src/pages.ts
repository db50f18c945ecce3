/**
 * Pages: the files of one folder, under one prefix of a server's own origin. The folder is listed once, at the start,
 * so no path of a request ever reaches the file system.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance } from 'fastify'
import { ConfigError } from './config.js'

export interface PagesOptions {
  /** What was built. */
  readonly folder: string
  /** The file that must be in it. */
  readonly entry: string
  /** Ends with a slash; `/` unless said. */
  readonly prefix?: string
  /** Other origins that the pages' scripts talk to. */
  readonly connectTo: readonly string[]
}

/**
 * Nothing but what the pages' own origin serves, and no script or style that stands in a document. 'wasm-unsafe-eval'
 * lets WebAssembly compile, and nothing else.
 */
const policy = (connectTo: readonly string[]): string =>
  [
    "default-src 'none'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "style-src 'self'",
    "img-src 'self' data:",
    `connect-src ${["'self'", ...connectTo].join(' ')}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')

/** ConfigError when the entry isn't there: nothing was built. */
export async function servePages(
  app: FastifyInstance,
  { folder, entry, prefix = '/', connectTo }: PagesOptions,
): Promise<void> {
  if (!existsSync(join(folder, entry))) throw new ConfigError(`the pages' folder ${folder} has no ${entry}`)
  const security = policy(connectTo)
  await app.register(fastifyStatic, {
    root: folder,
    prefix,
    wildcard: false,
    decorateReply: false,
    index: ['index.html'],
    // Asked again each time, and answered 304 by its ETag: a new build shows at once.
    cacheControl: false,
    setHeaders: response => {
      response.setHeader('cache-control', 'no-cache')
      response.setHeader('content-security-policy', security)
      response.setHeader('referrer-policy', 'no-referrer')
      response.setHeader('cross-origin-opener-policy', 'same-origin')
      response.setHeader('permissions-policy', 'camera=(), geolocation=(), microphone=()')
    },
  })
}
