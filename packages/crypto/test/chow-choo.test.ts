/** Chow–Choo: a run, the vector of an independent implementation, and what each stolen key is worth. */
import { concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { clientBegin, serverAgree } from '@milagro-ts/crypto/chow-choo'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { agreePointG1, agreePointG2, encodeName } from '@milagro-ts/crypto/identity'
import { deriveKey } from '@milagro-ts/crypto/kdf'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import { G1, G2, type GT, pairing } from '@milagro-ts/crypto/points'
import type { Scalar } from '@milagro-ts/crypto/scalar'
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
const { IdC, IdS } = names
const clientKey = agreePointG2(IdC).mulSecret(s)
const serverKey = agreePointG1(IdS).mulSecret(s)
const ivk = G1.generator.mulSecret(s)

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
    const stand = [agreePointG1(IdS), G1.generator, G1.generator.mulSecret(s), agreePointG1(IdC).mulSecret(s)]
    const plays = (instead: G1) => against(move => serverAgree(names, instead, move, seeded('thief')))
    for (const instead of stand) {
      const { atClient, atImpostor } = plays(instead)
      expect(atImpostor).not.toBe(atClient)
    }
    // With the server's own key the same moves succeed: it is the key alone that is missing.
    const { atClient, atImpostor } = plays(serverKey)
    expect(atImpostor).toBe(atClient)
  })
  test('key compromise: who stole the server’s key does not play the client to it by what it can compute', () => {
    const stand = [
      agreePointG2(IdC),
      G2.generator,
      agreePointG2(IdS).mulSecret(s),
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
    const [move, awaiting] = clientBegin(names, clientKey, seeded('client'))
    const [{ PS }, K] = serverAgree(names, serverKey, move, seeded('server'))
    expect(toHex(awaiting.agree({ PS }))).toBe(toHex(K))
    const messages = { ...move, PS }
    const { pi_c, pi_s } = exponents(messages)
    const keyWith = (shared: GT, ephemeral: G1) => keyOf(messages, shared, ephemeral)
    // s·(πs·Hk1(IdS) + PS) takes x·s·Hk1(IdS): with x the whole of it is computed, and by w the last factor alone.
    const x = serverNonce('server')
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

test('πs binds PS: without it anybody who plays the server knows the client’s k, and wP1 alone keeps K from it', () => {
  const [Hk1, Hk2] = [agreePointG1(IdS), agreePointG2(IdC)]
  const z = scalarOf('z of a stranger')
  const { y, w } = clientNonces('client')
  const begin = () => clientBegin(names, clientKey, seeded('client'))
  const [{ PC, PG }] = begin()
  const runs = slips([undefined, PC.encode(), PG.encode(), IdC]).map(fixed => {
    // PS = zP1 − πs·Hk1(IdS) cancels the server's part. Where πs is known before PS, k is e(zIVK, PC + πc·Hk2(IdC)).
    const PS = G1.generator.mulSecret(z).subtract(Hk1.mulPublic(fixed))
    const messages = { PC, PG, PS }
    const { pi_c, pi_s } = exponents(messages)
    const computable = pairing(ivk.mulSecret(z), PC.add(Hk2.mulPublic(pi_c)))
    const kBy = (exponent: Scalar) =>
      pairing(Hk1.mulPublic(exponent).add(PS), clientKey.mulSecret(y.add(pi_c)))
    expect(kBy(fixed).equals(computable)).toBe(true)
    // What is missing of K then is wPS = z·wP1 − πs·PG, and of that wP1, which takes w.
    const wPS = PS.mulSecret(w)
    const byP1 = G1.generator.mulSecret(w).mulSecret(z).subtract(PG.mulPublic(fixed))
    expect(hexOf(wPS)).toBe(hexOf(byP1))
    const [, awaiting] = begin()
    const K = toHex(awaiting.agree({ PS }))
    return { K, forged: keyOf(messages, computable, wPS), right: keyOf(messages, kBy(pi_s), wPS) }
  })
  // The protocol's πs is another for each PS: the stranger lacks k as well, and hasn't K even with wPS.
  for (const { K, forged } of runs) expect(forged).not.toBe(K)
  for (const { K, right } of runs) expect(right).toBe(K)
})

test('πc binds PC and PS: without both any car plays any other to the server, and has K', () => {
  const [Hk1, Hk2] = [agreePointG1(IdS), agreePointG2(IdC)]
  // Mallory is enrolled: it has one key in G2. Who has none would need sQ, and `agree` publishes nothing in G2.
  const mallory = agreePointG2(encodeName(groupId, { kind: 1, idCore: makeCar(7), slot: 100 }))
  const malloryKey = mallory.mulSecret(s)
  const [z, w] = [scalarOf('z of Mallory'), scalarOf('w of Mallory')]
  const PG = Hk1.mulSecret(w)
  const x = serverNonce('server')
  // PC is sent before PS is there, so πc is known by then only if it hashes neither.
  const runs = slips([undefined, undefined, PG.encode(), IdS]).map(fixed => {
    // PC = z·Hk2(Mallory) − πc·Hk2(IdC) cancels the client's part, and k is e(πs·Hk1(IdS) + PS, z·sHk2(Mallory)).
    const PC = mallory.mulSecret(z).subtract(Hk2.mulPublic(fixed))
    const [{ PS }, atServer] = serverAgree(names, serverKey, { PC, PG }, seeded('server'))
    const messages = { PC, PG, PS }
    const { pi_c, pi_s } = exponents(messages)
    const computable = pairing(Hk1.mulPublic(pi_s).add(PS), malloryKey.mulSecret(z))
    const kBy = (exponent: Scalar) =>
      pairing(serverKey.mulSecret(x.add(pi_s)), Hk2.mulPublic(exponent).add(PC))
    expect(kBy(fixed).equals(computable)).toBe(true)
    // w is its own.
    const wPS = PS.mulSecret(w)
    const [forged, right] = [keyOf(messages, computable, wPS), keyOf(messages, kBy(pi_c), wPS)]
    return { K: toHex(atServer), forged, right }
  })
  // The protocol's πc is another for each PC and PS: of K Mallory lacks k.
  for (const { K, forged } of runs) expect(forged).not.toBe(K)
  for (const { K, right } of runs) expect(right).toBe(K)
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

interface Messages {
  readonly PC: G2
  readonly PG: G1
  readonly PS: G1
}
/** How the transcript begins. */
const fixedPart = [utf8(SUITE), utf8('client'), IdC, utf8('server'), IdS]

/** πc, πs and K, spelt out here so that an impostor may put anything in. */
function exponents({ PC, PG, PS }: Messages) {
  const [pc, ps, pg] = [PC.encode(), PS.encode(), PG.encode()]
  return { pi_c: exponentOf([pc, ps, pg, IdS]), pi_s: exponentOf([ps, pc, pg, IdC]) }
}
function keyOf({ PC, PG, PS }: Messages, shared: GT, ephemeral: G1): string {
  const info = encodeTlv([...fixedPart, PC.encode(), PS.encode(), PG.encode()])
  return toHex(deriveKey('CHOW-CHOO', concat(shared.toBytes(), ephemeral.encode()), info))
}
const exponentOf = (entries: readonly (Uint8Array | undefined)[]) =>
  hashToScalar('CHOW-CHOO', encodeTlv(entries))

/** What πc or πs would be if it hashed none but some of these entries, each under its own tag or all numbered anew. */
function slips(entries: readonly (Uint8Array | undefined)[]): Scalar[] {
  const some = Array.from({ length: 2 ** entries.length }, (_, bits) =>
    entries.map((entry, i) => ((bits >> i) & 1 ? entry : undefined)),
  )
  const inputs = some.flatMap(chosen => [chosen, chosen.filter(entry => entry !== undefined)])
  return [...new Map(inputs.map(input => [toHex(encodeTlv(input)), input])).values()].map(exponentOf)
}

/** y and w of a `clientBegin` that draws from this seed. */
function clientNonces(seed: string) {
  const [random, key] = [seeded(seed), clientKey.encode()]
  const y = hedgedNonce(NONCE_ROLE.yChowChoo, random, key, encodeTlv(fixedPart))
  const pc = agreePointG2(IdC).mulSecret(y).encode()
  return { y, w: hedgedNonce(NONCE_ROLE.wChowChoo, random, key, encodeTlv([...fixedPart, pc])) }
}
/** x of a `serverAgree` that draws from this seed. */
const serverNonce = (seed: string) =>
  hedgedNonce(NONCE_ROLE.xChowChoo, seeded(seed), serverKey.encode(), encodeTlv(fixedPart))
