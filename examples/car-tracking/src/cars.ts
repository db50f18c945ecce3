/**
 * Cars as processes: their settings and secrets in files, whom they speak to, and what they say.
 *
 *   each car → tracking server, and broker where there is one      over TLS without certificates
 *   car-3 → car-1                                                  a channel with no server between them
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import type { CarConfig } from './car-config.js'
import { type Contact, writeAddressBook } from './car-peers.js'
import { ManagedProcess, ProcessFailure } from './processes.js'
import type { Servers } from './servers.js'

/** Two cars that speak to each other: the one that answers, and the one that connects to it. */
export const ANSWERS = 'car-1'
export const CALLS = 'car-3'

/** A car's settings, but for where everything is. */
export type CarSettings = Omit<CarConfig, 'dataDir' | 'rps' | 'tracking' | 'trackingTls' | 'mqtt' | 'peers'>

export interface CarSecrets {
  readonly code?: string | undefined
  readonly driverCode?: string | undefined
  readonly pin?: string | undefined
}

const VARIABLES = {
  code: 'MILAGRO_CAR_CODE',
  driverCode: 'MILAGRO_CAR_DRIVER_CODE',
  pin: 'MILAGRO_CAR_PIN',
} as const

/** M-Pin IDs. */
export interface Introduction {
  readonly answers: string
  readonly calls: string
  /** Whom ANSWERS lets in besides. */
  readonly others?: readonly string[]
}

export interface CarsOptions {
  /** Of the whole example; a car's data is in `<folder>/<name>/`. */
  readonly folder: string
  readonly servers: Servers
  /** Where ANSWERS answers CALLS. */
  readonly answering: NonNullable<Contact['at']>
}

export class Cars {
  readonly #folder: string
  readonly #servers: Servers
  readonly answering: CarsOptions['answering']
  readonly #running = new Map<string, ManagedProcess>()
  #isEnding = false

  constructor({ folder, servers, answering }: CarsOptions) {
    this.#folder = folder
    this.#servers = servers
    this.answering = answering
  }

  get all(): readonly ManagedProcess[] {
    return [...this.#running.values()]
  }
  dataDir(name: string): string {
    return join(this.#folder, name)
  }

  /** Tells ANSWERS and CALLS of each other, and of nobody else; who they are their enrolment says. */
  async introduce({ answers, calls, others = [] }: Introduction): Promise<void> {
    await writeAddressBook(this.#addressBook, [
      { name: ANSWERS, idCore: answers, at: this.answering },
      { name: CALLS, idCore: calls },
      ...others.map((idCore, i) => ({ name: `other-${i + 1}`, idCore })),
    ])
  }

  /** Starts a car; with secrets that are new, else with those of its first start. */
  async start(settings: CarSettings, secrets: CarSecrets): Promise<ManagedProcess> {
    const { name } = settings
    await mkdir(join(this.#folder, 'logs'), { recursive: true, mode: 0o700 })
    const file = join(this.#folder, `${name}.json`)
    await writeFileAtomic(file, JSON.stringify(this.#configOf(settings), null, 2))
    const env: Record<string, string> = {}
    for (const key of ['code', 'driverCode', 'pin'] as const) {
      const secret = secrets[key]
      if (secret === undefined) continue
      env[`${VARIABLES[key]}_FILE`] = join(this.#folder, `${name}.${key}`)
      await writeFileAtomic(join(this.#folder, `${name}.${key}`), `${secret}\n`)
    }
    if (this.#isEnding) throw new ProcessFailure(`${name} is not started any more`)
    const car = new ManagedProcess({
      name,
      file: fileURLToPath(new URL('../dist/car-main.js', import.meta.url)),
      // Of those that answer other cars, who comes in is given no session ticket.
      nodeFlags: [NO_TICKETS],
      args: ['--config', file],
      env,
      logFile: join(this.#folder, 'logs', `${name}.log`),
    })
    this.#running.set(name, car)
    return car
  }

  #configOf(settings: CarSettings): CarConfig {
    const { name } = settings
    const { trackingTls, mqtt } = this.#servers
    const book = { file: this.#addressBook }
    return {
      ...settings,
      dataDir: this.dataDir(name),
      rps: this.#servers.url('rps'),
      tracking: this.#servers.url('tracking'),
      ...(trackingTls === undefined ? {} : { trackingTls }),
      ...(mqtt === undefined ? {} : { mqtt }),
      ...(name === ANSWERS ? { peers: { ...book, listen: this.answering } } : {}),
      ...(name === CALLS ? { peers: book } : {}),
    }
  }

  get #addressBook(): string {
    return join(this.#folder, 'address-book.json')
  }

  /** Ends all cars; no other is started after that. */
  async end(): Promise<void> {
    this.#isEnding = true
    await Promise.all(this.all.map(car => car.end()))
  }
}
