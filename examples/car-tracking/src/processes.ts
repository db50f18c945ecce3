/** Child processes that speak JSON lines on standard output, say when they are ready, and end when asked to. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createWriteStream, readFileSync, type WriteStream } from 'node:fs'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'

/** How long a process may take from SIGTERM to its end, before it is killed, in ms. */
const END_WITHIN = 5_000
const READY_WITHIN = 60_000
const LIFELINE = new URL('../dist/lifeline.js', import.meta.url).href

/** One line that a process wrote; every line has the name of an event. */
export interface ProcessEvent {
  readonly event: string
  readonly [field: string]: unknown
}

export interface ProcessOptions {
  readonly name: string
  /** The program, a JavaScript file for this very Node. */
  readonly file: string
  readonly args: readonly string[]
  /** Node's own. */
  readonly nodeFlags?: readonly string[]
  /** Added to a small environment; nothing else of the parent's environment is passed on. */
  readonly env?: Readonly<Record<string, string>>
  /** Where its standard error is appended. */
  readonly logFile: string
}

/** A process that can't be started, or ended by itself; the message has its own last line. */
export class ProcessFailure extends Error {
  override readonly name = 'ProcessFailure'
}

export class ManagedProcess {
  readonly name: string
  readonly #child: ChildProcess
  readonly #log: WriteStream
  readonly #logFile: string
  readonly #events: ProcessEvent[] = []
  readonly #listeners = new Set<(event: ProcessEvent) => void>()
  /** Settles with the exit code, or the signal's name. */
  readonly ended: Promise<number | string>
  #hasEnded = false

  constructor(options: ProcessOptions) {
    this.name = options.name
    this.#logFile = options.logFile
    this.#log = createWriteStream(options.logFile, { flags: 'a', mode: 0o600 })
    const passed = ['PATH', 'HOME', 'TMPDIR', 'SystemRoot', 'NODE_OPTIONS', 'NODE_EXTRA_CA_CERTS']
    const inherited = Object.fromEntries(passed.map(name => [name, process.env[name]]))
    const { nodeFlags = [], file, args } = options
    this.#child = spawn(process.execPath, ['--import', LIFELINE, ...nodeFlags, file, ...args], {
      env: { ...inherited, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      // A group of its own: Ctrl-C in the terminal reaches the parent only, which then ends everybody in order.
      detached: true,
    })
    this.#child.stderr?.pipe(this.#log)
    this.ended = new Promise(resolve => {
      this.#child.once('error', error => resolve(error.message))
      this.#child.once('close', (code, signal) => resolve(code ?? signal ?? 'unknown'))
    }).then(how => {
      this.#hasEnded = true
      this.#notify({ event: 'ended', how })
      return how as number | string
    })
    if (this.#child.stdout !== null) {
      createInterface({ input: this.#child.stdout }).on('line', line => this.#notify(parseLine(line)))
    }
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }
  get running(): boolean {
    return !this.#hasEnded
  }
  /** Everything it has said so far. */
  get events(): readonly ProcessEvent[] {
    return this.#events
  }

  on(listener: (event: ProcessEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** The first event from `from` on (an index of `events`) that fits; ProcessFailure when the process ends first. */
  async waitFor(
    fits: (event: ProcessEvent) => boolean,
    { from = 0, within = READY_WITHIN, what = 'an event' } = {},
  ): Promise<ProcessEvent> {
    const said = this.#events.slice(from).find(fits)
    if (said !== undefined) return said
    if (!this.running) throw this.#failure()
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => done(() => reject(new ProcessFailure(`${this.name}: no ${what} within ${within} ms`))),
        within,
      )
      const off = this.on(event => {
        if (fits(event)) done(() => resolve(event))
        else if (event.event === 'ended') done(() => reject(this.#failure()))
      })
      const done = (settle: () => void) => {
        clearTimeout(timer)
        off()
        settle()
      }
    })
  }

  ready(): Promise<ProcessEvent> {
    return this.waitFor(event => event.event === 'ready', { what: 'sign of being ready' })
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** SIGTERM, and SIGKILL for one that takes longer than `within` ms. Settles when it has ended. */
  async end(within = END_WITHIN): Promise<void> {
    if (!this.running) return
    this.kill('SIGTERM')
    const timer = setTimeout(() => this.kill('SIGKILL'), within)
    await this.ended
    clearTimeout(timer)
    this.#log.end()
  }

  #notify(event: ProcessEvent): void {
    this.#events.push(event)
    for (const listener of [...this.#listeners]) listener(event)
  }

  #failure(): ProcessFailure {
    return new ProcessFailure(`${this.name} has ended: ${lastLine(this.#logFile)}`)
  }
}

/** Runs a process to its end; its events. ProcessFailure unless it ends with 0. */
export async function runToEnd(options: ProcessOptions): Promise<readonly ProcessEvent[]> {
  const child = new ManagedProcess(options)
  const how = await child.ended
  if (how !== 0) throw new ProcessFailure(`${options.name} ended with ${how}: ${lastLine(options.logFile)}`)
  return child.events
}

function parseLine(line: string): ProcessEvent {
  try {
    const value: unknown = JSON.parse(line)
    if (typeof value === 'object' && value !== null && 'event' in value && typeof value.event === 'string') {
      return value as ProcessEvent
    }
  } catch {
    // Not every line is ours: Node itself may print a warning.
  }
  return { event: 'line', text: line }
}

function lastLine(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').at(-1) ?? ''
}

/** `work`, unless the signal fires first: then a rejection, and whatever `work` comes to is left behind. */
export async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  signal.throwIfAborted()
  const left = new AbortController()
  const aborted = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(new ProcessFailure('interrupted')), { signal: left.signal })
  })
  // Left behind, it may still fail: it was told to, by the end of the processes that it works with.
  work.catch(() => undefined)
  return Promise.race([work, aborted]).finally(() => left.abort())
}

/** True when nothing listens on the port of this machine's loopback. */
export async function isFree(port: number): Promise<boolean> {
  return (await listenOnce(port)) !== undefined
}

/** What no system gives out by itself: between the well-known ones and those for outgoing connections. */
const OWN_PORTS = { from: 10_000, to: 32_768 } as const

/**
 * As many different free ports as asked for. None that the system would give to the next one who asks for any: between
 * here and their use they stay free.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>()
  while (ports.size < count) {
    const port = randomInt(OWN_PORTS.from, OWN_PORTS.to)
    if (await isFree(port)) ports.add(port)
  }
  return [...ports]
}

async function listenOnce(port: number): Promise<number | undefined> {
  try {
    const server = await hold(port)
    await new Promise(resolve => server.close(resolve))
    return port
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'EADDRINUSE' || code === 'EACCES') return undefined
    throw error
  }
}

function hold(port: number): Promise<ReturnType<typeof createServer>> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve(server))
  })
}
