/** What a key file says when something else is in it: one line of an operator's, and nothing of what stands there. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { KeyFile } from '@milagro-ts/api/key-file'
import { systemRandom } from '@milagro-ts/api/system'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { sealBytes } from '@milagro-ts/store/sealed-file'
import { afterAll, expect, test } from 'vitest'

const dataDir = mkdtempSync(join(tmpdir(), 'milagro-key-file-'))
afterAll(() => rmSync(dataDir, { recursive: true }))
const at = { dataDir, name: 'rps', passphrase: 'words that open it' }
const file = new KeyFile({ requestKey: 'es256' })

const SECRET = 'c2VjcmV0LXRleHQ'
test.each([
  ['text that is no JSON', `${SECRET} is no JSON`, /holds something else: no JSON$/],
  ['bytes that are no text', Uint8Array.of(0xff, 0xfe), /holds something else: no JSON$/],
  ['JSON of something else', JSON.stringify({ key: SECRET }), /holds something else: keys: not a server’s$/],
  [
    'a key that is none',
    JSON.stringify({ suite: 'BLS12381-SHA256-V1', v: 1, name: 'rps', hpkeSecret: SECRET }),
    /holds something else: hpkeSecret: /,
  ],
  [
    'another server’s',
    JSON.stringify({ suite: 'BLS12381-SHA256-V1', v: 1, name: 'fleet', hpkeSecret: SECRET }),
    /belongs to the server 'fleet'$/,
  ],
])('%s', async (_, contents, why) => {
  const plaintext = typeof contents === 'string' ? utf8(contents) : contents
  writeFileSync(join(dataDir, 'keys.sealed'), sealBytes(at.passphrase, plaintext, systemRandom))
  const error = (await file.read(at).catch((thrown: unknown) => thrown)) as Error & { reason: string }
  expect(error.name).toBe('StoreError')
  expect(error.message).toMatch(why)
  expect(error.message).not.toContain(SECRET)
  expect(error.cause).toBeUndefined()
})

test('what it made itself', async () => {
  const made = await file.make(at, systemRandom)
  const read = await file.read(at)
  expect(read.requestKey.toJwk()).toEqual(made.requestKey.toJwk())
  expect(read.hpkeKey.secret()).toEqual(made.hpkeKey.secret())
})
