/**
 * No secret in any log line, error or metric of a whole test run.
 *
 *   while tests run     every log line, problem document, error message, /metrics page and line of a child's standard
 *                       error goes into <folder>/lines-<pid>; every secret that the run makes or types (keys, shares,
 *                       tokens, codes, PINs, passphrases, names of drivers) into <folder>/secrets-<pid>
 *   afterwards          `searchEvidence` looks for each of them in all of it, in every spelling: as text, base64url,
 *                       base64, hex, base32 with and without its dashes
 *
 * What records is in two places: evidence-hook.mjs stands in every process of the run, test/evidence.ts in those that
 * run tests. Neither is there unless scripts/test.mjs says so, and no product code knows of them.
 */
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT } from './prepare.mjs'

/** @typedef {'key' | 'code' | 'token' | 'pin' | 'passphrase' | 'name'} SecretKind */
/** @typedef {'log' | 'problem' | 'error' | 'metrics' | 'stderr'} Source */
/** @typedef {{ kind: SecretKind, value: string }} Secret */
/** @typedef {{ source: Source, text: string }} Line */
/** @typedef {{ kind: SecretKind, source: Source, text: string }} Finding */

export const SOURCES = /** @type {const} */ (['log', 'problem', 'error', 'metrics', 'stderr'])
export const KINDS = /** @type {const} */ (['key', 'code', 'token', 'pin', 'passphrase', 'name'])

/** Where a run keeps it, in the repository and ignored by git. */
export const EVIDENCE = `${ROOT}.evidence`

/**
 * The environment in which every process records, with an empty folder to record into.
 *
 * @param {NodeJS.ProcessEnv} environment
 */
export function recording(environment) {
  rmSync(EVIDENCE, { recursive: true, force: true })
  mkdirSync(EVIDENCE, { mode: 0o700 })
  const hook = pathToFileURL(`${ROOT}scripts/evidence-hook.mjs`)
  hook.searchParams.set('folder', EVIDENCE)
  // Node's own variable, so that it reaches processes whose environment is picked by whoever starts them.
  const options = [environment.NODE_OPTIONS, `--import=${hook.href}`].filter(Boolean).join(' ')
  return { ...environment, NODE_OPTIONS: options, MILAGRO_EVIDENCE: EVIDENCE }
}

export class Recorder {
  /** @type {Set<string>} */
  #seen = new Set()
  #folder

  /** @param {string} folder */
  constructor(folder) {
    this.#folder = folder
  }

  /**
   * @param {Source} source
   * @param {string} text
   */
  line(source, text) {
    for (const line of text.split('\n')) if (line.trim() !== '') this.#append('lines', source, line)
  }

  /**
   * @param {SecretKind} kind
   * @param {string | Uint8Array} value
   */
  secret(kind, value) {
    this.#append(
      'secrets',
      kind,
      typeof value === 'string' ? value : Buffer.from(value).toString('base64url'),
    )
  }

  /**
   * What is secret of a JSON value, by the names of its fields.
   *
   * @param {ReadonlyMap<string, SecretKind>} fields
   * @param {unknown} value
   */
  secretsOf(fields, value) {
    if (typeof value !== 'object' || value === null) return
    for (const [name, field] of Object.entries(value)) {
      const kind = fields.get(name)
      // Group documents are public, and their keys are.
      if (typeof field !== 'string') name !== 'revisions' && this.secretsOf(fields, field)
      else if (kind !== undefined && (kind !== 'code' || ENROLMENT_CODE.test(field))) this.secret(kind, field)
    }
  }

  /**
   * @param {'lines' | 'secrets'} file
   * @param {string} label
   * @param {string} text
   */
  #append(file, label, text) {
    const record = `${label}\t${text.replaceAll('\n', '\\n')}\n`
    if (this.#seen.has(record)) return
    this.#seen.add(record)
    appendFileSync(join(this.#folder, `${file}-${process.pid}`), record, { mode: 0o600 })
  }
}

/** Fields of requests and answers that hold a secret. */
export const SECRETS_OF_CALLS = /** @type {ReadonlyMap<string, SecretKind>} */ (
  new Map([
    ['accessToken', 'token'],
    ['authOtt', 'token'],
    ['code', 'code'],
    ['driverName', 'name'],
  ])
)
/** Fields of token stores and sealed files that hold a secret; `d` is a private JWK's. */
export const SECRETS_OF_STORES = /** @type {ReadonlyMap<string, SecretKind>} */ (
  new Map([
    ['key', 'key'],
    ['token', 'key'],
    ['secret', 'key'],
    ['hpkeSecret', 'key'],
    ['dataKey', 'key'],
    ['d', 'key'],
    ['driverName', 'name'],
  ])
)
const ENROLMENT_CODE = /^[A-Z2-7-]{26,}$/

/**
 * All that a run has recorded.
 *
 * @param {string} folder
 * @returns {{ lines: Line[], secrets: Secret[] }}
 */
export function readEvidence(folder) {
  /** @type {Line[]} */
  const lines = []
  /** @type {Map<string, Secret>} */
  const secrets = new Map()
  for (const file of readdirSync(folder)) {
    for (const record of readFileSync(join(folder, file), 'utf8').split('\n')) {
      const tab = record.indexOf('\t')
      if (tab < 0) continue
      const [label, text] = [record.slice(0, tab), record.slice(tab + 1)]
      if (file.startsWith('lines-')) lines.push({ source: /** @type {Source} */ (label), text })
      else secrets.set(record, { kind: /** @type {SecretKind} */ (label), value: text })
    }
  }
  return { lines, secrets: [...secrets.values()] }
}

/** So many characters in a row of a long secret give it away. */
const PRINT = 16
const LONG = /[A-Za-z0-9_+/=-]{16,}/g
const WORD = /[A-Za-z0-9_\u00c0-\uffff]+/g
const ONE_WORD = /^[A-Za-z0-9_\u00c0-\uffff]+$/
/** Shorter PINs and names are everywhere by chance. */
const SHORTEST = { pin: 4, name: 2, passphrase: 6, key: PRINT, code: PRINT, token: PRINT }

/**
 * Every line that holds a secret, and how much was looked at. Short secrets count as whole words, and not inside of
 * numbers, addresses and paths (a PIN 1234 is not line 1234 of a file).
 *
 * @param {{ lines: readonly Line[], secrets: readonly Secret[] }} evidence
 * @returns {{ findings: Finding[], lines: Record<string, number>, secrets: Record<string, number> }}
 */
export function searchEvidence({ lines, secrets }) {
  /** @type {Map<string, SecretKind>} */
  const prints = new Map()
  /** @type {Map<string, SecretKind>} */
  const words = new Map()
  /** @type {Map<string, SecretKind>} */
  const phrases = new Map()
  const searched = secrets.filter(({ kind, value }) => value.length >= SHORTEST[kind])
  for (const { kind, value } of searched) {
    for (const form of formsOf(kind, value)) {
      if (form.length >= PRINT && new RegExp(`^${LONG.source}$`).test(form)) {
        // Tokens of one kind begin alike.
        if (kind !== 'token') prints.set(form.slice(0, PRINT), kind)
        if (kind !== 'code') prints.set(form.slice(-PRINT), kind)
      } else if (ONE_WORD.test(form)) words.set(form, kind)
      else phrases.set(form, kind)
    }
  }
  /** @type {Finding[]} */
  const findings = []
  for (const line of lines) {
    // What a metric has come to is a number like any PIN; its name and labels are looked at.
    const text =
      line.source === 'metrics' ? line.text.replace(/ [-+0-9.eE]+$/, '') : line.text.replaceAll(COUNTED, '')
    const kind = longIn(text, prints) ?? wordIn(text, words) ?? phraseIn(text, phrases)
    if (kind !== undefined) findings.push({ kind, ...line })
  }
  return {
    findings,
    lines: countBy(SOURCES, lines, ({ source }) => source),
    secrets: countBy(KINDS, searched, ({ kind }) => kind),
  }
}

/** Numbers that a log line counts by, and that are some PIN at some time of the day. */
const COUNTED = /"slots":\[[\d,]*\]/g

/**
 * @param {SecretKind} kind
 * @param {string} value
 * @returns {Set<string>}
 */
function formsOf(kind, value) {
  const forms = new Set([value])
  if (kind === 'code') {
    const letters = value.replaceAll('-', '')
    forms.add(letters).add(value.toLowerCase()).add(letters.toLowerCase())
    // The code's secret is its first 16 bytes.
    const secret = fromBase32(letters.slice(0, 26)).subarray(0, 16)
    forms.add(secret.toString('hex')).add(secret.toString('base64url'))
  }
  if (kind === 'passphrase' || kind === 'name') {
    forms.add(JSON.stringify(value).slice(1, -1)).add(encodeURIComponent(value))
    // As UTF-8 in an encoding; shorter ones would be found by chance.
    if (value.length >= PRINT) addEncodings(forms, Buffer.from(value))
  }
  if (kind === 'key') addEncodings(forms, Buffer.from(value, 'base64url'))
  if (kind === 'token') {
    // The signature of a JWS: what stands before it is alike in many.
    const last = value.split('.').at(-1) ?? value
    forms.clear()
    addEncodings(forms.add(last), Buffer.from(last, 'base64url'))
  }
  return forms
}

/**
 * @param {Set<string>} forms
 * @param {Buffer} bytes
 */
function addEncodings(forms, bytes) {
  const base64 = bytes.toString('base64').replace(/=+$/, '')
  const hex = bytes.toString('hex')
  const base32 = toBase32(bytes)
  forms.add(base64).add(bytes.toString('base64url')).add(hex).add(hex.toUpperCase()).add(base32)
  forms.add((base32.match(/.{1,4}/g) ?? []).join('-')).add((base32.match(/.{1,5}/g) ?? []).join('-'))
}

const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

/** @param {Uint8Array} bytes */
function toBase32(bytes) {
  const bits = [...bytes].map(byte => byte.toString(2).padStart(8, '0')).join('')
  const quintets = bits.match(/.{5}/g) ?? []
  return quintets.map(quintet => BASE32[Number.parseInt(quintet, 2)]).join('')
}

/** @param {string} text */
function fromBase32(text) {
  const bits = [...text].map(letter => BASE32.indexOf(letter).toString(2).padStart(5, '0')).join('')
  return Buffer.from((bits.match(/.{8}/g) ?? []).map(byte => Number.parseInt(byte, 2)))
}

/**
 * @param {string} text
 * @param {ReadonlyMap<string, SecretKind>} prints
 */
function longIn(text, prints) {
  for (const [run] of text.matchAll(LONG)) {
    for (let at = 0; at + PRINT <= run.length; at++) {
      const kind = prints.get(run.slice(at, at + PRINT))
      if (kind !== undefined) return kind
    }
  }
  return undefined
}

/**
 * @param {string} text
 * @param {ReadonlyMap<string, SecretKind>} words
 */
function wordIn(text, words) {
  for (const { 0: word, index } of text.matchAll(WORD)) {
    const kind = words.get(word)
    if (kind === undefined) continue
    const [before, after] = [text[index - 1] ?? ' ', text[index + word.length] ?? ' ']
    if (!/[:./+=-]/.test(before) && !/[/+=-]/.test(after)) return kind
  }
  return undefined
}

/**
 * @param {string} text
 * @param {ReadonlyMap<string, SecretKind>} phrases
 */
function phraseIn(text, phrases) {
  for (const [phrase, kind] of phrases) if (text.includes(phrase)) return kind
  return undefined
}

/**
 * @template T
 * @param {readonly string[]} labels
 * @param {readonly T[]} items
 * @param {(item: T) => string} labelOf
 */
function countBy(labels, items, labelOf) {
  const counts = Object.fromEntries(labels.map(label => [label, 0]))
  for (const item of items) counts[labelOf(item)] = (counts[labelOf(item)] ?? 0) + 1
  return counts
}

/**
 * The last step of a test run: true when nothing was found. Says what was looked at; one secret of each kind is planted
 * first, and has to be found. `isWhole`: a run of all tests, in which every kind of line and secret must have occurred.
 *
 * @param {string} folder
 * @param {{ isWhole: boolean }} run
 */
export function checkEvidence(folder, { isWhole }) {
  const begin = performance.now()
  const evidence = readEvidence(folder)
  const { findings, lines, secrets } = searchEvidence(evidence)
  const said = (/** @type {Record<string, number>} */ counts) =>
    Object.entries(counts)
      .map(([label, count]) => `${count} ${label}`)
      .join(', ')
  console.log(`lines: ${said(lines)}`)
  console.log(`secrets: ${said(secrets)}`)
  console.log(`searched in ${((performance.now() - begin) / 1000).toFixed(1)} s`)
  for (const { kind, source, text } of findings.slice(0, 20))
    console.error(`a ${kind} stands in this ${source} line: ${text.slice(0, 500)}`)
  const missed = unfoundPlants()
  for (const plant of missed) console.error(`the search is blind: a planted ${plant} was not found`)
  const missing = isWhole
    ? [...Object.entries(lines), ...Object.entries(secrets)].filter(([, count]) => count === 0)
    : []
  for (const [label] of missing) console.error(`nothing of the kind '${label}' was recorded in a whole run`)
  return findings.length === 0 && missed.length === 0 && missing.length === 0
}

/** One secret of each kind and spelling, in the middle of a line of each source: those that the search misses. */
export function unfoundPlants() {
  const bytes = Buffer.from(Array.from({ length: 32 }, (_, i) => (i * 89 + 41) & 0xff))
  const text = bytes.toString('base64url')
  /** @type {[SecretKind, string, string][]} */
  const plants = [
    ...[...formsOf('key', text)].map(
      form => /** @type {[SecretKind, string, string]} */ (['key', text, form]),
    ),
    ['code', 'ABCD-EFGH-IJKL-MNOP-QRST-UVWX', 'ABCDEFGHIJKLMNOPQRSTUVWX'],
    ['code', 'ABCD-EFGH-IJKL-MNOP-QRST-UVWX', 'ABCD-EFGH-IJKL-MNOP-QRST-UVWX'],
    ['token', `e30.e30.${text}`, `e30.e30.${text}`],
    ['pin', '9053', '9053'],
    ['passphrase', 'a "quoted" phrase', 'a \\"quoted\\" phrase'],
    ['name', 'Zoë Zuse', 'Zoë Zuse'],
    ['name', 'Zoë', 'Zoë'],
  ]
  return plants
    .filter(
      ([kind, value, form]) =>
        !SOURCES.every(source => {
          const lines = [{ source, text: `{"level":30,"msg":"before ${form} after"}` }]
          return searchEvidence({ lines, secrets: [{ kind, value }] }).findings[0]?.kind === kind
        }),
    )
    .map(([kind, , form]) => `${kind} (${form})`)
}
