/** Sealed files (store/sealed-file.ts) that hold JSON, as a server's own keys are kept. */
import { fromUtf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { readSealedFile } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'

/**
 * What `take` finds in the file. StoreError: as of readSealedFile, and `damaged` for what is no JSON, or for what `take` has
 * a DecodeError for. Its message names the field and never what stands there.
 */
export async function readSealedJson<T>(
  path: string,
  passphrase: string,
  take: (stored: unknown) => T | Promise<T>,
): Promise<T> {
  const bytes = await readSealedFile(path, passphrase)
  let stored: unknown
  try {
    stored = JSON.parse(fromUtf8(bytes, 'contents'))
  } catch {
    // Without the error, which may quote a key.
    throw holdsSomethingElse(path, 'no JSON')
  }
  try {
    return await take(stored)
  } catch (error) {
    if (error instanceof DecodeError) throw holdsSomethingElse(path, error.message)
    throw error
  }
}

function holdsSomethingElse(path: string, why: string): StoreError {
  return new StoreError('damaged', `sealed file ${path} holds something else: ${why}`)
}
