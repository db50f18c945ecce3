/** Child processes that speak JSON lines on standard output, say when they are ready, and end when asked to. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createWriteStream, readFileSync, type WriteStream } from 'node:fs'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'

/** How long a process may take from SIGTERM to its end, before it is killed, in ms. */
const END_WITHIN = 5_000
/** Only who hangs takes as long, on a busy machine too. */
const READY_WITHIN = 180_000
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
    }).then(async how => {
      // Who hears of the end reads the last line.
      await new Promise(written => this.#log.end(written))
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
  const server = await holdUnlessTaken(port)
  if (server === undefined) return false
  await new Promise(resolve => server.close(resolve))
  return true
}

/** What no system gives out by itself (between the well-known ports and those for outgoing connections), in blocks. */
const OWN_PORTS = { from: 10_000, to: 32_768, block: 128 } as const

interface Block {
  readonly first: number
  /** How many of its ports have been looked at. */
  looked: number
}
let block: Promise<Block> | undefined

/**
 * This process listens on the first port of its block as long as it lives, so that no other one takes ports from there.
 * RangeError when each block is somebody's.
 */
export async function ownBlock(claimed = holdUnlessTaken): Promise<Block> {
  const blocks = Math.floor((OWN_PORTS.to - OWN_PORTS.from) / OWN_PORTS.block)
  const begin = randomInt(blocks)
  for (let looked = 0; looked < blocks; looked++) {
    const first = OWN_PORTS.from + OWN_PORTS.block * ((begin + looked) % blocks)
    const claim = await claimed(first)
    if (claim === undefined) continue
    claim.unref()
    return { first, looked: 0 }
  }
  throw new RangeError(`each of ${blocks} blocks of ports is another process'`)
}

/**
 * As many different free ports as asked for, the longest unused first. None that the system would give to the next one who
 * asks for any, and none that another process is given by this function: between here and their use they stay free.
 */
export async function freePorts(count: number): Promise<number[]> {
  block ??= ownBlock().catch((error: unknown) => {
    // By the next call somebody may have ended.
    block = undefined
    throw error
  })
  const own = await block
  const ports: number[] = []
  for (let looked = 0; ports.length < count; looked++) {
    if (looked === OWN_PORTS.block - 1) throw new RangeError(`${count} free ports are not to be had`)
    const port = own.first + 1 + (own.looked++ % (OWN_PORTS.block - 1))
    if (await isFree(port)) ports.push(port)
  }
  return ports
}

/** Undefined where somebody else has the port. */
async function holdUnlessTaken(port: number): Promise<ReturnType<typeof createServer> | undefined> {
  try {
    return await hold(port)
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
