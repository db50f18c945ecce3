/**
 * Cars that tell each other where they are with no server between them (docs/protocols/tls.md, "Peers"). Whom a car speaks to, and
 * where that one answers, stands in its address book, which whoever runs the fleet writes: M-Pin IDs are pinned there, and the
 * network says none.
 *
 *   each slot: preparePeers()            what channels of this slot and the next want; from then on nobody is asked
 *   answers at `listen`                  whom the book names
 *   connects to those with an address    again when a channel has ended, as each does with its slot
 *   on a channel, both ways              a position a line, JSON, every so many milliseconds
 */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { Duplex } from 'node:stream'
import type { Log } from '@milagro-ts/api/log'
import { IdCoreField, Strict } from '@milagro-ts/api/schemas'
import { ListenSetting } from '@milagro-ts/api/settings'
import type { Timers } from '@milagro-ts/api/system'
import Type, { Compile, type Static } from '@milagro-ts/api/typebox'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { connectPeer, createPeerServer, type PeerIdentity, type PeerServer } from '@milagro-ts/tls/peer'
import { metres } from './gpx.js'
import type { Position } from './track-chain.js'
import { PositionField } from './tracking-routes.js'

const Contact = Strict({
  name: Type.String({ minLength: 1, maxLength: 64 }),
  idCore: IdCoreField,
  /** Where it answers. */
  at: Type.Optional(ListenSetting),
})
export type Contact = Static<typeof Contact>
const book = Compile(Type.Array(Contact, { maxItems: 100 }))
const message = Compile(PositionField)
/** Characters of a line. */
const LONGEST = 512

export async function writeAddressBook(file: string, contacts: readonly Contact[]): Promise<void> {
  await writeFileAtomic(file, `${JSON.stringify(contacts, null, 2)}\n`)
}

/** Nobody where there is no file yet. DecodeError for one that is no address book. */
async function readAddressBook(file: string): Promise<Contact[]> {
  let value: unknown
  try {
    value = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    if (error instanceof SyntaxError) throw new DecodeError('address book', 'not JSON')
    throw error
  }
  if (!book.Check(value)) throw new DecodeError('address book', 'not a list of cars')
  return value
}

export type PeerEvent =
  /** What channels of these slots want is here. */
  | { readonly event: 'peers-prepared'; readonly slots: readonly number[] }
  | { readonly event: 'peer-connected'; readonly peer: string }
  | { readonly event: 'peer-heard'; readonly peer: string; readonly metresAway?: number }
  | { readonly event: 'peer-disconnected'; readonly peer: string; readonly heard: number }
  /** Tried again; said when it is another one than before. */
  | { readonly event: 'peer-trouble'; readonly why: string }

export interface CarPeersOptions {
  /** A Device of the client package is one. */
  readonly identity: PeerIdentity & { preparePeers(): Promise<readonly number[]> }
  /** The address book's file; it may come later, and change. */
  readonly file: string
  readonly listen?: { readonly host: string; readonly port: number } | undefined
  /** Where the car is; undefined before its first position. */
  readonly position: () => Position | undefined
  /** Milliseconds between two messages. */
  readonly every: number
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
  readonly say: (event: PeerEvent) => void
}

export class CarPeers {
  readonly #options: CarPeersOptions
  #contacts: readonly Contact[] = []
  #preparedFor = -1
  /** M-Pin IDs of those that this car connects to or is connected to. */
  readonly #called = new Set<string>()
  readonly #channels = new Set<Duplex>()
  #server: PeerServer | undefined
  #isClosed = false
  #trouble: string | undefined

  constructor(options: CarPeersOptions) {
    this.#options = options
  }

  /** Answers from now on, where it is to. Rejects when the port is taken. */
  async listen(): Promise<void> {
    const { identity, listen, log } = this.#options
    if (listen === undefined) return
    const allow = (idCore: IdCore) => this.#contacts.some(contact => contact.idCore === idCore.mpinId)
    this.#server = createPeerServer({ identity, allow, log, warnBefore: 0 }, (socket, { mpinId }) =>
      this.#speak(socket, mpinId),
    )
    this.#server.listen(listen)
    await once(this.#server, 'listening')
  }

  /** Reads the book, prepares, and connects to those that it has no channel to. To be called again and again. */
  async look(): Promise<void> {
    this.#contacts = await readAddressBook(this.#options.file)
    await this.#prepare()
    const own = this.#options.identity.idCore.mpinId
    for (const contact of this.#contacts)
      if (contact.at !== undefined && contact.idCore !== own && !this.#called.has(contact.idCore))
        void this.#call(contact.idCore, contact.at)
  }

  close(): void {
    this.#isClosed = true
    this.#server?.close()
    for (const channel of this.#channels) channel.destroy()
  }

  /** Once in each slot. Without a network channels open by what was prepared before. */
  async #prepare(): Promise<void> {
    const { identity, clock, say } = this.#options
    const slot = slotAt(identity.group.slotRule, Math.floor(clock() / 1000))
    if (slot === this.#preparedFor) return
    try {
      const slots = await identity.preparePeers()
      if (slots.includes(slot)) this.#preparedFor = slot
      say({ event: 'peers-prepared', slots })
    } catch (error) {
      this.#meets(error)
    }
  }

  /** Never rejects. */
  async #call(mpinId: string, { host, port }: { host: string; port: number }): Promise<void> {
    this.#called.add(mpinId)
    try {
      const { identity } = this.#options
      const peer = IdCore.fromBase64Url(mpinId)
      const socket = await connectPeer({ identity, peer, host, port, warnBefore: 0 })
      this.#speak(socket, mpinId)
      socket.once('close', () => this.#called.delete(mpinId))
    } catch (error) {
      this.#called.delete(mpinId)
      this.#meets(error)
    }
  }

  #speak(socket: Duplex, peer: string): void {
    if (this.#isClosed) return void socket.destroy()
    this.#channels.add(socket)
    this.#trouble = undefined
    socket.once('close', () => this.#channels.delete(socket))
    socket.on('error', error => this.#meets(error))
    exchangePositions(socket, peer, this.#options)
  }

  #meets(error: unknown): void {
    const why = error instanceof Error ? error.message : String(error)
    if (why === this.#trouble) return
    this.#trouble = why
    this.#options.say({ event: 'peer-trouble', why })
  }
}

/** Both ways, until the channel ends. What is no position ends it: DecodeError is the socket's `error`. */
export function exchangePositions(
  socket: Duplex,
  peer: string,
  { position, every, timers, say }: Pick<CarPeersOptions, 'position' | 'every' | 'timers' | 'say'>,
): void {
  let heard = 0
  let text = ''
  const hear = (there: Position) => {
    const here = position()
    const distance = here === undefined ? {} : { metresAway: Math.round(metres(here, there)) }
    heard++
    say({ event: 'peer-heard', peer, ...distance })
  }
  const tell = () => {
    const here = position()
    if (here !== undefined) socket.write(`${JSON.stringify(here)}\n`)
  }
  socket.on('data', (chunk: Buffer) => {
    text += chunk
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    try {
      for (const line of lines) hear(decodeMessage(line))
      if (text.length > LONGEST) throw new DecodeError('message', 'too long')
    } catch (error) {
      socket.destroy(error as Error)
    }
  })
  const endTelling = timers.every(every, tell)
  socket.once('close', () => {
    endTelling()
    say({ event: 'peer-disconnected', peer, heard })
  })
  say({ event: 'peer-connected', peer })
  tell()
}

function decodeMessage(line: string): Position {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    throw new DecodeError('message', 'not JSON')
  }
  if (!message.Check(value)) throw new DecodeError('message', 'not a position')
  return value
}
