/**
 * Rewrites the lines of every `values` block in docs/protocols/ to `path.into.v1 = value`, out of vectors/v1.json;
 * a path that begins with `handshake.` is one into vectors/tls-handshake.json:
 *
 *   node scripts/fill-values.mjs
 *
 * A new line needs its path alone. A test compares.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { ROOT } from './prepare.mjs'

const PAGES = 'docs/protocols'
const BLOCK = /(?<=^```values\n).*?(?=^```$)/gms

/** The pages, by their path in the repository. @returns {string[]} */
export function pages() {
  return readdirSync(ROOT + PAGES)
    .filter(file => file.endsWith('.md'))
    .map(file => `${PAGES}/${file}`)
}

/** `text` with every value in its place, and how many there are. Throws when v1.json has nothing at a path. @param {string} text */
export function filled(text) {
  const read = (/** @type {string} */ file) => JSON.parse(readFileSync(`${ROOT}vectors/${file}`, 'utf8'))
  const v1 = { ...read('v1.json'), handshake: read('tls-handshake.json') }
  let values = 0
  const page = text.replace(BLOCK, block =>
    block.replace(/^(\S+)( = .*)?$/gm, (_, path) => {
      values++
      return `${path} = ${printed(valueAt(v1, path))}`
    }),
  )
  return { page, values }
}

/** @param {unknown} value @param {string} path */
function valueAt(value, path) {
  for (const step of path.split('.')) {
    const holder = /** @type {Record<string, unknown>} */ (value)
    if (typeof holder !== 'object' || holder === null || !Object.hasOwn(holder, step))
      throw new Error(`vectors/v1.json has no '${path}'`)
    value = holder[step]
  }
  return value
}

/** Plain where it is ASCII without spaces at its ends; JSON with escapes otherwise, since editors normalise text. @param {unknown} value */
function printed(value) {
  if (typeof value === 'string' && /^(?! )[\x20-\x7e]*(?<! )$/.test(value)) return value
  return JSON.stringify(value).replace(
    /[^\x20-\x7e]/g,
    unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  for (const file of pages()) {
    const text = readFileSync(ROOT + file, 'utf8')
    const { page } = filled(text)
    if (page !== text) writeFileSync(ROOT + file, page)
  }
}
