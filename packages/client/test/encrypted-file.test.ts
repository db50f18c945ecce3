/** A file for a car: age v1 with a stanza of ours, opened with the key that came with the enrolment, and nothing else. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Unreachable } from '@milagro-ts/api/call'
import { Refused } from '@milagro-ts/api/problem'
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { decodeStanza, decryptFile, encryptFile, MOST_RECIPIENTS } from '@milagro-ts/client/encrypted-file'
import { sealUnder } from '@milagro-ts/client/encrypted-message'
import { ClientError } from '@milagro-ts/client/errors'
import type { FileOpener } from '@milagro-ts/client/file-recipient'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { callbackUnlocker } from '@milagro-ts/client/unlocker'
import { fromHex, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { IdCore } from '@milagro-ts/crypto/identity'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { Decrypter, generateX25519Identity, identityToRecipient, type Stanza } from 'age-encryption'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CAR, VIN, World } from './world.js'

const CHUNK = 64 * 1024
const SEALED = CHUNK + 16

let world: World
let store: TokenStore
let car: Device
let other: Device

const enrol = (instance: string, more: Partial<Parameters<typeof Device.enrol>[0]> = {}) =>
  Device.enrol({ ...world.ports, store, code: world.code(), attributes: CAR, instance, ...more })

beforeAll(async () => {
  world = await World.start({ n: 3, t: 2 })
  store = memoryTokenStore()
  world.devicePurposes = ['device', 'encrypt']
  car = await enrol(VIN)
  other = await enrol('VIN-OTHER')
})
afterAll(() => world.close())

const streamOf = (bytes: Uint8Array) => new Blob([bytes.slice()]).stream() as ReadableStream<Uint8Array>
const bytesOf = async (stream: ReadableStream<Uint8Array>) =>
  new Uint8Array(await new Response(stream).arrayBuffer())
const encrypt = async (plaintext: Uint8Array, to: readonly IdCore[] = [car.idCore]) =>
  bytesOf(
    await encryptFile(streamOf(plaintext), { to, group: world.group, now: world.now, random: systemRandom }),
  )
const decrypt = async (file: Uint8Array, device = car) => bytesOf(await decryptFile(streamOf(file), device))
/** Different in every byte that a chunk could be mistaken by. */
const noise = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 7) & 255)
const headerLength = (file: Uint8Array) => {
  const mac = Buffer.from(file).indexOf('\n--- ') + 1
  return file.indexOf(10, mac) + 1
}

test('a workshop sends a car a file, knowing its M-Pin ID and the group document', async () => {
  const message = utf8('the new map of Bavaria')
  const file = await encrypt(message)
  expect(Buffer.from(file).toString('latin1')).toMatch(
    /^age-encryption\.org\/v1\n-> milagro-ibe [\w-]{43} 1 [\w-]{6}\n/,
  )
  expect(await decrypt(file)).toEqual(message)
})

test('the name of the recipient is not in the file', async () => {
  const file = await encrypt(utf8('x'))
  expect(Buffer.from(file).toString('latin1')).not.toContain(car.mpinId)
  expect(toHex(file)).not.toContain(toHex(car.idCore.bytes))
})

test('opened again from its store, the car opens the file', async () => {
  const file = await encrypt(utf8('later'))
  const again = await Device.open({ ...world.ports, store, identity: VIN })
  expect(await decrypt(file, again)).toEqual(utf8('later'))
})

test('under an unlocker; a copy of the store alone opens nothing', async () => {
  const secret = systemRandom(32)
  const unlocker = callbackUnlocker(async () => secret)
  const locked = await enrol('VIN-LOCKED', { unlocker })
  const file = await encrypt(utf8('for the one with the module'), [locked.idCore])
  expect(await decrypt(file, locked)).toHaveLength(27)
  const copied = await Device.open({ ...world.ports, store, identity: 'VIN-LOCKED' })
  await expect(decrypt(file, copied)).rejects.toMatchObject({ code: 'WRONG_UNLOCKER' })
})

test.each([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])('%i bytes come back', async length => {
  const message = noise(length)
  expect(Buffer.from(await decrypt(await encrypt(message))).equals(Buffer.from(message))).toBe(true)
})

test('one file for two cars; a third is no recipient', async () => {
  const third = await enrol('VIN-THIRD')
  const file = await encrypt(utf8('to both'), [other.idCore, car.idCore])
  for (const device of [car, other]) expect(await decrypt(file, device)).toEqual(utf8('to both'))
  await expect(decrypt(file, third)).rejects.toMatchObject({ code: 'NOT_A_RECIPIENT' })
})

test('a thousand recipients and no more; nobody is nobody', async () => {
  const most = Array.from({ length: MOST_RECIPIENTS }, () => other.idCore)
  await expect(encrypt(utf8('x'), [...most, car.idCore])).rejects.toThrow(RangeError)
  await expect(encrypt(utf8('x'), [])).rejects.toThrow(RangeError)
  const file = await encrypt(utf8('the last of all'), [...most.slice(1), car.idCore])
  expect(await decrypt(file)).toEqual(utf8('the last of all'))
})

test('a car that was enrolled without the purpose has no key', async () => {
  world.devicePurposes = ['device']
  const plain = await enrol('VIN-PLAIN')
  world.devicePurposes = ['device', 'encrypt']
  const file = await encrypt(utf8('x'), [plain.idCore])
  await expect(decrypt(file, plain)).rejects.toMatchObject({ code: 'NO_ENCRYPT_KEY' })
})

test('for another key epoch than the key’s', async () => {
  const file = await encrypt(utf8('x'))
  const changed = Buffer.from(Buffer.from(file).toString('latin1').replace(' 1 ', ' 2 '), 'latin1')
  await expect(decrypt(new Uint8Array(changed))).rejects.toMatchObject({ code: 'EPOCH_ENDED' })
})

test('by a clock before the group began there is no key to encrypt with', async () => {
  const now = slotStart(world.group.slotRule, 0) * 1000 - 1
  const terms = { to: [car.idCore], group: world.group, now, random: systemRandom }
  await expect(encryptFile(streamOf(utf8('x')), terms)).rejects.toThrow(DecodeError)
})

test('any program that reads age reads it, given the file key', async () => {
  const file = await encrypt(noise(100_000))
  const plain = new Decrypter()
  let fileKey: Uint8Array | undefined
  plain.addIdentity({
    async unwrapFileKey([stanza]) {
      const { encapsulation, sealedKey } = decodeStanza(stanza as Stanza) as NonNullable<
        ReturnType<typeof decodeStanza>
      >
      const key = (await car.decapsulate(encapsulation, { epoch: 1 })) as Uint8Array
      const imported = await crypto.subtle.importKey('raw', key.slice(), 'AES-GCM', false, ['decrypt'])
      const gcm = { name: 'AES-GCM', iv: new Uint8Array(12), additionalData: encapsulation.slice() }
      fileKey = new Uint8Array(await crypto.subtle.decrypt(gcm, imported, sealedKey.slice()))
      return fileKey
    },
  })
  expect(await plain.decrypt(file)).toEqual(noise(100_000))
  expect(fileKey).toHaveLength(16)
})

test('the vector of encryption.md: M seals with AES-256-GCM over U ‖ V ‖ W', async () => {
  const file = fileURLToPath(new URL('../../../vectors/v1.json', import.meta.url))
  type One = Readonly<
    Record<'M' | 'ciphertext', string> & { readonly aead: Readonly<Record<'plaintext' | 'counter0', string>> }
  >
  const { ibe } = JSON.parse(readFileSync(file, 'utf8')) as { ibe: Readonly<Record<string, One>> }
  for (const { M, ciphertext, aead } of Object.values(ibe)) {
    const sealed = await sealUnder(fromHex(M), fromHex(ciphertext), fromHex(aead.plaintext))
    expect(toHex(sealed)).toBe(aead.counter0)
  }
  expect(Object.keys(ibe).length).toBeGreaterThan(1)
})

describe('refused', () => {
  /** Whatever came before the refusal was a part of the message, chunk by chunk. */
  async function refused(file: Uint8Array, message: Uint8Array): Promise<void> {
    let taken = 0
    let error: unknown
    try {
      const reader = (await decryptFile(streamOf(file), car)).getReader()
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        expect(Buffer.from(read.value).equals(message.subarray(taken, taken + read.value.length))).toBe(true)
        taken += read.value.length
      }
    } catch (thrown) {
      error = thrown
    }
    expect(error instanceof DecodeError || error instanceof ClientError, String(error)).toBe(true)
    expect(taken % CHUNK).toBe(0)
  }
  const flipped = (file: Uint8Array, at: number, bit: number) =>
    file.map((byte, i) => (i === at ? byte ^ (1 << bit) : byte))

  test('a flipped bit in each byte of the header and of the nonce', async () => {
    const message = utf8('a short message')
    const file = await encrypt(message)
    const until = headerLength(file) + 16
    for (let at = 0; at < until; at++) await refused(flipped(file, at, at % 8), message)
  })

  test('every bit of the short ciphertext', async () => {
    const message = utf8('a short message')
    const file = await encrypt(message)
    for (let at = headerLength(file) + 16; at < file.length; at++)
      for (let bit = 0; bit < 8; bit++) await refused(flipped(file, at, bit), message)
  })

  test('a flipped bit in each chunk: its first byte, one in the middle, its tag', async () => {
    const message = noise(3 * CHUNK + 5)
    const file = await encrypt(message)
    const begin = headerLength(file) + 16
    for (let chunk = 0; chunk < 4; chunk++) {
      const length = chunk === 3 ? 5 + 16 : SEALED
      for (const at of [0, length >> 1, length - 16, length - 1])
        await refused(flipped(file, begin + chunk * SEALED + at, chunk), message)
    }
  })

  test('cut off: inside the header, after it, in a chunk, between two, the last chunk gone', async () => {
    const message = noise(2 * CHUNK + 5)
    const file = await encrypt(message)
    const begin = headerLength(file) + 16
    for (const length of [
      0,
      1,
      21,
      100,
      begin - 17,
      begin - 16,
      begin - 1,
      begin,
      begin + 15,
      begin + 16,
      begin + SEALED - 1,
      begin + SEALED,
      begin + 2 * SEALED,
      file.length - 1,
    ])
      await refused(file.subarray(0, length), message)
  })

  test('chunks swapped, one twice, one left out, something appended', async () => {
    const message = noise(3 * CHUNK)
    const file = await encrypt(message)
    const begin = headerLength(file) + 16
    const chunk = (i: number) => file.subarray(begin + i * SEALED, begin + (i + 1) * SEALED)
    const made = (...order: Uint8Array[]) =>
      new Uint8Array(Buffer.concat([file.subarray(0, begin), ...order]))
    const [a, b, c] = [chunk(0), chunk(1), chunk(2)]
    for (const order of [
      [b, a, c],
      [a, c, b],
      [a, a, b, c],
      [a, c],
      [b, c],
      [a, b, c, c],
      [a, b, c, Uint8Array.of(0)],
    ])
      await refused(made(...order), message)
    expect(await decrypt(made(a, b, c))).toHaveLength(message.length)
  })

  test('the header of one file over the chunks of another', async () => {
    const [one, two] = [await encrypt(noise(100)), await encrypt(noise(100))]
    const mixed = new Uint8Array([...one.subarray(0, headerLength(one)), ...two.subarray(headerLength(two))])
    await refused(mixed, noise(100))
  })

  test('a stanza that somebody without the file key has added', async () => {
    const [one, two] = [await encrypt(utf8('x')), await encrypt(utf8('x'), [other.idCore])]
    const stanzas = (file: Uint8Array) => {
      const text = Buffer.from(file).toString('latin1')
      return text.slice(text.indexOf('->'), text.indexOf('\n--- ') + 1)
    }
    const text = Buffer.from(one).toString('latin1')
    const added = text.replace('\n--- ', `\n${stanzas(two)}--- `)
    await refused(new Uint8Array(Buffer.from(added, 'latin1')), utf8('x'))
  })

  test('a file of age that isn’t for devices, and one that is no file', async () => {
    const { Encrypter } = await import('age-encryption')
    const encrypter = new Encrypter()
    encrypter.addRecipient(await identityToRecipient(await generateX25519Identity()))
    await expect(decrypt(await encrypter.encrypt(utf8('x')))).rejects.toMatchObject({
      code: 'NOT_A_RECIPIENT',
    })
    await expect(decrypt(utf8('hello'))).rejects.toThrow(DecodeError)
    await expect(decrypt(new Uint8Array())).rejects.toThrow(DecodeError)
  })

  test('a header without an end is given up after half a megabyte', async () => {
    let pulled = 0
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.enqueue(
          utf8((pulled === 0 ? 'age-encryption.org/v1\n-> X25519 ' : '').padEnd(65_536, 'a')),
        )
        pulled += 65_536
      },
    })
    await expect(decryptFile(endless, car)).rejects.toThrow('its header does not end')
    expect(pulled).toBeLessThan(1_000_000)
  })

  test('stanzas of our type and another shape', () => {
    const [group, tag] = [toBase64Url(car.groupId), 'bWlsYQ']
    const body = new Uint8Array(192)
    expect(decodeStanza({ args: ['milagro-ibe', group, '1', tag], body })?.epoch).toBe(1)
    const atSlot = { args: ['milagro-ibe', group, '1', tag, 'slot=7'], body }
    expect(decodeStanza(atSlot)?.slot).toBe(7)
    expect(decodeStanza({ args: ['X25519', group], body })).toBeNull()
    for (const args of [
      ['milagro-ibe'],
      ['milagro-ibe', group, '1'],
      ['milagro-ibe', group, '1', tag, '1'],
      ['milagro-ibe', group, '1', tag, 'slot='],
      ['milagro-ibe', group, '1', tag, 'slot=07'],
      ['milagro-ibe', group, '1', tag, 'slot=4294967296'],
      ['milagro-ibe', group, '1', tag, 'slot=7', 'slot=8'],
      ['milagro-ibe', group.slice(1), '1', tag],
      ['milagro-ibe', group, '01', tag],
      ['milagro-ibe', group, '4294967296', tag],
      ['milagro-ibe', group, '-1', tag],
      ['milagro-ibe', group, '1', 'bWlsY'],
    ])
      expect(() => decodeStanza({ args, body })).toThrow(DecodeError)
    expect(() => decodeStanza({ args: ['milagro-ibe', group, '1', tag], body: body.slice(1) })).toThrow(
      DecodeError,
    )
  })
})

describe('as a stream', () => {
  test('no more is read than was asked for, so memory is constant', async () => {
    let pulled = 0
    const endless = () =>
      new ReadableStream<Uint8Array>(
        {
          pull(controller) {
            pulled++
            controller.enqueue(noise(CHUNK))
          },
        },
        { highWaterMark: 0 },
      )
    const terms = { to: [car.idCore], group: world.group, now: world.now, random: systemRandom }
    const encrypted = await encryptFile(endless(), terms)
    const reader = (await decryptFile(encrypted, car)).getReader()
    for (let i = 0; i < 20; i++) expect((await reader.read()).value).toHaveLength(CHUNK)
    expect(pulled).toBeLessThan(20 + 12)
    await reader.cancel()
  })

  test('an error of the source stays itself', async () => {
    const broken = new Error('the disk is gone')
    const file = await encrypt(noise(2 * CHUNK))
    for (const at of [10, CHUNK * 2]) {
      let pulls = 0
      const source = new ReadableStream<Uint8Array>({
        pull(controller) {
          if (pulls++ === 0) controller.enqueue(file.slice(0, at))
          else controller.error(broken)
        },
      })
      await expect(decryptFile(source, car).then(bytesOf)).rejects.toBe(broken)
    }
  })

  test('an error of the device’s store stays itself', async () => {
    const file = await encrypt(utf8('x'))
    const failing = {
      groupId: car.groupId,
      encryptionName: (slot: number | undefined) => car.encryptionName(slot),
      decapsulate: () => Promise.reject(new ClientError('STORE_UNAVAILABLE')),
    }
    await expect(decryptFile(streamOf(file), failing)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  })
})

describe('many stanzas for one device', () => {
  const slot = () => slotAt(world.group.slotRule, Math.floor(world.now / 1000))
  const fileAt = async (slots: readonly (number | undefined)[]) => {
    const to = slots.map(
      at => ({ kind: 1, idCore: car.idCore, ...(at === undefined ? {} : { slot: at }) }) as const,
    )
    const source = streamOf(utf8('x'))
    return bytesOf(
      await encryptFile(source, { to, group: world.group, now: world.now, random: systemRandom }),
    )
  }
  /** Says no for every slot, and notes what it was asked. */
  const refusing = (say: () => Error) => {
    const asked: (number | undefined)[] = []
    const opener: FileOpener = {
      groupId: car.groupId,
      encryptionName: at => car.encryptionName(at),
      decapsulate: async (encapsulation, stanza) => {
        asked.push(stanza.slot)
        if (stanza.slot === undefined) return car.decapsulate(encapsulation, stanza)
        throw say()
      },
    }
    return { asked, opener }
  }

  test.each([
    ['nobody answers', () => new Unreachable('the RPS'), Unreachable],
    ['the authorities say no', () => new Refused('BANNED'), Refused],
    ['the slot is far ahead', () => new ClientError('SLOT_AHEAD'), ClientError],
    ['another key epoch', () => new ClientError('EPOCH_ENDED'), ClientError],
  ])('%s: a slot’s key is asked for once', async (_, say, expected) => {
    const slots = [0, 1, 0, 0, 1, 0].map(later => slot() + later)
    const { asked, opener } = refusing(say)
    await expect(decryptFile(streamOf(await fileAt(slots)), opener)).rejects.toThrow(expected)
    expect(asked).toEqual([slot(), slot() + 1])
  })

  test('a key that is had for ever is tried whatever slots refuse', async () => {
    const { asked, opener } = refusing(() => new Unreachable('the RPS'))
    const stream = await decryptFile(streamOf(await fileAt([slot(), slot(), undefined])), opener)
    expect(await bytesOf(stream)).toEqual(utf8('x'))
    expect(asked).toEqual([undefined])
  })
})
