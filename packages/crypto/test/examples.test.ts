/** Every protocol has an example; the examples run and stand in the documentation, which typedoc makes without a warning. */
import { execFileSync, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const folder = new URL('../examples/', import.meta.url)
const textOf = (file: string) => readFileSync(new URL(file, folder), 'utf8')
/** What they share is no example. */
const examples = readdirSync(folder).filter(file => file.endsWith('.mjs') && file !== 'world.mjs')
const files = readdirSync(new URL('../src/', import.meta.url), { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts'))
  .map(file => file.replaceAll('\\', '/'))
const sources = files.map(file => readFileSync(new URL(`../src/${file}`, import.meta.url), 'utf8'))

/** By source file, the examples of what it has. */
const PROTOCOLS: Readonly<Record<string, readonly string[]>> = {
  batch: ['batch.mjs'],
  bls: ['bls.mjs'],
  'chow-choo': ['chow-choo.mjs'],
  dealing: ['dealing.mjs'],
  enrolment: ['enrolment.mjs'],
  ibe: ['encryption.mjs'],
  ibs: ['signatures.mjs'],
  mpin: ['login.mjs', 'batch.mjs', 'pin.mjs'],
  'mpin-full': ['mpin-full.mjs'],
  'node-shares': ['node-shares.mjs'],
  'permit-tree': ['cover.mjs'],
  pin: ['pin.mjs'],
  'secret-sharing': ['key-shares.mjs'],
  'share-proof': ['key-shares.mjs'],
  'static-agreement': ['external-psk.mjs'],
  'time-permit': ['time-permit.mjs'],
  'legacy/dvs': ['legacy-dvs.mjs'],
  'legacy/mpin': ['legacy-login.mjs', 'legacy-one-pass.mjs'],
  'legacy/mpin-full': ['legacy-full.mjs'],
  'legacy/pin-error': ['legacy-login.mjs'],
  'legacy/wcc': ['legacy-wcc.mjs'],
}
/** What protocols are made of: arithmetic, hashes, encodings, the pools that compute; `possession` goes with `dealing`. */
const PARTS = [
  ...['bigint-engine', 'bigint-g1', 'bytes', 'crypto-worker', 'curve', 'device-engine', 'engine', 'errors'],
  ...['fma-kernels', 'hash-to-curve', 'hash-to-field', 'identity', 'identity-points', 'kdf', 'kernel'],
  ...['kernel-g1-fma-wasm', 'kernel-g1-wasm', 'kernel-pairing', 'kernel-pairing-fma-wasm'],
  ...['kernel-pairing-wasm', 'module-text', 'no-fma-kernels', 'no-pairings', 'node-pool', 'nonce', 'points'],
  ...['pooled-login', 'ports', 'possession', 'scalar', 'server-key', 'sha256', 'suite', 'tlv'],
  ...['curve', 'group-law', 'hash-to-curve', 'octets', 'pairing', 'points', 'scalar', 'tower'].map(
    part => `legacy/${part}`,
  ),
]

test('there are examples', () => {
  expect(examples.length).toBeGreaterThan(10)
})

test.each(examples)('%s runs, and checks what it says', file => {
  expect(execFileSync(process.execPath, [fileURLToPath(new URL(file, folder))], { encoding: 'utf8' })).toBe(
    '',
  )
  expect(textOf(file)).toMatch(/^\s*assert/m)
})

test('every source file is a protocol with an example, or a part of protocols', () => {
  expect([...Object.keys(PROTOCOLS), ...PARTS].sort()).toEqual(
    files.map(file => file.replace(/\.ts$/, '')).sort(),
  )
  expect([...new Set(Object.values(PROTOCOLS).flat())].sort()).toEqual([...examples].sort())
})

test.each(Object.entries(PROTOCOLS).filter(([source]) => source !== 'batch'))(
  '%s: its examples use it',
  (source, used) => {
    for (const file of used) expect(textOf(file)).toContain(`from '@milagro-ts/crypto/${source}'`)
  },
)

test('the page of the examples has all of them', () => {
  const named = [...textOf('README.md').matchAll(/^\|.*\|$/gm)].flatMap(([row]) => [
    ...row.matchAll(/`([a-z-]+\.mjs)`/g),
  ])
  expect([...new Set(named.map(([, file]) => file))].sort()).toEqual([...examples].sort())
})

test('each is in the documentation once: of its protocol, or on the page of the examples', () => {
  const shown = [...sources, textOf('README.md')].flatMap(text =>
    [...text.matchAll(/\{@includeCode (?:(?:\.\.\/)+examples\/)?([a-z-]+\.mjs)\}/g)].map(
      ([, file]) => file as string,
    ),
  )
  expect(shown.sort()).toEqual([...examples].sort())
})

test('the API documentation is made without a warning', () => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['node_modules/typedoc/bin/typedoc', '--emit', 'none'],
    { cwd: root, encoding: 'utf8' },
  )
  expect([status, `${stdout}${stderr}`.trim()]).toEqual([0, ''])
})
