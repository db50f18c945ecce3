/**
 * The worked handshake of docs/protocols/tls.md (vectors/tls-handshake.json), recomputed: the binder out of the PSK, and what
 * was said under TLS' handshake secrets (RFC 8446 §4.2.11.2, §7.1, §4.4.4). No certificate is asked for or shown.
 */
import { createDecipheriv } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { be16, concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { hmacSha256, sha256 } from '@milagro-ts/crypto/sha256'
import { pskIdentitiesOf } from '@milagro-ts/tls/client-hello'
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
/** The first encrypted records of one side under a traffic secret, until one of another kind than handshake. */
function decrypted(records: readonly TlsRecord[], secret: Uint8Array, count: number): Uint8Array {
  const key = expandLabel(secret, 'key', NOTHING, 16)
  const iv = expandLabel(secret, 'iv', NOTHING, 12)
  return concat(
    ...records.slice(0, count).map(({ header, body }, sequence) => {
      const nonce = iv.slice()
      nonce[11] = (nonce[11] as number) ^ sequence
      const decipher = createDecipheriv('aes-128-gcm', key, nonce).setAAD(header)
      decipher.setAuthTag(body.subarray(-16))
      const plain = concat(decipher.update(body.subarray(0, -16)), decipher.final())
      expect(plain.at(-1)).toBe(22)
      return plain.subarray(0, -1)
    }),
  )
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

const client = fromHex(recorded.client)
const [hello, ...clientRecords] = recordsIn(client) as [TlsRecord, ...TlsRecord[]]
const [serverHello, ...serverRecords] = recordsIn(fromHex(recorded.server)) as [TlsRecord, ...TlsRecord[]]
const encrypted = (records: readonly TlsRecord[]) => records.filter(({ type }) => type === 23)

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

test('the client offers psk_dhe_ke alone, and the server takes identity 0 with a key share', () => {
  const has = (bytes: Uint8Array, text: string) => toHex(bytes).includes(text)
  // psk_key_exchange_modes: one, 1; pre_shared_key of the ServerHello: 0; its key share of X25519.
  expect(has(hello.body, '002d00020101')).toBe(true)
  expect(has(serverHello.body, '002900020000')).toBe(true)
  expect(has(serverHello.body, '00330024001d0020')).toBe(true)
})

test('under the handshake secrets: EncryptedExtensions and Finished, no certificate; both Finished hold', () => {
  const secrets = {
    client: fromHex(recorded.clientHandshakeTrafficSecret),
    server: fromHex(recorded.serverHandshakeTrafficSecret),
  }
  const said = messagesIn(decrypted(encrypted(serverRecords), secrets.server, 2))
  expect(said.map(([type]) => type)).toEqual([8, 20])
  const [extensions, serverFinished] = said as [Uint8Array, Uint8Array]
  const before = [hello.body, serverHello.body, extensions]
  expect([toHex(extensions), toHex(serverFinished)]).toEqual([
    recorded.encryptedExtensions,
    recorded.serverFinished,
  ])
  expect(toHex(serverFinished.subarray(4))).toBe(toHex(finished(secrets.server, ...before)))
  const [clientFinished] = messagesIn(decrypted(encrypted(clientRecords), secrets.client, 1)) as [Uint8Array]
  expect(toHex(clientFinished)).toBe(recorded.clientFinished)
  expect(toHex(clientFinished.subarray(4))).toBe(toHex(finished(secrets.client, ...before, serverFinished)))
})
