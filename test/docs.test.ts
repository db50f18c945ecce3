/** What the pages say and the sources say too is compared, so that neither can rot. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { generateEs256 } from '@milagro-ts/api/keys'
import { CODES } from '@milagro-ts/api/problem'
import { signRequest } from '@milagro-ts/api/request-auth'
import * as statements from '@milagro-ts/api/statements'
import { milagro, parse } from '@milagro-ts/cli/program'
import { fromBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { PSK_FILE_RELOADABLE } from '@milagro-ts/tls/gateway-config'
import { describe, expect, test } from 'vitest'
import { readJson } from '../scripts/draw-graph.mjs'
import { filled, pages } from '../scripts/fill-values.mjs'
import { ROOT } from '../scripts/prepare.mjs'
import { openApiFiles } from '../scripts/print-openapi.mjs'

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

/** The cells of a page's tables, without heads and rules. */
function rows(text: string): string[][] {
  return [...text.matchAll(/^\|(.*)\|$/gm)]
    .map(([, line = '']) => line.split('|').map(cell => cell.trim()))
    .filter(([first = '']) => !/^-+$/.test(first))
}

test('docs/errors.md lists the codes, their status and their meaning', () => {
  const listed = rows(read('docs/errors.md')).slice(1)
  expect(listed).toEqual(
    Object.entries(CODES).map(([code, { status, means }]) => [`\`${code}\``, String(status), means]),
  )
})

describe('the glossary', () => {
  const words = rows(read('docs/glossary.md'))
    .slice(1)
    .map(([word = '']) => word)
  const plain = words.map(word => word.toLowerCase().replaceAll(/[^a-z0-9]/g, ''))

  test('has a meaning for every word', () => {
    expect(words.length).toBeGreaterThan(40)
    for (const row of rows(read('docs/glossary.md')).slice(1)) {
      expect(row).toEqual([expect.stringMatching(/^\*\*[^*]+\*\*$/), expect.stringMatching(/^.{8,}$/)])
    }
  })
  test('has each word once', () => {
    expect(plain.filter((word, at) => plain.indexOf(word) !== at)).toEqual([])
  })
  test('is sorted by letters and digits', () => {
    expect(plain).toEqual([...plain].sort())
  })
})

describe('docs/operations/gateway.md, of the writer of a PSK file', () => {
  const page = read('docs/operations/gateway.md')
  const sources = ['psk-file', 'psk-file-process'].map(file => read(`packages/tls/src/${file}.ts`)).join()
  const rowOf = (first: string) => rows(page).find(([head]) => head === first)?.[1] ?? ''

  test('names its metrics', () => {
    const counted = [...sources.matchAll(/metrics\.(count|gauge)\('([a-z_]+)'(?:, \{ (\w+) \})?/g)].map(
      ([, kind, name, label]) =>
        `milagro_psk_file_${name}${kind === 'count' ? '_total' : ''}${label === undefined ? '' : `{${label}}`}`,
    )
    const named = [...page.matchAll(/`(milagro_psk_file_[^`]*)`/g)].map(([, name]) => name)
    expect(named.sort()).toEqual([...new Set(counted)].sort())
    expect(named.length).toBeGreaterThan(5)
  })
  test('names the steps that may fail', () => {
    const [, steps = ''] = /^type Step = (.*)$/m.exec(sources) ?? []
    const text = rowOf('`/metrics` of `tls psk-file`').split('milagro_psk_file_failures_total')[1] ?? ''
    expect([...text.matchAll(/`(\w+)`/g)].map(([, step]) => `'${step}'`).join(' | ')).toBe(steps)
  })
  test('names what takes effect at SIGHUP', () => {
    const named = [...rowOf('SIGHUP to `tls psk-file`').matchAll(/`(\w+)`/g)].map(([, name]) => name)
    expect(named).toEqual(PSK_FILE_RELOADABLE)
  })
})

describe('worked values', () => {
  test.each(pages())('%s holds what vectors/v1.json holds (node scripts/fill-values.mjs)', file => {
    expect(read(file)).toBe(filled(read(file)).page)
  })
  test('are many', () => {
    expect(pages().reduce((sum, file) => sum + filled(read(file)).values, 0)).toBeGreaterThan(50)
  })
  test('a path that is not there is an error', () => {
    expect(() => filled('```values\nlogin.nothing\n```\n')).toThrow("vectors/v1.json has no 'login.nothing'")
    expect(() => filled('```values\nlogin.constructor\n```\n')).toThrow()
  })
  test('a value that was changed is put right', () => {
    expect(filled('```values\npin.iterations = 2000\n```\n').page).toBe(
      '```values\npin.iterations = 1000\n```\n',
    )
  })
  test('the group document beside them is the one with their groupId', () => {
    const { general } = readJson('vectors/v1.json') as unknown as {
      general: { groupDocument: { jcs: string; groupId: string } }
    }
    const { jcs, groupId } = general.groupDocument
    expect(JSON.parse(read('docs/protocols/group-document.example.json'))).toEqual(JSON.parse(jcs))
    expect(toHex(sha256(new TextEncoder().encode(jcs)))).toBe(groupId)
  })
})

test.each(Object.entries(openApiFiles()))(
  '%s is what the routes say (node scripts/print-openapi.mjs)',
  (file, text) => {
    expect(read(file)).toBe(text)
  },
)

describe('commands', () => {
  const { scripts } = readJson('package.json') as unknown as { scripts: Record<string, string> }

  /** Of a program, or of a flag before it that names a file. */
  const fileOf = (word: string) => word.replace(/^--[a-z-]+=/, '')

  test.each(markdown)('%s names scripts that exist', file => {
    const commands = [...read(file).matchAll(/(?:^|`|&& )(npm|node) +([^`#\n]*)/gm)]
    const unknown = commands
      .map(([, tool, rest = '']) => [tool, ...rest.trim().split(/\s+/)])
      .filter(([tool, first = '', second = '']) => {
        if (tool === 'node') return /[./]/.test(first) && !existsSync(ROOT + fileOf(first))
        if (first === 'start' || first === 'test') return !(first in scripts)
        return first === 'run' ? !(second in scripts) : !['ci', 'install'].includes(first)
      })
      .map(words => words.join(' '))
    expect(unknown).toEqual([])
  })

  /**
   * `milagro …` on a line of its own in a block of code: somebody types it. Comments, and what the shell does with the
   * output, are off; continued lines are one.
   */
  const typed = (text: string) =>
    [...text.matchAll(/^ *```.*?\n(.*?)^ *```/gms)].flatMap(([, block = '']) =>
      [...block.replaceAll(/\\\n/g, ' ').matchAll(/^ *(?:npx )?milagro (.*)$/gm)].map(([, line = '']) =>
        line.replace(/(?:^| )(?:#|\d?>|[|&;]).*/, ''),
      ),
    )
  /** In a sentence, where what everybody has to give may be left out. */
  const mentioned = (text: string) =>
    [...text.replaceAll(/^ *```.*?^ *```/gms, '').matchAll(/`(?:npx )?milagro ([a-z][^`]*)`/g)]
      .map(([, line = '']) => line.replaceAll(/\s+/g, ' '))
      .filter(line => !LABELS.includes(line))
  /** Texts that are hashed, no commands. */
  const LABELS = ['message ‖ U ‖ V ‖ W', 'slot key']
  /** `dta|rps init` is two lines. */
  const alternatives = (line: string): string[] => {
    const [noun = '', ...rest] = line.split(' ')
    return noun.split('|').map(one => [one, ...rest].join(' '))
  }
  const wordsOf = (line: string) =>
    [...line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)].map(([word]) => word.replaceAll(/['"]/g, ''))

  /** Why the command's own grammar refuses a line, or undefined; nothing runs. */
  async function refusal(line: string, isWhole: boolean): Promise<string | undefined> {
    let said = ''
    const io = {
      out: () => {},
      err: (text: string) => {
        said += text
      },
      env: {},
      fetch,
      clock: () => 0,
      random: (length: number) => new Uint8Array(length),
      isTerminal: false,
      bytes: {} as Parameters<typeof milagro>[0]['bytes'],
    }
    const program = milagro(io, { exit: 0 })
    const prepare = (command: ReturnType<typeof milagro>) => {
      for (const child of command.commands) prepare(child)
      if (!isWhole) {
        for (const option of command.options) Object.assign(option, { mandatory: false })
        for (const option of command.options.filter(({ required }) => required))
          Object.assign(option, { required: false, optional: true })
        for (const argument of command.registeredArguments) Object.assign(argument, { required: false })
      }
      if (command.commands.length > 0) return
      command.action(() => {
        // What the grammar can't say: an argument alone is a groupId.
        const [what] = command.args
        if (/^(un)?freeze$/.test(command.name()) && command.opts().group === undefined)
          if (what !== undefined && what !== '<groupId>') throw new Error(`${what} is no groupId`)
      })
    }
    prepare(program)
    try {
      await parse(program, wordsOf(line))
      return undefined
    } catch (error) {
      // A noun in a sentence stands for its verbs.
      const isNoun = (error as { code?: string }).code === 'commander.help'
      return isNoun && !isWhole ? undefined : `milagro ${line}: ${said}${(error as Error).message}`
    }
  }
  const pagesWithCommands = markdown.filter(
    file => /^(README|SECURITY)\.md$|^docs\//.test(file) && file !== 'docs/cli.md',
  )

  test.each(pagesWithCommands)('%s: every `milagro …` is a command line that is understood', async file => {
    const text = read(file)
    const lines = [
      ...typed(text).map(line => [line, true] as const),
      ...mentioned(text).map(line => [line, false] as const),
    ]
    const refusals: string[] = []
    for (const [line, isWhole] of lines)
      for (const one of alternatives(line)) {
        const why = await refusal(one, isWhole)
        if (why !== undefined) refusals.push(why)
      }
    expect(refusals).toEqual([])
  })

  test('many are found, and wrong ones are refused', async () => {
    const found = (of: (text: string) => string[]) => pagesWithCommands.flatMap(file => of(read(file)))
    expect(found(typed).length).toBeGreaterThan(25)
    expect(found(mentioned).length).toBeGreaterThan(50)
    const page =
      '```sh\nmilagro dta leave G \\\n  --config a.json # never\nmilagro dta status <G> 2>&1 & x\n```\n`milagro dta\nstatus`'
    expect([typed(page).map(wordsOf), mentioned(page)]).toEqual([
      [
        ['dta', 'leave', 'G', '--config', 'a.json'],
        ['dta', 'status', '<G>'],
      ],
      ['dta status'],
    ])
    for (const line of ['dta freeze NAME', 'dta frieze', 'dta status --verbose', 'dta leave G H'])
      expect(await refusal(line, false)).toContain(line)
    // Without --after, which only a sentence may leave out.
    expect(await refusal('dta leave G', false)).toBeUndefined()
    expect(await refusal('dta leave G', true)).toContain('--after')
  })

  test('scripts name files that exist', () => {
    const files = Object.values(scripts).flatMap(
      command => /^node ((?:--\S+ )*\S+)/.exec(command)?.[1]?.split(' ').map(fileOf) ?? [],
    )
    expect(files.filter(file => !existsSync(ROOT + file))).toEqual([])
  })
})

describe('docs/protocols/statements.md', () => {
  interface Payload {
    readonly properties: Record<
      string,
      { enum?: string[]; const?: unknown; items?: Payload; properties?: unknown; maxLength?: number }
    >
    readonly required: readonly string[]
  }
  const listed = rows(read('docs/protocols/statements.md'))
    .filter(([typ = '']) => /^`[a-z-]+\+jwt`$/.test(typ))
    .map(([typ = '', , payload = '']): [string, string] => [typ.slice(1, -1), payload])
  const payloads = statements as unknown as Record<string, Payload>
  /** `typ` and schema as the source ties them. */
  const signed = [
    ...read('packages/api/src/statements.ts').matchAll(/\{ typ: '([^']+)', validator: Compile\((\w+)\) \}/g),
  ].map(([, typ = '', name = '']): [string, string] => [typ, name])

  /** `a, b?, c {x: y}, d [{e, f?}], g (…)` to its parts, split at the outer commas. */
  const fields = (text: string) => text.split(/, (?![^({[]*[)}\]])/)
  const nameOf = (field: string) => /^\w+\??/.exec(field)?.[0] ?? field
  const named = ({ properties, required }: Payload) =>
    Object.keys(properties).map(name => (required.includes(name) ? name : `${name}?`))

  test('lists every statement that is signed, and no other', () => {
    const exported = Object.keys(payloads).filter(name => /Payload$/.test(name))
    expect(signed.map(([, name]) => name).sort()).toEqual(exported.sort())
    expect(listed.map(([typ]) => typ).sort()).toEqual(
      [...signed.map(([typ]) => typ), 'mpin-request+jwt'].sort(),
    )
  })

  test.each(signed)('%s: its fields', (typ, name) => {
    const schema = payloads[name] as Payload
    const said = fields(new Map(listed).get(typ) ?? '')
    expect(said.map(nameOf)).toEqual(named(schema))
    for (const field of said) {
      const {
        enum: values,
        const: only,
        items,
        maxLength,
      } = schema.properties[nameOf(field).replace('?', '')] ?? {}
      const [, inner] = /\[\{(.*)\}\]/.exec(field) ?? []
      if (inner !== undefined) expect(fields(inner).map(nameOf)).toEqual(named(items as Payload))
      const words = [...field.matchAll(/`(\w+)`/g)].map(([, word]) => word)
      if (values !== undefined) expect(words).toEqual(values)
      if (only !== undefined && words.length > 0) expect(words).toEqual([String(only)])
      const [, bytes] = /\((\d+)[,)]/.exec(field) ?? []
      if (bytes !== undefined) expect(maxLength).toBe(Math.ceil((Number(bytes) * 4) / 3))
    }
  })

  test('mpin-request+jwt: its fields', async () => {
    const request = { method: 'GET', url: 'http://server/', body: new Uint8Array() }
    const key = await generateEs256()
    const header = await signRequest(request, {
      name: 'rps',
      key,
      clock: () => 0,
      random: length => new Uint8Array(length),
    })
    const [head = '', payload = ''] = header.replace('MPIN-Request ', '').split('.')
    const decoded = (part: string) => JSON.parse(new TextDecoder().decode(fromBase64Url(part, 'part')))
    expect(decoded(head).typ).toBe('mpin-request+jwt')
    const said = fields(new Map(listed).get('mpin-request+jwt') ?? '').map(nameOf)
    expect(said.sort()).toEqual(Object.keys(decoded(payload)).sort())
  })
})
