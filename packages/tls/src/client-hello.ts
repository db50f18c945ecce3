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

/** What is read of it. The binder is cut out for who asks: a connection that comes again doesn't. */
export class ClientHello {
  /** In order; those that are no text left out. */
  readonly identities: readonly string[]
  readonly offersTls13: boolean
  /** RFC 7627: what a PSK of TLS 1.2, and its exporter, is bound to the handshake by. */
  readonly hasExtendedMasterSecret: boolean
  readonly #message: Message
  readonly #binder: BinderPlace | undefined

  constructor(message: Message, { identities, binder }: Psks, offersTls13: boolean, hasExtended: boolean) {
    this.#message = message
    this.#binder = binder
    this.identities = identities
    this.offersTls13 = offersTls13
    this.hasExtendedMasterSecret = hasExtended
  }

  /** By which the first of them is proven. */
  get offered(): OfferedPsk | undefined {
    if (this.#binder === undefined) return undefined
    const { bytes, begin } = this.#message
    const { listBegin, binderBegin, binderEnd } = this.#binder
    return { before: bytes.subarray(begin, listBegin), binder: bytes.subarray(binderBegin, binderEnd) }
  }
}

/** The one that `bytes` begin with; `more` while it isn't whole. DecodeError for what is none. */
export function clientHelloOf(bytes: Uint8Array): ClientHello | 'more' {
  const buffer = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  return inOneRecord(buffer) ?? new ClientHelloReader().read(buffer)
}

/** As nearly all come; undefined for what is to be looked at with more care. */
function inOneRecord(bytes: Buffer): ClientHello | undefined {
  if (bytes.length < 9 || bytes[0] !== HANDSHAKE || bytes[5] !== CLIENT_HELLO) return undefined
  const length = bytes.readUInt16BE(3)
  const whole = 4 + bytes.readUIntBE(6, 3)
  // The whole record, though a message may end before: OpenSSL would wait for the rest of it.
  if (length > MOST_RECORD || whole > length || 5 + length > bytes.length) return undefined
  return read({ bytes, begin: 5, end: 5 + whole })
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
        return read({ bytes: this.#message.bytes, begin: 0, end: this.#whole })
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

/** Where the ClientHello stands. */
interface Message {
  readonly bytes: Buffer
  readonly begin: number
  readonly end: number
}

/** Where the list of binders stands that ends the message, and the one in it that counts. */
interface BinderPlace {
  readonly listBegin: number
  readonly binderBegin: number
  readonly binderEnd: number
}

interface Psks {
  readonly identities: readonly string[]
  readonly binder: BinderPlace | undefined
}
const NO_PSKS: Psks = { identities: [], binder: undefined }

function read(message: Message): ClientHello {
  const { end } = message
  const body = new Reader(message.bytes, message.begin + 4)
  body.skip(2 + 32, end)
  body.at = body.vector(1, end)
  body.at = body.vector(2, end)
  body.at = body.vector(1, end)
  const extensionsEnd = body.at < end ? body.vector(2, end) : end
  let psks = NO_PSKS
  let offersTls13 = false
  let hasExtendedMasterSecret = false
  while (body.at < extensionsEnd) {
    const type = body.integer(2, extensionsEnd)
    const valueEnd = body.vector(2, extensionsEnd)
    if (type === PRE_SHARED_KEY) psks = readPsks(body, valueEnd, end)
    if (type === SUPPORTED_VERSIONS) offersTls13 = hasVersion(body, body.vector(1, valueEnd), TLS13)
    if (type === EXTENDED_MASTER_SECRET) hasExtendedMasterSecret = true
    body.at = valueEnd
  }
  return new ClientHello(message, psks, offersTls13, hasExtendedMasterSecret)
}

function hasVersion(offered: Reader, end: number, version: number): boolean {
  while (offered.at < end) if (offered.integer(2, end) === version) return true
  return false
}

function readPsks(psks: Reader, end: number, messageEnd: number): Psks {
  const identities: string[] = []
  let place = -1
  const identitiesEnd = psks.vector(2, end)
  for (let at = 0; psks.at < identitiesEnd; at++) {
    const text = psks.text(psks.vector(2, identitiesEnd))
    // The obfuscated ticket age, which external PSKs have no use for.
    psks.skip(4, identitiesEnd)
    if (text === undefined) continue
    if (place < 0) place = at
    identities.push(text)
  }
  const binder = place < 0 || psks.at >= end ? undefined : binderAt(psks, end, messageEnd, place)
  return { identities, binder }
}

/** The binder at this place of the list; undefined where it has none. */
function binderAt(psks: Reader, end: number, messageEnd: number, place: number): BinderPlace | undefined {
  const bindersEnd = psks.vector(2, end)
  const listBegin = messageEnd - 2 - (bindersEnd - psks.at)
  for (let at = 0; psks.at < bindersEnd; at++) {
    const binderEnd = psks.vector(1, bindersEnd)
    if (at === place) return { listBegin, binderBegin: psks.at, binderEnd }
    psks.at = binderEnd
  }
  return undefined
}

const FIELD = 'clientHello'
const malformed = (why: string) => new DecodeError(FIELD, why)

/** Goes through a message; `end` is that of the part that is being read. */
class Reader {
  readonly #bytes: Buffer
  at: number

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes
    this.at = at
  }
  skip(length: number, end: number): void {
    if (length > end - this.at) throw malformed('cut off')
    this.at += length
  }
  integer(size: 1 | 2, end: number): number {
    this.skip(size, end)
    const low = this.#bytes[this.at - 1] as number
    return size === 1 ? low : ((this.#bytes[this.at - 2] as number) << 8) | low
  }
  /** Goes behind a length of `size` bytes; where what has that length ends. */
  vector(size: 1 | 2, end: number): number {
    const length = this.integer(size, end)
    if (length > end - this.at) throw malformed('cut off')
    return this.at + length
  }
  /** Goes to its end. Undefined for what is no ASCII that is seen, or too long. */
  text(end: number): string | undefined {
    const begin = this.at
    this.at = end
    if (end - begin > MOST_IDENTITY) return undefined
    for (let at = begin; at < end; at++) {
      const byte = this.#bytes[at] as number
      if (byte < 0x21 || byte > 0x7e) return undefined
    }
    return this.#bytes.toString('latin1', begin, end)
  }
}
