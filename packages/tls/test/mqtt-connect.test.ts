/** A CONNECT read and renamed: versions 3.1.1 and 5, the rule on names, and what is none. */
import { concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import {
  connectAs,
  encodeConnect,
  MOST_CONNECT,
  type MqttConnect,
  readConnect,
  refusalPacket,
} from '@milagro-ts/tls/mqtt-connect'
import { describe, expect, test } from 'vitest'

const text = (value: string) => `${value.length.toString(16).padStart(4, '0')}${toHex(utf8(value))}`
const packet = (body: string) => fromHex(`10${(body.length / 2).toString(16).padStart(2, '0')}${body}`)
/** Of version 3.1.1, put together by hand from §3.1. */
const v4 = (flags: string, payload: string) => packet(`${text('MQTT')}04${flags}003c${payload}`)
const v5 = (flags: string, properties: string, payload: string) =>
  packet(
    `${text('MQTT')}05${flags}003c${(properties.length / 2).toString(16).padStart(2, '0')}${properties}${payload}`,
  )
const NAME = 'car-1'

const read = (bytes: Uint8Array): MqttConnect => {
  const found = readConnect(bytes)
  if (found === 'more') throw new Error('not whole')
  expect(found.size).toBe(bytes.length)
  return found.packet
}
const renamed = (bytes: Uint8Array) => connectAs(read(bytes), NAME)

test('3.1.1: the name becomes the user name, the password goes, all else stays', () => {
  const will = text('gone') + text('bye')
  const given = v4('ee', text(`${NAME}:7`) + will + text(NAME) + text('guess'))
  const passed = renamed(given)
  expect(passed).toEqual(v4('ae', text(`${NAME}:7`) + will + text(NAME)))
  expect(read(passed as Uint8Array)).toMatchObject({ level: 4, keepAlive: 60, username: NAME })
})

test('5: properties and the will’s properties stay', () => {
  const properties = `110000000a${'2600016b000176'}${'2600016b000177'}1901`
  const will = `05${'1800000001'}${text('gone')}${text('bye')}`
  expect(renamed(v5('06', properties, text('') + will))).toEqual(
    v5('86', properties, text('') + will + text(NAME)),
  )
})

test('a password without a user name is version 5’s to send', () => {
  expect(renamed(v5('42', '', text('') + text('guess')))).toEqual(v5('82', '', text('') + text(NAME)))
  expect(() => read(v4('42', text('') + text('guess')))).toThrow(DecodeError)
})

describe('refused', () => {
  test.each([
    ['another user name', v4('82', text('') + text('car-2')), 'username'],
    ['the name in another case', v4('82', text('') + text('Car-1')), 'username'],
    ['another’s client id', v4('02', text('car-2')), 'clientId'],
    ['one that begins alike', v4('02', text('car-11')), 'clientId'],
    ['a method of its own', v5('02', '15000141', text('')), 'method'],
  ])('%s', (_, bytes, why) => {
    expect(renamed(bytes)).toBe(why)
  })

  test('a name that holds a colon, since it can’t be told from another’s client id', () => {
    expect(connectAs(read(v4('02', text(''))), 'car:1')).toBe('name')
  })

  test('in the client’s version, and in 5 with the rule in words', () => {
    expect(toHex(refusalPacket('clientId', 4))).toBe('20020002')
    expect(toHex(refusalPacket('username', 4))).toBe('20020005')
    const said = refusalPacket('clientId', 5)
    expect(toHex(said.subarray(0, 1))).toBe('20')
    expect(said[1]).toBe(said.length - 2)
    expect(said[3]).toBe(0x85)
    expect(Buffer.from(said).toString()).toContain('the client id is empty, your name, or your name:more')
  })
})

test('every beginning of one asks for more, and what follows is left alone', () => {
  const bytes = v4('82', text('') + text(NAME))
  for (let length = 0; length < bytes.length; length++)
    expect(readConnect(bytes.subarray(0, length))).toBe('more')
  expect(readConnect(concat(bytes, fromHex('c000')))).toMatchObject({ size: bytes.length })
})

describe('none', () => {
  test.each([
    ['TLS in TLS', fromHex('160301')],
    ['a PUBLISH first', fromHex('3005000161')],
    ['flags in the first byte', fromHex('1100')],
    ['a length of five bytes', fromHex('10ffffffff01')],
    ['a length that isn’t the shortest', concat(fromHex('1080'), fromHex('00'))],
    ['MQIsdp, which is 3.1', packet(`${text('MQIsdp')}0302003c${text('x')}`)],
    ['version 6', packet(`${text('MQTT')}0602003c${text('')}`)],
    ['the reserved flag', v4('03', text(''))],
    ['a will’s QoS without a will', v4('0a', text(''))],
    ['a will’s QoS of 3', v4('1e', text('') + text('a') + text('b'))],
    ['a client id that is no UTF-8', v4('02', '0001ff')],
    ['a client id with NUL', v4('02', '000100')],
    ['a text longer than the packet', v4('02', '00ff61')],
    ['bytes after its end', v4('02', `${text('')}00`)],
    ['no client id', v4('02', '')],
    ['a property that it doesn’t have', v5('02', '0b01', text(''))],
    ['a property twice', v5('02', '190119 01'.replace(' ', ''), text(''))],
    ['a property cut short', v5('02', '1100', text(''))],
    ['properties longer than the packet', packet(`${text('MQTT')}0502003c7f${text('')}`)],
  ])('%s', (_, bytes) => {
    expect(() => readConnect(bytes)).toThrow(DecodeError)
  })

  test('one that says it is longer than any, before it has come', () => {
    const size = MOST_CONNECT
    const length = Uint8Array.of((size & 127) | 128, ((size >> 7) & 127) | 128, size >> 14)
    expect(() => readConnect(concat(Uint8Array.of(0x10), length))).toThrow(DecodeError)
  })

  test('whatever one changes, it is a packet that reads back, a wish for more, or a DecodeError', () => {
    const samples = [
      v4('ee', text(`${NAME}:7`) + text('gone') + text('bye') + text(NAME) + text('guess')),
      v5('06', '110000000a2600016b000176', `${text('')}00${text('gone')}${text('bye')}`),
    ]
    let seed = 1
    const drawn = (below: number) => {
      seed = (seed * 48_271) % 0x7fff_ffff
      return seed % below
    }
    let packets = 0
    for (let i = 0; i < 5_000; i++) {
      const bytes = Uint8Array.from(samples[i % 2] as Uint8Array)
      for (let j = 0; j <= drawn(3); j++) bytes[drawn(bytes.length)] = drawn(256)
      try {
        const found = readConnect(bytes)
        if (found === 'more') continue
        packets++
        const passed = connectAs(found.packet, NAME)
        if (typeof passed === 'string') continue
        const again = read(passed)
        expect(again.username).toBe(NAME)
        expect(encodeConnect(again)).toEqual(passed)
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError)
      }
    }
    expect(packets).toBeGreaterThan(100)
  })
})
