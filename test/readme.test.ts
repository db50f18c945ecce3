import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'

const text = (file: string) => readFileSync(ROOT + file, 'utf8')

test('the login on the first screen is the example that the client’s tests run', () => {
  const [, shown] = /<!-- login:begin -->\n```js\n(.*?)```\n<!-- login:end -->/s.exec(text('README.md')) ?? []
  expect(shown).toBe(text('packages/client/examples/login.mjs'))
})

test('it stays a login in fifteen lines', () => {
  const lines = text('packages/client/examples/login.mjs').trimEnd().split('\n')
  expect(lines.length).toBeLessThanOrEqual(15)
})
