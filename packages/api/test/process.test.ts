/** What a process that ends at its start says on standard error, and its exit code. */
import { spawnSync } from 'node:child_process'
import { Unreachable } from '@milagro-ts/api/call'
import { ConfigError } from '@milagro-ts/api/config'
import { Refused } from '@milagro-ts/api/problem'
import { runProcess } from '@milagro-ts/api/process'
import { StoreError } from '@milagro-ts/store/store-error'
import { afterEach, expect, test, vi } from 'vitest'

const before = process.exitCode
afterEach(() => {
  vi.restoreAllMocks()
  process.exitCode = before
})

test.each<[Error, number, string]>([
  [new ConfigError("setting 'name' is missing"), 2, "setting 'name' is missing"],
  [new Unreachable('GET https://ta1/v1 got no answer'), 3, 'GET https://ta1/v1 got no answer'],
  [new StoreError('damaged', 'keys.sealed: cut short'), 1, 'keys.sealed: cut short'],
  [new Error('two\n  lines'), 1, 'two lines'],
  // Nobody but the operator is there: what a peer wouldn't read is said.
  [new Refused('FORBIDDEN', { log: 'the group names no x' }), 1, 'FORBIDDEN: the group names no x'],
  [
    new Refused('FROZEN', { detail: 'refused by ta1', log: 'ta1: FROZEN' }),
    1,
    'FROZEN: refused by ta1 (ta1: FROZEN)',
  ],
])('%s', async (error, exit, says) => {
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  await runProcess('rps', () => Promise.reject(error))
  expect(write.mock.calls).toEqual([[`milagro rps: ${says}\n`]])
  expect(process.exitCode).toBe(exit)
})

test('a start that waits for nothing but a timer of the system comes to its end', () => {
  const program = `
    import { runProcess, say } from '@milagro-ts/api/process'
    import { systemTimers } from '@milagro-ts/api/system'
    await runProcess('rps', async () => {
      await new Promise(resolve => systemTimers.after(100, resolve))
      say({ event: 'over' })
      return null
    })`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    cwd: import.meta.dirname,
    encoding: 'utf8',
  })
  expect(child).toMatchObject({ status: 0, stdout: '{"event":"over"}\n', stderr: '' })
})
