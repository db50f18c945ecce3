/**
 * A track as a hash chain: every batch of positions names the head before it, and the vehicle signs the new head.
 *
 *   vehicle                                                tracking server
 *   head₀ = trackStart(groupId, idCore)                    the same, before the first batch
 *   headₙ = SHA-256(TLV{idCore, n, headₙ₋₁, positions})
 *   word = over headPayload(n, headₙ): the RPS's receipt,
 *          or the vehicle's own signature with its permit
 *        -- n, headₙ₋₁, positions, headₙ, word -->         checkBatch(end, batch): n and headₙ₋₁ are where the track
 *                                                          ends, times only ascend, headₙ is recomputed
 *
 * So a batch that is lost, sent twice, swapped with another or put on another vehicle's track does not fit, and
 * whoever holds the last head and its word can show that nothing before it was changed. A receipt costs a request to the
 * RPS for each batch and is checked with the RPS' public keys; a signature costs nobody anything until it is checked, by
 * whoever has the group document.
 */
import type { SignedFields } from '@milagro-ts/api/signed-message'
import { be16, be32, be64, concat, equalBytes, readInteger, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { LAT_LIMIT, LON_LIMIT } from './gpx.js'

export interface Position {
  /** Unix milliseconds. */
  readonly at: number
  readonly latE7: number
  readonly lonE7: number
  /** Centimetres per second, 0–65 535. */
  readonly speed: number
  /** Compass degrees, 0–359. */
  readonly heading: number
}

/** Who says that the head is the vehicle's: the RPS, or the vehicle itself. */
export type HeadWord = { readonly receipt: string } | { readonly signed: SignedFields }

/** Where a track ends: the number that its next batch has, the head it builds on, and the time of its last position. */
export interface TrackEnd {
  readonly next: number
  readonly head: Uint8Array
  readonly at: number
}

export interface Batch {
  /** 1 for the first batch of a track. */
  readonly number: number
  readonly previous: Uint8Array
  readonly positions: readonly Position[]
  readonly head: Uint8Array
}

/** The end of a track that has no batch yet. */
export function trackStart(groupId: Uint8Array, idCore: Uint8Array): TrackEnd {
  return { next: 1, head: sha256(encodeTlv([utf8('track-start'), groupId, idCore])), at: 0 }
}

/** The vehicle's side: the batch that carries `positions` on from `end`. Throws DecodeError as `checkBatch` does. */
export function appendBatch(
  idCore: Uint8Array,
  end: TrackEnd,
  positions: readonly Position[],
): [Batch, TrackEnd] {
  const last = checkTimes(end, positions)
  const head = headOf(idCore, end.next, end.head, positions)
  return [
    { number: end.next, previous: end.head, positions, head },
    { next: end.next + 1, head, at: last },
  ]
}

export type BatchFault =
  /** Its number is beyond the next one: something in between is missing. */
  | 'gap'
  /** Its number has been used, by the very same batch if it is the last one. */
  | 'repeated'
  /** It builds on another head than the track's. */
  | 'fork'
  /** Its positions are not in the order of their times. */
  | 'reordered'
  /** The head is not the hash of the batch. */
  | 'wrong-head'

/** The server's side: the track's new end, or what is wrong with the batch. Positions have passed their schema. */
export function checkBatch(idCore: Uint8Array, end: TrackEnd, batch: Batch): TrackEnd | BatchFault {
  if (batch.number > end.next) return 'gap'
  if (batch.number < end.next) return 'repeated'
  if (!equalBytes(batch.previous, end.head)) return 'fork'
  let at = end.at
  for (const position of batch.positions) {
    if (position.at <= at) return 'reordered'
    at = position.at
  }
  if (!equalBytes(headOf(idCore, batch.number, batch.previous, batch.positions), batch.head))
    return 'wrong-head'
  return { next: batch.number + 1, head: batch.head, at }
}

/** What a vehicle's own signature over a head is for. */
export const HEAD_CONTEXT = 'head of a track'

/** What the vehicle signs, at the RPS or by itself; the receipt's payloadHash is the SHA-256 of it. */
export function headPayload(number: number, head: Uint8Array): Uint8Array {
  return encodeTlv([utf8('track-head'), be32(number), head])
}

/** SHA-256(TLV{1 'track-batch', 2 idCore, 3 be32 number, 4 previous head, 5 positions, 20 bytes each}). */
function headOf(
  idCore: Uint8Array,
  number: number,
  previous: Uint8Array,
  positions: readonly Position[],
): Uint8Array {
  return sha256(encodeTlv([utf8('track-batch'), idCore, be32(number), previous, encodePositions(positions)]))
}

const POSITION_BYTES = 20

export function encodePositions(positions: readonly Position[]): Uint8Array {
  return concat(...positions.map(encodePosition))
}

/** The inverse of `encodePositions`. Throws DecodeError on a length that is no multiple of 20, or out of range. */
export function decodePositions(bytes: Uint8Array): Position[] {
  if (bytes.length % POSITION_BYTES !== 0) throw new DecodeError('positions', 'not a multiple of 20 bytes')
  const positions: Position[] = []
  for (let at = 0; at < bytes.length; at += POSITION_BYTES) {
    const read = (offset: number, size: number) =>
      readInteger(bytes.subarray(at + offset, at + offset + size), size, 'positions')
    const position = {
      at: read(0, 8),
      latE7: read(8, 4) - LAT_LIMIT,
      lonE7: read(12, 4) - LON_LIMIT,
      speed: read(16, 2),
      heading: read(18, 2),
    }
    if (position.latE7 > LAT_LIMIT || position.lonE7 > LON_LIMIT || position.heading > 359) {
      throw new DecodeError('positions', 'out of range')
    }
    positions.push(position)
  }
  return positions
}

/** be64 at ‖ be32 latE7 + 90° ‖ be32 lonE7 + 180° ‖ be16 speed ‖ be16 heading. Throws RangeError out of range. */
export function encodePosition(position: Position): Uint8Array {
  if (
    Math.abs(position.latE7) > LAT_LIMIT ||
    Math.abs(position.lonE7) > LON_LIMIT ||
    position.heading > 359
  ) {
    throw new RangeError('position out of range')
  }
  return concat(
    be64(position.at),
    be32(position.latE7 + LAT_LIMIT),
    be32(position.lonE7 + LON_LIMIT),
    be16(position.speed),
    be16(position.heading),
  )
}

function checkTimes(end: TrackEnd, positions: readonly Position[]): number {
  if (positions.length === 0) throw new DecodeError('positions', 'a batch has at least one')
  let at = end.at
  for (const position of positions) {
    if (position.at <= at) throw new DecodeError('positions', 'times must ascend')
    at = position.at
  }
  return at
}
