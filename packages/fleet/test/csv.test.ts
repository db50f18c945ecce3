import { CsvError, CsvParser, readVehicles } from '@milagro-ts/fleet/csv'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

const HEADER = 'vin,brand,model,variant'
const read = (...lines: string[]) => readVehicles([lines.join('\n')])

function faults(text: string): string {
  try {
    readVehicles([text])
    return 'no fault'
  } catch (error) {
    if (error instanceof CsvError) return error.message
    throw error
  }
}

describe('a file of vehicles', () => {
  test('gives one vehicle a line, with the columns as attributes', () => {
    expect(read(HEADER, 'V1,Volkswagen,Golf,GTI', 'V2,Škoda,Enyaq,', '')).toEqual([
      {
        line: 2,
        instance: 'V1',
        attributes: { brand: 'Volkswagen', model: 'Golf', variant: 'GTI' },
        factors: 2,
      },
      { line: 3, instance: 'V2', attributes: { brand: 'Škoda', model: 'Enyaq' }, factors: 2 },
    ])
  })

  test('may begin with a byte order mark, end lines with CRLF, and lack the last line break', () => {
    const rows = readVehicles(['\uFEFFvin,factors\r\nV1,0\r\nV2,1'])
    expect(rows.map(({ instance, factors }) => [instance, factors])).toEqual([
      ['V1', 0],
      ['V2', 1],
    ])
  })

  test('quotes commas, quotes and line breaks, and lines are counted as an editor counts', () => {
    expect(faults('vin,"a,b"\n"V""1","x,y"\nV2,"one\ntwo"\nV3\n')).toBe(
      "line 3: 'a,b' has a character in it that can't be shown as it is; line 5: 1 cells where the header has 2",
    )
    expect(readVehicles(['vin,"a,b"\n"V""1","x,y"'])).toMatchObject([
      { instance: 'V"1', attributes: { 'a,b': 'x,y' } },
    ])
  })

  test('reads the same wherever the chunks are cut', () => {
    const text = '\uFEFFvin,note\r\n"V,1","say ""x"""\r\nV2,\r\n'
    const whole = readVehicles([text])
    for (let at = 0; at <= text.length; at++)
      expect(readVehicles([text.slice(0, at), text.slice(at)])).toEqual(whole)
  })

  test('texts are NFC', () => {
    expect(read('vin,brand', 'V1,S\u030Ckoda')[0]?.attributes).toEqual({ brand: 'Škoda' })
  })
})

test('what is written by RFC 4180 is read back', () => {
  // But for the sign of what was no UTF-8, which is refused.
  const cell = fc.string({ unit: 'grapheme', maxLength: 20 }).filter(text => !text.includes('\uFFFD'))
  fc.assert(
    fc.property(fc.array(fc.array(cell, { minLength: 2, maxLength: 4 }), { maxLength: 6 }), records => {
      const quoted = records.map(cells => cells.map(text => `"${text.replaceAll('"', '""')}"`).join(','))
      const found: string[][] = []
      const parser = new CsvParser(({ cells }) => found.push([...cells]))
      parser.push(quoted.map(line => `${line}\r\n`).join(''))
      parser.end()
      expect(found).toEqual(records)
    }),
  )
})

describe('faults name their lines', () => {
  test.each([
    ['an empty file', '', 'line 1: the header is missing'],
    ['a header alone', `${HEADER}\n`, 'line 2: there are no vehicles'],
    ['no VIN column', 'brand,model\nA,B\n', "line 1: one column must be called 'vin'"],
    ['two VIN columns', 'vin,instance\nA,B\n', "line 1: one column must be called 'vin'"],
    ['a column twice', 'vin,brand,brand\nA,B,C\n', "line 1: the column 'brand' stands twice"],
    ['a nameless column', 'vin,\nA,B\n', 'line 1: column 2 has no usable name'],
    ['a name that is not one', 'vin,__proto__\nA,B\n', 'line 1: column 2 has no usable name'],
    ['semicolons', 'vin;brand\nA;B\n', 'line 1: columns are separated by commas'],
    ['a short line', `${HEADER}\nV1,a,b\n`, 'line 2: 3 cells where the header has 4'],
    ['a long line', `${HEADER}\nV1,a,b,c,d\n`, 'line 2: 5 cells where the header has 4'],
    ['an empty line', `${HEADER}\n\nV1,a,b,c\n`, 'line 2: the line is empty'],
    ['an empty VIN', `${HEADER}\n,a,b,c\n`, 'line 2: the VIN is empty'],
    ['a VIN twice', `${HEADER}\nV1,a,b,c\nV2,a,b,c\nV1,a,b,c\n`, 'line 4: the VIN stands in line 2 already'],
    ['an operator', `${HEADER}\noperator:eve,a,b,c\n`, "line 2: the VIN begins with 'operator:'"],
    ['a space around', `${HEADER}\nV1, a,b,c\n`, "line 2: 'brand' begins or ends with a space"],
    ['wrong factors', 'vin,factors\nV1,3\n', "line 2: 'factors' must be 0, 1 or 2"],
    ['an open quote', `${HEADER}\nV1,"a,b,c\n`, 'line 2: a quoted cell is not closed'],
    ['a stray quote', `${HEADER}\nV1,a"b,b,c\n`, 'line 2: a quote inside a cell that is not quoted'],
    ['text after a quote', `${HEADER}\nV1,"a"b,b,c\n`, 'line 2: something follows a closing quote'],
    ['a bare CR', `${HEADER}\rV1,a,b,c\n`, 'line 1: a carriage return without a line feed'],
    [
      'a NUL',
      `${HEADER}\nV1,a\0,b,c\n`,
      "line 2: 'brand' has a character in it that can't be shown as it is",
    ],
    [
      'a huge cell',
      `${HEADER}\nV1,${'a'.repeat(1025)},b,c\n`,
      'line 2: a cell is longer than 1024 characters',
    ],
    [
      'a long value',
      `${HEADER}\nV1,${'a'.repeat(257)},b,c\n`,
      "line 2: 'brand' is longer than 256 characters",
    ],
    ['too many columns', `vin${',x'.repeat(40)}\n`, 'line 1: more than 34 columns'],
  ])('%s', (_what, text, message) => {
    expect(faults(text)).toBe(message)
  })

  test('too many vehicles', () => {
    const lines = Array.from({ length: 20_001 }, (_, i) => `V${i}`)
    expect(faults(['vin', ...lines].join('\n'))).toBe('line 20002: more than 20000 vehicles: split the file')
  })

  test('all in one go, up to twenty', () => {
    const lines = Array.from({ length: 30 }, (_, i) => `V${i},a`)
    const message = faults([HEADER, ...lines].join('\n'))
    expect(message.split('; ')).toHaveLength(20)
    expect(message).toMatch(/^line 2: .*line 21: /)
  })
})
