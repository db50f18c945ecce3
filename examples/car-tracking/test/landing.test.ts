import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError } from '@milagro-ts/api/config'
import { createLanding, type LandingOptions } from '@milagro-ts/car-tracking/landing'
import type { Running } from '@milagro-ts/car-tracking/landing-routes'
import { freePorts } from '@milagro-ts/car-tracking/processes'
import { afterAll, beforeAll, expect, test } from 'vitest'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-landing-'))
  await writeFile(join(folder, 'index.html'), '<!doctype html><title>What is running</title>')
  await writeFile(join(folder, 'architecture.md'), '# Architecture\n')
})
afterAll(() => rm(folder, { recursive: true }))

const health = (ok: boolean, checks: Record<string, true | string>) =>
  new Response(JSON.stringify({ ok, checks }), { status: ok ? 200 : 503 })

/** What each party answers: well, in trouble, nothing, and something that isn't ours. */
const ANSWERS: Readonly<Record<string, () => Response>> = {
  'http://a.test/health/ready': () => health(true, { store: true }),
  'http://b.test/health/ready': () => health(false, { store: true, clock: 'an hour off' }),
  'http://d.test/health/ready': () => new Response('<html>'),
}

async function landing(more: Partial<LandingOptions> = {}) {
  const [port = 0] = await freePorts(1)
  let now = 0
  let looks = 0
  const opened = await createLanding({
    port,
    pagesFolder: folder,
    docsFolder: folder,
    parties: ['a', 'b', 'c', 'd'].map(name => ({
      name,
      url: `http://${name}.example`,
      adminUrl: `http://${name}.test`,
    })),
    cars: () => [{ name: 'car-1', isRunning: true }],
    group: 'G',
    console: 'http://fleet.example',
    operator: 'browser',
    codeFile: '.milagro/browser.code',
    commands: ['npx milagro fleet list'],
    clock: () => now,
    fetch: async input => {
      looks++
      const answer = ANSWERS[String(input)]
      if (answer === undefined) throw new TypeError('nobody listens')
      return answer()
    },
    ...more,
  })
  return {
    url: opened.url,
    looks: () => looks,
    pass: (milliseconds: number) => {
      now += milliseconds
    },
    running: async () => (await (await fetch(`${opened.url}/v1/running`)).json()) as Running,
    [Symbol.asyncDispose]: () => opened.close(),
  }
}

test('says of each party whether it is ready, in trouble, and with what, or down', async () => {
  await using page = await landing()
  const { parties, ...rest } = await page.running()
  expect(parties.map(({ name, health, failing }) => [name, health, failing])).toEqual([
    ['a', 'ready', []],
    ['b', 'troubled', ['clock']],
    ['c', 'down', []],
    ['d', 'down', []],
  ])
  expect(rest).toEqual({
    cars: [{ name: 'car-1', isRunning: true }],
    group: 'G',
    console: 'http://fleet.example',
    operator: 'browser',
    codeFile: '.milagro/browser.code',
    commands: ['npx milagro fleet list'],
  })
})

test('asks the parties once a second, however many pages look', async () => {
  await using page = await landing()
  await Promise.all([page.running(), page.running(), page.running()])
  expect(page.looks()).toBe(4)
  page.pass(1_000)
  await page.running()
  expect(page.looks()).toBe(8)
})

test('serves its page under a policy, and the documents beside it', async () => {
  await using page = await landing()
  const answer = await fetch(page.url)
  expect(await answer.text()).toContain('What is running')
  expect(answer.headers.get('content-security-policy')).toMatch(/^default-src 'none'; /)
  const document = await fetch(`${page.url}/docs/architecture.md`)
  expect(document.headers.get('content-type')).toMatch(/^text\/markdown/)
  expect(await document.text()).toBe('# Architecture\n')
})

test('does not start without its page', async () => {
  await expect(landing({ pagesFolder: join(folder, 'none') })).rejects.toBeInstanceOf(ConfigError)
})
