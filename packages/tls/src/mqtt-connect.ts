/**
 * The first packet of an MQTT connection (MQTT 3.1.1 §3.1, MQTT 5 §3.1), read whole before anything of it goes on, and
 * written anew under the name of who has proven itself in TLS.
 *
 *   CONNECT = 0x10 ‖ remaining length ‖ "MQTT" ‖ level 4 or 5 ‖ flags ‖ keep alive ‖ [properties] ‖ client id ‖ [will] ‖
 *             [user name] ‖ [password]
 *
 * The rule: the user name is absent, empty, or the device's name; the client id is empty, the name, or the name, a colon
 * and more. Whoever says another name is refused, since a broker ends the session of the client id that somebody else
 * takes. The broker gets the name as user name, and no password: whatever the client sent for one proves nothing here.
 */
import { be16, concat, fromUtf8, readInteger, u8, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'

/** Bytes of a CONNECT, at most: client id, will and user properties together. */
export const MOST_CONNECT = 65_536

export interface MqttConnect {
  /** 4 is MQTT 3.1.1. */
  readonly level: 4 | 5
  /** Clean session, will and its flags; user name and password follow from the fields. */
  readonly flags: number
  /** Seconds. */
  readonly keepAlive: number
  /** Of MQTT 5, as they came. */
  readonly properties: Uint8Array
  readonly clientId: string
  /** Properties (MQTT 5), topic and payload, as they came; empty without one. */
  readonly will: Uint8Array
  readonly username: string | undefined
  /** Whether the client wants to prove itself in some way of its own (MQTT 5, Authentication Method). */
  readonly hasMethod: boolean
}

/** Why a CONNECT isn't passed on, with the reason for both versions: MQTT 3.1.1 §3.2.2.3, MQTT 5 §3.2.2.2. */
export type MqttRefusal = keyof typeof REFUSALS
const REFUSALS = {
  level: { returnCode: 1, reason: 0x84, why: 'MQTT 3.1.1 or 5' },
  malformed: { returnCode: 1, reason: 0x81, why: 'malformed CONNECT' },
  clientId: { returnCode: 2, reason: 0x85, why: 'the client id is empty, your name, or your name:more' },
  username: { returnCode: 5, reason: 0x87, why: 'the user name is absent or your name' },
  name: { returnCode: 5, reason: 0x87, why: 'a name with a colon can’t be told from another’s client id' },
  method: { returnCode: 5, reason: 0x8c, why: 'TLS has authenticated you already' },
  unavailable: { returnCode: 3, reason: 0x88, why: 'the broker is away' },
} as const

const FLAG = { reserved: 0x01, will: 0x04, willBits: 0x38, password: 0x40, username: 0x80 } as const

/**
 * The CONNECT at the beginning of `bytes`, and how many of them it is; `more` while it isn't whole. DecodeError for
 * anything else, and for one beyond MOST_CONNECT; its field is `level` for another version of the protocol.
 */
export function readConnect(
  bytes: Uint8Array,
): { readonly packet: MqttConnect; readonly size: number } | 'more' {
  if (bytes.length === 0) return 'more'
  if (bytes[0] !== 0x10) throw new DecodeError('packet', 'no CONNECT')
  const length = remainingLength(bytes)
  if (length === 'more') return 'more'
  const size = length.end + length.value
  if (size > MOST_CONNECT) throw new DecodeError('packet', 'too long')
  // Its own length says that it isn't whole before what it holds is looked at.
  if (bytes.length < size) return 'more'
  return { packet: decode(new Reader(bytes.subarray(length.end, size))), size }
}

function decode(body: Reader): MqttConnect {
  const protocol = body.text('protocol')
  const level = body.byte('level')
  if (protocol !== 'MQTT' || (level !== 4 && level !== 5)) throw new DecodeError('level', 'MQTT 3.1.1 or 5')
  const flags = body.byte('flags')
  if ((flags & FLAG.reserved) !== 0) throw new DecodeError('flags', 'the reserved one is set')
  const hasWill = (flags & FLAG.will) !== 0
  const qos = (flags >> 3) & 3
  if (hasWill ? qos === 3 : (flags & FLAG.willBits) !== 0)
    throw new DecodeError('flags', 'the will’s are wrong')
  const hasUsername = (flags & FLAG.username) !== 0
  const hasPassword = (flags & FLAG.password) !== 0
  if (level === 4 && hasPassword && !hasUsername)
    throw new DecodeError('flags', 'a password without a user name')
  const keepAlive = body.integer(2, 'keepAlive')
  const properties = level === 5 ? body.properties(CONNECT_PROPERTIES) : NONE
  const clientId = body.text('clientId')
  const willBegins = body.at
  if (hasWill) {
    if (level === 5) body.properties(WILL_PROPERTIES)
    body.text('willTopic')
    body.binary('willPayload')
  }
  const will = body.since(willBegins)
  const username = hasUsername ? body.text('username') : undefined
  if (hasPassword) body.binary('password')
  if (!body.isDone) throw new DecodeError('packet', 'bytes after its end')
  return {
    level,
    flags: flags & ~(FLAG.username | FLAG.password),
    keepAlive,
    properties: properties.bytes,
    clientId,
    will,
    username,
    hasMethod: properties.ids.has(AUTHENTICATION_METHOD),
  }
}

/** The packet under a device's name, or what it is refused for. */
export function connectAs(packet: MqttConnect, name: string): Uint8Array | MqttRefusal {
  const { username = '', clientId } = packet
  if (packet.hasMethod) return 'method'
  // Only an instance may hold one: `a` with the client id `a:b` would take the session of the device `a:b`.
  if (name.includes(':')) return 'name'
  if (username !== '' && username !== name) return 'username'
  if (clientId !== '' && clientId !== name && !clientId.startsWith(`${name}:`)) return 'clientId'
  return encodeConnect({ ...packet, username: name })
}

export function encodeConnect({
  level,
  flags,
  keepAlive,
  properties,
  clientId,
  will,
  username,
}: Omit<MqttConnect, 'hasMethod'>): Uint8Array {
  const body = concat(
    text('MQTT'),
    u8(level),
    u8(flags | (username === undefined ? 0 : FLAG.username)),
    be16(keepAlive),
    ...(level === 5 ? [variableInteger(properties.length), properties] : []),
    text(clientId),
    will,
    ...(username === undefined ? [] : [text(username)]),
  )
  return concat(u8(0x10), variableInteger(body.length), body)
}

/** The CONNACK that says no, in the client's version of MQTT. */
export function refusalPacket(refusal: MqttRefusal, level: 4 | 5): Uint8Array {
  const { returnCode, reason, why } = REFUSALS[refusal]
  if (level === 4) return Uint8Array.of(0x20, 2, 0, returnCode)
  // Reason String, MQTT 5 §3.2.2.3.9.
  const properties = concat(u8(0x1f), text(why))
  const body = concat(u8(0), u8(reason), variableInteger(properties.length), properties)
  return concat(u8(0x20), variableInteger(body.length), body)
}

const NONE = { bytes: new Uint8Array(), ids: new Set<number>() }
const AUTHENTICATION_METHOD = 0x15
type Kind = 'byte' | 'two' | 'four' | 'text' | 'binary' | 'pair'
/** MQTT 5 §2.2.2.2. */
const CONNECT_PROPERTIES: ReadonlyMap<number, Kind> = new Map([
  [0x11, 'four'],
  [AUTHENTICATION_METHOD, 'text'],
  [0x16, 'binary'],
  [0x17, 'byte'],
  [0x19, 'byte'],
  [0x21, 'two'],
  [0x22, 'two'],
  [0x26, 'pair'],
  [0x27, 'four'],
])
const WILL_PROPERTIES: ReadonlyMap<number, Kind> = new Map([
  [0x01, 'byte'],
  [0x02, 'four'],
  [0x03, 'text'],
  [0x08, 'text'],
  [0x09, 'binary'],
  [0x18, 'four'],
  [0x26, 'pair'],
])

class Reader {
  readonly #bytes: Uint8Array
  at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }
  get isDone(): boolean {
    return this.at === this.#bytes.length
  }
  since(begin: number): Uint8Array {
    return this.#bytes.subarray(begin, this.at)
  }
  take(length: number, field: string): Uint8Array {
    const end = this.at + length
    if (end > this.#bytes.length) throw new DecodeError(field, 'ends too early')
    const taken = this.#bytes.subarray(this.at, end)
    this.at = end
    return taken
  }
  integer(size: number, field: string): number {
    return readInteger(this.take(size, field), size, field)
  }
  byte(field: string): number {
    return this.integer(1, field)
  }
  binary(field: string): Uint8Array {
    return this.take(this.integer(2, field), field)
  }
  /** UTF-8 without NUL (MQTT 5 §1.5.4). */
  text(field: string): string {
    const value = fromUtf8(this.binary(field), field)
    if (value.includes('\0')) throw new DecodeError(field, 'holds NUL')
    return value
  }
  properties(known: ReadonlyMap<number, Kind>): { readonly bytes: Uint8Array; readonly ids: Set<number> } {
    const length = remainingLength(this.#bytes, this.at - 1)
    if (length === 'more') throw new DecodeError('properties', 'ends too early')
    this.at = length.end
    const begin = this.at
    const ids = new Set<number>()
    this.take(length.value, 'properties')
    const inside = new Reader(this.since(begin))
    while (!inside.isDone) {
      const id = inside.byte('property')
      const kind = known.get(id)
      if (kind === undefined) throw new DecodeError('property', 'not known here')
      // User properties may stand as often as anybody likes.
      if (kind !== 'pair' && ids.has(id)) throw new DecodeError('property', 'stands twice')
      ids.add(id)
      inside.#property(kind)
    }
    return { bytes: this.since(begin), ids }
  }
  #property(kind: Kind): void {
    if (kind === 'byte') this.byte('property')
    else if (kind === 'two') this.integer(2, 'property')
    else if (kind === 'four') this.take(4, 'property')
    else if (kind === 'binary') this.binary('property')
    else {
      this.text('property')
      if (kind === 'pair') this.text('property')
    }
  }
}

/** The variable byte integer after `bytes[before]` (MQTT 5 §1.5.5), in its shortest form. */
function remainingLength(
  bytes: Uint8Array,
  before = 0,
): { readonly value: number; readonly end: number } | 'more' {
  let value = 0
  for (let i = 0; i < 4; i++) {
    const byte = bytes[before + 1 + i]
    if (byte === undefined) return 'more'
    value += (byte & 0x7f) * 128 ** i
    if (byte >= 0x80) continue
    if (byte === 0 && i > 0) throw new DecodeError('length', 'not in its shortest form')
    return { value, end: before + 2 + i }
  }
  throw new DecodeError('length', 'longer than four bytes')
}

function variableInteger(value: number): Uint8Array {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.from([...bytes, rest])
    bytes.push((rest % 128) | 0x80)
  }
}

function text(value: string): Uint8Array {
  const bytes = utf8(value)
  return concat(be16(bytes.length), bytes)
}
