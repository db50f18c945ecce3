/**
 * Files for devices and public names: age v1 (age-encryption.org/v1) with a stanza of ours for each recipient. A sender needs
 * the group document and the recipients' M-Pin IDs or names, and asks nobody.
 *
 *   sender                                                          recipient
 *   fileKey, 16 random bytes, age's own
 *   name = TLV{groupId, 1, idCore, generation [, slot]} of a device,
 *          TLV{groupId, 4, name, generation [, slot]} of a public name
 *   (U ‖ V ‖ W, M) = encapsulate({name, Ppub})
 *   -- age-encryption.org/v1
 *      -> milagro-ibe groupId epoch tag [slot=n]                    tag of the own name: M = decapsulate(U ‖ V ‖ W)
 *      base64(U ‖ V ‖ W ‖ AES-256-GCM(M; fileKey))                  fileKey
 *      --- HMAC(fileKey; all of the above)                          equal?
 *      nonce, chunks of 64 KiB under HKDF(fileKey, nonce) -->       each authentic, in order, and the last one marked?
 *
 * The tag is 4 bytes of SHA-256(TLV{`milagro-ibe`, name, U ‖ V ‖ W}): a device finds its stanza among a thousand without a
 * pairing. The names aren't in the file, but who knows an M-Pin ID can see whether a file is for it.
 *
 * Memory is constant: a chunk at a time. Every byte that comes out has been authenticated; that it was all is known when
 * the stream ends, so nobody may take what came before an error for the file. Whoever holds a key opens what is sent to it
 * for ever, banned or not: a name without a slot has one key. At a slot there is another key for each slot, which authorities
 * give out until the slot is over and never after it.
 */
import { Unreachable } from '@milagro-ts/api/call'
import type { PurposeKeys } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { concat, equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { ENCAPSULATION_LENGTH, encapsulate } from '@milagro-ts/crypto/ibe'
import { decodeGroupId, encodeName } from '@milagro-ts/crypto/identity'
import type { Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { type SlotRule, slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { Decrypter, Encrypter, Stanza } from 'age-encryption'
import { GCM_TAG, openUnder, sealUnder } from './encrypted-message.js'
import { ClientError } from './errors.js'
import { type FileOpener, type FileRecipient, slotEnded } from './file-recipient.js'

export const STANZA_TYPE = 'milagro-ibe'
/** A header of as many stanzas is under the limit of its bytes. */
export const MOST_RECIPIENTS = 1_000
/** Bytes of a header, so that a file without an end of one doesn't fill the memory. */
const MOST_HEADER = 512 * 1024
const FILE_KEY = 16
const BODY = ENCAPSULATION_LENGTH + FILE_KEY + GCM_TAG
const TAG = 4
const SLOT = 'slot='

export interface FileStanza {
  readonly groupId: Uint8Array
  /** Key epoch of purpose `encrypt`. */
  readonly epoch: number
  readonly tag: Uint8Array
  /** Of the name, where it has one. */
  readonly slot?: number | undefined
  /** U ‖ V ‖ W. */
  readonly encapsulation: Uint8Array
  /** fileKey under M: 32 bytes. */
  readonly sealedKey: Uint8Array
}

export function encodeStanza({ groupId, epoch, tag, slot, encapsulation, sealedKey }: FileStanza): Stanza {
  const args = [STANZA_TYPE, toBase64Url(groupId), String(epoch), toBase64Url(tag)]
  if (slot !== undefined) args.push(SLOT + String(slot))
  return new Stanza(args, concat(encapsulation, sealedKey))
}

/** Null for a stanza of another type; DecodeError for one of ours of another shape. */
export function decodeStanza({ args, body }: Pick<Stanza, 'args' | 'body'>): FileStanza | null {
  const [type, group, epoch, tag, slot, ...more] = args
  if (type !== STANZA_TYPE) return null
  if (group === undefined || epoch === undefined || tag === undefined || more.length > 0)
    throw new DecodeError('stanza', 'groupId, key epoch, tag and perhaps a slot expected')
  if (body.length !== BODY) throw new DecodeError('stanza.body', `${BODY} bytes expected`)
  return {
    groupId: decodeGroupId(fromBase64Url(group, 'stanza.groupId', 32)),
    epoch: decodeNumber(epoch, 'stanza.epoch'),
    tag: fromBase64Url(tag, 'stanza.tag', TAG),
    slot: slot === undefined ? undefined : decodeSlot(slot),
    encapsulation: body.slice(0, ENCAPSULATION_LENGTH),
    sealedKey: body.slice(ENCAPSULATION_LENGTH),
  }
}

export interface FileTerms {
  readonly to: readonly FileRecipient[]
  /** The pinned group, in the newest revision that is known. */
  readonly group: {
    readonly groupId: Uint8Array
    readonly slotRule: SlotRule
    readonly keysAt: (purpose: 'encrypt', slot: number) => Pick<PurposeKeys, 'epoch' | 'pub'> | null
  }
  /** Unix milliseconds. */
  readonly now: number
  readonly random: Random
}

/**
 * RangeError for no recipients or more than MOST_RECIPIENTS; SLOT_ENDED for a name at a slot that is over; DecodeError for a
 * group that hasn't begun.
 */
export async function encryptFile(
  source: ReadableStream<Uint8Array>,
  { to, group, now, random }: FileTerms,
): Promise<ReadableStream<Uint8Array>> {
  if (to.length === 0 || to.length > MOST_RECIPIENTS)
    throw new RangeError(`a file is for 1–${MOST_RECIPIENTS} recipients`)
  const { groupId, slotRule } = group
  const seconds = Math.floor(now / 1000)
  if (seconds < slotRule.origin) throw new DecodeError('group', 'it has not begun by this clock')
  const current = slotAt(slotRule, seconds)
  const encrypter = new Encrypter()
  for (const recipient of to) {
    const party = 'kind' in recipient ? recipient : ({ kind: 1, idCore: recipient } as const)
    const { slot } = party
    if (slot !== undefined && slot < current) throw slotEnded(slot, current)
    // The slot fixes the key epoch.
    const keys = group.keysAt('encrypt', slot ?? current)
    if (keys?.pub === undefined) throw new DecodeError('group', 'it has not begun by this clock')
    const { epoch, pub: Ppub } = keys
    const name = encodeName(groupId, party)
    encrypter.addRecipient({
      async wrapFileKey(fileKey) {
        const { encapsulation, key } = encapsulate({ name, Ppub }, random)
        const sealedKey = await sealUnder(key, encapsulation, fileKey)
        key.fill(0)
        const tag = tagOf(name, encapsulation)
        return [encodeStanza({ groupId, epoch, tag, slot, encapsulation, sealedKey })]
      },
    })
  }
  return encrypter.encrypt(source)
}

/**
 * The plaintext, as it is authenticated. The promise rejects for a header that doesn't hold, the stream for anything after
 * it: DecodeError where the file was changed, cut off or is none. NOT_A_RECIPIENT, and what the opener's `decapsulate` throws.
 * An error of `source` stays itself.
 */
export async function decryptFile(
  source: ReadableStream<Uint8Array>,
  opener: FileOpener,
): Promise<ReadableStream<Uint8Array>> {
  const watched = new WatchedSource(source)
  const decrypter = new Decrypter()
  let isOpened = false
  let refusal: { readonly error: unknown } | undefined
  decrypter.addIdentity({
    async unwrapFileKey(stanzas) {
      try {
        const fileKey = await openStanzas(stanzas, opener)
        isOpened = true
        return fileKey
      } catch (error) {
        refusal = { error }
        throw error
      }
    },
  })
  /** What age says is about the file; what the source and the opener say is theirs. */
  const explain = (error: unknown): unknown => {
    const own = watched.failure ?? refusal
    if (own !== undefined) return own.error
    if (error instanceof DecodeError) return error
    return new DecodeError('file', isOpened ? 'it was changed or cut off' : 'not a file of age v1')
  }
  try {
    return withErrors(await decrypter.decrypt(watched.stream), explain)
  } catch (error) {
    throw explain(error)
  }
}

async function openStanzas(stanzas: readonly Stanza[], opener: FileOpener): Promise<Uint8Array> {
  const { groupId } = opener
  const ours = stanzas.map(decodeStanza).filter(stanza => stanza !== null)
  if (ours.length > MOST_RECIPIENTS) throw new DecodeError('file', `more than ${MOST_RECIPIENTS} recipients`)
  const own = ours.filter(
    ({ groupId: group, tag, slot, encapsulation }) =>
      equalBytes(group, groupId) && equalBytes(tag, tagOf(opener.encryptionName(slot), encapsulation)),
  )
  if (own.length === 0) throw new ClientError('NOT_A_RECIPIENT')
  // One key for all slots goes before one that has to be there in time.
  const inTurn = [...own].sort((a, b) => Number(a.slot !== undefined) - Number(b.slot !== undefined))
  let refusal: ClientError | Refused | Unreachable | undefined
  // A key that isn't to be had is asked for once, however many stanzas want it.
  const refused = new Set<string>()
  for (const stanza of inTurn) {
    const [ofSlot, ofEpoch] = [`${stanza.slot}`, `${stanza.slot} ${stanza.epoch}`]
    if (refused.has(ofSlot) || refused.has(ofEpoch)) continue
    try {
      return await openStanza(stanza, opener)
    } catch (error) {
      if (!(error instanceof ClientError || error instanceof Refused || error instanceof Unreachable))
        throw error
      // Another stanza may be for a slot whose key is here.
      refusal ??= error
      // The key of a slot is of one epoch; one that names another says nothing of those that don't.
      refused.add(codeOf(error) === 'EPOCH_ENDED' ? ofEpoch : ofSlot)
    }
  }
  throw refusal
}

const codeOf = (error: ClientError | Refused | Unreachable) => ('code' in error ? error.code : undefined)

async function openStanza(stanza: FileStanza, opener: FileOpener): Promise<Uint8Array> {
  const { encapsulation, sealedKey } = stanza
  const key = await opener.decapsulate(encapsulation, stanza)
  const fileKey = key === null ? null : await openUnder(key, encapsulation, sealedKey)
  key?.fill(0)
  if (fileKey === null) throw new DecodeError('stanza', 'it was changed')
  return fileKey
}

function tagOf(name: Uint8Array, encapsulation: Uint8Array): Uint8Array {
  return sha256(encodeTlv([utf8(STANZA_TYPE), name, encapsulation])).subarray(0, TAG)
}

function decodeSlot(text: string): number {
  if (!text.startsWith(SLOT)) throw new DecodeError('stanza.slot', 'a slot expected')
  return decodeNumber(text.slice(SLOT.length), 'stanza.slot')
}

/** be32 in decimal, in its one spelling. */
function decodeNumber(text: string, field: string): number {
  const number = /^(0|[1-9][0-9]{0,9})$/.test(text) ? Number(text) : Number.NaN
  if (!(number <= 0xffff_ffff)) throw new DecodeError(field, 'a number expected')
  return number
}

/** A source whose errors are remembered, and whose header has to end in time. */
class WatchedSource {
  readonly stream: ReadableStream<Uint8Array>
  failure: { readonly error: unknown } | undefined
  /** Past the begin of the line of the header's MAC. */
  #isHeaderRead = false
  #seen = 0
  /** The end of what was seen, as long as the mark less one. */
  #tail: Uint8Array = new Uint8Array()

  constructor(source: ReadableStream<Uint8Array>) {
    const reader = source.getReader()
    this.stream = new ReadableStream<Uint8Array>(
      {
        pull: async controller => {
          let read: Awaited<ReturnType<typeof reader.read>>
          try {
            read = await reader.read()
          } catch (error) {
            this.failure = { error }
            throw error
          }
          if (read.done) return controller.close()
          this.#look(read.value)
          controller.enqueue(read.value)
        },
        cancel: reason => reader.cancel(reason),
      },
      { highWaterMark: 0 },
    )
  }

  #look(bytes: Uint8Array): void {
    if (this.#isHeaderRead) return
    // The header is ASCII, and its last line the only one that begins so.
    const text = concat(this.#tail, bytes.subarray(0, MOST_HEADER))
    const at = indexOf(text, MAC_MARK)
    if (at >= 0) {
      this.#isHeaderRead = true
      return
    }
    this.#seen += bytes.length
    if (this.#seen > MOST_HEADER)
      throw new DecodeError('file', `its header does not end in ${MOST_HEADER} bytes`)
    this.#tail = text.subarray(Math.max(0, text.length - MAC_MARK.length + 1))
  }
}
const MAC_MARK = utf8('\n--- ')

function indexOf(bytes: Uint8Array, mark: Uint8Array): number {
  for (let at = bytes.indexOf(mark[0] as number); at >= 0; at = bytes.indexOf(mark[0] as number, at + 1))
    if (equalBytes(bytes.subarray(at, at + mark.length), mark)) return at
  return -1
}

/** The same stream with other errors. */
function withErrors(
  stream: ReadableStream<Uint8Array>,
  explain: (error: unknown) => unknown,
): ReadableStream<Uint8Array> {
  const reader = stream.getReader()
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        let read: Awaited<ReturnType<typeof reader.read>>
        try {
          read = await reader.read()
        } catch (error) {
          throw explain(error)
        }
        if (read.done) controller.close()
        else controller.enqueue(read.value)
      },
      cancel: reason => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  )
}
