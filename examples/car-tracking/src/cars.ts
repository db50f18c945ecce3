/** Cars as processes: their settings and secrets in files, and what they say. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import type { CarConfig } from './car-config.js'
import { ManagedProcess, ProcessFailure } from './processes.js'

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

export class Cars {
  readonly #folder: string
  readonly #running = new Map<string, ManagedProcess>()
  #isEnding = false

  /** @param folder of the whole example; a car's data is in `<folder>/<name>/`. */
  constructor(folder: string) {
    this.#folder = folder
  }

  get all(): readonly ManagedProcess[] {
    return [...this.#running.values()]
  }
  dataDir(name: string): string {
    return join(this.#folder, name)
  }
  /** Of the cars that speak to each other: writeAddressBook's. */
  get addressBook(): string {
    return join(this.#folder, 'address-book.json')
  }

  /** Starts a car; with secrets that are new, else with those of its first start. */
  async start(config: Omit<CarConfig, 'dataDir'>, secrets: CarSecrets): Promise<ManagedProcess> {
    const { name } = config
    await mkdir(join(this.#folder, 'logs'), { recursive: true, mode: 0o700 })
    const file = join(this.#folder, `${name}.json`)
    await writeFileAtomic(file, JSON.stringify({ ...config, dataDir: this.dataDir(name) }, null, 2))
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

  /** Ends all cars; no other is started after that. */
  async end(): Promise<void> {
    this.#isEnding = true
    await Promise.all(this.all.map(car => car.end()))
  }
}
