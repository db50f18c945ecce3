/** The examples run; each stands in the documentation of its protocol, which typedoc makes without a warning. */
import { execFileSync, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const folder = new URL('../examples/', import.meta.url)
/** What they share is no example. */
const examples = readdirSync(folder).filter(file => file !== 'world.mjs')
const sources = readdirSync(new URL('../src/', import.meta.url), { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts'))
  .map(file => readFileSync(new URL(`../src/${file}`, import.meta.url), 'utf8'))

test('there are examples', () => {
  expect(examples.length).toBeGreaterThan(10)
})

test.each(examples)('%s runs, and checks what it says', file => {
  expect(execFileSync(process.execPath, [fileURLToPath(new URL(file, folder))], { encoding: 'utf8' })).toBe(
    '',
  )
  expect(readFileSync(new URL(file, folder), 'utf8')).toMatch(/^\s*assert/m)
})

test('each is in the documentation of one protocol', () => {
  const shown = sources.flatMap(text =>
    [...text.matchAll(/\{@includeCode (?:\.\.\/)+examples\/([a-z-]+\.mjs)\}/g)].map(
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
