/** Every link between pages leads to a file that is there, and to a heading that is in it. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'

const read = (file: string) => readFileSync(ROOT + file, 'utf8')
const markdown = execFileSync(
  'git',
  ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '*.md'],
  {
    cwd: ROOT,
    encoding: 'utf8',
  },
)
  .split('\0')
  .filter(file => file !== '' && existsSync(ROOT + file))

/** As GitHub makes it out of a heading. */
const anchor = (heading: string) =>
  heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\p{M} _-]/gu, '')
    .replaceAll(' ', '-')
const anchors = (file: string) =>
  [...withoutCode(read(file)).matchAll(/^#+ (.*)$/gm)].map(([, text = '']) => anchor(text))

test.each(markdown)('%s leads somewhere', file => {
  const broken = [...withoutCode(read(file)).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => target)
    .filter(target => !/^(https?|mailto):/.test(target))
    .filter(target => {
      const [path = '', fragment] = target.split('#')
      const place = path === '' ? file : normalize(join(dirname(file), path))
      if (place.startsWith('..') || !existsSync(ROOT + place)) return true
      return fragment !== undefined && !anchors(place).includes(fragment)
    })
  expect(broken).toEqual([])
})

function withoutCode(text: string): string {
  return text.replaceAll(/^ *(```+).*?^ *\1$/gms, '').replaceAll(/(`+)[^`].*?\1/g, '')
}
