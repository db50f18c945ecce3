/** Chow–Choo: a run, the vector of an independent implementation, and what each stolen key is worth. */
import { concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { clientBegin, serverAgree } from '@milagro-ts/crypto/chow-choo'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { agreePointG1, agreePointG2, encodeName } from '@milagro-ts/crypto/identity'
import { deriveKey } from '@milagro-ts/crypto/kdf'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import { G1, G2, type GT, pairing } from '@milagro-ts/crypto/points'
import { SUITE } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { describe, expect, test } from 'vitest'
import { hexOf, point1, point2, readVectors } from './vector-files.js'
import { car, frozen, groupId, makeCar, mustBe, scalarOf, seeded } from './world.js'

const s = scalarOf('master agree')
const names = {
  IdC: encodeName(groupId, { kind: 1, idCore: car, slot: 100 }),
  IdS: encodeName(groupId, { kind: 3, name: 'gw.example', generation: 1 }),
}
const clientKey = agreePointG2(names.IdC).mulSecret(s)
const serverKey = agreePointG1(names.IdS).mulSecret(s)

test('both sides hold one key of 32 bytes', () => {
  const [move, awaiting] = clientBegin(names, clientKey, seeded('client'))
  const received = { PC: G2.decode(move.PC.encode()), PG: G1.decode(move.PG.encode()) }
  const [answer, atServer] = serverAgree(names, serverKey, received, seeded('server'))
  const atClient = awaiting.agree({ PS: G1.decode(answer.PS.encode()) })
  expect(atClient).toHaveLength(32)
  expect(toHex(atClient)).toBe(toHex(atServer))
})

test('the vector, byte for byte', () => {
  interface Vector {
    readonly chowChoo: Readonly<
      Record<
        | 'IdC'
        | 'IdS'
        | 'clientKey'
        | 'serverKey'
        | 'random_x'
        | 'random_y'
        | 'random_w'
        | 'PS'
        | 'PC'
        | 'PG'
        | 'K',
        string
      >
    >
  }
  const { chowChoo } = readVectors<Vector>('v1.json')
  const vectorNames = { IdC: fromHex(chowChoo.IdC), IdS: fromHex(chowChoo.IdS) }
  const draws = [chowChoo.random_y, chowChoo.random_w]
  const [move, awaiting] = clientBegin(vectorNames, point2(chowChoo.clientKey), () =>
    fromHex(mustBe(draws.shift())),
  )
  expect([hexOf(move.PC), hexOf(move.PG)]).toEqual([chowChoo.PC, chowChoo.PG])
  const [answer, K] = serverAgree(vectorNames, point1(chowChoo.serverKey), move, () =>
    fromHex(chowChoo.random_x),
  )
  expect(hexOf(answer.PS)).toBe(chowChoo.PS)
  expect(toHex(K)).toBe(chowChoo.K)
  expect(toHex(awaiting.agree(answer))).toBe(chowChoo.K)
})

describe('no common key', () => {
  /** K of an honest client that believes it talks to `names`, and what an impostor makes of the same messages. */
  const against = (impostor: (move: { PC: G2; PG: G1 }) => readonly [{ PS: G1 }, Uint8Array]) => {
    const [move, awaiting] = clientBegin(names, clientKey, seeded('client'))
    const [answer, K] = impostor(move)
    return { atClient: toHex(awaiting.agree(answer)), atImpostor: toHex(K) }
  }

  test('with a server that holds another name’s key', () => {
    const other = encodeName(groupId, { kind: 3, name: 'other.example', generation: 1 })
    const { atClient, atImpostor } = against(move =>
      serverAgree(names, agreePointG1(other).mulSecret(s), move, seeded('server')),
    )
    expect(atImpostor).not.toBe(atClient)
  })
  test('when the two mean different names', () => {
    const { atClient, atImpostor } = against(move =>
      serverAgree(
        { ...names, IdC: encodeName(groupId, { kind: 1, idCore: makeCar(6), slot: 100 }) },
        serverKey,
        move,
        seeded('server'),
      ),
    )
    expect(atImpostor).not.toBe(atClient)
  })
  test('when the client’s key is of another slot', () => {
    const [move, awaiting] = clientBegin(
      names,
      agreePointG2(encodeName(groupId, { kind: 1, idCore: car, slot: 99 })).mulSecret(s),
      seeded('late'),
    )
    const [answer, K] = serverAgree(names, serverKey, move, seeded('server'))
    expect(toHex(awaiting.agree(answer))).not.toBe(toHex(K))
  })
  test('when a message was changed on the way', () => {
    const changes = [
      (move: { PC: G2; PG: G1 }) => ({ ...move, PC: move.PC.add(G2.generator) }),
      (move: { PC: G2; PG: G1 }) => ({ ...move, PG: move.PG.add(G1.generator) }),
    ]
    for (const change of changes) {
      const { atClient, atImpostor } = against(move =>
        serverAgree(names, serverKey, change(move), seeded('server')),
      )
      expect(atImpostor).not.toBe(atClient)
    }
    const { atClient, atImpostor } = against(move => {
      const [{ PS }, K] = serverAgree(names, serverKey, move, seeded('server'))
      return [{ PS: PS.add(G1.generator) }, K]
    })
    expect(atImpostor).not.toBe(atClient)
  })
  test('key compromise: who stole the client’s key does not play the server to it by what it can compute', () => {
    // The thief runs the server's side, with each value it can make in the place of sHk1(IdS).
    const stand = [
      agreePointG1(names.IdS),
      G1.generator,
      G1.generator.mulSecret(s),
      agreePointG1(names.IdC).mulSecret(s),
    ]
    for (const instead of stand) {
      const { atClient, atImpostor } = against(move => serverAgree(names, instead, move, seeded('thief')))
      expect(atImpostor).not.toBe(atClient)
    }
  })
  test('key compromise: who stole the server’s key does not play the client to it by what it can compute', () => {
    const stand = [
      agreePointG2(names.IdC),
      G2.generator,
      agreePointG2(names.IdS).mulSecret(s),
      agreePointG2(encodeName(groupId, { kind: 1, idCore: car, slot: 99 })).mulSecret(s),
    ]
    for (const instead of stand) {
      const [move, awaiting] = clientBegin(names, instead, seeded('thief'))
      const [answer, atServer] = serverAgree(names, serverKey, move, seeded('server'))
      expect(toHex(awaiting.agree(answer))).not.toBe(toHex(atServer))
    }
    // With the client's own key the same moves succeed: it is the key alone that is missing.
    const [move, awaiting] = clientBegin(names, clientKey, seeded('thief'))
    const [answer, atServer] = serverAgree(names, serverKey, move, seeded('server'))
    expect(toHex(awaiting.agree(answer))).toBe(toHex(atServer))
  })
  test('unknown key share: who passes the messages on under its own name has neither side’s key', () => {
    // Mallory is enrolled. The client means the server; the server is told that it is Mallory who speaks.
    const mallory = encodeName(groupId, { kind: 1, idCore: makeCar(7), slot: 100 })
    const malloryKey = agreePointG2(mallory).mulSecret(s)
    const [move, awaiting] = clientBegin(names, clientKey, seeded('client'))
    const [answer, atServer] = serverAgree({ ...names, IdC: mallory }, serverKey, move, seeded('server'))
    const atClient = toHex(awaiting.agree(answer))
    expect(toHex(atServer)).not.toBe(atClient)
    // Nor does it make the server's key with its own: y and w are the client's.
    const [, own] = clientBegin({ ...names, IdC: mallory }, malloryKey, seeded('mallory'))
    expect([atClient, toHex(atServer)]).not.toContain(toHex(own.agree(answer)))
  })
  test('forward secrecy: both keys stolen later open no recorded run; w or x beside them does', () => {
    const { IdC, IdS } = names
    const [move, awaiting] = clientBegin(names, clientKey, seeded('client'))
    const [{ PS }, K] = serverAgree(names, serverKey, move, seeded('server'))
    expect(toHex(awaiting.agree({ PS }))).toBe(toHex(K))
    const [pc, ps, pg] = [move.PC.encode(), PS.encode(), move.PG.encode()]
    const pi_c = hashToScalar('CHOW-CHOO', encodeTlv([pc, ps, pg, IdS]))
    const pi_s = hashToScalar('CHOW-CHOO', encodeTlv([ps, pc, pg, IdC]))
    const info = encodeTlv([utf8(SUITE), utf8('client'), IdC, utf8('server'), IdS, pc, ps, pg])
    const keyWith = (shared: GT, ephemeral: G1) =>
      toHex(deriveKey('CHOW-CHOO', concat(shared.toBytes(), ephemeral.encode()), info))
    // s·(πs·Hk1(IdS) + PS) takes x·s·Hk1(IdS): with x the whole of it is computed, and by w the last factor alone.
    const x = hedgedNonce(
      NONCE_ROLE.xChowChoo,
      seeded('server'),
      serverKey.encode(),
      encodeTlv([utf8(SUITE), utf8('client'), IdC, utf8('server'), IdS]),
    )
    expect(hexOf(agreePointG1(IdS).mulSecret(x))).toBe(hexOf(PS))
    const shared = pairing(serverKey.mulSecret(x.add(pi_s)), agreePointG2(IdC).mulPublic(pi_c).add(move.PC))
    expect(keyWith(shared, move.PG.mulSecret(x))).toBe(toHex(K))
    // Even who has k itself lacks w·x·Hk1(IdS): what the keys and the messages give is none of it.
    const without = [agreePointG1(IdS), PS, move.PG, PS.add(move.PG), serverKey, serverKey.add(PS)]
    for (const instead of without) expect(keyWith(shared, instead)).not.toBe(toHex(K))
  })
  test('between a recorded run and a later one: both sides draw anew', () => {
    const run = (seed: string) => {
      const [move, awaiting] = clientBegin(names, clientKey, seeded(`${seed} client`))
      const [answer] = serverAgree(names, serverKey, move, seeded(`${seed} server`))
      return { move, answer, K: toHex(awaiting.agree(answer)) }
    }
    const recorded = run('recorded')
    // Replaying the recorded client to the server that has another x gives another key.
    const [, again] = serverAgree(names, serverKey, recorded.move, seeded('again'))
    expect(toHex(again)).not.toBe(recorded.K)
    expect(run('other').K).not.toBe(recorded.K)
  })
})

test('a state is good for one answer', () => {
  const [move, awaiting] = clientBegin(names, clientKey, seeded('client'))
  const [answer] = serverAgree(names, serverKey, move, seeded('server'))
  awaiting.agree(answer)
  expect(() => awaiting.agree(answer)).toThrow(TypeError)
})

test('a random source that gives the same for ever draws other values for another peer', () => {
  const [move] = clientBegin(names, clientKey, frozen)
  const other = { ...names, IdS: encodeName(groupId, { kind: 3, name: 'b.example', generation: 1 }) }
  const [elsewhere] = clientBegin(other, clientKey, frozen)
  expect(move.PC.equals(elsewhere.PC)).toBe(false)
})
