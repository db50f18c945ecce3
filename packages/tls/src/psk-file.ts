/**
 * A file of `s1.` keys for a broker that reads such files (mosquitto's `psk_file`), one line for each device:
 *
 *   s1.<base64url(idCore)>:<key, 64 hexadecimal digits>
 *
 * The writer holds the static key and keeps the file current: a device of the register gets its line, one that is banned,
 * revoked or gone loses it, and after a rotation all are written anew. The file is replaced as a whole, mode 0600, and the
 * broker told to read it. When the ban events are lost for 30 s it is emptied: nobody comes in by it. A connection that
 * stands is the broker's: it ends when the broker ends it.
 *
 * A line is a whole key: who reads the file can pose as each of these devices to this broker, and as the broker to them.
 */
import type { Readiness } from '@milagro-ts/api/admin'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import type { Timers } from '@milagro-ts/api/system'
import { toHex } from '@milagro-ts/crypto/bytes'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import { type AgreeStaticKey, PskIdentity, serverAgreeStatic } from '@milagro-ts/crypto/static-agreement'
import type { Bans } from './door.js'

/** Milliseconds between two looks at everything but the register. */
const LOOK = 1_000
/** Milliseconds after a failure until the next attempt, unless somebody was banned. */
const PAUSE = 5_000
/** Milliseconds that the ban events may be missing at the start, before the former file is emptied. */
const DEAF_AT_START = 30_000
/** Pairings in one turn, a millisecond each: a ban shall not wait for a thousand of them. */
const AT_ONCE = 16

export interface PskFilePorts {
  /** The key of the current key epoch; the same object until that ends. Rejects where there is none. */
  readonly key: () => Promise<AgreeStaticKey>
  /** Everybody in the register, the banned ones too. */
  readonly devices: () => Promise<readonly IdCore[]>
  readonly bans: Bans
  /** The file as it is; empty when there is none. */
  readonly read: () => Promise<string>
  readonly write: (text: string) => Promise<void>
  /** Tells the broker that the file is another. */
  readonly reload: () => Promise<void>
  /** Milliseconds between two looks at the register, as of now. */
  readonly every: () => number
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
}

/** What may fail, by its label among the metrics. */
type Step = 'register' | 'key' | 'write' | 'broker'

export class PskFile {
  readonly #ports: PskFilePorts
  /** By identity, of the key that they were computed with; before that, what the file held. */
  readonly #keys = new Map<string, string>()
  readonly #fresh = new Set<string>()
  /** What the last attempt of each step ended with, where it failed. */
  readonly #troubles = new Map<Step, unknown>()
  #key: AgreeStaticKey | undefined
  #devices: readonly IdCore[] | undefined
  #listed = Number.NEGATIVE_INFINITY
  /** Whether it is to be read without waiting for its time, and whether the last answer is of the one that is meant. */
  #listAgain = false
  #isListed = false
  #isKeyRefused = false
  #written: string | undefined
  #wantsReload = false
  #startedAt = 0
  #notBefore = Number.NEGATIVE_INFINITY
  #again = false
  #isStopped = false
  #refreshing: Promise<void> | undefined
  #endLooking = () => {}

  constructor(ports: PskFilePorts) {
    this.#ports = ports
  }

  /** Begins with the lines that are there, so that nobody is locked out by a restart. */
  async start(): Promise<void> {
    const { read, clock, timers, metrics } = this.#ports
    this.#startedAt = clock()
    this.#written = await read()
    metrics.gauge('lines', this.lines)
    for (const line of this.#written.split('\n')) {
      const [, identity, key] = /^(s1\.[\w-]{52}):([0-9a-f]{64})$/.exec(line) ?? []
      if (identity !== undefined && key !== undefined) this.#keys.set(identity, key)
    }
    this.#endLooking = timers.every(LOOK, () => {
      if (clock() >= this.#notBefore) this.look()
    })
    this.look()
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    this.#endLooking()
    await this.#refreshing
  }

  /** Reads the register again, now: it may be another one. Never throws. */
  lookAnew(): void {
    this.#listAgain = true
    this.#isListed = false
    this.look()
  }

  /** At a ban, and every second. Never throws. */
  look(): void {
    if (this.#isStopped) return
    if (this.#refreshing !== undefined) {
      this.#again = true
      return
    }
    this.#again = false
    this.#refreshing = this.refresh()
      .catch((error: unknown) => {
        const { clock, log } = this.#ports
        this.#notBefore = clock() + PAUSE
        log.error({ err: error }, 'the PSK file is not current; tried again')
      })
      .finally(() => {
        this.#refreshing = undefined
        // Somebody was banned while it failed.
        if (this.#again) this.look()
      })
  }

  /** Why the file isn't written for now, as far as something has failed. */
  get troubles(): readonly unknown[] {
    return [...this.#troubles.values()]
  }

  /** Identities in the file. */
  get lines(): number {
    return (this.#written ?? '').split('\n').filter(line => line !== '').length
  }

  /** Whether the file holds a line for each device that may come in and no other, and the broker knows; or why not. */
  get readiness(): Readiness {
    const { bans } = this.#ports
    const isWritten =
      this.#devices !== undefined && this.#missing().length === 0 && this.#written === this.#text()
    const checks = {
      events: bans.fresh || 'the ban events are not heard: the file is emptied, at the start after 30 s',
      register: this.#isListed || 'the register was not read',
      key: (this.#key !== undefined && !this.#isKeyRefused) || 'no static key from the authorities',
      file: isWritten || 'the file is not written for those who may come in now',
      broker: this.#wantsReload ? 'the broker was not told of the file' : true,
    } as const
    return { ok: Object.values(checks).every(check => check === true), checks }
  }

  /** The file as it should be now. Rejects where it can't be written, or the broker not be told. */
  async refresh(): Promise<void> {
    do {
      this.#again = false
      await this.#listDevices()
      // Bans don't wait for the authorities.
      await this.#put()
      await this.#takeKey()
      for (const idCore of this.#missing()) {
        // Whoever was banned meanwhile comes first.
        if (this.#again) break
        this.#compute(idCore)
        if (this.#fresh.size % AT_ONCE === 0) await new Promise(setImmediate)
      }
      await this.#put()
    } while (this.#again)
  }

  async #listDevices(): Promise<void> {
    const { devices, clock, every, log } = this.#ports
    if (!this.#listAgain && clock() - this.#listed < every()) return
    this.#listAgain = false
    try {
      const listed = await this.#try('register', devices)
      // Another one is meant now, and read next.
      if (this.#listAgain) return
      this.#devices = listed
      this.#listed = clock()
      this.#isListed = true
    } catch (error) {
      // Bans come by another way; only who is new has to wait.
      this.#listAgain = true
      this.#isListed = false
      log.warn({ err: error }, 'the register was not read; tried again')
    }
  }

  async #takeKey(): Promise<void> {
    const key = await this.#try('key', this.#ports.key).catch((error: unknown) => {
      this.#isKeyRefused = true
      throw error
    })
    this.#isKeyRefused = false
    if (key === this.#key) return
    this.#key = key
    this.#fresh.clear()
  }

  async #try<T>(step: Step, attempt: () => Promise<T>): Promise<T> {
    try {
      const result = await attempt()
      this.#troubles.delete(step)
      return result
    } catch (error) {
      this.#troubles.set(step, error)
      this.#ports.metrics.count('failures', { step })
      throw error
    }
  }

  #allowed(): readonly IdCore[] {
    const { bans } = this.#ports
    return (this.#devices ?? []).filter(({ mpinId }) => bans.list.denies(mpinId) === null)
  }

  #missing(): readonly IdCore[] {
    return this.#allowed().filter(({ mpinId }) => !this.#fresh.has(mpinId))
  }

  #compute(idCore: IdCore): void {
    const { identity, psk } = serverAgreeStatic(this.#key as AgreeStaticKey, idCore)
    this.#keys.set(identity, toHex(psk))
    this.#fresh.add(idCore.mpinId)
  }

  async #put(): Promise<void> {
    const { bans, clock, write, reload, log, metrics } = this.#ports
    const isStarting = this.#devices === undefined || !bans.fresh
    if (isStarting && clock() - this.#startedAt < DEAF_AT_START) return
    if (this.#devices === undefined && bans.fresh) return
    if (bans.fresh) this.#startedAt = Number.NEGATIVE_INFINITY
    const text = this.#text()
    if (text !== this.#written) {
      await this.#try('write', () => write(text))
      this.#written = text
      this.#wantsReload = true
      metrics.count('writes')
      metrics.gauge('lines', this.lines)
      metrics.gauge('written_timestamp_seconds', Math.floor(clock() / 1000))
      if (bans.fresh) log.info({ lines: this.lines }, 'PSK file written')
      else log.error('the ban events are lost: the PSK file is empty')
    }
    if (!this.#wantsReload) return
    await this.#try('broker', reload)
    this.#wantsReload = false
  }

  /** What the file should hold; nothing while the ban events are lost. */
  #text(): string {
    if (!this.#ports.bans.fresh) return ''
    return this.#allowed()
      .flatMap(idCore => this.#lineOf(idCore))
      .map(line => `${line}\n`)
      .join('')
  }

  #lineOf(idCore: IdCore): string[] {
    const identity = PskIdentity.ofStatic(idCore).toString()
    const key = this.#keys.get(identity)
    return key === undefined ? [] : [`${identity}:${key}`]
  }
}
