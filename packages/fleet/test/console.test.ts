/** What fleet serves of its console, and that it does so only when it was built. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { createApp } from '@milagro-ts/api/serve'
import type { FleetConfig } from '@milagro-ts/fleet/config'
import { serveConsole } from '@milagro-ts/fleet/console'
import { consoleRoutes } from '@milagro-ts/fleet/console-routes'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-console-'))
  await mkdir(join(folder, 'pages'))
  await writeFile(join(folder, 'pages', 'index.html'), '<!doctype html><title>Fleet</title>')
  await mkdir(join(folder, 'map'))
  await writeFile(join(folder, 'map', 'main.js'), 'export const mount = () => () => {}')
})
afterEach(() => rm(folder, { recursive: true }))

const TRACKING = 'https://tracking.example'
const config = (): FleetConfig => ({
  name: 'fleet',
  listen: { host: '127.0.0.1', port: 0 },
  adminListen: { host: '127.0.0.1', port: 0 },
  publicUrl: 'https://fleet.example',
  dataDir: folder,
  rps: { url: 'http://rps.internal', issuer: 'https://rps.example' },
  rpsName: 'rps',
  extensions: [{ name: 'map', title: 'Map', folder: join(folder, 'map'), audience: TRACKING }],
})

async function serving(settings: FleetConfig): Promise<string> {
  const log = createLog('test', { destination: { write: () => undefined } })
  const app = createApp({ title: 'Test', log, metrics: createMetrics('test') })
  await serveConsole(app, settings, join(folder, 'pages'))
  await app.listen({ host: '127.0.0.1', port: 0 })
  onTestFinished(() => app.close())
  return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
}

test('the pages hear where they log in: the RPS’ public address, fleet’s audience, the extensions', async () => {
  const baseUrl = await serving(config())
  expect(await createClient(consoleRoutes, { baseUrl }).consoleSettings({})).toEqual({
    rps: 'https://rps.example',
    audience: 'https://fleet.example',
    extensions: [{ name: 'map', title: 'Map', audience: TRACKING }],
  })
})

test('pages and extensions may talk to the RPS and to the extensions’ services, and to nobody else', async () => {
  const baseUrl = await serving(config())
  for (const path of ['/', '/extensions/map/main.js']) {
    const policy = (await fetch(baseUrl + path)).headers.get('content-security-policy') ?? ''
    expect(policy.split('; ').find(part => part.startsWith('connect-src'))).toBe(
      `connect-src 'self' https://rps.example ${TRACKING}`,
    )
  }
})

test('an extension that was not built ends the start', async () => {
  await rm(join(folder, 'map', 'main.js'))
  await expect(serving(config())).rejects.toThrow(/map has no main\.js/)
})
