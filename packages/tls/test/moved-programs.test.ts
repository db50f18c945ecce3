/**
 * Programs that were written for certificates (programs/certificates), and the same after they have moved
 * (programs/identities): another import, `service` and `identity` where `key`, `cert` and `ca` stood, and nothing else. Both
 * run, and say the same.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Certificates, Identities, Say } from './programs/credentials.js'
import { cert, key } from './someones-certificate.js'
import { World } from './world.js'

const FOLDER = new URL('programs/', import.meta.url)
const PAGE = new URL('../../../docs/protocols/tls.md', import.meta.url)
const PROGRAMS = ['tls', 'https', 'http2', 'ws', 'undici', 'mqtt']
const sourceOf = (side: 'certificates' | 'identities', name: string) =>
  readFileSync(new URL(`${side}/${name}.ts`, FOLDER), 'utf8')

/** All that moving changes. */
const moved = (source: string) =>
  source
    .replaceAll(/from '(?:node:(tls|https|http2)|(ws|undici|mqtt))'/g, "from '@milagro-ts/tls/$1$2'")
    .replaceAll('{ key, cert, ca, requestCert:', '{ ...service, requestCert:')
    .replaceAll('{ key, cert, ca, ', '{ identity: car, ')
    .replace('{ key, cert, ca }: Certificates', '{ service, car }: Identities')
    .replace('import type { Certificates, Say }', 'import type { Identities, Say }')

/** Imports in whatever order: a formatter sorts them. */
const lines = (source: string) => {
  const all = source.split('\n')
  return [
    ...all.filter(line => line.startsWith('import ')).sort(),
    ...all.filter(line => !line.startsWith('import ')),
  ]
}

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.close())

type Program<C> = { readonly run: (say: Say, credentials: C) => Promise<void> }
async function said<C>(side: 'certificates' | 'identities', name: string, credentials: C): Promise<string[]> {
  const { run } = (await import(`./programs/${side}/${name}.ts`)) as Program<C>
  const heard: string[] = []
  await run(line => heard.push(line), credentials)
  return heard
}

test('every program is here on both sides', () => {
  for (const side of ['certificates', 'identities'])
    expect(readdirSync(new URL(side, FOLDER)).sort()).toEqual(PROGRAMS.map(name => `${name}.ts`).sort())
})

describe.each(PROGRAMS)('a program of %s', name => {
  test('has another import, other credentials, and not a byte else', () => {
    const before = sourceOf('certificates', name)
    const after = sourceOf('identities', name)
    expect(lines(after)).toEqual(lines(moved(before)))
    expect(after).toMatch(/from '@milagro-ts\/tls\//)
    expect(after).not.toMatch(/from '(?:node:(?:tls|https|http2)|ws|undici|mqtt)'/)
  })

  test('says the same by certificates and by identities', async () => {
    const certificates: Certificates = { key, cert, ca: cert }
    const before = await said('certificates', name, certificates)
    expect(before.length).toBeGreaterThan(2)
    const { door, timers, log } = world
    const met = world.asked.length
    const car = world.car(PROGRAMS.indexOf(name) + 1)
    // The world's clock stands still, and the programs go by the system's.
    const known = async (server: string) => ({
      ...(await car.externalPsk(server)),
      endsAt: Number.POSITIVE_INFINITY,
    })
    const identities: Identities = { service: { door, timers, log }, car: { externalPsk: known } }
    expect(await said('identities', name, identities)).toEqual(before)
    // It was this car that came in, by its own key.
    expect(world.asked.slice(met)).toContain(car.mpinId)
  })
})

test.each(PROGRAMS)('the page says which names of %s are here, and which aren’t', async name => {
  const original = await import(['tls', 'https', 'http2'].includes(name) ? `node:${name}` : name)
  const own = Object.keys(await import(`../src/${name}.ts`))
  const row =
    readFileSync(PAGE, 'utf8')
      .split('\n')
      .find(line => line.includes(`| \`${name}\`: `)) ?? ''
  const [, , has = '', hasNot = ''] = row.split('|')
  const named = (cell: string) =>
    [...cell.matchAll(/`(\w+)`/g)].map(([, word]) => word as string).filter(word => word in original)
  const here = own.filter(word => word !== 'default' && word in original)
  expect([...new Set(named(has.replace(`\`${name}\`: `, '')))].sort()).toEqual(here.sort())
  const absent = named(hasNot).filter(word => !(name === 'tls' && word === 'TLSSocket'))
  expect(absent.length).toBeGreaterThan(0)
  expect(absent.filter(word => own.includes(word))).toEqual([])
})

test('the page shows a program before and after as it is', () => {
  const page = readFileSync(PAGE, 'utf8')
  const shown = /```diff\n(.*?)```/s.exec(page)?.[1] ?? ''
  const marked = shown.trimEnd().split('\n')
  const side = (mark: string) =>
    marked.filter(line => line[0] === ' ' || line[0] === mark || line === '').map(line => line.slice(1))
  expect(lines(side('-').join('\n'))).toEqual(lines(sourceOf('certificates', 'ws').trimEnd()))
  expect(lines(side('+').join('\n'))).toEqual(lines(sourceOf('identities', 'ws').trimEnd()))
  expect(marked.filter(line => /^[-+]/.test(line)).length).toBeGreaterThan(0)
})
