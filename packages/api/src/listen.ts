/** The two listeners of a server: public, and admin on the loopback. */
import type { AddressInfo } from 'node:net'
import { Server as TlsServer } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import { ConfigError } from './config.js'

export interface Listen {
  readonly host: string
  /** 0: any free port. */
  readonly port: number
}

/** A port that something else listens on: ends the start. */
export class PortTaken extends Error {
  override readonly name = 'PortTaken'
}

/** Both or none. PortTaken, or ConfigError for an address that this machine can't listen on; each names the setting. */
export async function listenBoth(
  { app, admin }: { readonly app: FastifyInstance; readonly admin: FastifyInstance },
  { listen, adminListen }: { readonly listen: Listen; readonly adminListen: Listen },
): Promise<{ url: string; adminUrl: string }> {
  await app.listen(listen).catch(error => refuseListen('listen', listen, error))
  try {
    await admin.listen(adminListen).catch(error => refuseListen('adminListen', adminListen, error))
  } catch (error) {
    await app.close()
    throw error
  }
  return { url: urlOf(app), adminUrl: urlOf(admin) }
}

/** PortTaken or ConfigError for what listening failed with, where it is one of those; else the error itself. */
export function refuseListen(setting: string, { host, port }: Listen, error: unknown): never {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'EADDRINUSE')
    throw new PortTaken(
      `setting '${setting}': ${host}:${port} is taken: end what listens there, or choose another port`,
    )
  if (code === 'EACCES' || code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    throw new ConfigError(`setting '${setting}': can't listen on ${host}:${port} (${code})`)
  throw error
}

/** Where it listens. */
export function urlOf(app: FastifyInstance): string {
  const { address, port, family } = app.server.address() as AddressInfo
  const scheme = app.server instanceof TlsServer ? 'https' : 'http'
  return `${scheme}://${family === 'IPv6' ? `[${address}]` : address}:${port}`
}
