/** The two listeners of a server: public, and admin on the loopback. */
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'

export interface Listen {
  readonly host: string
  /** 0: any free port. */
  readonly port: number
}

/** Both or none: rejects when a port is taken. */
export async function listenBoth(
  { app, admin }: { readonly app: FastifyInstance; readonly admin: FastifyInstance },
  { listen, adminListen }: { readonly listen: Listen; readonly adminListen: Listen },
): Promise<{ url: string; adminUrl: string }> {
  await app.listen(listen)
  try {
    await admin.listen(adminListen)
  } catch (error) {
    await app.close()
    throw error
  }
  return { url: urlOf(app), adminUrl: urlOf(admin) }
}

function urlOf(app: FastifyInstance): string {
  const { address, port, family } = app.server.address() as AddressInfo
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
}
