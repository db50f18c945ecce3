/**
 * PROXY protocol version 2 (HAProxy's proxy-protocol.txt, §2.2): what stands before a connection's own bytes, so that the
 * service behind a gateway knows who is at the other end.
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
import type { IdCore } from '@milagro-ts/crypto/identity'

export const PROXY_TYPE = { idCore: 0xe0, slot: 0xe1, instance: 0xe2 } as const

const SIGNATURE = Uint8Array.of(0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a)
const TCP4 = 0x11
const TCP6 = 0x21

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
  return concat(SIGNATURE, u8(0x21), u8(both[0]?.length === 4 ? TCP4 : TCP6), be16(rest.length), rest)
}

const entry = (type: number, value: Uint8Array) => concat(u8(type), be16(value.length), value)

/** 4 or 16 bytes. */
function addressOf(text: string): Uint8Array {
  const plain = text.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '')
  if (isIPv4(plain)) return Uint8Array.from(plain.split('.'), Number)
  if (!isIPv6(plain)) throw new RangeError('no IP address')
  const words = (part: string) => (part === '' ? [] : part.split(':').map(word => Number.parseInt(word, 16)))
  const [head = '', tail] = plain.split('::', 2)
  const front = words(head)
  const back = tail === undefined ? [] : words(tail)
  const gap = new Array<number>(8 - front.length - back.length).fill(0)
  return concat(...[...front, ...gap, ...back].map(be16))
}

const mapped = (address: Uint8Array) =>
  address.length === 16 ? address : concat(new Uint8Array(10), Uint8Array.of(0xff, 0xff), address)
