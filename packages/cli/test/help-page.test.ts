import { fileURLToPath } from 'node:url'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { helpPage } from '@milagro-ts/cli/help-page'
import { milagro } from '@milagro-ts/cli/program'
import { expect, test } from 'vitest'
import { noBytes } from './world.js'

test('docs/cli.md is what --help prints (vitest run packages/cli/test/help-page.test.ts -u prints it again)', async () => {
  const io = {
    out: () => {},
    err: () => {},
    env: {},
    fetch,
    clock: systemClock,
    random: systemRandom,
    isTerminal: false,
    bytes: noBytes,
  }
  const page = `${helpPage(milagro(io, { exit: 0 }))}\n`
  await expect(page).toMatchFileSnapshot(fileURLToPath(new URL('../../../docs/cli.md', import.meta.url)))
})
