/**
 * The retired wire forms as others published them, field by field, accepted and refused: Milagro's own M-Pin vectors on
 * both curves, and what its C library computes for permits, one pass, Full, DVS, WCC and the PIN error.
 */
import { fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { BLS381, BN254CX, type LegacyCurve } from '@milagro-ts/crypto/legacy/curve'
import { sign, signerKeyPair, signerLogin, signerToken, verify } from '@milagro-ts/crypto/legacy/dvs'
import { hashId, identityPoint } from '@milagro-ts/crypto/legacy/hash-to-curve'
import {
  authorityIssueClientSecret,
  authorityIssuePermit,
  authorityIssueServerSecret,
  type ClientSecrets,
  type Commitment,
  clientBegin,
  clientProveOnePass,
  clientSum,
  type Login,
  loginPoint,
  onePassChallenge,
  serverAnswer,
  serverVerifyOnePass,
  splitPin,
} from '@milagro-ts/crypto/legacy/mpin'
import * as full from '@milagro-ts/crypto/legacy/mpin-full'
import { pinError, pinErrorTerms } from '@milagro-ts/crypto/legacy/pin-error'
import { G1, G2 } from '@milagro-ts/crypto/legacy/points'
import { Scalar } from '@milagro-ts/crypto/legacy/scalar'
import {
  authorityIssueReceiverKey,
  authorityIssueSenderKey,
  exponents,
  receiverAgree,
  senderBegin,
} from '@milagro-ts/crypto/legacy/wcc'
import type { Random } from '@milagro-ts/crypto/ports'
import { describe, expect, test } from 'vitest'
import { readVectors } from './vector-files.js'
import { mustBe } from './world.js'

interface Keys {
  readonly id: string
  readonly masterShares: readonly [string, string]
  readonly serverShares: readonly [string, string]
  readonly clientShares: readonly [string, string]
  readonly server: string
  readonly client: string
  readonly pinOfToken: number
  readonly pinTyped: number
  readonly token: string
  readonly x: string
  readonly y: string
  readonly U: string
  readonly V: string
  readonly accepted: boolean
  readonly hashedId?: string
  readonly day?: number
  readonly permitShares?: readonly [string, string]
  readonly permit?: string
  readonly UT?: string
  /** SEC of two passes. */
  readonly sum?: string
}
interface OnePassRun extends Keys {
  readonly time: number
}
interface AmclRun extends Keys {
  readonly curve: 'BN254CX' | 'BLS381'
  readonly A: string
  readonly H?: string
  readonly E?: string
  readonly F?: string
  readonly kangaroo?: number
  readonly full: Readonly<
    Record<'tokenValue' | 'identityValue' | 'r' | 'Z' | 'w' | 'T' | 'HM' | 'clientKey' | 'serverKey', string>
  >
  readonly dvs: Readonly<
    Record<'z' | 'Pa' | 'client' | 'blinded' | 'token' | 'message' | 'x' | 'y' | 'U' | 'V', string>
  > & { readonly time: number; readonly accepted: boolean }
  readonly wcc: Readonly<
    Record<
      | 'IdA'
      | 'IdB'
      | 'master'
      | 'senderKey'
      | 'receiverKey'
      | 'x'
      | 'y'
      | 'w'
      | 'PaG1'
      | 'PgG1'
      | 'PbG2'
      | 'pi_a'
      | 'pi_b'
      | 'senderK'
      | 'receiverK',
      string
    >
  >
}

const mfa = readVectors<{ twoPass: readonly Keys[]; onePass: readonly OnePassRun[] }>('legacy-bn254cx.json')
const milagro = readVectors<{ records: readonly Keys[] }>('mpin-milagro.json').records
const amcl = readVectors<{ records: readonly AmclRun[] }>('legacy-amcl.json').records

const hex = (value: { encode(): Uint8Array }): string => toHex(value.encode())
/** A source that draws these scalars, one after the other. */
function drawing(...scalars: readonly string[]): Random {
  const rest = [...scalars]
  return length => fromHex(mustBe(rest.shift()).padStart(2 * length, '0'))
}
const numbered = <T>(runs: readonly T[]) => runs.map((run, i) => ({ ...run, number: i + 1 }))

/** Keys, permits and token as authorities and client make them. */
function expectKeys(curve: LegacyCurve, run: Keys): { login: Login; secrets: ClientSecrets; SS: G2 } {
  const hashedId = hashId(curve, fromHex(run.id))
  if (run.hashedId !== undefined) expect(toHex(hashedId)).toBe(run.hashedId)
  const login: Login = run.day === undefined ? { curve, hashedId } : { curve, hashedId, day: run.day }
  const masters = run.masterShares.map(share => Scalar.decode(curve, fromHex(share)))
  const servers = masters.map(authorityIssueServerSecret)
  expect(servers.map(hex)).toEqual(run.serverShares)
  expect(hex(G2.sum(servers))).toBe(run.server)
  const clients = masters.map(s => authorityIssueClientSecret(s, hashedId))
  expect(clients.map(hex)).toEqual(run.clientShares)
  const client = G1.sum(clients)
  expect(hex(client)).toBe(run.client)
  const token = splitPin(client, run.pinOfToken, identityPoint(curve, hashedId))
  expect(hex(token)).toBe(run.token)
  const secrets = { token: G1.decode(curve, fromHex(run.token)), pin: run.pinTyped }
  const SS = G2.decode(curve, fromHex(run.server))
  if (run.day === undefined) return { login, secrets, SS }
  const permits = masters.map(s => authorityIssuePermit(s, hashedId, mustBe(run.day)))
  expect(permits.map(hex)).toEqual(run.permitShares)
  const permit = G1.sum(permits)
  expect(hex(permit)).toBe(run.permit)
  return { login, secrets: { ...secrets, permit }, SS }
}

function expectCommitment(run: { readonly U: string; readonly UT?: string }, { U, UT }: Commitment): void {
  expect(hex(U)).toBe(run.U)
  expect(UT && hex(UT)).toBe(run.UT)
}
const commitmentOf = (curve: LegacyCurve, run: Keys): Commitment => ({
  U: G1.decode(curve, fromHex(run.U)),
  ...(run.UT !== undefined && { UT: G1.decode(curve, fromHex(run.UT)) }),
})

/** Both moves of the client, and the verdict on what stands in the record. */
function expectTwoPasses(curve: LegacyCurve, run: Keys): ReturnType<typeof expectKeys> {
  const made = expectKeys(curve, run)
  const { login, secrets, SS } = made
  const [commitment, awaiting] = clientBegin(login, drawing(run.x))
  expectCommitment(run, commitment)
  const [y, awaitingV] = serverAnswer(login, commitmentOf(curve, run), drawing(run.y))
  expect(hex(y)).toBe(run.y)
  if (run.sum !== undefined) expect(hex(clientSum(login, secrets))).toBe(run.sum)
  expect(hex(awaiting.prove(y, secrets))).toBe(run.V)
  expect(awaitingV.accept(G1.decode(curve, fromHex(run.V)), SS) !== null).toBe(run.accepted)
  return made
}

describe('the retired server on BN254CX, two passes with permits', () => {
  test.each(numbered(mfa.twoPass))('record $number: accepted $accepted', run => {
    expectTwoPasses(BN254CX, run)
  })
})

describe('the retired server on BN254CX, one pass with permits', () => {
  test.each(numbered(mfa.onePass))('record $number: accepted $accepted', run => {
    const { login, secrets, SS } = expectKeys(BN254CX, run)
    const message = new Uint8Array()
    const proof = clientProveOnePass(login, secrets, { time: run.time, message }, drawing(run.x))
    expectCommitment(run, proof)
    expect(hex(onePassChallenge(login, proof, run.time, message))).toBe(run.y)
    expect(hex(proof.V)).toBe(run.V)
    const received = {
      ...commitmentOf(BN254CX, run),
      time: run.time,
      V: G1.decode(BN254CX, fromHex(run.V)),
    }
    expect(serverVerifyOnePass(login, SS, received, message) !== null).toBe(run.accepted)
  })
})

describe('Apache milagro-crypto-c on BLS381, its own hash included', () => {
  test.each(numbered(milagro))('record $number: accepted $accepted', run => {
    expectTwoPasses(BLS381, run)
  })
})

describe.each(numbered(amcl))('milagro-crypto-c 2.0.1, run $number on $curve: accepted $accepted', run => {
  const curve = run.curve === 'BN254CX' ? BN254CX : BLS381
  const decoded = (point: string): G1 => G1.decode(curve, fromHex(point))

  test('two passes and the PIN error', () => {
    const { login, SS } = expectTwoPasses(curve, run)
    expect(hex(identityPoint(curve, login.hashedId))).toBe(run.A)
    if (run.day !== undefined) expect(hex(loginPoint(login))).toBe(run.H)
    if (run.accepted) return
    const y = Scalar.decode(curve, fromHex(run.y))
    const terms = pinErrorTerms(login, SS, commitmentOf(curve, run), y, decoded(run.V))
    expect(hex(terms.E)).toBe(run.E)
    expect(hex(terms.F)).toBe(run.F)
    const delta = pinError(terms)
    expect(delta).toBe(run.pinTyped - run.pinOfToken)
    // Where the kangaroos missed, it says 0.
    if (run.kangaroo !== 0) expect(delta).toBe(run.kangaroo)
  })

  test('Full', () => {
    const login: Login = {
      curve,
      hashedId: hashId(curve, fromHex(run.id)),
      ...(run.day !== undefined && { day: run.day }),
    }
    const token = decoded(run.token)
    const secrets: ClientSecrets = {
      token,
      pin: run.pinTyped,
      ...(run.permit !== undefined && { permit: decoded(run.permit) }),
    }
    const { tokenValue, identityValue } = full.clientPrecompute(login, token)
    expect([hex(tokenValue), hex(identityValue)]).toEqual([run.full.tokenValue, run.full.identityValue])
    const [commitment, awaitingT] = full.clientBegin(login, drawing(run.x, run.full.r))
    expectCommitment(run, commitment)
    expect(hex(commitment.Z)).toBe(run.full.Z)
    const [answer, awaitingV] = full.serverAnswer(login, commitment, drawing(run.y, run.full.w))
    expect(hex(answer.T)).toBe(run.full.T)
    const [V, clientKey] = awaitingT.prove(answer, secrets)
    expect(hex(V)).toBe(run.V)
    expect(toHex(full.transcriptHash(login, commitment, answer, V))).toBe(run.full.HM)
    expect(toHex(clientKey)).toBe(run.full.clientKey)
    const SS = G2.decode(curve, fromHex(run.server))
    const accepted = awaitingV.accept(V, SS)
    expect(accepted && toHex(accepted[1])).toBe(run.accepted ? run.full.clientKey : null)
    const w = Scalar.decode(curve, fromHex(run.full.w))
    expect(toHex(full.serverKey(login, commitment, answer, V, w, SS))).toBe(run.full.serverKey)
    expect(run.full.serverKey === run.full.clientKey).toBe(run.accepted)
  })

  test('DVS', () => {
    const { dvs } = run
    const { z, Pa } = signerKeyPair(curve, drawing(dvs.z))
    expect([hex(z), hex(Pa)]).toEqual([dvs.z, dvs.Pa])
    const login = signerLogin(fromHex(run.id), Pa)
    const s = run.masterShares.map(share => Scalar.decode(curve, fromHex(share))).reduce((a, b) => a.add(b))
    const client = authorityIssueClientSecret(s, login.hashedId)
    expect(hex(client)).toBe(dvs.client)
    expect(hex(client.multiply(z))).toBe(dvs.blinded)
    const token = signerToken(login, z, client, run.pinOfToken)
    expect(hex(token)).toBe(dvs.token)
    const message = fromHex(dvs.message)
    const signature = sign(login, { token, pin: run.pinTyped }, { time: dvs.time, message }, drawing(dvs.x))
    expect(hex(onePassChallenge(login, signature, dvs.time, message))).toBe(dvs.y)
    expect([hex(signature.U), hex(signature.V)]).toEqual([dvs.U, dvs.V])
    const SS = G2.decode(curve, fromHex(run.server))
    expect(verify(fromHex(run.id), G2.decode(curve, fromHex(dvs.Pa)), SS, signature, message)).toBe(
      dvs.accepted,
    )
  })

  test('WCC', () => {
    const { wcc } = run
    const names = { curve, IdA: fromHex(wcc.IdA), IdB: fromHex(wcc.IdB) }
    const s = Scalar.decode(curve, fromHex(wcc.master))
    const senderKey = authorityIssueSenderKey(s, names.IdA)
    const receiverKey = authorityIssueReceiverKey(s, names.IdB)
    expect([hex(senderKey), hex(receiverKey)]).toEqual([wcc.senderKey, wcc.receiverKey])
    const [move, awaiting] = senderBegin(names, senderKey, drawing(wcc.x))
    expect(hex(move.PaG1)).toBe(wcc.PaG1)
    const [reply, receiverK] = receiverAgree(names, receiverKey, move, drawing(wcc.y, wcc.w))
    expect([hex(reply.PbG2), hex(reply.PgG1)]).toEqual([wcc.PbG2, wcc.PgG1])
    const { pi_a, pi_b } = exponents(names, { ...move, ...reply })
    expect([hex(pi_a), hex(pi_b)]).toEqual([wcc.pi_a, wcc.pi_b])
    expect(toHex(receiverK)).toBe(wcc.receiverK)
    expect(toHex(awaiting.agree(reply))).toBe(wcc.senderK)
  })
})

test('there are 216 runs, a third of each set refused', () => {
  const verdicts = [mfa.twoPass, mfa.onePass, milagro, amcl].map(runs => [
    runs.filter(({ accepted }) => accepted).length,
    runs.filter(({ accepted }) => !accepted).length,
  ])
  expect(verdicts).toEqual([
    [40, 20],
    [40, 20],
    [40, 20],
    [24, 12],
  ])
})
