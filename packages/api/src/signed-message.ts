/**
 * A message that a device has signed by itself, and what anyone needs to check it without a network: signature, time
 * permit, and the pinned group document.
 *
 *   device                                                          verifier, offline
 *   U, V over {groupId, idCore, slot, context, message, epoch}
 *   -- message; {groupId, idCore, slot, context, signature, permit} -->
 *                                     the slot is the current one, or the former one within `grace`
 *                                     e(permit, Q) = e(HT, sQ_permit), for this slot, and it covers idCore's leaf
 *                                     e(V, Q) = e(U + cA, sQ_sign)
 *
 * The same as a compact JWS (RFC 7515), with the payload in it or detached (its appendix F): `alg` is ours alone, the
 * signature is over ASCII(header . payload) for the context `jws:` + context, so neither form passes for the other.
 *
 * It says: an identity of this group has signed this for this context, and it wasn't banned when permits of the slot were
 * issued. Which device that is, the RA's register knows. Who was banned since is told by the newest banned leaves alone.
 */
import { equalBytes, fromBase64Url, fromUtf8, nfcUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import {
  Signature,
  type SignatureClaim,
  type SignatureTerms,
  signaturesVerify,
  signatureVerify,
} from '@milagro-ts/crypto/ibs'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { CryptoPool, ProofOrigin } from '@milagro-ts/crypto/node-pool'
import { type G2, PreparedG2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { SUITE } from '@milagro-ts/crypto/suite'
import {
  Permit,
  PermitClaim,
  type PermitTerms,
  permitCovers,
  slotAt,
  slotStart,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import type { Group } from './group.js'
import { Refused } from './problem.js'
import { Bytes, GroupIdField, IdCoreField, PermitField, Strict, Text, Uint32 } from './schemas.js'
import { parseStrictJson } from './strict-json.js'
import Type, { Compile, type Static } from './typebox.js'

/** What goes with the message. */
export const SignedFields = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  groupId: GroupIdField,
  idCore: IdCoreField,
  slot: Uint32,
  /** What the message is for; a signature for one context is none for another. */
  context: Text(256),
  /** U ‖ V */
  signature: Bytes(96, 'bytes'),
  permit: PermitField,
})
export type SignedFields = Static<typeof SignedFields>
const fields = Compile(SignedFields)

/** Of a JWS' `alg`: Cha–Cheon in this suite. Private: no registry has it, and no other library takes it. */
export const JWS_ALG = `MPIN-IBS-${SUITE}`
const JWS_TYP = 'mpin-signed'
/** Contexts that begin so are those of JWS. */
const JWS_CONTEXT = 'jws:'
const { suite: _suite, v: _v, idCore: _idCore, signature: _signature, ...carried } = SignedFields.properties
const JwsHeader = Strict({
  alg: Type.Literal(JWS_ALG),
  typ: Type.Literal(JWS_TYP),
  /** Who signed: the M-Pin ID. */
  kid: IdCoreField,
  ...carried,
})
const jwsHeaders = Compile(JwsHeader)

/** How a signed message is written: the fields beside it, or a compact JWS around or beside it. */
export type SignedForm = 'json' | 'jws' | 'jws-detached'

/** `sign` makes U ‖ V over other bytes and another context in a JWS. DecodeError for a context that is JWS'. */
export function signedAs(
  form: SignedForm,
  message: Uint8Array,
  terms: SignatureTerms,
  { permit, sign }: { permit: Permit; sign: (terms: SignatureTerms, message: Uint8Array) => Signature },
): SignedFields | string {
  const { groupId, idCore, slot, context } = terms
  if (context.startsWith(JWS_CONTEXT)) throw jwsContext()
  if (form === 'json') return signedFields(terms, sign(terms, message), permit)
  const header: Static<typeof JwsHeader> = {
    alg: JWS_ALG,
    typ: JWS_TYP,
    kid: idCore.mpinId,
    groupId: toBase64Url(groupId),
    slot,
    context,
    permit: toBase64Url(permit.encode()),
  }
  const head = toBase64Url(utf8(JSON.stringify(header)))
  const payload = toBase64Url(message)
  const signature = sign({ ...terms, context: JWS_CONTEXT + context }, utf8(`${head}.${payload}`))
  return `${head}.${form === 'jws' ? payload : ''}.${toBase64Url(signature.encode())}`
}

const jwsContext = () => new DecodeError('context', `those that begin with ${JWS_CONTEXT} are those of JWS`)

export function signedFields(
  { groupId, idCore, slot, context }: SignatureTerms,
  signature: Signature,
  permit: Permit,
): SignedFields {
  return {
    suite: SUITE,
    v: 1,
    groupId: toBase64Url(groupId),
    idCore: idCore.mpinId,
    slot,
    context,
    signature: toBase64Url(signature.encode()),
    permit: toBase64Url(permit.encode()),
  }
}

/** Who has signed what for what; only `verify` makes one. */
export class VerifiedMessage {
  readonly idCore: IdCore
  readonly slot: number
  readonly context: string

  private constructor(idCore: IdCore, slot: number, context: string) {
    this.idCore = idCore
    this.slot = slot
    this.context = context
  }

  /**
   * DecodeError for a wrong shape. Refused NOT_APPROVED (another group), EXPIRED (signed for a slot that is over or hasn't
   * begun by this clock, or before the group), WRONG_PERMIT (it doesn't verify, or is for another leaf or slot), WRONG_PROOF
   * (the signature doesn't hold: another message, identity or context).
   */
  static verify({ message, signed, ...terms }: SignedItem & VerificationTerms): VerifiedMessage {
    const { claim, permit, permitTerms, permitKey, signKey, context } = read({ message, signed }, terms)
    const verified = VerifiedPermit.verify(permitTerms, permitKey, permit)
    if (verified?.covers(claim.terms.idCore) !== true) throw wrongPermit()
    if (!signatureVerify(claim.terms, signKey, claim.message, claim.signature)) throw wrongSignature()
    return new VerifiedMessage(claim.terms.idCore, claim.terms.slot, context)
  }

  /**
   * As `verify`, with the pairings in a pool: together with whatever else is there to verify at the moment (node-pool.ts).
   * PoolUnavailable where too many wait.
   * @param source Whose turn it takes; false permits and signatures of a source or an identity are remembered.
   */
  static async verifyIn(
    pool: CryptoPool,
    { message, signed, ...terms }: SignedItem & VerificationTerms,
    source?: ProofOrigin['source'],
  ): Promise<VerifiedMessage> {
    const { signer, bytes, signature, permit, permitTerms, permitKey, signKey, context } = claimOf(
      { message, signed },
      terms,
    )
    const { idCore, ...signTerms } = signer
    if (!permitCovers(permit.target, idCore)) throw wrongPermit()
    const from = { source, identity: idCore.mpinId }
    const [isPermit, holds] = await Promise.all([
      pool.permit({ terms: permitTerms, publicKey: permitKey.encode(), permit: permit.bytes }, from),
      pool.signature(
        { terms: signTerms, idCore: idCore.bytes, publicKey: signKey.encode(), message: bytes, signature },
        from,
      ),
    ])
    if (!isPermit) throw wrongPermit()
    if (!holds) throw wrongSignature()
    return new VerifiedMessage(idCore, signer.slot, context)
  }

  /** Many, by place; what `verify` would throw is the answer in its place. Permits that are carried twice are checked once. */
  static verifyBatch(
    items: readonly SignedItem[],
    terms: VerificationTerms,
    random: Random,
  ): (VerifiedMessage | DecodeError | Refused)[] {
    const readings = items.map(item => expected(() => read(item, terms)))
    const claims = readings.map(reading => (reading instanceof Error ? null : reading))
    const permits = verifyPermits(claims, random)
    const holds = verifySignatures(claims, random)
    return readings.map((reading, i) => {
      if (reading instanceof Error) return reading
      const { idCore, slot } = reading.claim.terms
      if (permits[i]?.covers(idCore) !== true) return wrongPermit()
      return holds[i] === true ? new VerifiedMessage(idCore, slot, reading.context) : wrongSignature()
    })
  }
}

export interface SignedItem {
  readonly message: Uint8Array
  /** SignedFields, or a compact JWS. */
  readonly signed: unknown
}

const SignedLine = Strict({ message: Type.String(), signed: Type.Union([SignedFields, Type.String()]) })
const signedLines = Compile(SignedLine)

/** One of many in a file: {message (base64url), signed: the fields, or a JWS} on a line of its own. */
export function encodeSignedLine({
  message,
  signed,
}: {
  readonly message: Uint8Array
  readonly signed: SignedFields | string
}): string {
  return JSON.stringify({ message: toBase64Url(message), signed } satisfies Static<typeof SignedLine>)
}

/** DecodeError for a line of another shape; what is in it is verified by itself. */
export function decodeSignedLine(line: string): SignedItem {
  let value: unknown
  try {
    value = parseStrictJson(utf8(line))
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    throw new DecodeError('line', error.detail ?? 'not JSON')
  }
  if (!signedLines.Check(value)) throw wrongShape('line', signedLines.Errors(value))
  return { message: fromBase64Url(value.message, 'line.message'), signed: value.signed }
}

export interface VerificationTerms {
  readonly group: Group
  readonly context: string
  /** Unix milliseconds. */
  readonly now: number
}

/** Everything but the points. */
interface Claim {
  readonly signer: SignatureTerms
  /** What was signed: the message, or a JWS' signing input. */
  readonly bytes: Uint8Array
  /** U ‖ V, 96 bytes that may be anything. */
  readonly signature: Uint8Array
  /** What the caller calls it; in a JWS the signer's is another. */
  readonly context: string
  readonly permit: PermitClaim
  readonly permitTerms: PermitTerms
  readonly permitKey: G2
  readonly signKey: G2
}

function claimOf(item: SignedItem, { group, context, now }: VerificationTerms): Claim {
  if (context.startsWith(JWS_CONTEXT)) throw jwsContext()
  const { fields: signed, bytes, isJws } = readForm(item)
  const signedContext = isJws ? JWS_CONTEXT + context : context
  checkContext(signedContext)
  if (!equalBytes(fromBase64Url(signed.groupId, 'groupId', 32), group.groupId))
    throw new Refused('NOT_APPROVED', { detail: 'signed in another group' })
  if (signed.context !== context) throw new Refused('WRONG_PROOF', { detail: 'signed for another context' })
  const { slot } = signed
  checkSlot(group, slot, now)
  const idCore = IdCore.fromBase64Url(signed.idCore)
  const [permitKeys, signKeys] = [group.keysAt('permit', slot), group.keysAt('sign', slot)]
  if (permitKeys === null || signKeys === null)
    throw new Refused('EXPIRED', { detail: 'the group begins later' })
  const { groupId } = group
  const permit = PermitClaim.decode(fromBase64Url(signed.permit, 'permit'))
  if (permit.slot !== slot) throw wrongPermit()
  return {
    signer: {
      groupId,
      idCore,
      slot,
      context: signedContext,
      signEpoch: signKeys.epoch,
    },
    bytes,
    signature: fromBase64Url(signed.signature, 'signature', 96),
    context,
    permit,
    permitTerms: { groupId, permitEpoch: permitKeys.epoch, rule: group.slotRule },
    permitKey: permitKeys.pub as G2,
    signKey: signKeys.pub as G2,
  }
}

/** What the challenge takes in; found there, one item would end the whole batch. */
function checkContext(context: string): void {
  const { length } = nfcUtf8(context, 'context')
  if (length === 0 || length > 256)
    throw new DecodeError('context', `1–256 bytes expected, a JWS' \`${JWS_CONTEXT}\` among them`)
}

/** Everything but the two equations. */
interface Reading {
  readonly claim: SignatureClaim
  readonly context: string
  readonly permit: Permit
  readonly permitTerms: PermitTerms
  readonly permitKey: G2
  readonly signKey: G2
}

function read(item: SignedItem, terms: VerificationTerms): Reading {
  const { signer, bytes, signature, permit, ...rest } = claimOf(item, terms)
  return {
    ...rest,
    permit: Permit.decode(permit.bytes),
    claim: { terms: signer, message: bytes, signature: Signature.decode(signature) },
  }
}

/** The fields of either form, and the bytes that were signed. */
function readForm({ message, signed }: SignedItem): {
  fields: SignedFields
  bytes: Uint8Array
  isJws: boolean
} {
  if (typeof signed === 'string') return readJws(message, signed)
  if (!fields.Check(signed)) throw wrongShape('signed', fields.Errors(signed))
  return { fields: signed, bytes: message, isJws: false }
}

function readJws(message: Uint8Array, jws: string) {
  const [head, payload, signature, ...more] = jws.split('.')
  if (head === undefined || payload === undefined || signature === undefined || more.length > 0)
    throw new DecodeError('jws', 'not a compact JWS')
  const header = headerOf(head)
  const own = toBase64Url(message)
  if (payload !== '' && payload !== own)
    throw new Refused('WRONG_PROOF', { detail: 'signed over another message' })
  const { alg: _alg, typ: _typ, kid: idCore, ...rest } = header
  return {
    fields: { suite: SUITE, v: 1, idCore, signature, ...rest } as const,
    bytes: utf8(`${head}.${own}`),
    isJws: true,
  }
}

function headerOf(head: string): Static<typeof JwsHeader> {
  const text = fromUtf8(fromBase64Url(head, 'jws.header'), 'jws.header')
  let header: unknown
  try {
    header = JSON.parse(text)
  } catch {
    throw new DecodeError('jws.header', 'not JSON')
  }
  if (!jwsHeaders.Check(header)) throw wrongShape('jws.header', jwsHeaders.Errors(header))
  return header
}

function wrongShape(
  field: string,
  faults: readonly { instancePath: string; message: string }[],
): DecodeError {
  const [first] = faults
  return new DecodeError(
    `${field}${(first?.instancePath ?? '').replaceAll('/', '.')}`,
    first?.message ?? 'wrong shape',
  )
}

const wrongPermit = () => new Refused('WRONG_PERMIT', { detail: 'no permit of this identity for this slot' })
const wrongSignature = () =>
  new Refused('WRONG_PROOF', { detail: 'the signature does not hold for this message' })

/** A DecodeError or a refusal as a value; everything else is thrown. */
function expected<T>(make: () => T): T | DecodeError | Refused {
  try {
    return make()
  } catch (error) {
    if (error instanceof DecodeError || error instanceof Refused) return error
    throw error
  }
}

/** By place. A slot fixes the key epoch, so what is of one slot is under one key. */
function verifyPermits(readings: readonly (Reading | null)[], random: Random): (VerifiedPermit | null)[] {
  const slots = new Map<number, Map<string, Reading>>()
  const nameOf = ({ permit }: Reading) => toBase64Url(permit.encode())
  for (const reading of readings) {
    if (reading === null) continue
    const { slot } = reading.permit
    const ofSlot = slots.get(slot) ?? new Map<string, Reading>()
    slots.set(slot, ofSlot.set(nameOf(reading), reading))
  }
  const verified = new Map<string, VerifiedPermit | null>()
  for (const ofSlot of slots.values()) {
    const distinct = [...ofSlot.values()]
    const [{ permitTerms, permitKey }] = distinct as [Reading]
    const permits = distinct.map(({ permit }) => permit)
    const verdicts = VerifiedPermit.verifyBatch(permitTerms, PreparedG2.of(permitKey), permits, random)
    distinct.forEach((reading, i) => {
      verified.set(nameOf(reading), verdicts[i] ?? null)
    })
  }
  return readings.map(reading => (reading === null ? null : (verified.get(nameOf(reading)) ?? null)))
}

function verifySignatures(readings: readonly (Reading | null)[], random: Random): boolean[] {
  const holds = readings.map(() => false)
  const slots = new Map<number, number[]>()
  readings.forEach((reading, i) => {
    if (reading === null) return
    const { slot } = reading.claim.terms
    const places = slots.get(slot)
    if (places === undefined) slots.set(slot, [i])
    else places.push(i)
  })
  for (const places of slots.values()) {
    const ofSlot = places.map(i => readings[i] as Reading)
    const [{ signKey }] = ofSlot as [Reading]
    const verdicts = signaturesVerify(
      ofSlot.map(({ claim }) => claim),
      signKey,
      random,
    )
    places.forEach((place, i) => {
      holds[place] = verdicts[i] === true
    })
  }
  return holds
}

function checkSlot({ slotRule, policy }: Group, slot: number, now: number): void {
  const seconds = Math.floor(now / 1000)
  const current = seconds < slotRule.origin ? -1 : slotAt(slotRule, seconds)
  if (slot > current) throw new Refused('EXPIRED', { detail: 'its slot has not begun by this clock' })
  const isFormer = slot === current - 1 && seconds - slotStart(slotRule, current) < policy.grace
  if (slot < current && !isFormer)
    throw new Refused('EXPIRED', { detail: `its slot ended ${current - slot} slots ago` })
}
