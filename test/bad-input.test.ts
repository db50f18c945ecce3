/** Every route of every server × every kind of bad input (packages/api/test/bad-input.ts makes and judges them). */
import { readFileSync, writeFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { type Driven as Driving, drive, tableOf } from '../packages/api/test/bad-input.js'
import { ROOT } from '../scripts/prepare.mjs'
import { type Driven, drivenDta, drivenFleet, drivenRps, drivenTracking } from './driven-servers.js'

const PAGE = `${ROOT}docs/bad-input.md`
const HEAD = `# Bad input

What each route of each server is sent that it must refuse, by \`test/bad-input.test.ts\`: the number of requests of each
kind, each of which differs from a good one in one thing. All of them are answered 4xx with a problem document and a code
of the route's own list, nothing is written, and the good request is taken afterwards. The requests are made from the
route tables, so a new route has its row without anybody writing one; \`–\`: there is no such thing for this route.
\`node scripts/print-bad-input.mjs\` writes this page; a test compares.
`

const driven: { name: string; counts: Driving['counts'] }[] = []
const servers: [string, () => Promise<Driven[]>][] = [
  ['authority', drivenDta],
  ['authentication server', drivenRps],
  ['fleet', drivenFleet],
  ['tracking server', drivenTracking],
]

/** Milliseconds for one server: some ten seconds of work, on a machine that may be at others' as well. */
const PATIENCE = 600_000

describe.each(servers)('%s', (_, start) => {
  let running: Driven[] = []
  afterAll(async () => {
    for (const { close } of running) await close()
  })

  test(
    'refuses all of it, writes nothing, goes on',
    async () => {
      running = await start()
      for (const { server, health } of running) {
        const { counts, complaints } = await drive(server)
        driven.push({ name: server.name, counts })
        expect(complaints).toEqual([])
        if (health !== undefined) expect((await fetch(health)).status).toBe(200)
      }
    },
    PATIENCE,
  )
})

test('the table in docs/bad-input.md is what was driven', () => {
  const page = `${HEAD}\n${tableOf(driven)}\n`
  console.log(tableOf(driven))
  if (process.env.MILAGRO_WRITE_PAGES === '1') writeFileSync(PAGE, page)
  expect(readFileSync(PAGE, 'utf8')).toBe(page)
})
