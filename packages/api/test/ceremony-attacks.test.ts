/** What a participant, a coordinator or a thief tries in a ceremony, and by whose name it ends (protocols.md §9). */
import {
  Ceremony,
  type CeremonyProposal,
  type CeremonyRecord,
  checkCeremony,
  checkResults,
  checkRounds,
  ROUNDS,
  type Round,
  sharesOf,
} from '@milagro-ts/api/ceremony'
import { documentHash, type PurposeKeys, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { HpkeKeyPair } from '@milagro-ts/api/keys'
import { open } from '@milagro-ts/api/seal'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { Polynomial } from '@milagro-ts/crypto/dealing'
import { G1, type G2 } from '@milagro-ts/crypto/points'
import { possessionProve } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { recombineSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare, sameLogarithm } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { hasPublicKey, PUBLIC_KEY_PURPOSES, PURPOSES } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  bytesOf,
  chainOf,
  found,
  groupWith,
  type Knowledge,
  type Lie,
  type Lies,
  outcome,
  type Payload,
  payloadOf,
  Scene,
  say,
  sealedFor,
  sealInfo,
  strayG2,
} from './ceremony-byzantine.js'
import {
  foundingProposal,
  refreshProposal,
  reshareProposal,
  rotateProposal,
  TestParticipant,
} from './ceremony-members.js'
import { fixedRandom } from './fixed-random.js'
import { makeMembers, type Party } from './founding-members.js'

type Part = { commitments: string[]; possession?: { kappa: string; z: string } }
const partOf = (payload: Payload) => (payload.parts as Record<string, Part>).sign as Part

/** 2 of 3, with the secret of `sign`, founded and in force. */
let parties: readonly Party[]
let proposal: CeremonyProposal
let founded: Scene
beforeAll(async () => {
  ;({ parties, proposal } = await foundingProposal({ n: 3, t: 2 }))
  founded = new Scene(proposal, parties)
  await founded.run()
})

const founding = (lies: Record<string, Lies> = {}) => new Scene(proposal, parties, { lies })
const refreshing = (lies: Record<string, Lies> = {}, seed = 'refresh') =>
  new Scene(refreshProposal(founded.group, seed), parties, { lies, before: founded })
const resharing = (lies: Record<string, Lies> = {}, dealers = [1, 2, 3], t = 2) =>
  new Scene(reshareProposal(founded.group, { dealers, t, members: parties }), parties, {
    lies,
    before: founded,
  })
const changes: Record<string, (lies: Record<string, Lies>) => Scene> = {
  'a founding': founding,
  'a refresh': refreshing,
  'a reshare': resharing,
}

/** Runs up to `last`, then asks everybody for the round after it: all of those who are honest must answer `expected`. */
async function ends(
  scene: Scene,
  last: Round,
  expected: readonly unknown[],
  { liar = 'ta3' }: { liar?: string } = {},
) {
  const rounds = await scene.run(last)
  const next = ROUNDS[ROUNDS.indexOf(last) + 1] as Round
  const answers = await scene.outcomes(next, rounds)
  delete answers[liar]
  expect(Object.keys(answers).length).toBeGreaterThan(0)
  for (const [name, answer] of Object.entries(answers)) expect([name, ...answer]).toEqual([name, ...expected])
  return rounds
}

/** A commit and an opening of what the dealer likes. */
const dealing = (parts: (knowledge: Knowledge) => Record<string, Part>): Lies => {
  const blind = fixedRandom('blind of a liar')(32)
  return {
    commit: (payload, knowledge) => ({
      ...payload,
      commitment: toBase64Url(
        sha256(
          encodeTlv([
            blind,
            Uint8Array.from(
              (parts(knowledge).sign?.commitments ?? []).flatMap(text => [
                ...fromBase64Url(text, 'commitment'),
              ]),
            ),
          ]),
        ),
      ),
    }),
    open: (payload, knowledge) => ({ ...payload, blind: toBase64Url(blind), parts: parts(knowledge) }),
  }
}

describe('rogue key', () => {
  describe.each([
    ['n-of-n', 3],
    ['t-of-n', 2],
  ])('%s', (_, t) => {
    let mine: Party[]
    let terms: CeremonyProposal
    beforeAll(async () => {
      const { parties, proposal } = await foundingProposal({ n: 3, t })
      mine = [...parties]
      terms = proposal
    })
    const target = G1.generator.mulSecret(Scalar.random(fixedRandom('the key that the last one wants')))
    /** Σ A_{i,0} of these openings. */
    const sumOf = (openings: readonly string[]) =>
      G1.sum(
        openings.map(opening =>
          G1.decode(fromBase64Url(partOf(payloadOf(opening)).commitments[0] as string, 'A')),
        ),
      )

    test('chosen after the others have opened: it does not fit the commit', async () => {
      const scene = new Scene(terms, mine)
      const rounds = await scene.run('commit')
      const [one, two, three] = await Promise.all(
        ['ta1', 'ta2', 'ta3'].map(name => scene.of(name).move('open', rounds)),
      )
      const sum = sumOf([one as string, two as string])
      const honest = payloadOf(three as string)
      const parts = structuredClone(honest.parts) as Record<string, Part>
      ;(parts.sign as Part).commitments[0] = toBase64Url(target.subtract(sum).encode())
      const opening = await say(mine[2] as Party, 'open', { ...honest, parts })
      const all = [...rounds, [one as string, two as string, opening]]
      for (const name of ['ta1', 'ta2'])
        expect(await outcome(scene.of(name).move('deal', all))).toEqual(['WRONG_SHARE', 'open', 'ta3'])
    })

    test('committed to in time by one who knows the others’ points: no proof of possession', async () => {
      // The others' A_{i,0} of this session, as if their random sources were known.
      const peek = await new Scene(terms, mine).run('open')
      const openings = (peek[2] as string[]).slice(0, 2)
      const mark: Record<string, Part> = {}
      const lies = dealing(() => mark)
      const scene = new Scene(terms, mine, { lies: { ta3: lies } })
      const sum = sumOf(openings)
      const { commitments, possession } = partOf(payloadOf((peek[2] as string[])[2] as string))
      mark.sign = {
        commitments: [toBase64Url(target.subtract(sum).encode()), ...commitments.slice(1)],
        possession: possession as NonNullable<typeof possession>,
      }
      await ends(scene, 'open', ['WRONG_SHARE', 'open', 'ta3'])
    })

    test('another’s points and proof copied: the proof is bound to its dealer', async () => {
      const copy = partOf(payloadOf(((await new Scene(terms, mine).run('open'))[2] as string[])[0] as string))
      await ends(new Scene(terms, mine, { lies: { ta3: dealing(() => ({ sign: copy })) } }), 'open', [
        'WRONG_SHARE',
        'open',
        'ta3',
      ])
    })
  })

  test('a proof of another session: refused', async () => {
    const stale: Lie = (payload, { record }) => {
      const f = Polynomial.decode(fromBase64Url(record.polynomials?.sign as string, 'f'))
      const session = sha256(utf8('yesterday'))
      const { kappa, z } = possessionProve(
        { session, purpose: 'sign', index: 3 },
        f.constant,
        fixedRandom('k'),
      )
      const possession = { kappa: toBase64Url(kappa.encode()), z: toBase64Url(z.encode()) }
      return { ...payload, parts: { sign: { ...partOf(payload), possession } } }
    }
    await ends(founding({ ta3: { open: stale } }), 'open', ['WRONG_SHARE', 'open', 'ta3'])
  })
})

describe('equivocation', () => {
  test.each(ROUNDS.slice(0, -1))('two messages of round %s for two halves: nobody goes on', async round => {
    const scene = founding()
    const before = round === 'join' ? [] : await scene.run(ROUNDS[ROUNDS.indexOf(round) - 1] as Round)
    const said = await Promise.all(['ta1', 'ta2', 'ta3'].map(name => scene.of(name).move(round, before)))
    const other: Record<string, Payload> = {
      join: { nonce: toBase64Url(new Uint8Array(32)) },
      commit: { commitment: toBase64Url(new Uint8Array(32)) },
      answer: { complaints: [], pub: { sign: toBase64Url(authorityServerKeyShare(one).encode()) } },
    }
    const honest = payloadOf(said[2] as string)
    const { ceremony } = scene
    const party = parties[2] as Party
    const change =
      other[round] ??
      (round === 'open'
        ? { blind: toBase64Url(new Uint8Array(32)) }
        : {
            sealed: await Promise.all(
              [1, 2, 3].map(j => sealedFor({ ceremony, rounds: before, party }, j, one.encode())),
            ),
          })
    const second = await say(party, round, { ...honest, ...change })
    const next = ROUNDS[ROUNDS.indexOf(round) + 1] as Round
    const [left, right] = [
      [...before, said],
      [...before, [...said.slice(0, 2), second]],
    ]
    const toldOne = await outcome(scene.of('ta1').move(next, left))
    const toldOther = await outcome(scene.of('ta2').move(next, right))
    expect(toldOne).toEqual(['OK'])
    // Where what was said to one half is a lie by itself, the liar is named at once; else the halves part at the next round.
    if (toldOther[0] !== 'OK') {
      expect(toldOther).toEqual(['WRONG_SHARE', round, 'ta3'])
      return
    }
    const spoken = (name: string) => scene.of(name).record?.said[next] as string
    const third = await scene.of('ta3').move(next, left)
    const mixed = [spoken('ta1'), spoken('ta2'), third]
    const after = ROUNDS[ROUNDS.indexOf(next) + 1]
    for (const rounds of [
      [...left, mixed],
      [...right, mixed],
    ]) {
      const read =
        after === undefined ? checkRounds(scene.ceremony, rounds) : scene.of('ta1').move(after, rounds)
      expect((await outcome(read))[0]).toBe('CONFLICT')
    }
  })

  test('both in one transcript: named', async () => {
    const scene = founding()
    const joins = (await scene.run('join'))[0] as string[]
    const second = await say(parties[2] as Party, 'join', {
      ...payloadOf(joins[2] as string),
      nonce: toBase64Url(new Uint8Array(32)),
    })
    expect(await scene.outcomes('commit', [[...joins, second]])).toEqual({
      ta1: ['CONFLICT', 'join', 'ta3'],
      ta2: ['CONFLICT', 'join', 'ta3'],
      ta3: ['CONFLICT', 'join', 'ta3'],
    })
  })

  test('one message twice: nobody’s fault, and not taken', async () => {
    const scene = founding()
    const joins = (await scene.run('join'))[0] as string[]
    const twice = joins[2] as string
    for (const again of [twice, otherSignature(twice)])
      expect(await outcome(scene.of('ta1').move('commit', [[...joins, again]]))).toEqual([
        'CONFLICT',
        'a message of ta3 in round join stands twice',
      ])
  })
})

/** The same payload under (r, q − s), which verifies as well. */
function otherSignature(jws: string): string {
  const [header, payload, signature] = jws.split('.') as [string, string, string]
  const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
  const bytes = fromBase64Url(signature, 'signature', 64)
  const s = BigInt(`0x${Buffer.from(bytes.subarray(32)).toString('hex')}`)
  bytes.set(Buffer.from((order - s).toString(16).padStart(64, '0'), 'hex'), 32)
  return `${header}.${payload}.${toBase64Url(bytes)}`
}

test('a second signature over the same message makes no second past', async () => {
  const scene = founding()
  const rounds = await scene.run('join')
  const other = [(rounds[0] as string[]).map(otherSignature)]
  expect(other).not.toEqual(rounds)
  const commits = [
    await scene.of('ta1').move('commit', rounds),
    await scene.of('ta1').move('commit', other),
    await scene.of('ta2').move('commit', other),
    await scene.of('ta3').move('commit', rounds),
  ]
  expect(new Set(commits.map(commit => payloadOf(commit).after)).size).toBe(1)
})

const one = Scalar.fromNumber(1)

describe.each(Object.keys(changes))('in %s', kind => {
  const change = changes[kind] as (lies: Record<string, Lies>) => Scene

  test('a share that is not f(j): the receiver shows it, the dealer is named', async () => {
    const deal: Lie = async ({ sealed, ...rest }, knowledge) => {
      const mine = [...(sealed as string[])]
      mine[0] = await sealedFor(knowledge, 1, encodeTlv([one.encode()]))
      return { ...rest, sealed: mine }
    }
    const scene = change({ ta3: { deal } })
    const rounds = await ends(scene, 'answer', ['WRONG_SHARE', 'deal', 'ta3'])
    const answers = (rounds[4] as string[]).map(payloadOf)
    expect(answers.map(({ complaints }) => (complaints as unknown[]).length)).toEqual([1, 0, 0])
    // What is shown opens the false share, and no other one.
    const [{ boxKey }] = (answers[0] as Payload).complaints as [{ boxKey: string }]
    const box = await HpkeKeyPair.fromSecret(fromBase64Url(boxKey, 'boxKey', 32))
    const session = chainOf(scene.ceremony, rounds, 1)
    const opened: string[] = []
    for (const [i, message] of (rounds[3] as string[]).entries())
      for (const [j, sealed] of (payloadOf(message).sealed as string[]).entries())
        for (const [dealer, member] of pairs) {
          const info = sealInfo(session, dealer, member)
          if ((await open(box, info, fromBase64Url(sealed, 'sealed'))) !== null)
            opened.push(`${i + 1}→${j + 1}`)
        }
    expect(opened).toEqual(['3→1'])
  })

  test.each<[string, Uint8Array | null]>([
    ['not a TLV', utf8('f(1)')],
    ['of no purpose', encodeTlv([undefined, one.encode()])],
    ['not below q', encodeTlv([new Uint8Array(32).fill(255)])],
    ['two bytes that were never sealed', null],
  ])('a share that is %s: the dealer is named', async (_, plaintext) => {
    const deal: Lie = async ({ sealed, ...rest }, knowledge) => ({
      ...rest,
      sealed: [
        plaintext === null ? toBase64Url(new Uint8Array(2)) : await sealedFor(knowledge, 1, plaintext),
        ...(sealed as string[]).slice(1),
      ],
    })
    await ends(change({ ta3: { deal } }), 'answer', ['WRONG_SHARE', 'deal', 'ta3'])
  })

  test('another dealer’s sealed share passed on: the dealer is named, the other’s share stays shut', async () => {
    const honest = change({})
    const rounds = await honest.run('deal')
    const stolen = payloadOf((rounds[3] as string[])[0] as string).sealed as string[]
    const scene = change({ ta3: { deal: payload => ({ ...payload, sealed: stolen }) } })
    await ends(scene, 'answer', ['WRONG_SHARE', 'deal', 'ta3'])
  })

  test('a member left out by its dealer: named', async () => {
    const deal: Lie = ({ sealed, ...rest }) => ({ ...rest, sealed: (sealed as string[]).slice(0, 2) })
    await ends(change({ ta3: { deal } }), 'deal', ['WRONG_SHARE', 'deal', 'ta3'])
  })

  test.each(ROUNDS.slice(0, -1))(
    'nothing said in round %s: nobody goes on, the silent one is named',
    async round => {
      const scene = change({})
      const rounds = await scene.run(round)
      const without = [...rounds.slice(0, -1), (rounds.at(-1) as string[]).slice(0, 2)]
      const next = ROUNDS[ROUNDS.indexOf(round) + 1] as Round
      expect(await outcome(scene.of('ta1').move(next, without))).toEqual(['CONFLICT', round, 'ta3'])
      // Late is not lost: the round is over when the message is there.
      expect(await outcome(scene.of('ta1').move(next, rounds))).toEqual(['OK'])
    },
  )

  test('a second deal once somebody has answered the first: not taken', async () => {
    const scene = change({})
    const rounds = await scene.run('deal')
    await scene.of('ta1').move('answer', rounds)
    const [ta1, ta2, ta3] = rounds[3] as [string, string, string]
    const sealed = (payloadOf(ta3).sealed as string[]).toReversed()
    const second = await say(parties[2] as Party, 'deal', { ...payloadOf(ta3), sealed })
    expect(
      await outcome(scene.of('ta1').move('answer', [...rounds.slice(0, 3), [ta1, ta2, second]])),
    ).toEqual(['CONFLICT', 'ta1 has spoken in round answer after other messages'])
  })

  test.each<[string, (boxes: readonly string[], dealer: number) => object]>([
    ['with the right key', (boxes, dealer) => ({ dealer, boxKey: boxes[dealer - 1] })],
    ['with another dealer’s key', (boxes, dealer) => ({ dealer, boxKey: boxes[dealer] })],
    [
      'with a key that was never its own',
      (_, dealer) => ({ dealer, boxKey: toBase64Url(new Uint8Array(32)) }),
    ],
    ['about nobody', boxes => ({ dealer: 9, boxKey: boxes[0] })],
  ])('a false complaint %s: the accuser is named', async (_, complaint) => {
    const answer: Lie = (payload, { before }) => ({
      ...payload,
      complaints: [complaint(before?.boxes as readonly string[], 1)],
    })
    await ends(change({ ta3: { answer } }), 'answer', ['WRONG_SHARE', 'answer', 'ta3'])
  })

  test('two messages dropped, in every way: nobody says a share, and what is asked again is the same', async () => {
    const scene = change({})
    const rounds = await scene.run('deal')
    const secrets = new Map<string, Uint8Array>()
    const session = chainOf(scene.ceremony, rounds, 1)
    for (const [j, member] of scene.participants.entries())
      for (const [i, boxKey] of (member.record?.boxes ?? []).entries()) {
        const box = await HpkeKeyPair.fromSecret(fromBase64Url(boxKey, 'box', 32))
        const info = sealInfo(session, i + 1, j + 1)
        const sealed = (payloadOf((rounds[3] as string[])[i] as string).sealed as string[])[j] as string
        const share = (await open(box, info, fromBase64Url(sealed, 'sealed'))) as Uint8Array
        secrets.set(`f_${i + 1}(${j + 1})`, share.subarray(5))
        secrets.set(`box ${j + 1},${i + 1}`, box.secret())
      }
    expect(secrets.size).toBe(18)
    const before = scene.participants.map(({ record }) => record?.said.deal)
    const captured: unknown[] = [rounds]
    for (const [a, b] of [
      [0, 1],
      [0, 2],
      [1, 2],
    ] as const) {
      const deals = (rounds[3] as string[]).filter((_, i) => i !== a && i !== b)
      const told = [...rounds.slice(0, 3), deals]
      captured.push(await scene.outcomes('answer', told), await scene.outcomes('result', told))
      for (const { name } of scene.ceremony.participants)
        captured.push(await scene.of(name).move('deal', rounds.slice(0, 3)))
    }
    expect(scene.participants.map(({ record }) => record?.said.deal)).toEqual(before)
    expect(scene.participants.map(({ record }) => record?.said.answer)).toEqual([
      undefined,
      undefined,
      undefined,
    ])
    expect(found(secrets, captured)).toEqual([])
  })

  test('rounds of another run replayed: they are after another past', async () => {
    const old = change({})
    const recorded = await old.run()
    const scene = change({})
    // Other boxes, other nonces: as when the first run broke off and its records are gone.
    scene.participants.forEach(({ ports }, i) => {
      Object.assign(ports, { random: fixedRandom(`again ${i}`) })
    })
    const rounds = await scene.run('join')
    for (const round of ROUNDS.slice(1, -1)) {
      const mixed = [...rounds, recorded[ROUNDS.indexOf(round)] as string[]]
      const next = ROUNDS[ROUNDS.indexOf(round) + 1] as Round
      expect((await outcome(checkRounds(scene.ceremony, mixed)))[0]).toBe('CONFLICT')
      rounds.push(await Promise.all(scene.participants.map(one => one.move(round, rounds))))
      // Only one message of the old run.
      const last = rounds.at(-1) as string[]
      const slipped = [
        ...rounds.slice(0, -1),
        [...last.slice(0, 2), recorded[ROUNDS.indexOf(round)]?.[2] as string],
      ]
      expect(await outcome(scene.of('ta1').move(next, slipped))).toEqual(['CONFLICT', round, 'ta3'])
    }
  })

  test('a message of another round: signed by nobody who speaks in this one', async () => {
    const scene = change({})
    const rounds = await scene.run('commit')
    const moved = [rounds[0] as string[], rounds[0] as string[]]
    expect((await outcome(scene.of('ta1').move('open', moved)))[0]).toBe('NOT_APPROVED')
  })

  test('somebody else’s name in a signed message: named', async () => {
    const join: Lie = payload => ({ ...payload, name: 'ta1' })
    await ends(change({ ta3: { join } }), 'join', ['NOT_APPROVED', 'join', 'ta3'])
  })

  test('a box that nothing can be sealed to: named before anybody deals', async () => {
    for (const smallOrder of [new Uint8Array(32), Uint8Array.of(1, ...new Uint8Array(31))]) {
      const join: Lie = ({ boxes, ...rest }) => ({
        ...rest,
        boxes: [...(boxes as string[]).slice(0, 2), toBase64Url(smallOrder)],
      })
      await ends(change({ ta3: { join } }), 'join', ['WRONG_SHARE', 'join', 'ta3'])
    }
  })

  test('one box for two dealers: named', async () => {
    const join: Lie = ({ boxes, ...rest }) => {
      const [first, second] = boxes as string[]
      return { ...rest, boxes: [first, second, second] }
    }
    await ends(change({ ta3: { join } }), 'join', ['WRONG_SHARE', 'join', 'ta3'])
  })

  test('somebody else’s boxes: who copied them reads nothing, and can complain about nobody', async () => {
    let copied: readonly string[] = []
    const peek = payloadOf(((await change({}).run('join'))[0] as string[])[1] as string)
    copied = peek.boxes as string[]
    const scene = change({ ta3: { join: payload => ({ ...payload, boxes: copied }) } })
    const rounds = await scene.run('answer')
    const mine = payloadOf((rounds[4] as string[])[2] as string)
    expect((mine.complaints as unknown[]).length).toBe(3)
    expect(await outcome(scene.of('ta1').move('result', rounds))).toEqual(['WRONG_SHARE', 'answer', 'ta3'])
  })

  test.each<[string, (parts: Record<string, unknown>) => Record<string, unknown>]>([
    ['for another purpose', parts => ({ pin: parts.sign })],
    ['for one purpose more', parts => ({ ...parts, pin: parts.sign })],
    ['for a purpose that nobody knows', parts => ({ other: parts.sign })],
    ['under a name that no pattern matches', parts => ({ '\n': parts.sign })],
    ['under __proto__', parts => JSON.parse(`{"__proto__":${JSON.stringify(parts.sign)}}`)],
    ['under half a surrogate pair', parts => ({ '\ud800': parts.sign })],
    ['for nothing', () => ({})],
  ])('an opening %s: named', async (_, other) => {
    const opening = { parts: {} as Record<string, unknown> }
    const blind = fixedRandom('blind of a liar')(32)
    const scene = change({
      ta3: {
        commit: (payload, { record }) => {
          const f = Polynomial.decode(fromBase64Url(record.polynomials?.sign as string, 'f'))
          const commitments = f.commitments(scene.ceremony.firstPower).map(A => A.encode())
          opening.parts = other({ sign: { commitments: commitments.map(A => toBase64Url(A)) } })
          const kept = opening.parts.sign === undefined ? [] : commitments
          const points = Uint8Array.from(kept.flatMap(bytes => [...bytes]))
          return { ...payload, commitment: toBase64Url(sha256(encodeTlv([blind, points]))) }
        },
        open: payload => ({ ...payload, blind: toBase64Url(blind), parts: opening.parts }),
      },
    })
    const rounds = await scene.run('open')
    const [code, round, who] = await outcome(scene.of('ta1').move('deal', rounds))
    expect(['WRONG_SHARE', 'MALFORMED']).toContain(code)
    expect([round, who]).toEqual(['open', 'ta3'])
  })

  test.each([
    ['fewer', -1],
    ['more', 1],
  ])('%s coefficients than t: named', async (_, by) => {
    const lies = dealing(({ ceremony }) => {
      const count = ceremony.t - ceremony.firstPower + by
      const commitments = Array.from({ length: count }, (_, k) =>
        toBase64Url(G1.generator.mulSecret(Scalar.fromNumber(k + 2)).encode()),
      )
      return { sign: { commitments } }
    })
    await ends(change({ ta3: lies }), 'open', ['WRONG_SHARE', 'open', 'ta3'])
  })

  test.each<[string, Uint8Array]>([
    ['no point', new Uint8Array(48).fill(7)],
    ['the identity', Uint8Array.of(0xc0, ...new Uint8Array(47))],
  ])('a commitment that is %s: named', async (_, bytes) => {
    const lies = dealing(({ ceremony }) => ({
      sign: { commitments: Array(ceremony.t - ceremony.firstPower).fill(toBase64Url(bytes)) },
    }))
    await ends(change({ ta3: lies }), 'open', ['WRONG_SHARE', 'open', 'ta3'])
  })

  test('another document named: named', async () => {
    const result: Lie = payload => ({ ...payload, documentHash: toBase64Url(new Uint8Array(32)) })
    const scene = change({ ta3: { result } })
    const rounds = await scene.run()
    for (const name of ['ta1', 'ta2'])
      expect(await outcome(scene.of(name).sign(rounds))).toEqual(['CONFLICT', 'result', 'ta3'])
  })

  test('a join in one’s own name that one hasn’t said (stolen key, second run): not followed', async () => {
    const scene = change({})
    const joins = (await scene.run('join'))[0] as string[]
    const forged = await say(parties[0] as Party, 'join', {
      ...payloadOf(joins[0] as string),
      nonce: toBase64Url(new Uint8Array(32)),
    })
    expect(await outcome(scene.of('ta1').move('commit', [[forged, ...joins.slice(1)]]))).toEqual([
      'CONFLICT',
      'another message of ta1 in round join than it has said',
    ])
  })

  test('each round forgets what the next ones do not need', async () => {
    const scene = change({})
    const kept: Record<string, string[]> = {}
    const rounds: string[][] = []
    for (const round of ROUNDS) {
      rounds.push(await Promise.all(scene.participants.map(one => one.move(round, rounds))))
      const { said: _, after: __, ...rest } = scene.of('ta1').record as CeremonyRecord
      kept[round] = Object.keys(rest).sort()
    }
    expect(kept).toEqual({
      join: ['boxes'],
      commit: ['blind', 'boxes', 'polynomials'],
      open: ['boxes', 'polynomials'],
      deal: ['boxes'],
      answer: ['shares'],
      result: ['document', 'shares'],
    })
  })

  test('a transcript and the long-term keys of everybody, records after the answer included: no share opens', async () => {
    const scene = change({})
    const rounds = await scene.run()
    const session = chainOf(scene.ceremony, rounds, 1)
    const stolen = scene.participants.flatMap(({ record }) => [...bytesOf(record)])
    for (const { name, signKey } of parties) {
      stolen.push(fromBase64Url(signKey.toJwk().d, 'd'), fixedRandom(`hpke ${name}`)(32))
    }
    const keys = stolen.filter(({ length }) => length === 32)
    expect(keys.length).toBeGreaterThan(6)
    let tried = 0
    for (const secret of keys) {
      const box = await HpkeKeyPair.fromSecret(secret)
      for (const [i, message] of (rounds[3] as string[]).entries())
        for (const [j, sealed] of (payloadOf(message).sealed as string[]).entries()) {
          const info = sealInfo(session, i + 1, j + 1)
          expect(await open(box, info, fromBase64Url(sealed, 'sealed'))).toBe(null)
          tried++
        }
    }
    expect(tried).toBe(keys.length * 9)
    // Nor does anybody say anything new to who asks with those keys.
    const again = await Promise.all(scene.participants.map(one => one.move('answer', rounds.slice(0, 4))))
    expect(again).toEqual(rounds[4])
  })
})
const pairs = [1, 2, 3].flatMap(i => [1, 2, 3].map(j => [i, j] as const))

describe('in a founding', () => {
  test.each<[string, (pub: Record<string, string>) => Record<string, string> | undefined, string]>([
    [
      'of another secret',
      () => ({ sign: toBase64Url(authorityServerKeyShare(one).encode()) }),
      'WRONG_SHARE',
    ],
    ['no point', () => ({ sign: toBase64Url(new Uint8Array(96).fill(7)) }), 'WRONG_SHARE'],
    ['missing', () => undefined, 'WRONG_SHARE'],
    ['of `device` as well', ({ sign }) => ({ sign: sign as string, device: sign as string }), 'WRONG_SHARE'],
    [
      'of a purpose that nobody knows as well',
      ({ sign }) => ({ sign: sign as string, '\n': 'x' }),
      'MALFORMED',
    ],
  ])('a public share that is %s: named', async (_, other, code) => {
    const answer: Lie = ({ pub, ...rest }) => {
      const changed = other(pub as Record<string, string>)
      return { ...rest, ...(changed && { pub: changed }) }
    }
    await ends(founding({ ta3: { answer } }), 'answer', [code, 'answer', 'ta3'])
  })

  test.each([['a ledger', { ledger: { entries: 0, hash: toBase64Url(new Uint8Array(32)) } }]])(
    '%s, which belongs to a reshare: named',
    async (_, more) => {
      await ends(founding({ ta3: { answer: payload => ({ ...payload, ...more }) } }), 'answer', [
        'WRONG_SHARE',
        'answer',
        'ta3',
      ])
    },
  )
})

describe('in a change of a group', () => {
  test.each([
    ['a refresh', refreshing],
    ['a reshare', resharing],
  ])('%s: a public share, of whichever purpose, is named', async (_, change) => {
    const answer: Lie = payload => ({
      ...payload,
      pub: { sign: toBase64Url(authorityServerKeyShare(one).encode()) },
    })
    await ends(change({ ta3: { answer } }), 'answer', ['WRONG_SHARE', 'answer', 'ta3'])
  })

  test('a refresh with a smuggled constant: the shares don’t fit, the dealer is named', async () => {
    // f(x) + 1, whose commitments from A_1 on are those of f.
    const deal: Lie = async (payload, knowledge) => {
      const f = Polynomial.decode(fromBase64Url(knowledge.before?.polynomials?.sign as string, 'f'))
      const sealed = await Promise.all(
        [1, 2, 3].map(j => sealedFor(knowledge, j, encodeTlv([f.at(j).add(one).encode()]))),
      )
      return { ...payload, sealed }
    }
    await ends(refreshing({ ta3: { deal } }), 'answer', ['WRONG_SHARE', 'deal', 'ta3'])
  })

  test('a refresh with a commitment to a constant: named', async () => {
    const lies = dealing(() => ({
      sign: {
        commitments: [2, 3].map(k => toBase64Url(G1.generator.mulSecret(Scalar.fromNumber(k)).encode())),
      },
    }))
    await ends(refreshing({ ta3: lies }), 'open', ['WRONG_SHARE', 'open', 'ta3'])
  })

  test('a refresh with another dealer’s commit and opening: it can’t deal what it doesn’t know', async () => {
    const honest = await refreshing().run('open')
    const { blind, parts } = payloadOf((honest[2] as string[])[0] as string)
    const { commitment } = payloadOf((honest[1] as string[])[0] as string)
    const scene = refreshing({
      ta3: {
        commit: payload => ({ ...payload, commitment }),
        open: payload => ({ ...payload, blind, parts }),
      },
    })
    await ends(scene, 'answer', ['WRONG_SHARE', 'deal', 'ta3'])
  })

  test('a reshare of another secret: named at its opening', async () => {
    const f = Polynomial.random(2, fixedRandom('another secret'))
    const lies = dealing(() => ({ sign: { commitments: f.commitments().map(A => toBase64Url(A.encode())) } }))
    await ends(resharing({ ta3: lies }), 'open', ['WRONG_SHARE', 'open', 'ta3'])
  })

  test('a reshare of the right C_i with shares of another polynomial: named', async () => {
    const f = Polynomial.random(2, fixedRandom('another secret'))
    const deal: Lie = async (payload, knowledge) => ({
      ...payload,
      sealed: await Promise.all([1, 2, 3].map(j => sealedFor(knowledge, j, encodeTlv([f.at(j).encode()])))),
    })
    await ends(resharing({ ta3: { deal } }), 'answer', ['WRONG_SHARE', 'deal', 'ta3'])
  })

  test('a dealer without its ledger in a reshare: named', async () => {
    const answer: Lie = ({ ledger: _, ...rest }) => rest
    await ends(resharing({ ta3: { answer } }), 'answer', ['WRONG_SHARE', 'answer', 'ta3'])
  })

  test('a complaint of somebody who gets no share: named', async () => {
    const { authorities } = await makeMembers({ n: 5 })
    const members = [parties[1] as Party, ...authorities.slice(3)]
    const proposal = reshareProposal(founded.group, { dealers: [1, 2], t: 2, members })
    const complaints = [{ dealer: 2, boxKey: toBase64Url(new Uint8Array(32)) }]
    const scene = new Scene(proposal, [...parties, ...members], {
      before: founded,
      lies: { ta1: { answer: payload => ({ ...payload, complaints }) } },
    })
    await ends(scene, 'answer', ['WRONG_SHARE', 'answer', 'ta1'], { liar: 'ta1' })
  })

  describe('a reshare that is proposed with', () => {
    const terms = (change: object) => ({
      ...(reshareProposal(founded.group, { dealers: [1, 2], t: 2, members: parties }) as object),
      ...change,
    })
    test.each<[string, object, string]>([
      ['t = 1 of 3', { t: 1 }, 't'],
      ['t above n', { t: 4 }, 't'],
      ['fewer dealers than t', { dealers: [2] }, 'dealers'],
      ['a dealer twice', { dealers: [1, 1] }, 'dealers'],
      ['dealers out of order', { dealers: [2, 1] }, 'dealers'],
      ['a dealer that doesn’t exist', { dealers: [1, 4] }, 'dealers'],
      ['index 0', { dealers: [0, 1] }, 'proposal'],
    ])('%s: makes no group', (_, change, field) => {
      expect(() => Ceremony.read(terms(change), founded.group)).toThrow(expect.objectContaining({ field }))
    })

    test('t lowered below 2t > n by the members’ number: makes no group', async () => {
      const members = [...parties, ...(await makeMembers({ n: 4 })).authorities.slice(3)]
      const proposal = reshareProposal(founded.group, { dealers: [1, 2], t: 2, members })
      expect(() => Ceremony.read(proposal, founded.group)).toThrow(expect.objectContaining({ field: 't' }))
    })

    test('a dealer’s name under another key: makes no group', async () => {
      const stranger = { ...((await makeMembers({ n: 1 })).authorities[0] as Party), name: 'ta1' }
      const proposal = reshareProposal(founded.group, {
        dealers: [1, 2],
        t: 2,
        members: [stranger, ...parties.slice(1)],
      })
      expect(() => Ceremony.read(proposal, founded.group)).toThrow(
        expect.objectContaining({ field: 'authorities' }),
      )
    })
  })

  test('a refresh of more authorities than take part in a ceremony: makes none', () => {
    const { document, ...rest } = founded.group
    const authorities = Array.from({ length: 33 }, (_, i) => ({
      ...(rest.authorities[0] as (typeof rest.authorities)[number]),
      index: i + 1,
    }))
    const many = { ...rest, document, authorities, t: 17 }
    expect(() => Ceremony.read(refreshProposal(many), many)).toThrow(
      expect.objectContaining({ field: 'authorities' }),
    )
  })

  test.each(ROUNDS)(
    'a refresh interrupted after round %s: old shares combine, another refresh goes through',
    async round => {
      const broken = refreshing({}, 'broken')
      const rounds = await broken.run(round)
      const { ivk } = founded.group.epochs('sign')[0] as PurposeKeys
      expect(combined(founded, [1, 2]).equals(ivk)).toBe(true)
      const next = refreshing({}, 'the next')
      await next.run()
      expect(combined(next, [2, 3]).equals(ivk)).toBe(true)
      // Old and new shares are on different polynomials.
      const mixed = [shareOf(founded, 1), shareOf(next, 2)]
      expect(G1.generator.mulSecret(recombineSecret(mixed)).equals(ivk)).toBe(false)
      // Once another revision is in force, what was broken off can't be taken up.
      expect(() => Ceremony.read(broken.ceremony.proposal, next.group)).toThrow(
        expect.objectContaining({ code: 'CONFLICT' }),
      )
      expect(rounds.length).toBe(ROUNDS.indexOf(round) + 1)
    },
  )
})

const shareOf = (scene: Scene, index: number) => ({
  index,
  scalar: scene.of(`ta${index}`).shares.get('sign') as Scalar,
})
const combined = (scene: Scene, indices: readonly number[]) =>
  G1.generator.mulSecret(recombineSecret(indices.map(index => shareOf(scene, index))))

describe('a recorded transcript of all purposes, refreshed, handed on and rotated', () => {
  let said: unknown
  /** Of each ceremony by its kind. */
  let messages: Map<string, string[][]>
  /** What each C in a document is of; purposes with a public key first, since pairings take their time. */
  let logs: [string, G1][]
  const names = new Map<string, string | undefined>()
  let groups: GroupDocument[]
  const secrets = new Map<string, Uint8Array>()
  beforeAll(async () => {
    const all: unknown[] = []
    groups = []
    messages = new Map()
    let group: ReturnType<typeof groupWith> | undefined
    let former: Awaited<ReturnType<typeof runAll>> | undefined
    for (const terms of ['found', 'refresh', 'reshare', 'rotate'] as const) {
      const next =
        group === undefined
          ? proposal
          : terms === 'refresh'
            ? refreshProposal(group)
            : terms === 'reshare'
              ? reshareProposal(group, { dealers: [1, 3], t: 2, members: parties })
              : rotateProposal(group, { firstSlot: 9 })
      former = await runAll(next, group, former)
      group = former.group
      groups.push(group.document)
      messages.set(terms, former.rounds)
      all.push(next, former.rounds, group.document, former.signatures)
    }
    said = all
    const known = new Map<string, string>()
    for (const purpose of new Set([...PUBLIC_KEY_PURPOSES, ...PURPOSES]))
      for (const { purposes } of groups)
        for (const { epoch, ivk, shares } of [purposes[purpose], ...(purposes[purpose].former ?? [])])
          for (const [j, text] of [ivk, ...shares].entries())
            known.set(text, `${purpose}/${epoch} s${j === 0 ? '' : j}Q`)
    logs = [...known].map(([text, name]) => [name, G1.decode(fromBase64Url(text, 'C'))])
  }, 180_000)

  async function runAll(
    terms: CeremonyProposal,
    group: ReturnType<typeof groupWith> | undefined,
    former: { shares: ReadonlyMap<string, CeremonyRecord> } | undefined,
  ) {
    const ceremony = Ceremony.read(terms, group)
    const participants = ceremony.participants.map(({ name }) => {
      const current = former?.shares.get(name)
      return new TestParticipant(
        parties.find(one => one.name === name) as Party,
        ceremony,
        current === undefined ? {} : { current: sharesOf(current) },
      )
    })
    const rounds: string[][] = []
    for (const round of ROUNDS) {
      const speakers = ceremony.speakers(round).map(({ name }) => name)
      rounds.push(
        await Promise.all(
          participants
            .filter(({ party }) => speakers.includes(party.name))
            .map(one => one.move(round, rounds)),
        ),
      )
      for (const { party, record } of participants)
        for (const [field, value] of Object.entries({ ...record?.polynomials, ...record?.shares }))
          for (let k = 0; k < fromBase64Url(value, field).length; k += 32) {
            const scalar = fromBase64Url(value, field).slice(k, k + 32)
            // The constants of a refresh are 0, and no secret.
            if (scalar.some(byte => byte !== 0))
              secrets.set(`${terms.kind} ${party.name} ${field} ${k} ${round}`, scalar)
          }
    }
    const document = participants[0]?.record?.document as GroupDocument
    return {
      rounds,
      group: groupWith(PURPOSES, document, group),
      signatures: await Promise.all(parties.map(({ signKey }) => signDocument(document, signKey))),
      shares: new Map(participants.map(({ party, record }) => [party.name, record as CeremonyRecord])),
    }
  }

  test('holds no share, no coefficient of a polynomial', () => {
    expect(secrets.size).toBeGreaterThan(100)
    expect(found(secrets, said)).toEqual([])
    // The search finds what is there.
    const [first] = secrets.values()
    expect(found(secrets, [said, { text: toBase64Url(first as Uint8Array) }]).length).toBeGreaterThan(0)
  })

  /** Whose W it is: `<purpose>/<key epoch> s<j>Q` or `… sQ`, found by e(C, Q) = e(P1, W). */
  function nameOf(W: G2): string | undefined {
    const text = toBase64Url(W.encode())
    if (!names.has(text)) names.set(text, logs.find(([, C]) => sameLogarithm(C, W))?.[0])
    return names.get(text)
  }
  /** The G2 points in `said`, each as often as it stands there. */
  function pointsIn(said: unknown): (string | undefined)[] {
    const points: (string | undefined)[] = []
    strayG2(said, W => points.push(nameOf(W)) > 0)
    return points.sort()
  }
  const sharesOfAll = (epoch: number) =>
    PUBLIC_KEY_PURPOSES.flatMap(purpose => [1, 2, 3].map(j => `${purpose}/${epoch} s${j}Q`)).sort()

  test('holds no point of G2 but s_jQ and sQ of permit, sign and encrypt', () => {
    const pub = (epoch: number) => PUBLIC_KEY_PURPOSES.map(purpose => `${purpose}/${epoch} sQ`)
    // Where secrets are drawn, s_jQ in the answers; where they stay, nothing.
    expect([...messages].map(([kind, rounds]) => [kind, pointsIn(rounds)])).toEqual([
      ['found', sharesOfAll(1)],
      ['refresh', []],
      ['reshare', []],
      ['rotate', sharesOfAll(2)],
    ])
    const answers = messages.get('rotate')?.[ROUNDS.indexOf('answer')]
    expect(pointsIn(answers)).toEqual(sharesOfAll(2))
    expect(groups.map(document => pointsIn(document))).toEqual([
      pub(1).sort(),
      pub(1).sort(),
      pub(1).sort(),
      [...pub(1), ...pub(2)].sort(),
    ])
    // Nor in a proposal or a signature.
    expect(strayG2(said, W => nameOf(W) !== undefined)).toEqual([])
  })

  test.each(PURPOSES.filter(purpose => !hasPublicKey(purpose)))(
    's_jQ of %s in an answer of a rotation is found, and refused',
    async purpose => {
      const scalar = secrets.get(`rotate ta2 ${purpose} 0 result`) as Uint8Array
      const W = toBase64Url(authorityServerKeyShare(Scalar.decode(scalar)).encode())
      const rounds = messages.get('rotate') as string[][]
      const answers = rounds[ROUNDS.indexOf('answer')] as string[]
      const { pub, ...rest } = payloadOf(answers[1] as string) as { pub: object }
      const liar = await say(parties[1] as Party, 'answer', { ...rest, pub: { ...pub, [purpose]: W } })
      const told = rounds.map((one, r) =>
        r === ROUNDS.indexOf('answer') ? [answers[0], liar, answers[2]] : one,
      ) as string[][]
      expect(pointsIn(told)).toEqual([...sharesOfAll(2), `${purpose}/2 s2Q`].sort())
      const before = groupWith(
        PURPOSES,
        groups[2] as GroupDocument,
        groupWith(PURPOSES, groups[0] as GroupDocument),
      )
      const ceremony = Ceremony.read(rotateProposal(before, { firstSlot: 9 }), before)
      expect(await outcome(checkCeremony(ceremony, told))).toEqual(['WRONG_SHARE', 'answer', 'ta2'])
    },
  )

  test('is checked by anybody', async () => {
    const [, rounds] = said as [CeremonyProposal, string[][]]
    const ceremony = Ceremony.read(proposal)
    const document = await checkCeremony(ceremony, rounds)
    expect(documentHash(document)).toEqual(documentHash(groups[0] as GroupDocument))
    expect(await outcome(checkResults(ceremony, rounds, document))).toEqual(['OK'])
  })
})
