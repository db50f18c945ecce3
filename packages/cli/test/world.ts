/** Runs the command in the test's process, and authorities for it to talk to. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import type { ByteStreams } from '@milagro-ts/cli/io'
import { run } from '@milagro-ts/cli/program'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock } from '@milagro-ts/crypto/ports'
import { createDta, type Dta } from '@milagro-ts/dta/server'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { recorder } from '../../../test/evidence-recorder.js'

export interface Said {
  readonly exit: number
  readonly out: string
  readonly err: string
  /** The one JSON object that `--json` answers with. */
  readonly json: Record<string, unknown>
}

/** Nothing on standard input, and nobody may write bytes. */
export const noBytes: ByteStreams = {
  input: () => new Blob([]).stream(),
  close: () => {},
  inputSize: 0,
  output: () => Promise.reject(new Error('no bytes were expected')),
  isWatched: false,
}

/** Standard input from `input`; what goes to standard output is kept. */
export function piped(input: Uint8Array): { bytes: ByteStreams; output: () => Uint8Array } {
  const written: Uint8Array[] = []
  return {
    bytes: {
      ...noBytes,
      input: () => new Blob([input.slice()]).stream(),
      inputSize: input.length,
      output: async bytes => {
        written.push(bytes.slice())
      },
    },
    output: () => new Uint8Array(Buffer.concat(written)),
  }
}

export const milagro = (...argv: string[]): Promise<Said> => milagroWith({}, ...argv)

/** With an environment. */
export const milagroWith = (env: Record<string, string>, ...argv: string[]): Promise<Said> =>
  milagroAt({ env }, ...argv)

/** With an environment, by another clock, without a network. */
export async function milagroAt(
  {
    hear,
    ...world
  }: {
    env?: Record<string, string>
    clock?: Clock
    fetch?: typeof fetch
    bytes?: ByteStreams
    /** Told what goes to the error stream, as it goes. */
    hear?: (text: string) => void
  },
  ...argv: string[]
): Promise<Said> {
  let out = ''
  let err = ''
  const exit = await run(argv, {
    out: text => {
      out += text
    },
    err: text => {
      err += text
      hear?.(text)
    },
    env: {},
    fetch,
    clock: systemClock,
    random: systemRandom,
    isTerminal: false,
    bytes: noBytes,
    ...world,
  })
  recorder?.line('error', err)
  const json = argv.includes('--json') && out.startsWith('{') ? JSON.parse(out) : {}
  return { exit, out, err, json }
}

export const silent = () =>
  createLog('test', { destination: new Writable({ write: (_chunk, _encoding, done) => done() }) })

export class Folder {
  readonly path: string
  readonly #closers: (() => Promise<unknown>)[] = []

  private constructor(path: string) {
    this.path = path
  }
  static async make(): Promise<Folder> {
    return new Folder(await mkdtemp(join(tmpdir(), 'milagro-cli-')))
  }

  file(name: string): string {
    return join(this.path, name)
  }
  async write(name: string, value: unknown): Promise<string> {
    await writeFile(this.file(name), typeof value === 'string' ? value : JSON.stringify(value))
    return this.file(name)
  }

  /** A running authority, with its settings in `<name>.json`. */
  async authority(name: string): Promise<{ dta: Dta; url: string; config: string }> {
    const dataDir = this.file(name)
    const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations })
    const any = { host: '127.0.0.1', port: 0 }
    const dta = await createDta({
      config: { name, listen: any, adminListen: any, dataDir, workers: 0 },
      passphrase: 'test',
      store,
      clock: systemClock,
      random: systemRandom,
      log: silent(),
    })
    const { url, adminUrl } = await dta.start()
    this.onClose(() => dta.close().then(() => store.close()))
    const { hostname, port } = new URL(adminUrl)
    const config = await this.write(`${name}.json`, {
      dataDir,
      adminListen: { host: hostname, port: Number(port) },
    })
    return { dta, url, config }
  }

  /** A plan for a group of these authorities. */
  async plan(urls: readonly string[], t = urls.length): Promise<string> {
    const recipient = async (name: string, purposes: string[]) => ({
      name,
      kind: 2,
      generation: 1,
      purposes,
      hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
      requestKey: (await generateEs256()).publicKey.toBase64Url(),
    })
    return this.write('plan.json', {
      authorities: urls,
      t,
      ra: { m: 1, keys: [{ kid: 'ra', key: (await generateEs256()).publicKey.toBase64Url() }] },
      recipients: [await recipient('rps', ['device', 'pin'])],
      slot: { length: 86_400 },
      policy: { lead: 1, grace: 300 },
    })
  }

  onClose(close: () => Promise<unknown>): void {
    this.#closers.unshift(close)
  }

  async close(): Promise<void> {
    for (const close of this.#closers) await close()
    await rm(this.path, { recursive: true })
  }
}
