/**
 * JSON from a stranger: UTF-8 that decodes, no duplicate keys, no `__proto__`, bounded depth. JSON.parse takes the
 * last of two equal keys, and two parsers that disagree on which one counts are a way around a check.
 */
import { Refused } from './problem.js'

const MAX_DEPTH = 16

const refuse = (why: string) => new Refused('MALFORMED', { detail: why })

/** Parses a request body. Refused('MALFORMED') for anything that is not one JSON text. */
export function parseStrictJson(bytes: Uint8Array): unknown {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    throw refuse('the body is not JSON')
  }
  checkKeys(text)
  return value
}

/** Walks a text that JSON.parse has accepted, so that only strings and brackets need to be told apart. */
function checkKeys(text: string): void {
  const open: (Set<string> | null)[] = []
  let position = 0
  while (position < text.length) {
    const character = text[position]
    if (character === '{' || character === '[') {
      if (open.length === MAX_DEPTH) throw refuse('the body is nested too deep')
      open.push(character === '{' ? new Set() : null)
    } else if (character === '}' || character === ']') {
      open.pop()
    } else if (character === '"') {
      const end = endOfString(text, position)
      const keys = open.at(-1)
      if (keys && isKey(text, end)) {
        const key = JSON.parse(text.slice(position, end)) as string
        if (key === '__proto__') throw refuse('a key is not allowed')
        if (keys.has(key)) throw refuse('a key stands twice')
        keys.add(key)
      }
      position = end - 1
    }
    position++
  }
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
