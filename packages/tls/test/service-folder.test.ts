/** A service's folder: what is made there once, and why a start is refused. */
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeService, readService } from '@milagro-ts/tls/service-folder'
import { afterAll, beforeAll, expect, test } from 'vitest'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-service-'))
})
afterAll(() => rm(folder, { recursive: true }))

const settings = () => ({
  name: 'depot.example',
  dataDir: join(folder, 'depot'),
  rps: { url: 'http://127.0.0.1:1' },
})

test('keys are made once, in a folder of this user alone', async () => {
  const made = await makeService(settings(), 'one word')
  expect(made).toEqual({
    name: 'depot.example',
    requestKey: expect.stringMatching(/^[\w-]{44}$/),
    hpkeKey: expect.stringMatching(/^[\w-]{43}$/),
  })
  expect(await makeService(settings(), 'one word')).toEqual(made)
  expect(((await stat(settings().dataDir)).mode & 0o777).toString(8)).toBe('700')
})

test.each([
  ['by another passphrase', {}, 'another word', 'the passphrase is wrong or the file was changed'],
  ['under another name', { name: 'gw.example' }, 'one word', "belongs to the server 'depot.example'"],
  ['where nothing was made', { dataDir: '/nowhere' }, 'one word', '/nowhere/keys.sealed'],
  ['without a group', {}, 'one word', "settings 'groupFile' and 'groupId' are missing"],
  [
    'without its document',
    { groupFile: '/nowhere', groupId: 'A'.repeat(43) },
    'one word',
    "setting 'groupFile': cannot read '/nowhere'",
  ],
])('no start %s', async (_, changed, passphrase, why) => {
  await expect(readService({ ...settings(), ...changed }, passphrase)).rejects.toThrow(why)
})
