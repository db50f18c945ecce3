/**
 * The worked handshake of docs/protocols/tls.md (vectors/tls-handshake.json), recomputed: the binder out of the PSK, and what
 * was said in every record (RFC 8446 §4.2.11.2, §7.1, §4.4.4). No certificate is asked for or shown, and no ticket is given.
 */
import { createDecipheriv } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { be16, concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { hmacSha256, sha256 } from '@milagro-ts/crypto/sha256'
import { binderHolds, type OfferedPsk } from '@milagro-ts/tls/binder'
import { type ClientHello, clientHelloOf, pskIdentitiesOf } from '@milagro-ts/tls/client-hello'
import { expect, test } from 'vitest'

type Texts<K extends string> = Readonly<Record<K, string>>
const read = <T>(name: string) =>
  JSON.parse(readFileSync(new URL(`../../../vectors/${name}`, import.meta.url), 'utf8')) as T
const recorded =
  read<
    Texts<
      | 'identity'
      | 'psk'
      | 'client'
      | 'server'
      | 'earlySecret'
      | 'binderKey'
      | 'binderFinishedKey'
      | 'truncatedHash'
      | 'binder'
      | 'clientHandshakeTrafficSecret'
      | 'serverHandshakeTrafficSecret'
      | 'clientTrafficSecret'
      | 'serverTrafficSecret'
      | 'encryptedExtensions'
      | 'serverFinished'
      | 'clientFinished'
    >
  >('tls-handshake.json')
const { m1 } = read<{ tls: { m1: Texts<'identity' | 'psk'> } }>('v1.json').tls

/** HKDF-Expand-Label, up to 32 bytes. */
function expandLabel(secret: Uint8Array, label: string, context: Uint8Array, length = 32): Uint8Array {
  const name = utf8(`tls13 ${label}`)
  const info = concat(be16(length), Uint8Array.of(name.length), name, Uint8Array.of(context.length), context)
  return hmacSha256(secret, concat(info, Uint8Array.of(1))).slice(0, length)
}
const NOTHING = new Uint8Array()
const finished = (secret: Uint8Array, ...transcript: Uint8Array[]) =>
  hmacSha256(expandLabel(secret, 'finished', NOTHING), sha256(...transcript))

interface TlsRecord {
  readonly type: number
  readonly header: Uint8Array
  readonly body: Uint8Array
}
function recordsIn(bytes: Uint8Array): TlsRecord[] {
  const records: TlsRecord[] = []
  for (let at = 0; at < bytes.length; ) {
    const header = bytes.subarray(at, at + 5)
    const length = ((header[3] as number) << 8) | (header[4] as number)
    records.push({ type: header[0] as number, header, body: bytes.subarray(at + 5, at + 5 + length) })
    at += 5 + length
  }
  return records
}
interface Said {
  /** Of what is inside: 21 alert, 22 handshake, 23 application data. */
  readonly type: number
  readonly content: Uint8Array
}
/** What is inside all the records of one side under one traffic secret. */
function decrypted(records: readonly TlsRecord[], secret: string): Said[] {
  const key = expandLabel(fromHex(secret), 'key', NOTHING, 16)
  const iv = expandLabel(fromHex(secret), 'iv', NOTHING, 12)
  return records.map(({ header, body }, sequence) => {
    const nonce = iv.slice()
    nonce[11] = (nonce[11] as number) ^ sequence
    const decipher = createDecipheriv('aes-128-gcm', key, nonce).setAAD(header)
    decipher.setAuthTag(body.subarray(-16))
    const plain = concat(decipher.update(body.subarray(0, -16)), decipher.final())
    return { type: plain.at(-1) as number, content: plain.subarray(0, -1) }
  })
}
function messagesIn(bytes: Uint8Array): Uint8Array[] {
  const messages: Uint8Array[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number)
    messages.push(bytes.subarray(at, at + 4 + length))
    at += 4 + length
  }
  return messages
}

const HANDSHAKE = 22
const CHANGE_CIPHER_SPEC = 20
const APPLICATION_DATA = 23

const client = fromHex(recorded.client)
const clientRecords = recordsIn(client)
const serverRecords = recordsIn(fromHex(recorded.server))
const hello = clientRecords[0] as TlsRecord
const serverHello = serverRecords[0] as TlsRecord
/** After the hello and the change of cipher spec, which has no meaning in TLS 1.3. */
const encrypted = (records: readonly TlsRecord[]) => records.slice(2)

test('identity and PSK are those of the vector', () => {
  expect([recorded.identity, recorded.psk]).toEqual([m1.identity, m1.psk])
  expect(pskIdentitiesOf(client)).toEqual([m1.identity])
})

test('the binder, out of the PSK', () => {
  const early = hmacSha256(new Uint8Array(32), fromHex(recorded.psk))
  const binderKey = expandLabel(early, 'ext binder', sha256(NOTHING))
  const finishedKey = expandLabel(binderKey, 'finished', NOTHING)
  // Without the list of binders at its end: two bytes of length, one, and 32.
  const truncated = sha256(hello.body.subarray(0, -35))
  const binder = hmacSha256(finishedKey, truncated)
  expect([early, binderKey, finishedKey, truncated, binder].map(toHex)).toEqual([
    recorded.earlySecret,
    recorded.binderKey,
    recorded.binderFinishedKey,
    recorded.truncatedHash,
    recorded.binder,
  ])
  expect(toHex(hello.body.subarray(-32))).toBe(recorded.binder)
})

test('the server finds that it holds, by this PSK and by no other', () => {
  const read = clientHelloOf(client) as ClientHello
  const offered = read.offered as OfferedPsk
  const psk = fromHex(recorded.psk)
  expect(binderHolds(offered, psk)).toBe(true)
  expect(binderHolds(offered, psk.with(31, 0))).toBe(false)
  expect(binderHolds({ ...offered, before: offered.before.slice(0, -1) }, psk)).toBe(false)
  for (const length of [0, 31])
    expect(binderHolds({ ...offered, binder: offered.binder.slice(0, length) }, psk)).toBe(false)
  expect(binderHolds({ ...offered, binder: concat(offered.binder, Uint8Array.of(0)) }, psk)).toBe(false)
})

test('the client offers psk_dhe_ke alone, and the server takes identity 0 with a key share', () => {
  const has = (bytes: Uint8Array, text: string) => toHex(bytes).includes(text)
  // psk_key_exchange_modes: one, 1; pre_shared_key of the ServerHello: 0; its key share of X25519.
  expect(has(hello.body, '002d00020101')).toBe(true)
  expect(has(serverHello.body, '002900020000')).toBe(true)
  expect(has(serverHello.body, '00330024001d0020')).toBe(true)
})

/** Of handshake records, whose messages need not end where records do. */
const saidInHandshake = (records: readonly TlsRecord[], secret: string) => {
  const said = decrypted(records, secret)
  expect(said.map(({ type }) => type)).toEqual(said.map(() => HANDSHAKE))
  return messagesIn(concat(...said.map(({ content }) => content)))
}

test('after the hellos every record is encrypted', () => {
  const types = (records: readonly TlsRecord[]) => records.map(({ type }) => type)
  expect(types(clientRecords)).toEqual([HANDSHAKE, CHANGE_CIPHER_SPEC, APPLICATION_DATA])
  expect(types(serverRecords)).toEqual([HANDSHAKE, CHANGE_CIPHER_SPEC, ...Array(4).fill(APPLICATION_DATA)])
  // One message in each of the two: ClientHello, ServerHello.
  expect([hello, serverHello].map(({ body }) => messagesIn(body).map(([type]) => type))).toEqual([[1], [2]])
})

test('under the handshake secrets: EncryptedExtensions and Finished, no certificate; both Finished hold', () => {
  const secrets = {
    client: fromHex(recorded.clientHandshakeTrafficSecret),
    server: fromHex(recorded.serverHandshakeTrafficSecret),
  }
  const said = saidInHandshake(encrypted(serverRecords).slice(0, 2), recorded.serverHandshakeTrafficSecret)
  expect(said.map(([type]) => type)).toEqual([8, 20])
  const [extensions, serverFinished] = said as [Uint8Array, Uint8Array]
  const before = [hello.body, serverHello.body, extensions]
  expect([toHex(extensions), toHex(serverFinished)]).toEqual([
    recorded.encryptedExtensions,
    recorded.serverFinished,
  ])
  expect(toHex(serverFinished.subarray(4))).toBe(toHex(finished(secrets.server, ...before)))
  const ofClient = saidInHandshake(encrypted(clientRecords), recorded.clientHandshakeTrafficSecret)
  expect(ofClient.map(toHex)).toEqual([recorded.clientFinished])
  const [clientFinished] = ofClient as [Uint8Array]
  expect(toHex(clientFinished.subarray(4))).toBe(toHex(finished(secrets.client, ...before, serverFinished)))
})

test('after the handshake: what the program says, and the end; no ticket', () => {
  const said = decrypted(encrypted(serverRecords).slice(2), recorded.serverTrafficSecret)
  expect(said).toEqual([
    { type: APPLICATION_DATA, content: utf8('in') },
    // A warning, close_notify.
    { type: 21, content: Uint8Array.of(1, 0) },
  ])
})
