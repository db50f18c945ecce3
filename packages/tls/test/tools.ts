/** Programs of other people that tests run: where they are, what they say, and that they end. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { type AddressInfo, createServer } from 'node:net'

/** Debian has servers where an ordinary user's PATH doesn't look. */
const PATH = `${process.env.PATH}:/usr/sbin:/usr/local/sbin`

/** True if all of them are here; else suites that need them are skipped, with one line that says so. */
export function haveTools(what: string, ...names: readonly string[]): boolean {
  const missing = names.filter(
    name => spawnSync('sh', ['-c', `command -v ${name}`], { env: { ...process.env, PATH } }).status !== 0,
  )
  if (missing.length > 0) console.log(`${missing.join(', ')} not here: ${what}`)
  return missing.length === 0
}

export interface Ran {
  readonly status: number | null
  /** Standard output and standard error, as they came. */
  readonly text: string
}

/** Runs it to its end, or until its output has `until`. */
export function ran(
  [program, ...args]: readonly [string, ...string[]],
  { input, until, env = {} }: { input?: string; until?: RegExp; env?: Record<string, string> } = {},
): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: { ...process.env, PATH, ...env } })
    let text = ''
    const hear = (chunk: Buffer) => {
      text += chunk.toString('latin1')
      if (until?.test(text) === true) child.kill()
    }
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
    child.on('error', reject)
    child.on('close', status => resolve({ status, text }))
    child.stdin.on('error', () => undefined)
    // One that is watched for a line is left its input: some end with it.
    if (input !== undefined) child.stdin.write(input)
    if (until === undefined) child.stdin.end()
  })
}

export interface Running {
  readonly child: ChildProcess
  readonly text: () => string
  /** Resolves when its output has it; rejects when it ends before. */
  said(what: RegExp): Promise<void>
  end(): Promise<void>
}

export function started(
  [program, ...args]: readonly [string, ...string[]],
  env: Record<string, string> = {},
): Running {
  const child = spawn(program, args, { env: { ...process.env, PATH, ...env } })
  let text = ''
  const look = new Set<() => void>()
  let isOver = false
  const over = new Promise<void>(resolve => {
    child.on('close', () => {
      isOver = true
      for (const one of look) one()
      resolve()
    })
  })
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1')
      for (const one of look) one()
    })
  return {
    child,
    text: () => text,
    said: what =>
      new Promise((resolve, reject) => {
        const one = () => {
          if (!what.test(text) && !isOver) return
          look.delete(one)
          if (what.test(text)) resolve()
          else reject(new Error(`${program} ended: ${text}`))
        }
        look.add(one)
        one()
      }),
    async end() {
      child.kill()
      await over
    },
  }
}

/** For programs that can't say which port they took. */
export function freePort(): Promise<number> {
  return new Promise(resolve => {
    const server = createServer()
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
}
