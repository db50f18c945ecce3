/** The console: its pages, its extensions, and the one thing that they may ask before a login. */
import { servePages } from '@milagro-ts/api/pages'
import { mount } from '@milagro-ts/api/serve'
import type { FastifyInstance } from 'fastify'
import type { FleetConfig } from './config.js'
import { consoleRoutes } from './console-routes.js'

/** ConfigError for a folder in which something is missing. */
export async function serveConsole(
  app: FastifyInstance,
  config: FleetConfig,
  pagesFolder: string,
): Promise<void> {
  const { extensions = [], publicUrl } = config
  const rps = config.rps.issuer ?? config.rps.url
  mount(
    app,
    consoleRoutes,
    {
      consoleSettings: async () => ({
        rps,
        audience: publicUrl,
        extensions: extensions.map(({ name, title, audience }) => ({
          name,
          title,
          ...(audience === undefined ? {} : { audience }),
        })),
      }),
    },
    {},
  )
  const connectTo = [rps, ...extensions.flatMap(({ audience }) => audience ?? [])]
  await servePages(app, { folder: pagesFolder, entry: 'index.html', connectTo })
  for (const { name, folder } of extensions) {
    await servePages(app, { folder, entry: 'main.js', prefix: `/extensions/${name}/`, connectTo })
  }
}
