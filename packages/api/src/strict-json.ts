/**
 * JSON from a stranger: UTF-8 that decodes, no duplicate keys, no `__proto__`, no half of a surrogate pair, bounded
 * depth. JSON.parse takes the last of two equal keys, and two parsers that disagree on which one counts are a way
 * around a check; it takes lone surrogates too, and two texts that differ only there are one and the same in UTF-8.
 */
import { Refused } from './problem.js'

const MAX_DEPTH = 16
/** With the u flag a pair is one character, so only a half that stands alone matches. */
const LONE_SURROGATE = /[\ud800-\udfff]/u

const refuse = (why: string) => new Refused('MALFORMED', { detail: why })

/** Parses one JSON text. Refused('MALFORMED') for anything else; the reason never repeats what was sent. */
export function parseStrictJson(bytes: Uint8Array): unknown {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    throw refuse('this is not JSON')
  }
  checkTokens(text)
  return value
}

/** Walks a text that JSON.parse has accepted, so that only strings and brackets need to be told apart. */
function checkTokens(text: string): void {
  const open: (Set<string> | null)[] = []
  let position = 0
  while (position < text.length) {
    const character = text[position]
    if (character === '{' || character === '[') {
      if (open.length === MAX_DEPTH) throw refuse('this is nested too deep')
      open.push(character === '{' ? new Set() : null)
    } else if (character === '}' || character === ']') {
      open.pop()
    } else if (character === '"') {
      const end = endOfString(text, position)
      const literal = text.slice(position, end)
      // Bytes that decode as UTF-8 hold no lone surrogate: only an escape can make one.
      if (literal.includes('\\u') && LONE_SURROGATE.test(JSON.parse(literal) as string))
        throw refuse('half of a surrogate pair stands alone')
      const keys = open.at(-1)
      if (keys && isKey(text, end)) addKey(keys, literal)
      position = end - 1
    }
    position++
  }
}

function addKey(keys: Set<string>, literal: string): void {
  const key = JSON.parse(literal) as string
  if (key === '__proto__') throw refuse('a key is not allowed')
  if (keys.has(key)) throw refuse('a key stands twice')
  keys.add(key)
}

function endOfString(text: string, start: number): number {
  let position = start + 1
  while (text[position] !== '"') position += text[position] === '\\' ? 2 : 1
  return position + 1
}

function isKey(text: string, after: number): boolean {
  let position = after
  while (
    text[position] === ' ' ||
    text[position] === '\n' ||
    text[position] === '\r' ||
    text[position] === '\t'
  )
    position++
  return text[position] === ':'
}
