/** Calls to a server's admin listener, with the token from its data folder. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Client, createClient } from '@milagro-ts/api/call'
import type { RouteTable } from '@milagro-ts/api/route'
import { addressOf, type Io, readJsonFile, UsageError } from './io.js'

export interface AdminOptions {
  /** The server's settings file: its data folder and admin address are in there. */
  readonly config?: string
  readonly adminUrl?: string
  readonly dataDir?: string
}

/**
 * The typed client of `table` on the admin listener. Address and data folder come from the flags, else from the
 * server's settings file.
 */
export function adminClient<T extends RouteTable>(table: T, options: AdminOptions, io: Io): Client<T> {
  const settings = options.config === undefined ? {} : (readJsonFile(options.config) as Settings)
  const dataDir = options.dataDir ?? settings.dataDir
  const listen = settings.adminListen
  const url = options.adminUrl ?? (listen === undefined ? undefined : `http://${listen.host}:${listen.port}`)
  if (dataDir === undefined || url === undefined) {
    throw new UsageError('say --config, or both --admin-url and --data-dir')
  }
  const token = readToken(join(dataDir, 'admin-token'))
  return createClient(table, {
    baseUrl: addressOf(url, '--admin-url'),
    fetch: io.fetch,
    authorize: async () => `Bearer ${token}`,
  })
}

interface Settings {
  readonly dataDir?: string
  readonly adminListen?: { readonly host: string; readonly port: number }
}

function readToken(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (error) {
    throw new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}
