/**
 * `cars.csv`: RFC 4180, read in chunks, taken whole or not at all.
 *
 *   vin,brand,model,variant,factors
 *   WVW123,Volkswagen,Golf,"GTI, 3 doors",2
 *
 * The header names the columns. `vin` (or `instance`) is needed, `factors` may be there, every other column is an
 * attribute; an empty cell means that the vehicle lacks that attribute. Errors name the line, counted as an editor
 * counts, so a cell with a line break in it moves the count like any other break.
 */
import type { Factors } from '@milagro-ts/crypto/identity'
import { DEFAULT_FACTORS, isReadable, type NewVehicle, OPERATOR_PREFIX } from './vehicle.js'

export interface CsvRecord {
  /** Of the record's first character; the first line is 1. */
  readonly line: number
  readonly cells: readonly string[]
}
export interface CsvFault {
  readonly line: number
  readonly why: string
}

/** A file that is not taken; `faults` are the first ones found, at most FAULTS. */
export class CsvError extends Error {
  override readonly name = 'CsvError'
  readonly faults: readonly CsvFault[]

  constructor(faults: readonly CsvFault[]) {
    super(faults.map(({ line, why }) => `line ${line}: ${why}`).join('; '))
    this.faults = faults
  }
}

export interface VehicleRow extends NewVehicle {
  readonly line: number
}

const FAULTS = 20
/** Vehicles of one file: they are registered in one transaction, which nobody else can write beside. */
const ROWS = 20_000
const CELL_LIMIT = 1024
const COLUMNS = 34
const ATTRIBUTE_NAME = 64
const ATTRIBUTE_VALUE = 256
const INSTANCE = 128

/** The vehicles of a file. Throws CsvError. */
export function readVehicles(chunks: Iterable<string>): VehicleRow[] {
  const reader = new VehicleReader()
  const parser = new CsvParser(record => reader.take(record))
  for (const chunk of chunks) parser.push(chunk)
  parser.end()
  return reader.finish()
}

/** Which state the parser is in between two characters. */
type Place = 'start of cell' | 'in bare cell' | 'in quotes' | 'after quote' | 'after CR'

/** Hands on one record after another. What breaks the grammar is thrown at once: after it no line can be trusted. */
export class CsvParser {
  readonly #take: (record: CsvRecord) => void
  #place: Place = 'start of cell'
  #cells: string[] = []
  #cell = ''
  #line = 1
  #recordLine = 1
  #first = true

  constructor(take: (record: CsvRecord) => void) {
    this.#take = take
  }

  push(chunk: string): void {
    for (const character of this.#first && chunk.startsWith('\uFEFF') ? chunk.slice(1) : chunk)
      this.#step(character)
    if (chunk !== '') this.#first = false
  }

  end(): void {
    if (this.#place === 'in quotes') throw this.#fault('a quoted cell is not closed', this.#recordLine)
    if (this.#place === 'after CR') throw this.#fault('a carriage return without a line feed')
    // The last line may end without a line break.
    if (this.#cells.length > 0 || this.#place !== 'start of cell') this.#endRecord()
  }

  #step(character: string): void {
    if (this.#place === 'in quotes') {
      if (character === '"') this.#place = 'after quote'
      else this.#append(character)
      return
    }
    if (this.#place === 'after CR' && character !== '\n')
      throw this.#fault('a carriage return without a line feed')
    if (character === '\n') this.#endRecord()
    else if (character === '\r') this.#place = 'after CR'
    else if (character === ',') this.#endCell()
    else if (character === '"') this.#quote()
    else if (this.#place === 'after quote') throw this.#fault('something follows a closing quote')
    else {
      this.#place = 'in bare cell'
      this.#append(character)
    }
  }

  /** A quote outside quotes opens a cell, or was the first half of a doubled one. */
  #quote(): void {
    if (this.#place === 'in bare cell') throw this.#fault('a quote inside a cell that is not quoted')
    if (this.#place === 'after quote') this.#append('"')
    this.#place = 'in quotes'
  }

  #append(character: string): void {
    if (character === '\n') this.#line++
    // What stands where bytes were no UTF-8: an attribute that no device would ever match.
    if (character === '\uFFFD') throw this.#fault('a letter that is not UTF-8: save the file as UTF-8')
    if (this.#cell.length >= CELL_LIMIT) throw this.#fault(`a cell is longer than ${CELL_LIMIT} characters`)
    this.#cell += character
  }

  #endCell(): void {
    if (this.#cells.length >= COLUMNS) throw this.#fault(`more than ${COLUMNS} columns`)
    this.#cells.push(this.#cell)
    this.#cell = ''
    this.#place = 'start of cell'
  }

  #endRecord(): void {
    this.#endCell()
    const record = { line: this.#recordLine, cells: this.#cells }
    this.#cells = []
    this.#recordLine = ++this.#line
    this.#take(record)
  }

  #fault(why: string, line = this.#line): CsvError {
    return new CsvError([{ line, why }])
  }
}

interface Column {
  readonly name: string
  readonly role: 'instance' | 'factors' | 'attribute'
}

/** Gives records their meaning and goes on after a wrong one, so that a file is mended in one go. */
class VehicleReader {
  #columns: readonly Column[] | null = null
  readonly #rows: VehicleRow[] = []
  readonly #lines = new Map<string, number>()
  readonly #faults: CsvFault[] = []

  take(record: CsvRecord): void {
    try {
      if (this.#columns === null) this.#columns = headerOf(record)
      else this.#rows.push(this.#row(record, this.#columns))
    } catch (error) {
      if (!(error instanceof CsvError)) throw error
      this.#faults.push(...error.faults)
      // A wrong header makes every line wrong; beyond FAULTS nobody reads on.
      if (this.#columns === null || this.#faults.length >= FAULTS) throw new CsvError(this.#faults)
    }
  }

  finish(): VehicleRow[] {
    if (this.#columns === null) throw new CsvError([{ line: 1, why: 'the header is missing' }])
    if (this.#faults.length > 0) throw new CsvError(this.#faults)
    if (this.#rows.length === 0) throw new CsvError([{ line: 2, why: 'there are no vehicles' }])
    return this.#rows
  }

  #row({ line, cells }: CsvRecord, columns: readonly Column[]): VehicleRow {
    const wrong = (why: string) => new CsvError([{ line, why }])
    if (cells.length === 1 && cells[0] === '') throw wrong('the line is empty')
    if (cells.length !== columns.length)
      throw wrong(`${cells.length} cells where the header has ${columns.length}`)
    const attributes: Record<string, string> = {}
    let instance = ''
    let factors = DEFAULT_FACTORS
    columns.forEach(({ name, role }, at) => {
      const cell = (cells[at] ?? '').normalize('NFC')
      if (!isReadable(cell)) throw wrong(`'${name}' has a character in it that can't be shown as it is`)
      if (cell !== cell.trim()) throw wrong(`'${name}' begins or ends with a space`)
      if (role === 'instance') instance = cell
      else if (cell === '') return
      else if (role === 'attribute') attributes[name] = cell
      else if (/^[012]$/.test(cell)) factors = Number(cell) as Factors
      else throw wrong("'factors' must be 0, 1 or 2")
      if (role === 'attribute' && cell.length > ATTRIBUTE_VALUE)
        throw wrong(`'${name}' is longer than ${ATTRIBUTE_VALUE} characters`)
    })
    if (this.#rows.length >= ROWS) throw wrong(`more than ${ROWS} vehicles: split the file`)
    if (instance === '') throw wrong('the VIN is empty')
    if (instance.length > INSTANCE) throw wrong(`the VIN is longer than ${INSTANCE} characters`)
    if (instance.startsWith(OPERATOR_PREFIX)) throw wrong(`the VIN begins with '${OPERATOR_PREFIX}'`)
    const before = this.#lines.get(instance)
    if (before !== undefined) throw wrong(`the VIN stands in line ${before} already`)
    this.#lines.set(instance, line)
    return { line, instance, attributes, factors }
  }
}

function headerOf({ line, cells }: CsvRecord): Column[] {
  const wrong = (why: string) => new CsvError([{ line, why }])
  const names = cells.map(cell => cell.normalize('NFC'))
  const columns = names.map((name, at): Column => {
    if (name === '' || name === '__proto__' || name !== name.trim() || !isReadable(name))
      throw wrong(`column ${at + 1} has no usable name`)
    if (name.length > ATTRIBUTE_NAME) throw wrong(`a column name is longer than ${ATTRIBUTE_NAME} characters`)
    if (name === 'vin' || name === 'instance') return { name, role: 'instance' }
    return { name, role: name === 'factors' ? 'factors' : 'attribute' }
  })
  if (names.length === 1 && names[0]?.includes(';')) throw wrong('columns are separated by commas')
  const twice = names.find((name, at) => names.indexOf(name) !== at)
  if (twice !== undefined) throw wrong(`the column '${twice}' stands twice`)
  if (columns.filter(({ role }) => role === 'instance').length !== 1)
    throw wrong("one column must be called 'vin'")
  if (columns.filter(({ role }) => role === 'attribute').length > 32) throw wrong('more than 32 attributes')
  return columns
}
