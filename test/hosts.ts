/**
 * Hosts of their own on one machine, each in a network namespace behind one switch, where the system allows it (Linux,
 * root, `ip`); elsewhere each is an address of the loopback. A host has a folder in which its commands run.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] })

export interface Ended {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

export class Hosts {
  /** Whether each has a network of its own. */
  readonly isolated: boolean
  readonly #prefix = `milagro-${process.pid}-`
  readonly #names: readonly string[]
  readonly #folder: string
  readonly #env: Readonly<Record<string, string>>
  readonly #running = new Map<string, ChildProcess[]>()

  private constructor(names: readonly string[], folder: string, env: Readonly<Record<string, string>>) {
    this.#names = names
    this.#folder = folder
    this.#env = env
    this.isolated = this.#wire()
  }

  /** `env`: what every command on every host has. */
  static async open(names: readonly string[], env: Readonly<Record<string, string>>): Promise<Hosts> {
    const folder = await mkdtemp(join(tmpdir(), 'milagro-hosts-'))
    for (const name of names) await mkdir(join(folder, name))
    return new Hosts(names, folder, env)
  }

  async close(): Promise<void> {
    for (const key of [...this.#running.keys()]) await this.kill(key, 'SIGTERM')
    if (this.isolated) this.#unwire()
    await rm(this.#folder, { recursive: true, force: true })
  }

  address(host: string): string {
    const number = this.#names.indexOf(host) + 11
    return this.isolated ? `10.77.0.${number}` : `127.0.0.${number}`
  }

  file(host: string, name: string): string {
    return join(this.#folder, host, name)
  }

  /** Runs a shell's script on a host to its end. */
  async run(host: string, script: string): Promise<Ended> {
    const child = this.#spawn(host, script)
    const [out, err] = [textOf(child.stdout), textOf(child.stderr)]
    const [code] = (await once(child, 'close')) as [number | null]
    return { code, out: await out, err: await err }
  }

  /** Runs a script that ends with a server; resolves with the line of JSON in which it says that it is ready. */
  async serve(host: string, script: string): Promise<readonly Record<string, unknown>[]> {
    const child = this.#spawn(host, script)
    const err = textOf(child.stderr)
    this.#running.set(host, [...(this.#running.get(host) ?? []), child])
    const said: Record<string, unknown>[] = []
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })
    for await (const line of lines) {
      const event = JSON.parse(line) as Record<string, unknown>
      said.push(event)
      if (event.event !== 'ready') continue
      // What it says from here on nobody reads, and it must not wait for a reader.
      child.stdout?.resume()
      return said
    }
    throw new Error(`${host}: ended before it was ready: ${await err}`)
  }

  /** Ends what `serve` has started there. */
  async kill(host: string, signal: NodeJS.Signals): Promise<void> {
    const children = this.#running.get(host) ?? []
    this.#running.delete(host)
    for (const child of children) {
      if (child.exitCode !== null || child.signalCode !== null) continue
      // The shell and what it has started.
      process.kill(-(child.pid as number), signal)
      await once(child, 'close')
    }
  }

  #spawn(host: string, script: string): ChildProcess {
    const inside = this.isolated ? ['ip', 'netns', 'exec', this.#prefix + host] : []
    const [file, ...args] = [...inside, 'sh', '-ec', script]
    return spawn(file as string, args, {
      cwd: join(this.#folder, host),
      env: { ...this.#env, HOME: join(this.#folder, host) },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
  }

  #wire(): boolean {
    const sw = `${this.#prefix}switch`
    try {
      ip('netns', 'add', sw)
    } catch {
      return false
    }
    ip('-n', sw, 'link', 'add', 'br0', 'type', 'bridge')
    ip('-n', sw, 'link', 'set', 'br0', 'up')
    for (const [i, name] of this.#names.entries()) {
      const ns = this.#prefix + name
      ip('netns', 'add', ns)
      ip('-n', sw, 'link', 'add', `v${i}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', ns)
      ip('-n', sw, 'link', 'set', `v${i}`, 'master', 'br0', 'up')
      ip('-n', ns, 'addr', 'add', `10.77.0.${i + 11}/24`, 'dev', 'eth0')
      ip('-n', ns, 'link', 'set', 'eth0', 'up')
      ip('-n', ns, 'link', 'set', 'lo', 'up')
    }
    return true
  }

  #unwire(): void {
    for (const name of [...this.#names, 'switch']) ip('netns', 'delete', this.#prefix + name)
  }
}

async function textOf(stream: NodeJS.ReadableStream | null): Promise<string> {
  let text = ''
  for await (const chunk of stream ?? []) text += String(chunk)
  return text
}
