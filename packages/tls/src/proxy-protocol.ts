/**
 * PROXY protocol version 2 (HAProxy's proxy-protocol.txt, §2.2): what stands before a connection's own bytes, so that the
 * service behind a gateway knows who is at the other end, and a gateway behind a load balancer as well.
 *
 *   signature (12) ‖ 0x21 (version 2, PROXY) ‖ family ‖ be16 length ‖ addresses and ports ‖ TLVs
 *   TLV = u8 type ‖ be16 length ‖ value
 *
 * | type | value |
 * |---|---|
 * | 0xe0 | idCore, 39 bytes |
 * | 0xe1 | be32 slot |
 * | 0xe2 | instance, UTF-8, where the gateway passes it on |
 *
 * They are in the range of custom types (PP2_TYPE_MIN_CUSTOM … PP2_TYPE_MAX_CUSTOM, 0xe0 … 0xef).
 */
import { isIPv4, isIPv6 } from 'node:net'
import { be16, be32, concat, u8, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { IdCore } from '@milagro-ts/crypto/identity'

export const PROXY_TYPE = { idCore: 0xe0, slot: 0xe1, instance: 0xe2 } as const

const SIGNATURE = Uint8Array.of(0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a)
const TCP4 = 0x11
const TCP6 = 0x21
/** Version 2 and LOCAL: the balancer speaks for itself, as to see whether somebody is there. */
const LOCAL = 0x20
const PROXY = 0x21
/** Signature, command, family, length. */
const HEAD = 16
/** Bytes of a header that is read, at most. */
export const MOST_PROXY_HEADER = 4_096

/** As node:net names them: `::ffff:192.0.2.1` is IPv4. */
export interface Ends {
  readonly remoteAddress: string
  readonly remotePort: number
  readonly localAddress: string
  readonly localPort: number
}

/** RangeError for what is no address. */
export function proxyHeader(
  ends: Ends,
  {
    idCore,
    slot,
    instance,
  }: { readonly idCore: IdCore; readonly slot: number; readonly instance?: string | undefined },
): Uint8Array {
  const [source, destination] = [ends.remoteAddress, ends.localAddress].map(addressOf) as [
    Uint8Array,
    Uint8Array,
  ]
  // A connection's two ends are of one family; should a platform say otherwise, both are written as IPv6.
  const both =
    source.length === destination.length ? [source, destination] : [mapped(source), mapped(destination)]
  const rest = concat(
    ...both,
    be16(ends.remotePort),
    be16(ends.localPort),
    entry(PROXY_TYPE.idCore, idCore.bytes),
    entry(PROXY_TYPE.slot, be32(slot)),
    ...(instance === undefined ? [] : [entry(PROXY_TYPE.instance, utf8(instance))]),
  )
  return concat(SIGNATURE, u8(PROXY), u8(both[0]?.length === 4 ? TCP4 : TCP6), be16(rest.length), rest)
}

const entry = (type: number, value: Uint8Array) => concat(u8(type), be16(value.length), value)

/** 4 or 16 bytes. */
function addressOf(text: string): Uint8Array {
  const plain = plainAddress(text)
  if (isIPv4(plain)) return Uint8Array.from(plain.split('.'), Number)
  if (!isIPv6(plain)) throw new RangeError('no IP address')
  const words = (part: string) => (part === '' ? [] : part.split(':').map(word => Number.parseInt(word, 16)))
  const [head = '', tail] = plain.split('::', 2)
  const front = words(head)
  const back = tail === undefined ? [] : words(tail)
  const gap = new Array<number>(8 - front.length - back.length).fill(0)
  return concat(...[...front, ...gap, ...back].map(be16))
}

/** Of IPv4 within IPv6 the IPv4 address; without a zone. */
const plainAddress = (text: string) => text.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '')

const mapped = (address: Uint8Array) =>
  address.length === 16 ? address : concat(new Uint8Array(10), Uint8Array.of(0xff, 0xff), address)

export interface ReadHeader {
  readonly size: number
  /** Of the connection that the balancer was given; undefined for one of its own. */
  readonly ends: Ends | undefined
}

/**
 * The header that a balancer's connection begins with; `more` while it isn't whole. DecodeError for what is none, for one
 * that names no ends of TCP, and for one of more than 4 096 bytes. TLVs are to be well-formed, and say nothing here.
 */
export function readProxyHeader(bytes: Buffer): ReadHeader | 'more' {
  for (let at = 0; at < Math.min(bytes.length, SIGNATURE.length); at++)
    if (bytes[at] !== SIGNATURE[at]) throw malformed('no PROXY protocol of version 2')
  if (bytes.length < HEAD) return 'more'
  const command = bytes[12]
  if (command !== LOCAL && command !== PROXY) throw malformed('a version or command of another kind')
  const size = HEAD + bytes.readUInt16BE(14)
  if (size > MOST_PROXY_HEADER) throw malformed('too long')
  if (bytes.length < size) return 'more'
  // Whatever else it says is to be left aside.
  if (command === LOCAL) return { size, ends: undefined }
  const family = bytes[13]
  if (family !== TCP4 && family !== TCP6) throw malformed('ends that are not of TCP')
  const width = family === TCP4 ? 4 : 16
  const ports = HEAD + 2 * width
  if (size < ports + 4) throw malformed('cut off')
  for (let at = ports + 4; at < size; ) {
    const end = at + 3 <= size ? at + 3 + bytes.readUInt16BE(at + 1) : size + 1
    if (end > size) throw malformed('an entry is cut off')
    at = end
  }
  return {
    size,
    ends: {
      remoteAddress: addressText(bytes.subarray(HEAD, HEAD + width)),
      remotePort: bytes.readUInt16BE(ports),
      localAddress: addressText(bytes.subarray(HEAD + width, ports)),
      localPort: bytes.readUInt16BE(ports + 2),
    },
  }
}

const malformed = (why: string) => new DecodeError('proxyHeader', why)

/** One spelling for each address, that of node:net; an IPv4 address within IPv6 is itself. RangeError for what is no address. */
export function canonicalAddress(text: string): string {
  const plain = plainAddress(text)
  return isIPv6(plain) ? addressText(addressOf(spelled(plain))) : addressText(addressOf(plain))
}

function addressText(address: Uint8Array): string {
  if (address.length === 4) return address.join('.')
  if (address.subarray(0, 12).every((byte, at) => byte === (at < 10 ? 0 : 0xff)))
    return address.subarray(12).join('.')
  const groups = Array.from({ length: 8 }, (_, at) => be16Of(address, 2 * at).toString(16))
  return spelled(groups.join(':'))
}
/** WHATWG's spelling of IPv6, which is that of RFC 5952. */
const spelled = (address: string) => new URL(`http://[${address}]`).hostname.slice(1, -1)
const be16Of = (bytes: Uint8Array, at: number) => ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
