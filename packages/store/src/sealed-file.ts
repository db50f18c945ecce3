/**
 * Secrets at rest: a file that only its passphrase opens, and that shows every changed byte.
 *
 *   "milagro-sealed-1" (16) ‖ u8 log2 N ‖ u8 r ‖ u8 p ‖ salt (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)
 *
 * key = scrypt(passphrase, salt, N, r, p), 32 bytes (RFC 7914); AES-256-GCM with everything before the ciphertext as
 * associated data. Salt and nonce are fresh for every sealing, so no key is used twice.
 */
import { createCipheriv, createDecipheriv, randomUUID, scryptSync } from 'node:crypto'
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { StoreError } from './store-error.js'

/** Fresh random bytes, as many as asked for. */
export type Random = (length: number) => Uint8Array

const MAGIC = Buffer.from('milagro-sealed-1', 'ascii')
const SALT = 16
const NONCE = 12
const TAG = 16
const HEADER = MAGIC.length + 3 + SALT + NONCE
/** 32 MiB and about a tenth of a second a guess. */
const COST = { logN: 15, r: 8, p: 1 }
/** Reading goes up to here, so that a planted header can't take all memory or the afternoon. */
const DEAREST = { logN: 20, r: 8, p: 4 }

/** Seals `plaintext` (any length). An empty passphrase is a RangeError. */
export function sealBytes(passphrase: string, plaintext: Uint8Array, random: Random): Uint8Array {
  if (passphrase === '') throw new RangeError('the passphrase is empty')
  const salt = random(SALT)
  const nonce = random(NONCE)
  const header = Buffer.concat([MAGIC, Buffer.of(COST.logN, COST.r, COST.p), salt, nonce])
  const key = stretch(passphrase, salt, COST)
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG }).setAAD(header)
  const sealed = Buffer.concat([header, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
  key.fill(0)
  return Uint8Array.from(sealed)
}

/** The plaintext. StoreError `damaged`: no sealed file, another version, a wrong passphrase, or a changed byte. */
export function openSealed(passphrase: string, bytes: Uint8Array): Uint8Array {
  const sealed = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (sealed.length < HEADER + TAG || !sealed.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new StoreError(
      'damaged',
      'cut short, or not a sealed file of this version: restore it from a backup',
    )
  }
  const header = sealed.subarray(0, HEADER)
  const [logN = 0, r = 0, p = 0] = header.subarray(MAGIC.length)
  if (logN < 1 || r < 1 || p < 1 || logN > DEAREST.logN || r > DEAREST.r || p > DEAREST.p) {
    throw new StoreError('damaged', 'it asks for scrypt parameters out of bounds: restore it from a backup')
  }
  const salt = header.subarray(MAGIC.length + 3, MAGIC.length + 3 + SALT)
  const nonce = header.subarray(HEADER - NONCE)
  const key = stretch(passphrase, salt, { logN, r, p })
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG })
    .setAAD(header)
    .setAuthTag(sealed.subarray(sealed.length - TAG))
  try {
    const first = decipher.update(sealed.subarray(HEADER, sealed.length - TAG))
    return Uint8Array.from(Buffer.concat([first, decipher.final()]))
  } catch (error) {
    // GCM can't tell one from the other.
    throw new StoreError(
      'damaged',
      'the passphrase is wrong or the file was changed: give the right one, or restore the file from a backup',
      {
        cause: error,
      },
    )
  } finally {
    key.fill(0)
  }
}

/** Seals and writes atomically, mode 0600. */
export async function writeSealedFile(
  path: string,
  passphrase: string,
  plaintext: Uint8Array,
  random: Random,
): Promise<void> {
  await writeFileAtomic(path, sealBytes(passphrase, plaintext, random), 0o600)
}

/** As `openSealed`; the error names the file. StoreError `missing` when it isn't there. */
export async function readSealedFile(path: string, passphrase: string): Promise<Uint8Array> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(path)
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'missing' : 'unavailable'
    throw new StoreError(reason, `sealed file ${path} can't be read: ${(error as Error).message}`, {
      cause: error,
    })
  }
  try {
    return openSealed(passphrase, bytes)
  } catch (error) {
    if (!(error instanceof StoreError)) throw error
    throw new StoreError(error.reason, `sealed file ${path}: ${error.message}`, { cause: error })
  }
}

/**
 * Replaces `path` as a whole: whoever reads it, or whoever starts after a power cut, finds the old bytes or the new
 * ones. Text is written as UTF-8, what comes bit by bit as it comes; `mode` is set exactly, whatever the umask. File system
 * errors, and those of what comes, pass through.
 */
export async function writeFileAtomic(
  path: string,
  bytes: Uint8Array | string | AsyncIterable<Uint8Array | string>,
  mode = 0o600,
): Promise<void> {
  const folder = dirname(path)
  const unfinished = join(folder, `.${basename(path)}.${randomUUID()}.tmp`)
  try {
    const file = await open(unfinished, 'wx', mode)
    try {
      await file.chmod(mode)
      await writeFile(file, bytes)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(unfinished, path)
  } catch (error) {
    await rm(unfinished, { force: true })
    throw error
  }
  // The new name is an entry of the folder, which has to reach the disk as well.
  const entries = await open(folder, 'r')
  await entries.sync().finally(() => entries.close())
}

function stretch(passphrase: string, salt: Uint8Array, { logN, r, p }: typeof COST): Buffer {
  const N = 2 ** logN
  // NFKC, so that one passphrase typed on two keyboards is one passphrase; Node's default memory limit is too low.
  return scryptSync(passphrase.normalize('NFKC'), salt, 32, { N, r, p, maxmem: 128 * r * (N + p + 2) })
}
