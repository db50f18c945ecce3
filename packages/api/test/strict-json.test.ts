import { Refused } from '@milagro-ts/api/problem'
import { parseStrictJson } from '@milagro-ts/api/strict-json'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

const bytes = (text: string) => new TextEncoder().encode(text)

/** Why it is refused, or null. */
function refusal(text: string | Uint8Array): string | null {
  try {
    parseStrictJson(typeof text === 'string' ? bytes(text) : text)
    return null
  } catch (error) {
    if (!(error instanceof Refused) || error.code !== 'MALFORMED') throw error
    return error.detail ?? ''
  }
}

test.each([
  'null',
  ' [ ] ',
  '0',
  '""',
  '{"a":{"a":{"a":1}}}',
  '[{"a":1},{"a":1}]',
  '{"a":"\\"","b":"\\\\","c":"{\\"a\\":1,\\"a\\":2}"}',
  '{"a":"b","b":"a"}',
  '{"":1}',
  '{"a":["a","a"],"b":"a"}',
  '{"proto":1,"constructor":2,"__proto":3,"toString":4}',
  '{"\\u00e9":1,"e\\u0301":2}',
  '"\\ud83d\\ude97"',
])('%s is taken as JSON.parse takes it', text => {
  expect(parseStrictJson(bytes(text))).toEqual(JSON.parse(text))
})

test.each([
  ['{"a":1,"a":1}', 'a key stands twice'],
  ['{"a":1,"\\u0061":2}', 'a key stands twice'],
  ['{"a" : 1 , "b" : 2 , "a"\n\t\r :3}', 'a key stands twice'],
  ['[[{"x":{"a":1,"b":{"a":1},"a":2}}]]', 'a key stands twice'],
  ['{"\\\\":1,"\\u005c":2}', 'a key stands twice'],
  ['{"":1,"":2}', 'a key stands twice'],
  ['{"a":"}","a":1}', 'a key stands twice'],
  ['{"__proto__":1}', 'a key is not allowed'],
  ['[{"a":{"__\\u0070roto__":1}}]', 'a key is not allowed'],
  ['"\\ud800"', 'half of a surrogate pair stands alone'],
  ['{"\\udc00":1}', 'half of a surrogate pair stands alone'],
  ['["\\ud83d\\ud83d\\ude97"]', 'half of a surrogate pair stands alone'],
  ['\ufeff1', 'this is not JSON'],
  ['', 'this is not JSON'],
  ['{"a":1}x', 'this is not JSON'],
  ['{"a":NaN}', 'this is not JSON'],
  ['{"a":01}', 'this is not JSON'],
  ["{'a':1}", 'this is not JSON'],
  ['[1,]', 'this is not JSON'],
  ['"\n"', 'this is not JSON'],
])('%s is refused: %s', (text, why) => {
  expect(refusal(text)).toBe(why)
})

test('16 levels and no more', () => {
  const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)
  expect(refusal(nested(16))).toBeNull()
  expect(refusal(nested(17))).toBe('this is nested too deep')
  expect(refusal('{"a":'.repeat(17) + 1 + '}'.repeat(17))).toBe('this is nested too deep')
  expect(refusal('['.repeat(4_000_000))).toBe('this is not JSON')
})

describe('properties', () => {
  test('every value that JSON can say comes through', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6, stringUnit: 'grapheme' }), value => {
        const text = JSON.stringify(value)
        if (/__proto__/.test(text)) return
        expect(parseStrictJson(bytes(text))).toEqual(JSON.parse(text))
      }),
    )
  })

  test('a key given twice is found wherever it stands and however it is written', () => {
    const escaped = (key: string) =>
      `"${[...key].map(unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`).join('')}"`
    fc.assert(
      fc.property(
        fc.stringMatching(/^[a-z"\\{}:,]{1,5}$/),
        fc.jsonValue({ maxDepth: 2, stringUnit: 'grapheme-ascii' }),
        fc.boolean(),
        (key, value, asEscapes) => {
          const second = asEscapes ? escaped(key) : JSON.stringify(key)
          const inner = `{${JSON.stringify(key)}:${JSON.stringify(value)},${second}:1}`
          expect(refusal(`[1,{"other":${inner}}]`)).toMatch(/^a key /)
        },
      ),
    )
  })

  test('any bytes end in a value or in MALFORMED', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), input => void refusal(input)))
    const pieces = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      '"',
      '\\',
      ':',
      ',',
      'a',
      '1',
      '\\u',
      'd800',
      ' ',
      '""',
    )
    fc.assert(fc.property(fc.array(pieces, { maxLength: 24 }), parts => void refusal(parts.join(''))))
  })
})
