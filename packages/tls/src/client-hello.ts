/**
 * A ClientHello (RFC 8446 §4.1.2) and the PSK identities in it (§4.2.11), read before node:tls sees a byte: its callbacks are
 * synchronous, and a pairing belongs in a worker. Nothing is decided here; what doesn't fit goes on to OpenSSL, which says
 * no in its own way, or is refused where it could only cost memory.
 */
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { OfferedPsk } from './binder.js'
import { Collected } from './collected.js'

/** Bytes of a ClientHello with its record headers, at most: post-quantum key shares take about 1.5 kB. */
export const MOST_HELLO = 32_768
/** RFC 8446 §5.1. */
const MOST_RECORD = 16_384
/** What OpenSSL takes of an external PSK's identity; a longer one is none of ours. */
const MOST_IDENTITY = 256

const HANDSHAKE = 22
const CLIENT_HELLO = 1
const PRE_SHARED_KEY = 41
const SUPPORTED_VERSIONS = 43
const EXTENDED_MASTER_SECRET = 23
const TLS13 = 0x0304

export interface ClientHello {
  /** In order; those that are no text left out. */
  readonly identities: readonly string[]
  /** By which the first of them is proven. */
  readonly offered: OfferedPsk | undefined
  readonly offersTls13: boolean
  /** RFC 7627: what a PSK of TLS 1.2, and its exporter, is bound to the handshake by. */
  readonly hasExtendedMasterSecret: boolean
}

/** The one that `bytes` begin with; `more` while it isn't whole. DecodeError for what is none. */
export function clientHelloOf(bytes: Uint8Array): ClientHello | 'more' {
  return new ClientHelloReader().read(bytes)
}

/** The identities alone. */
export function pskIdentitiesOf(bytes: Uint8Array): readonly string[] | 'more' {
  const hello = clientHelloOf(bytes)
  return hello === 'more' ? hello : hello.identities
}

/** As a connection's bytes come. A stranger may send each alone, in a record of its own: every one is looked at once. */
export class ClientHelloReader {
  readonly #bytes = new Collected()
  /** The first handshake message, out of its records. */
  readonly #message = new Collected()
  /** Where the next record begins. */
  #at = 0
  #whole: number | undefined

  /** All that has come. */
  get bytes(): Buffer {
    return this.#bytes.bytes
  }

  /** The ClientHello that the connection begins with; `more` while it isn't whole. DecodeError for what is none. */
  read(piece: Uint8Array): ClientHello | 'more' {
    this.#bytes.add(piece)
    const { bytes } = this
    for (;;) {
      if (this.#whole === undefined && this.#message.length >= 4) this.#whole = wholeOf(this.#message.bytes)
      if (this.#whole !== undefined && this.#message.length >= this.#whole)
        return read(this.#message.bytes.subarray(0, this.#whole))
      const at = this.#at
      if (bytes.length > at && bytes[at] !== HANDSHAKE) throw malformed('not a handshake record')
      if (bytes.length < at + 5) break
      const length = bytes.readUInt16BE(at + 3)
      if (length === 0 || length > MOST_RECORD) throw malformed('a record of that length')
      if (bytes.length < at + 5 + length) break
      this.#message.add(bytes.subarray(at + 5, at + 5 + length))
      this.#at += 5 + length
    }
    if (bytes.length > MOST_HELLO) throw malformed('too long')
    return 'more'
  }
}

/** The length of the message that begins so. */
function wholeOf(head: Buffer): number {
  if (head[0] !== CLIENT_HELLO) throw malformed('not a ClientHello')
  const whole = 4 + head.readUIntBE(1, 3)
  if (whole > MOST_HELLO) throw malformed('too long')
  return whole
}

function read(hello: Buffer): ClientHello {
  const body = new Reader(hello, 4, hello.length)
  body.skip(2 + 32)
  body.vector(1)
  body.vector(2)
  body.vector(1)
  const extensions = body.isAtEnd ? body : body.vector(2)
  let named: readonly (string | undefined)[] = []
  let offered: OfferedPsk | undefined
  let offersTls13 = false
  let hasExtendedMasterSecret = false
  while (!extensions.isAtEnd) {
    const type = extensions.integer(2)
    const value = extensions.vector(2)
    if (type === PRE_SHARED_KEY) {
      named = identitiesOf(value.vector(2))
      const place = named.findIndex(text => text !== undefined)
      offered = offeredAs(hello, value, place)
    }
    if (type === SUPPORTED_VERSIONS) offersTls13 = hasVersion(value.vector(1), TLS13)
    if (type === EXTENDED_MASTER_SECRET) hasExtendedMasterSecret = true
  }
  const identities = named.filter(text => text !== undefined)
  return { identities, offered, offersTls13, hasExtendedMasterSecret }
}

function hasVersion(offered: Reader, version: number): boolean {
  while (!offered.isAtEnd) if (offered.integer(2) === version) return true
  return false
}

/** Undefined for what is no text, or too long for one. */
function identitiesOf(offered: Reader): (string | undefined)[] {
  const identities: (string | undefined)[] = []
  while (!offered.isAtEnd) {
    const identity = offered.vector(2)
    // The obfuscated ticket age, which external PSKs have no use for.
    offered.skip(4)
    const text = identity.length > MOST_IDENTITY ? undefined : identity.latin1
    identities.push(text !== undefined && PRINTED.test(text) ? text : undefined)
  }
  return identities
}

/** The binder at this place of the list that ends the message; undefined where it has none. */
function offeredAs(hello: Buffer, psks: Reader, place: number): OfferedPsk | undefined {
  if (place < 0 || psks.isAtEnd) return undefined
  const binders = psks.vector(2)
  const before = hello.length - 2 - binders.length
  for (let at = 0; !binders.isAtEnd; at++) {
    const binder = binders.vector(1)
    if (at === place) return { before: hello.subarray(0, before), binder: binder.bytes }
  }
  return undefined
}

/** ASCII that is seen. */
const PRINTED = /^[\x21-\x7e]*$/
const FIELD = 'clientHello'
const malformed = (why: string) => new DecodeError(FIELD, why)

/** Part of a message; a part of it is another one over the same bytes. */
class Reader {
  readonly #of: Buffer
  readonly #end: number
  #at: number

  constructor(of: Buffer, begin: number, end: number) {
    this.#of = of
    this.#at = begin
    this.#end = end
  }
  get isAtEnd(): boolean {
    return this.#at >= this.#end
  }
  /** Of what isn't read yet, as is what follows. */
  get length(): number {
    return this.#end - this.#at
  }
  get bytes(): Buffer {
    return this.#of.subarray(this.#at, this.#end)
  }
  get latin1(): string {
    return this.#of.toString('latin1', this.#at, this.#end)
  }
  skip(length: number): void {
    if (length > this.length) throw malformed('cut off')
    this.#at += length
  }
  integer(size: 1 | 2): number {
    this.skip(size)
    const low = this.#of[this.#at - 1] as number
    return size === 1 ? low : ((this.#of[this.#at - 2] as number) << 8) | low
  }
  /** After a length of `size` bytes. */
  vector(size: 1 | 2): Reader {
    const length = this.integer(size)
    this.skip(length)
    return new Reader(this.#of, this.#at - length, this.#at)
  }
}
