/** Sizes of the library as one file (scripts/single-files.mjs), after gzip. The inputs say whose code is in it. */
import { singleFile } from '../scripts/single-files.mjs'

/** @type {Readonly<Record<string, import('../scripts/single-files.mjs').FileName>>} */
const FILES = {
  'size-all': 'milagro-crypto',
  'size-device': 'milagro-device',
  'size-device-bigint': 'milagro-device-bigint',
}

/**
 * @param {string} op
 * @returns {Promise<{bytes: number, inputs: string[]}>}  after gzip; files from the repository's folder
 */
export async function measureSize(op) {
  const name = FILES[op]
  if (name === undefined) throw new Error(`no size ${op}`)
  const { gzipped, inputs } = await singleFile(name)
  return { bytes: gzipped, inputs }
}
