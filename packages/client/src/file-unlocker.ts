/** α_hw from a key file of its own, for devices without secure hardware: keep it on another medium than the store. */
import { link, mkdir, open, readFile, rm, stat } from 'node:fs/promises'
import { dirname, relative, resolve } from 'node:path'
import { systemRandom } from '@milagro-ts/api/system'
import { toHex } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { hmacSha256 } from '@milagro-ts/crypto/sha256'
import { ClientError } from './errors.js'
import type { Unlocker } from './unlocker.js'

/**
 * `file` holds 32 random bytes, mode 0600; enrolment makes it. `dataFolder` is the token store's: a key file inside it
 * would be copied with it (RangeError). WRONG_UNLOCKER: missing, damaged, or readable by others.
 */
export function fileUnlocker({
  file,
  dataFolder,
  random = systemRandom,
}: {
  file: string
  dataFolder: string
  random?: Random
}): Unlocker {
  const inside = relative(resolve(dataFolder), resolve(file))
  if (inside === '' || !/^(\.\.([\\/]|$)|[A-Za-z]:)/.test(inside))
    throw new RangeError('the key file must lie outside of the data folder')
  return {
    kind: 'file',
    prepare: () => makeKeyFile(file, random),
    secret: async idCore => hmacSha256(await readKeyFile(file), idCore.bytes),
  }
}

async function makeKeyFile(path: string, random: Random): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const unfinished = `${path}.${toHex(random(8))}.new`
  const file = await open(unfinished, 'wx', 0o600)
  try {
    await file.chmod(0o600)
    await file.writeFile(random(32))
    await file.sync()
  } finally {
    await file.close()
  }
  try {
    // A link never replaces: a key file that is there already stays, and a half-written one never gets the name.
    await link(unfinished, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    await rm(unfinished, { force: true })
  }
}

async function readKeyFile(path: string): Promise<Uint8Array> {
  let key: Uint8Array
  let mode: number
  try {
    key = new Uint8Array(await readFile(path))
    mode = (await stat(path)).mode
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code ?? 'error'
    throw new ClientError('WRONG_UNLOCKER', `the key file can't be read (${why})`, { cause: error })
  }
  // Windows has no such modes and always answers 0o666.
  if (process.platform !== 'win32' && (mode & 0o077) !== 0)
    throw new ClientError('WRONG_UNLOCKER', 'the key file is open to others: its mode must be 0600')
  if (key.length !== 32) throw new ClientError('WRONG_UNLOCKER', 'the key file is damaged')
  return key
}
