/**
 * Participants that don't keep to the rules, groups with the secret of one purpose, and what a thief could find in
 * what was said.
 */

import { canonicalHash } from '@milagro-ts/api/canonical-json'
import {
  Ceremony,
  type CeremonyArithmetic,
  CeremonyFault,
  type CeremonyPorts,
  type CeremonyProposal,
  type CeremonyRecord,
  type CeremonyRounds,
  type Predecessor,
  type Round,
} from '@milagro-ts/api/ceremony'
import { documentHash } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { signJws } from '@milagro-ts/api/jws'
import { Es256PublicKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { seal } from '@milagro-ts/api/seal'
import { be32, fromBase64Url, fromUtf8, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { runRounds, TestParticipant } from './ceremony-members.js'
import { fixedRandom } from './fixed-random.js'
import type { Party } from './founding-members.js'

export type Payload = Readonly<Record<string, unknown>>

export const payloadOf = (jws: string): Payload =>
  JSON.parse(fromUtf8(fromBase64Url(jws.split('.')[1] as string, 'jws'), 'jws')) as Payload

/** `payload` as this party's message of the round, whatever it holds. */
export const say = (party: Party, round: Round, payload: object): Promise<string> =>
  signJws(`mpin-ceremony-${round}+jwt`, payload, party.signKey, party.name)

/** chain_r, from the messages in the participants' order. */
export const chainOf = (ceremony: Ceremony, rounds: CeremonyRounds, r: number): Uint8Array =>
  r === 0
    ? ceremony.hash
    : canonicalHash([
        toBase64Url(chainOf(ceremony, rounds, r - 1)),
        ...(rounds[r - 1] as string[]).map(payloadOf),
      ])

/** What f_i(j) is sealed with. */
export const sealInfo = (session: Uint8Array, dealer: number, member: number): Uint8Array =>
  encodeTlv([utf8('ceremony-share'), session, be32(dealer), be32(member)])

/** What a liar knows when it lies. */
export interface Knowledge {
  readonly ceremony: Ceremony
  readonly party: Party
  readonly rounds: CeremonyRounds
  /** Before and after the honest move. */
  readonly before: CeremonyRecord | null
  readonly record: CeremonyRecord
}
export type Lie = (payload: Payload, knowledge: Knowledge) => object | Promise<object>
export type Lies = Readonly<Partial<Record<Round, Lie>>>

/** Moves like an honest one, and says something else in some of the rounds. */
export class Liar extends TestParticipant {
  readonly #lies: Lies

  constructor(party: Party, ceremony: Ceremony, lies: Lies, more: Partial<CeremonyPorts> = {}) {
    super(party, ceremony, more)
    this.#lies = lies
  }

  override async move(round: Round, rounds: CeremonyRounds): Promise<string> {
    const before = this.record
    const honest = await super.move(round, rounds)
    const lie = this.#lies[round]
    if (lie === undefined || before?.said[round] !== undefined) return honest
    const record = this.record as CeremonyRecord
    const { ceremony, party } = this
    const payload = await lie(payloadOf(honest), { ceremony, party, rounds, before, record })
    const said = await say(party, round, payload)
    this.record = { ...record, said: { ...record.said, [round]: said } }
    return said
  }
}

/** What `dealer` would seal for `member`, with any plaintext. */
export async function sealedFor(
  { ceremony, rounds, party }: Pick<Knowledge, 'ceremony' | 'rounds' | 'party'>,
  member: number,
  plaintext: Uint8Array,
): Promise<string> {
  const i = ceremony.dealers.findIndex(({ name }) => name === party.name)
  const p = ceremony.participants.findIndex(one => one.member === member)
  const info = sealInfo(chainOf(ceremony, rounds, 1), ceremony.dealers[i]?.dealer as number, member)
  const { boxes } = payloadOf(rounds[0]?.[p] as string) as { boxes: string[] }
  const box = fromBase64Url(boxes[i] as string, 'box', 32)
  return toBase64Url(await seal(box, info, plaintext, fixedRandom(`${party.name} lies`)))
}

/** Code, and by whom and in which round, or why. */
export const outcome = (answer: Promise<unknown>): Promise<readonly (string | undefined)[]> =>
  answer.then(
    () => ['OK'],
    (error: unknown) => {
      if (error instanceof CeremonyFault) return [error.code, error.round, error.who]
      if (error instanceof Refused) return [error.code, error.detail]
      if (error instanceof DecodeError) return ['MALFORMED', error.field]
      throw error
    },
  )

/** A group that knows the keys of `purposes` alone, as a ceremony's predecessor. */
export function groupWith(
  purposes: readonly Purpose[],
  document: GroupDocument,
  before?: Predecessor,
): Predecessor {
  const keys = new Map(
    purposes.map(purpose => {
      const { former = [], ...newest } = document.purposes[purpose]
      const epochs = [newest, ...former].map(({ epoch, firstSlot, ivk, shares, pub }) => ({
        epoch,
        firstSlot,
        ivk: G1.decode(fromBase64Url(ivk, 'ivk', 48)),
        commitments: shares.map(share => G1.decode(fromBase64Url(share, 'share', 48))),
        pub: pub === undefined ? undefined : G2.decode(fromBase64Url(pub, 'pub', 96)),
      }))
      return [purpose, epochs]
    }),
  )
  return {
    groupId: before?.groupId ?? documentHash(document),
    t: document.t,
    document,
    authorities: document.authorities.map(({ index, name, url, signKey, hpkeKey }) => ({
      index,
      name,
      url,
      signKey: Es256PublicKey.fromBase64Url(signKey),
      hpkeKey: fromBase64Url(hpkeKey, 'hpkeKey', 32),
    })),
    epochs: purpose => keys.get(purpose) as NonNullable<ReturnType<typeof keys.get>>,
  }
}

/** One ceremony for one purpose with liars among the participants, by name. */
export class Scene {
  readonly ceremony: Ceremony
  readonly participants: readonly TestParticipant[]

  constructor(
    proposal: CeremonyProposal,
    parties: readonly Party[],
    {
      purpose = 'sign',
      lies = {},
      before,
      arithmetic,
    }: {
      purpose?: Purpose
      lies?: Readonly<Record<string, Lies>>
      before?: Scene
      arithmetic?: CeremonyArithmetic
    } = {},
  ) {
    this.ceremony = Ceremony.read(proposal, before?.group, [purpose])
    this.participants = this.ceremony.participants.map(({ name }) => {
      const party = parties.find(one => one.name === name) as Party
      const current = before?.participants.find(one => one.party.name === name)?.shares
      return new Liar(party, this.ceremony, lies[name] ?? {}, {
        ...(current && { current }),
        ...(arithmetic && { arithmetic }),
      })
    })
  }

  of(name: string): TestParticipant {
    return this.participants.find(({ party }) => party.name === name) as TestParticipant
  }

  run(last: Round = 'result'): Promise<CeremonyRounds> {
    return runRounds(this.participants, last)
  }

  /** What each honest participant answers to a round, by name. */
  async outcomes(round: Round, rounds: CeremonyRounds): Promise<Record<string, readonly unknown[]>> {
    const said: Record<string, readonly unknown[]> = {}
    for (const { name } of this.ceremony.speakers(round))
      said[name] = await outcome(this.of(name).move(round, rounds))
    return said
  }

  /** Once all results are given. */
  get group(): Predecessor {
    const [first] = this.participants as [TestParticipant]
    return groupWith(this.ceremony.purposes, first.record?.document as GroupDocument, this.ceremony.group)
  }
}

/** Every text of a JSON value, names of members too. */
export function* textsOf(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value
  else if (typeof value === 'object' && value !== null)
    for (const [name, part] of Object.entries(value)) {
      yield name
      yield* textsOf(part)
    }
}

/** Every byte string of a message or a document, inside its JWS too. */
export function* bytesOf(value: unknown): Generator<Uint8Array> {
  for (const text of textsOf(value)) {
    if (/^[^.]+\.[^.]+\.[^.]+$/.test(text)) {
      for (const part of text.split('.')) yield* decoded(part)
      yield* bytesOf(payloadOf(text))
    } else yield* decoded(text)
  }
}

function* decoded(text: string): Generator<Uint8Array> {
  try {
    yield fromBase64Url(text, 'text')
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
  }
}

/** The names of those secrets that stand somewhere in `said`, in bytes, hex or decimal. */
export function found(secrets: ReadonlyMap<string, Uint8Array>, said: unknown): string[] {
  const haystacks = [...textsOf(said)].map(text => text.toLowerCase())
  const bytes = [...bytesOf(said)].map(toHex)
  return [...secrets].flatMap(([name, secret]) => {
    const hex = toHex(secret)
    const decimal = BigInt(`0x${hex}`).toString()
    return bytes.some(text => text.includes(hex)) ||
      haystacks.some(text => text.includes(hex) || text.includes(decimal))
      ? [name]
      : []
  })
}

/** The G2 points in `said` that are not allowed there, by encoding. */
export function strayG2(said: unknown, isAllowed: (point: G2) => boolean): string[] {
  const stray = new Set<string>()
  for (const bytes of bytesOf(said)) {
    if (bytes.length !== 96) continue
    let point: G2
    try {
      point = G2.decode(bytes)
    } catch (error) {
      if (error instanceof DecodeError) continue
      throw error
    }
    if (!isAllowed(point)) stray.add(toBase64Url(bytes))
  }
  return [...stray]
}
