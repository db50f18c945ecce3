/**
 * A server and cars under one master secret of `agree`, without authorities and RPS: a clock and timers by hand, a deny
 * list and its freshness by hand, the pool on this thread, sockets on 127.0.0.1.
 */
import type { AddressInfo, Server, Socket } from 'node:net'
import { connect as rawConnect, createServer as rawServer } from 'node:tls'
import { createLog, type Log } from '@milagro-ts/api/log'
import type { SlotPsk } from '@milagro-ts/client/device'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { agreePointG1, agreePointG2, encodeName, type IdCore, issueIdCore } from '@milagro-ts/crypto/identity'
import { CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import {
  AgreeClientKey,
  ClientAgreement,
  type SlotPskKind,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { Door, type DoorPorts, type Permitted } from '@milagro-ts/tls/door'
import type { TlsIdentity } from '@milagro-ts/tls/tls'

export const NAME = 'gw.example'
export const RULE = { origin: 1_767_225_600, length: 3_600 }
export const GRACE = 300
const GENERATION = 1
const EPOCH = 1
export const SLOT = 1_000
/** In the middle of SLOT. */
export const NOON = (RULE.origin + SLOT * RULE.length + 1_800) * 1000

const random: Random = length => crypto.getRandomValues(new Uint8Array(length))

/** Timers that go off when the clock is turned. */
export class HandTimers {
  readonly #every = new Set<() => void>()
  readonly #after = new Set<{ at: number; run: () => void }>()
  readonly #clock: () => number
  constructor(clock: () => number) {
    this.#clock = clock
  }
  every(_: number, run: () => void): () => void {
    this.#every.add(run)
    return () => void this.#every.delete(run)
  }
  after(milliseconds: number, run: () => void): () => void {
    const timer = { at: this.#clock() + milliseconds, run }
    this.#after.add(timer)
    return () => void this.#after.delete(timer)
  }
  fire(): void {
    this.fireDue()
    for (const run of this.#every) run()
  }
  /** Those of `after` alone. */
  fireDue(): void {
    for (const timer of [...this.#after])
      if (timer.at <= this.#clock()) {
        this.#after.delete(timer)
        timer.run()
      }
  }
}

export class World {
  now = NOON
  readonly timers = new HandTimers(() => this.now)
  readonly logged: string[] = []
  readonly log: Log
  readonly groupId = sha256(Uint8Array.of(1))
  readonly s = Scalar.random(random)
  readonly banned = new Set<string>()
  fresh = true
  /** What the RPS would say; null: it gives this device no permit. */
  permitted: (idCore: IdCore, slot: number) => Promise<Permitted | null> = async ({ mpinId }) => ({
    attributes: { brand: 'Acme' },
    instance: mpinId.slice(-8),
  })
  /** Devices that it was asked about. */
  asked: string[] = []
  readonly pool: CryptoPool
  readonly door: Door
  readonly bans: { list: { number: number } }
  /** Pairings that the door asked for. */
  computed = 0
  /** Whose turn each of them took. */
  turns: string[] = []
  /** What they give, where a test wants many of them. */
  computedAs: Uint8Array | undefined
  /** The workers take nothing. */
  isFull = false
  /** What the door counted. */
  counted: string[] = []
  readonly #slots = new Set<number>()
  readonly #open: (() => unknown)[] = []

  private constructor({ pairingsPerSource }: Pick<DoorPorts, 'pairingsPerSource'>) {
    this.log = createLog('tls', { level: 'debug', destination: { write: line => this.logged.push(line) } })
    const clock = () => this.now
    this.pool = CryptoPool.start({ workers: 0, random, clock, timers: this.timers })
    const isFresh = () => this.fresh
    const bans = {
      get fresh() {
        return isFresh()
      },
      list: {
        denies: (mpinId: string) => (this.banned.has(mpinId) ? 'BANNED' : null),
        number: 1,
      },
    }
    this.bans = bans
    this.door = new Door({
      keys: {
        B: slot => (this.#slots.has(slot) ? this.B(slot) : undefined),
        keepComplete: () => Promise.resolve(),
      },
      bans,
      permitted: (idCore, slot) => {
        this.asked.push(idCore.mpinId)
        return this.permitted(idCore, slot)
      },
      rule: () => ({ slotRule: RULE, grace: GRACE }),
      pool: {
        externalPsk: (item, source) => {
          this.computed++
          this.turns.push(source)
          if (this.isFull) return Promise.reject(new PoolUnavailable('full', 1))
          if (this.computedAs !== undefined) return Promise.resolve(this.computedAs)
          return this.pool.externalPsk(item, source)
        },
      },
      clock,
      random,
      timers: this.timers,
      log: this.log,
      metrics: { count: name => void this.counted.push(name) },
      pairingsPerSource,
    })
  }

  static async start(more: Pick<DoorPorts, 'pairingsPerSource'> = {}): Promise<World> {
    const world = new World(more)
    await world.holdKeys(SLOT)
    world.door.start()
    return world
  }

  /** The server has the keys of these slots, and no other. */
  async holdKeys(...slots: number[]): Promise<void> {
    this.#slots.clear()
    const ivk = G1.generator.mulSecret(this.s).encode()
    await this.pool.handOver(async () =>
      slots.map(slot => ({
        purpose: 'agree' as const,
        groupId: this.groupId,
        name: NAME,
        generation: GENERATION,
        slot,
        epoch: EPOCH,
        ivk,
        S: agreePointG2(this.B(slot)).mulSecret(this.s).encode(),
      })),
    )
    for (const slot of slots) this.#slots.add(slot)
  }

  B(slot: number, name = NAME): Uint8Array {
    return slotName(this.groupId, { kind: 2, name, generation: GENERATION }, slot)
  }

  /** A car with its key of `agree`; `leaf` tells them apart. `master` is another's for a stranger. */
  car(leaf: number, master = this.s): Car {
    return new Car(this, leaf, master)
  }

  turn(milliseconds: number): void {
    this.now += milliseconds
    this.timers.fire()
  }

  /** Listens on a port that is given out; closed at the end. */
  async listen(server: Server): Promise<number> {
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    this.#open.push(() => server.close())
    return (server.address() as AddressInfo).port
  }

  onClose(end: () => unknown): void {
    this.#open.push(end)
  }

  async close(): Promise<void> {
    this.door.stop()
    for (const end of this.#open.splice(0)) await end()
    await this.pool.close()
  }
}

export class Car implements TlsIdentity {
  readonly idCore: IdCore
  readonly #world: World
  readonly #key: AgreeClientKey
  readonly #agreements = new Map<string, ClientAgreement>()

  constructor(world: World, leaf: number, master: Scalar) {
    const { groupId } = world
    this.#world = world
    this.idCore = issueIdCore({
      groupId,
      attributes: { brand: 'Acme' },
      instance: `VIN${leaf}`,
      issueDate: '2026-04-11',
      enrolmentKeyHash: enrolmentKeyHash(new Uint8Array(32).fill(leaf)),
      salt: new Uint8Array(16).fill(leaf),
      leaf,
      generation: 0,
      factors: 0,
    })
    const C = encodeName(groupId, { kind: 1, idCore: this.idCore })
    this.#key = AgreeClientKey.of(
      { groupId, idCore: this.idCore, epoch: EPOCH },
      agreePointG1(C).mulSecret(master),
    )
  }

  get mpinId(): string {
    return this.idCore.mpinId
  }

  async externalPsk(
    name: string,
    kind: SlotPskKind = 'm1',
    slot = slotAt(RULE, Math.floor(this.#world.now / 1000)),
  ): Promise<SlotPsk> {
    const at = `${name} ${slot}`
    const party = { kind: 2, name, generation: GENERATION } as const
    const agreement = this.#agreements.get(at) ?? ClientAgreement.begin(this.#key, { party, slot }, random)
    this.#agreements.set(at, agreement)
    return { ...agreement.psk(kind), slot, endsAt: slotStart(RULE, slot + 1) * 1000 }
  }
}

/** What a handshake came to at the client: `in`, or the alert or error that ended it. */
export async function outcome(connecting: Socket | Promise<Socket>): Promise<string> {
  try {
    const socket = await connecting
    // The server may still say no to the Finished; a byte from it says yes.
    return await new Promise(resolve => {
      socket.once('data', () => {
        socket.destroy()
        resolve('in')
      })
      socket.once('error', error => resolve(codeOf(error)))
      socket.once('close', () => resolve('closed'))
    })
  } catch (error) {
    return codeOf(error)
  }
}
const codeOf = (error: unknown) => String((error as { code?: string }).code ?? (error as Error).message)

export const closed = (socket: Socket): Promise<void> =>
  new Promise(resolve => {
    if (socket.destroyed) resolve()
    socket.on('error', () => undefined)
    socket.once('close', () => resolve())
  })

/** How this Node's OpenSSL answers a wrong key, by a server that does nothing but hold another. */
export async function wrongKeyAlert(): Promise<string> {
  const suite = { ciphers: 'TLS_AES_128_GCM_SHA256', minVersion: 'TLSv1.3' } as const
  const server = rawServer({ ...suite, pskCallback: () => Buffer.alloc(32, 1) })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const alert = await new Promise<string>(resolve => {
    const pskCallback = () => ({ identity: 'known', psk: Buffer.alloc(32, 2) })
    rawConnect({ host: '127.0.0.1', port, ...suite, pskCallback }).once('error', error =>
      resolve(codeOf(error)),
    )
  })
  server.close()
  return alert
}
