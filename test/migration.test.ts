/** docs/migration.md: every name of ours that it sends somebody to is there, and every row leads somewhere. */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'

const page = readFileSync(`${ROOT}docs/migration.md`, 'utf8')
const rows = [...page.matchAll(/^\| (.*) \|$/gm)]
  .map(([, line = '']) => line.split(' | '))
  .filter(([first]) => first !== 'function')

/** `file: name` or `file: name.member`, in code. */
const named = [
  ...new Set(
    [...page.matchAll(/`((?:legacy\/)?[a-z0-9-]+): ([A-Za-z0-9_.]+)`/g)].map(
      ([, file, name]) => `${file} ${name}`,
    ),
  ),
]

/** What the type checker would ask: does this file of the library export the name, and has it the member? */
function isThere(file: string, name: string): boolean {
  const [exported = '', member] = name.split('.')
  const text = readFileSync(`${ROOT}packages/crypto/src/${file}.ts`, 'utf8')
  if (
    !new RegExp(
      `^export (?:const|function|class|type|interface) ${exported}\\b|^export \\{[^}]*\\b${exported}\\b`,
      'm',
    ).test(text)
  )
    return false
  if (member === undefined) return true
  return new RegExp(`^ {2}(?:static |get |async )*(?:get )?${member}\\b[(:<]`, 'm').test(text)
}

test('there are many rows, each with a place to go or a reason', () => {
  expect(rows.length).toBeGreaterThan(90)
  for (const [functions, ...places] of rows) {
    expect(places.length, functions).toBeGreaterThan(0)
    for (const place of places)
      expect(place, functions).toMatch(
        /`[a-z0-9/-]+: |`crypto\.|left out, because .{10,}|^inside |^an argument of the caller$|WebCrypto/,
      )
  }
})

test('no function stands in a table twice', () => {
  for (const table of page.split(/^## /m).slice(1)) {
    const functions = [...table.matchAll(/^\| (.*?) \|/gm)].flatMap(([, cell = '']) =>
      [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name),
    )
    expect(functions.filter((name, at) => functions.indexOf(name) !== at)).toEqual([])
  }
})

describe('what it names', () => {
  test('is in the library', () => {
    expect(named.length).toBeGreaterThan(80)
    expect(named.filter(one => !isThere(...(one.split(' ') as [string, string])))).toEqual([])
  })
  test('would be missed if it weren’t', () => {
    expect(isThere('mpin', 'clientProve')).toBe(true)
    expect(isThere('mpin', 'clientProof')).toBe(false)
    expect(isThere('points', 'G1.mulSecret')).toBe(true)
    expect(isThere('points', 'G1.mulSecretly')).toBe(false)
  })
  test('is in the platform', () => {
    const names = [...page.matchAll(/`crypto\.([a-zA-Z.]+)`/g)].map(([, name = '']) => name)
    expect(names.length).toBeGreaterThan(20)
    for (const name of new Set(names)) {
      const place = name.replace(/^subtle\./, '')
      const holder: object = name.startsWith('subtle.') ? globalThis.crypto.subtle : globalThis.crypto
      expect(typeof Reflect.get(holder, place), name).toBe('function')
    }
  })
  test('of the retired forms is all that they export for callers', () => {
    const files = readdirSync(`${ROOT}packages/crypto/src/legacy`).map(file => file.slice(0, -3))
    const unnamed = files.filter(file => !named.some(one => one.startsWith(`legacy/${file} `)))
    // The group law and octets have no function that anyone had.
    expect(unnamed.sort()).toEqual(['group-law', 'octets'])
  })
})
