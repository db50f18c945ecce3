/** M-Pin Full: its run, the vector of an independent implementation, and what must fail. */
import { fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { IdCore } from '@milagro-ts/crypto/identity'
import { DeviceProven, LoginMessage, type LoginTerms, MODE } from '@milagro-ts/crypto/mpin'
import { clientBegin, serverAnswer } from '@milagro-ts/crypto/mpin-full'
import { G1, G2, pairing } from '@milagro-ts/crypto/points'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { describe, expect, test } from 'vitest'
import { hexOf, point1, point2, readVectors } from './vector-files.js'
import {
  binding,
  digestOf,
  frozen,
  keysOf,
  makeCar,
  masters,
  mustBe,
  nonceTerms,
  scalarOf,
  seeded,
  timeTerms,
} from './world.js'

const S_dev = masters.device.serverKey

/** Everything up to the server's wait for R. */
function begun(terms: LoginTerms = nonceTerms, seed = 'full') {
  const { D_dev } = keysOf(terms.idCore)
  const [message, awaitingW] = clientBegin({ terms, binding, deviceKey: D_dev, random: seeded(seed) })
  const proven = mustBe(DeviceProven.verify(LoginMessage.decode(message.encode()), binding, S_dev))
  const [{ W }, awaitingR] = serverAnswer(proven, S_dev, seeded(`${seed} server`))
  return { message, awaitingW, W, awaitingR }
}

test.each([
  ['a nonce', nonceTerms],
  ['a time: one move less', timeTerms],
])('both ends hold the same two keys, after %s', (_, terms) => {
  const { awaitingW, W, awaitingR } = begun(terms)
  const [first, awaitingConfirmation] = awaitingW.confirm(G1.decode(W.encode()))
  const [second, atServer] = mustBe(awaitingR.accept({ ...first, R: G1.decode(first.R.encode()) }))
  const atClient = mustBe(awaitingConfirmation.accept(second))
  expect(atClient).toEqual(atServer)
  expect(toHex(atClient.client)).not.toBe(toHex(atClient.server))
})

test('the vector, byte for byte', () => {
  interface Vector {
    readonly shares: { readonly masters: { readonly device: { readonly IVK: string; readonly S: string } } }
    readonly identity: { readonly groupId: string; readonly idCore: string }
    readonly login: {
      readonly D_dev: string
      readonly device: {
        readonly audience: string
        readonly keyEpoch: number
        readonly slot: number
        readonly nonce: string
        readonly random_x: string
      }
    }
    readonly mpinFull: Readonly<
      Record<'random_w' | 'random_r' | 'W' | 'R' | 'U_dev' | 'V_dev' | 'transcript' | 'h', string> &
        Record<'keyClient' | 'keyServer' | 'confirmClient' | 'confirmServer', string>
    >
  }
  const v1 = readVectors<Vector>('v1.json')
  const { device } = v1.login
  const full = v1.mpinFull
  const inTurn = (...answers: readonly string[]) => {
    const left = [...answers]
    return () => fromHex(mustBe(left.shift()))
  }
  const key = mustBe(
    ServerKey.verify(point1(v1.shares.masters.device.IVK), point2(v1.shares.masters.device.S)),
  )
  const vectorBinding = { groupId: fromHex(v1.identity.groupId) }
  const [message, awaitingW] = clientBegin({
    terms: {
      mode: MODE.nonce,
      audience: device.audience,
      deviceEpoch: device.keyEpoch,
      slot: device.slot,
      idCore: IdCore.decode(fromHex(v1.identity.idCore)),
      nonce: fromHex(device.nonce),
    },
    binding: vectorBinding,
    deviceKey: point1(v1.login.D_dev),
    random: inTurn(device.random_x, full.random_r),
  })
  expect([hexOf(message.U_dev), hexOf(message.V_dev)]).toEqual([full.U_dev, full.V_dev])
  const proven = mustBe(DeviceProven.verify(message, vectorBinding, key))
  const [{ W }, awaitingR] = serverAnswer(proven, key, inTurn(full.random_w))
  expect(hexOf(W)).toBe(full.W)
  const [first, awaitingConfirmation] = awaitingW.confirm(W)
  expect(hexOf(first.R)).toBe(full.R)
  expect(toHex(first.confirmation)).toBe(full.confirmClient)
  const [second, atServer] = mustBe(awaitingR.accept(first))
  expect(toHex(second)).toBe(full.confirmServer)
  expect(mustBe(awaitingConfirmation.accept(second))).toEqual(atServer)
  expect([toHex(atServer.client), toHex(atServer.server)]).toEqual([full.keyClient, full.keyServer])
  expect(hexOf(hashToScalar('FULL', encodeTlv([fromHex(full.transcript)])))).toBe(full.h)
})

describe('attacks', () => {
  test('a replayed message alone gets W and nothing more: no confirmation, no key', () => {
    const { message, awaitingR } = begun()
    const guess = { R: message.U_dev, confirmation: new Uint8Array(32) }
    expect(awaitingR.accept(guess)).toBeNull()
  })

  test('a run is over after one answer, right or wrong, on both ends', () => {
    const { awaitingW, W, awaitingR } = begun()
    const [first] = awaitingW.confirm(W)
    expect(() => awaitingW.confirm(W)).toThrow(TypeError)
    expect(awaitingR.accept({ ...first, confirmation: digestOf('wrong') })).toBeNull()
    expect(() => awaitingR.accept(first)).toThrow(TypeError)
  })

  test('a phisher without S can’t confirm, whatever W it sends', () => {
    const { awaitingW } = begun()
    const [, awaitingConfirmation] = awaitingW.confirm(G1.generator)
    for (const guess of [new Uint8Array(32), digestOf('a guess')]) {
      expect(awaitingConfirmation.accept(guess)).toBeNull()
    }
  })

  test('r is independent of x, and of W: with r = x, V and R give the shared value away', () => {
    const { message, awaitingW, W } = begun(nonceTerms, 'phished')
    const [{ R }] = awaitingW.confirm(W)
    expect(R.equals(message.U_dev)).toBe(false)
    // What a phisher would hold if r were x: V = −(x + c)D is on the wire, so e(D, Q)^(x+c) is public.
    const { D_dev, A_dev } = keysOf(nonceTerms.idCore)
    const x = hashToScalar('NONCE', digestOf('any x'))
    const c = hashToScalar('CHAL', digestOf('any c'))
    const V = D_dev.mulSecret(x.add(c)).negate()
    const asServer = pairing(A_dev.mulSecret(x).add(A_dev.mulPublic(c)), S_dev.point)
    expect(pairing(V.negate(), G2.generator).equals(asServer)).toBe(true)
  })

  test('a random source that gives the same for ever still draws x, r and w apart, and r anew for another W', () => {
    const { D_dev, A_dev } = keysOf(nonceTerms.idCore)
    const begin = () => clientBegin({ terms: nonceTerms, binding, deviceKey: D_dev, random: frozen })
    const [message, one] = begin()
    const [, other] = begin()
    const proven = mustBe(DeviceProven.verify(message, binding, S_dev))
    const [{ W }] = serverAnswer(proven, S_dev, frozen)
    const [{ R }] = one.confirm(W)
    const [{ R: another }] = other.confirm(G1.generator)
    const spellings = [message.U_dev, W, R, another].map(hexOf)
    expect(new Set(spellings).size).toBe(4)
    expect(spellings).not.toContain(hexOf(A_dev))
  })

  test('every part of the transcript is in the keys: R and W changed on the way, another run’s confirmation', () => {
    const honest = begun()
    const [first] = honest.awaitingW.confirm(honest.W)
    // R replaced on the way.
    expect(honest.awaitingR.accept({ ...first, R: first.R.add(G1.generator) })).toBeNull()
    // W replaced on the way.
    const swapped = begun()
    const [forOther] = swapped.awaitingW.confirm(swapped.W.add(G1.generator))
    expect(swapped.awaitingR.accept(forOther)).toBeNull()
    // The confirmation of another run.
    const [a, b] = [begun(nonceTerms, 'a'), begun(nonceTerms, 'b')]
    const [fromA] = a.awaitingW.confirm(a.W)
    expect(b.awaitingR.accept(fromA)).toBeNull()
  })

  test('another car’s key does not end a run that this car began', () => {
    const { W, awaitingR } = begun()
    const thief = clientBegin({
      terms: { ...nonceTerms, idCore: makeCar(6) },
      binding,
      deviceKey: keysOf(makeCar(6)).D_dev,
      random: seeded('thief'),
    })[1]
    const [confirmation] = thief.confirm(W)
    expect(awaitingR.accept(confirmation)).toBeNull()
  })

  test('R chosen to cancel h·A: h hashes R, so what was chosen for is another h', () => {
    const { message, awaitingR, W } = begun()
    const { A_dev } = keysOf(nonceTerms.idCore)
    // With R = t·A − h·A anyone would know e(R + hA, S) = e(t·A, S) = e(t·P, S)^a; h is fixed only once R is.
    const t = scalarOf('t')
    const guessed = hashToScalar('FULL', digestOf('a guess'))
    const R = A_dev.mulPublic(t).subtract(A_dev.mulPublic(guessed))
    expect(awaitingR.accept({ R, confirmation: digestOf('a guess') })).toBeNull()
    expect(R.equals(message.U_dev) || R.equals(W)).toBe(false)
  })

  test('D and S, stolen later, give the shared value of a recorded run and not its keys: x·W is missing', () => {
    const { message, awaitingW, W, awaitingR } = begun()
    const [first, awaitingConfirmation] = awaitingW.confirm(W)
    const [second] = mustBe(awaitingR.accept(first))
    const keys = mustBe(awaitingConfirmation.accept(second))
    // The server again, with S and everything that was on the wire, but another w.
    const proven = mustBe(DeviceProven.verify(message, binding, S_dev))
    const [{ W: another }, again] = serverAnswer(proven, S_dev, seeded('the thief’s'))
    expect(again.accept(first)).toBeNull()
    // The client again, with D, but another x.
    const { D_dev } = keysOf(nonceTerms.idCore)
    const replayed = clientBegin({ terms: nonceTerms, binding, deviceKey: D_dev, random: seeded('x') })[1]
    const [, thief] = replayed.confirm(W)
    expect(thief.accept(second)).toBeNull()
    expect(another.equals(W)).toBe(false)
    expect(toHex(keys.client)).not.toBe(toHex(keys.server))
  })

  test('ρA_pin mixed into the first move tests no PIN: the device proof fails, and there is no run', () => {
    const { D_dev, A_pin } = keysOf(nonceTerms.idCore)
    const [message] = clientBegin({
      terms: nonceTerms,
      binding,
      deviceKey: D_dev.add(A_pin),
      random: seeded('mixed'),
    })
    expect(DeviceProven.verify(message, binding, S_dev)).toBeNull()
  })

  test.each([0, 31, 33])('a confirmation of %i bytes is malformed', length => {
    const { awaitingW, W, awaitingR } = begun()
    const [first, awaitingConfirmation] = awaitingW.confirm(W)
    expect(() => awaitingR.accept({ ...first, confirmation: new Uint8Array(length) })).toThrow(DecodeError)
    expect(() => awaitingConfirmation.accept(new Uint8Array(length))).toThrow(DecodeError)
  })
})
