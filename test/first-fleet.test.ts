/**
 * docs/operations/first-fleet.md, said word by word in one shell, on ports of its own: what stands in a block of `text` is
 * what the block before it has printed last.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { freePorts } from '@milagro-ts/car-tracking/processes'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'

let folder: string
let shell: ChildProcess
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-first-fleet-'))
  // What the page calls the repository's folder.
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  shell = spawn('sh', ['-e'], {
    cwd: folder,
    env: { PATH: [dirname(process.execPath), '/usr/bin', '/bin'].join(delimiter), HOME: folder },
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  })
})
afterAll(async () => {
  // The shell and what it has started.
  try {
    process.kill(-(shell.pid as number), 'SIGKILL')
  } catch {
    // The page has ended all of it.
  }
  await rm(folder, { recursive: true })
})

interface Block {
  readonly script: string
  /** What it prints last; `…` stands for anything in a line. */
  readonly shown: readonly string[]
}

function blocksOf(page: string): Block[] {
  const blocks: Block[] = []
  for (const [, kind, text = ''] of page.matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)) {
    if (kind === 'sh') blocks.push({ script: text, shown: [] })
    else if (kind === 'text') blocks.push({ ...(blocks.pop() as Block), shown: text.trimEnd().split('\n') })
    else expect(kind).toBe('')
  }
  return blocks
}

/** Each of the page's ports another one, that is free. */
async function elsewhere(page: string): Promise<string> {
  const ports = [...new Set(page.match(/\b75\d\d\b/g))]
  const free = await freePorts(ports.length)
  return page.replaceAll(/\b75\d\d\b/g, port => String(free[ports.indexOf(port)]))
}

const pattern = (line: string) =>
  new RegExp(
    `^${line
      .split('…')
      .map(part => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'))
      .join('.*')}$`,
  )

test('the page, from its beginning to its end', { timeout: 300_000 }, async () => {
  const lines = createInterface({ input: shell.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
  const said = (line: string) => {
    shell.stdin?.write(`${line}\necho done\n`)
    return lines.next()
  }
  const blocks = blocksOf(
    await elsewhere(await readFile(join(ROOT, 'docs/operations/first-fleet.md'), 'utf8')),
  )
  expect(blocks.length).toBeGreaterThan(10)
  for (const [i, { script, shown }] of blocks.entries()) {
    const [file, out] = [join(folder, `${i}.sh`), join(folder, `${i}.out`)]
    await writeFile(file, script)
    const { value } = await said(`. ${file} > ${out} 2>&1 < /dev/null`)
    const printed = (await readFile(out, 'utf8')).trimEnd().split('\n')
    expect([script, printed, value]).toEqual([script, expect.anything(), 'done'])
    const last = printed.slice(-shown.length)
    if (shown.length > 0) expect(last).toEqual(shown.map(line => expect.stringMatching(pattern(line))))
  }
  // Whom the page has ended has ended.
  expect((await said('wait')).value).toBe('done')
  shell.stdin?.end()
  expect(await once(shell, 'close')).toEqual([0, null])
})
