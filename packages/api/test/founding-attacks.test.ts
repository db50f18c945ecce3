import {
  AwaitingJoins,
  AwaitingOpenings,
  checkJoins,
  checkOpenings,
  composeFirstRevision,
  type FoundingClient,
  foundingJoin,
  groupMake,
  type OpeningPayload,
} from '@milagro-ts/api/founding'
import { proposalHash } from '@milagro-ts/api/group'
import { signJws } from '@milagro-ts/api/jws'
import { generateEs256 } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { possessionProve } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { lagrangeAtZero } from '@milagro-ts/crypto/secret-sharing'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { PUBLIC_KEY_PURPOSES, PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'
import { MemberAuthority, type Members, makeMembers, type Party } from './founding-members.js'
import { fromPurposes } from './group-fixture.js'

/** Two members: the attacker is the second, and speaks last. */
let members: Members
let honest: AwaitingJoins
let attackersJoin: AwaitingJoins
beforeAll(async () => {
  members = await makeMembers({ n: 2 })
  honest = await join(1, 'honest')
  attackersJoin = await join(2, 'attacker')
})

const keyOf = (index: number) => (members.authorities[index - 1] as Party).signKey
const join = (index: number, seed: string) =>
  foundingJoin({ proposal: members.proposal, index, key: keyOf(index), random: fixedRandom(seed) })
const openHonest = (joins: readonly string[], state = honest) =>
  state.open({ proposal: members.proposal, joins, key: keyOf(1), random: fixedRandom('pop') })
const payloadOf = (jws: string): unknown =>
  JSON.parse(fromUtf8(fromBase64Url(jws.split('.')[1] as string, 'jws'), 'jws'))
const outcome = (answer: Promise<unknown>): Promise<[string, string | undefined]> =>
  answer.then(
    () => ['OK', undefined],
    (error: unknown) => {
      if (error instanceof Refused) return [error.code, error.detail]
      if (error instanceof DecodeError) return ['MALFORMED', error.why]
      throw error
    },
  )

interface Parts {
  readonly C: Record<Purpose, G1>
  readonly W: Record<(typeof PUBLIC_KEY_PURPOSES)[number], G2>
}
const partsOf = (secret: Scalar): Parts => {
  const W = G2.generator.mulSecret(secret)
  return {
    C: fromPurposes(() => G1.generator.mulSecret(secret)),
    W: { permit: W, sign: W, encrypt: W },
  }
}
const BLIND = fixedRandom('blind')(32)

/** What an attacker can sign: a join over any points. */
const craftJoin = ({ C, W }: Parts, index = 2) => {
  const points = [...PURPOSES.map(p => C[p]), ...PUBLIC_KEY_PURPOSES.map(p => W[p])]
  const payload = {
    suite: 'BLS12381-SHA256-V1',
    proposalHash: toBase64Url(proposalHash(members.proposal)),
    index,
    nonce: toBase64Url(fixedRandom('nonce')(32)),
    commitment: toBase64Url(sha256(encodeTlv([BLIND, ...points.map(point => point.encode())]))),
  }
  return signJws('mpin-founding-join+jwt', payload, keyOf(index), `ta${index}`)
}

/** What an attacker can sign: an opening of any points, proven with any secret. */
const craftOpening = async (session: Uint8Array, { C, W }: Parts, secret: Scalar, index = 2) => {
  const part = (purpose: Purpose) => {
    const { kappa, z } = possessionProve({ session, purpose, index }, secret, fixedRandom('k'))
    const [c, proof, rest] = [C[purpose], kappa, z].map(value => toBase64Url(value.encode()))
    return { c: c as string, kappa: proof as string, z: rest as string }
  }
  const pub = (purpose: (typeof PUBLIC_KEY_PURPOSES)[number]) => toBase64Url(W[purpose].encode())
  const payload: OpeningPayload = {
    suite: 'BLS12381-SHA256-V1',
    session: toBase64Url(session),
    index,
    blind: toBase64Url(BLIND),
    parts: {
      device: part('device'),
      pin: part('pin'),
      permit: { ...part('permit'), pub: pub('permit') },
      agree: part('agree'),
      sign: { ...part('sign'), pub: pub('sign') },
      encrypt: { ...part('encrypt'), pub: pub('encrypt') },
    },
  }
  return signJws('mpin-founding-opening+jwt', payload, keyOf(index), `ta${index}`)
}
const sessionOf = async (joins: readonly string[]) => (await checkJoins(members.proposal, joins)).session

test('the crafted messages are good ones when nothing is wrong with them', async () => {
  const secret = Scalar.fromNumber(5)
  const joins = [honest.join, await craftJoin(partsOf(secret))]
  const opened = await openHonest(joins)
  const openings = [opened.opening, await craftOpening(await sessionOf(joins), partsOf(secret), secret)]
  expect((await checkOpenings(members.proposal, joins, openings)).openings).toHaveLength(2)
})

describe('the last one does not choose the key', () => {
  /** C_2 with λ1C_1 + λ2C_2 = xP1, so that the attacker would know the master secret x of `device`. */
  const rogue = (C1: G1, x: Scalar): G1 => {
    const [l1, l2] = lagrangeAtZero([1, 2]) as [Scalar, Scalar]
    return G1.generator.mulSecret(x).subtract(C1.mulPublic(l1)).mulPublic(l2.invert())
  }

  test('by opening other points than it committed to, once it has seen the others', async () => {
    const joins = [honest.join, attackersJoin.join]
    const opened = await openHonest(joins)
    const { parts } = payloadOf(opened.opening) as OpeningPayload
    const x = Scalar.fromNumber(7)
    const C2 = rogue(G1.decode(fromBase64Url(parts.device.c, 'c')), x)
    const own = partsOf(x)
    const late = await craftOpening(await sessionOf(joins), { ...own, C: { ...own.C, device: C2 } }, x)
    const compose = opened.compose({ proposal: members.proposal, openings: [opened.opening, late] })
    expect(await outcome(compose)).toEqual(['WRONG_SHARE', 'ta2: the opening does not fit the commitment'])
  })

  test('even if it knew the others’ points before it committed', async () => {
    const first = await openHonest([honest.join, attackersJoin.join])
    const C1 = G1.decode(fromBase64Url((payloadOf(first.opening) as OpeningPayload).parts.device.c, 'c'))
    const x = Scalar.fromNumber(7)
    const own = partsOf(x)
    const chosen = { ...own, C: { ...own.C, device: rogue(C1, x) } }
    // The points would make the group's device key the attacker's.
    const [l1, l2] = lagrangeAtZero([1, 2]) as [Scalar, Scalar]
    const ivk = C1.mulPublic(l1).add(chosen.C.device.mulPublic(l2))
    expect(ivk.equals(G1.generator.mulSecret(x))).toBe(true)

    const joins = [honest.join, await craftJoin(chosen)]
    const opened = await openHonest(joins)
    const openings = [opened.opening, await craftOpening(await sessionOf(joins), chosen, x)]
    expect(await outcome(opened.compose({ proposal: members.proposal, openings }))).toEqual([
      'WRONG_SHARE',
      'ta2: no proof of possession for device',
    ])
  })

  test('by repeating another’s points and proofs as its own', async () => {
    const first = payloadOf((await openHonest([honest.join, attackersJoin.join])).opening) as OpeningPayload
    const joined = payloadOf(honest.join) as { commitment: string }
    const copied = { ...(payloadOf(attackersJoin.join) as object), commitment: joined.commitment }
    const joins = [honest.join, await signJws('mpin-founding-join+jwt', copied, keyOf(2), 'ta2')]
    const opened = await openHonest(joins)
    const own = payloadOf(opened.opening) as OpeningPayload
    expect(own.blind).toBe(first.blind)
    const copy = await signJws('mpin-founding-opening+jwt', { ...own, index: 2 }, keyOf(2), 'ta2')
    expect(
      await outcome(opened.compose({ proposal: members.proposal, openings: [opened.opening, copy] })),
    ).toEqual(['WRONG_SHARE', 'ta2: no proof of possession for device'])
  })

  test('by publishing a permit key of another secret', async () => {
    const secret = Scalar.fromNumber(5)
    const own = partsOf(secret)
    const mixed = { ...own, W: { ...own.W, permit: G2.generator.mulSecret(Scalar.fromNumber(6)) } }
    const joins = [honest.join, await craftJoin(mixed)]
    const opened = await openHonest(joins)
    const openings = [opened.opening, await craftOpening(await sessionOf(joins), mixed, secret)]
    expect(await outcome(opened.compose({ proposal: members.proposal, openings }))).toEqual([
      'WRONG_SHARE',
      'ta2: the public share for permit is of another secret',
    ])
  })
})

describe('everybody sees the same run', () => {
  test('two different joins of one authority end in openings that fit nowhere', async () => {
    const three = await makeMembers({ n: 3 })
    const { proposal } = three
    const made = (index: number, seed: string) => {
      const key = (three.authorities[index - 1] as Party).signKey
      return foundingJoin({ proposal, index, key, random: fixedRandom(seed) })
    }
    const [one, two, mallory, malloryAgain] = await Promise.all([
      made(1, 'one'),
      made(2, 'two'),
      made(3, 'mallory'),
      made(3, 'mallory again'),
    ])
    const key = (index: number) => (three.authorities[index - 1] as Party).signKey
    const open = (state: AwaitingJoins, last: AwaitingJoins, index: number) =>
      state.open({
        proposal,
        joins: [one.join, two.join, last.join],
        key: key(index),
        random: fixedRandom('pop'),
      })
    const shownFirst = await open(one, mallory, 1)
    const shownSecond = await open(two, malloryAgain, 2)
    const last = await open(mallory, mallory, 3)
    const openings = [shownFirst.opening, shownSecond.opening, last.opening]
    expect(await outcome(shownFirst.compose({ proposal, openings }))).toEqual([
      'CONFLICT',
      'ta2 has opened under another session',
    ])
    expect(await outcome(shownSecond.compose({ proposal, openings }))).toEqual([
      'CONFLICT',
      'ta1 has opened under another session',
    ])
  })

  test('an opening of an older session is refused', async () => {
    const oldJoins = [honest.join, attackersJoin.join]
    const random = fixedRandom('pop')
    const old = await attackersJoin.open({
      proposal: members.proposal,
      joins: oldJoins,
      key: keyOf(2),
      random,
    })
    const fresh = await join(1, 'a later run')
    const opened = await openHonest([fresh.join, attackersJoin.join], fresh)
    expect(
      await outcome(opened.compose({ proposal: members.proposal, openings: [opened.opening, old.opening] })),
    ).toEqual(['CONFLICT', 'ta2 has opened under another session'])
  })

  test('one set of secrets opens under one session: the same joins again, no others', async () => {
    const { proposal } = members
    const joins = [honest.join, attackersJoin.join]
    const opened = AwaitingOpenings.decode((await openHonest(joins)).encode())
    expect(await opened.openAgain({ proposal, joins: [...joins].reverse() })).toBe(opened.opening)
    const others = [honest.join, (await join(2, 'second thoughts')).join]
    expect(await outcome(opened.openAgain({ proposal, joins: others }))).toEqual([
      'CONFLICT',
      'this authority has opened to other joins',
    ])
    expect(opened.join).toBe(honest.join)
  })

  test('an authority opens only where its own join stands', async () => {
    const others = [(await join(1, 'not mine')).join, attackersJoin.join]
    expect((await outcome(openHonest(others)))[0]).toBe('CONFLICT')
  })

  test('and composes only where its own opening stands', async () => {
    const joins = [honest.join, attackersJoin.join]
    const opened = await openHonest(joins)
    const again = await honest.open({
      proposal: members.proposal,
      joins,
      key: keyOf(1),
      random: fixedRandom('another proof'),
    })
    const second = await attackersJoin.open({
      proposal: members.proposal,
      joins,
      key: keyOf(2),
      random: fixedRandom('pop'),
    })
    const compose = opened.compose({ proposal: members.proposal, openings: [again.opening, second.opening] })
    expect((await outcome(compose))[0]).toBe('CONFLICT')
  })
})

describe('joins are refused', () => {
  const check = (joins: readonly string[]) => outcome(checkJoins(members.proposal, joins))

  test('when one is missing, stands twice, or is a stranger’s', async () => {
    expect((await check([honest.join]))[0]).toBe('CONFLICT')
    expect((await check([honest.join, honest.join]))[0]).toBe('CONFLICT')
    const stranger = await generateEs256()
    const forged = await signJws(
      'mpin-founding-join+jwt',
      payloadOf(attackersJoin.join) as object,
      stranger,
      'ta2',
    )
    expect((await check([honest.join, forged]))[0]).toBe('NOT_APPROVED')
  })

  test('when one speaks as another', async () => {
    const asFirst = { ...(payloadOf(attackersJoin.join) as object), index: 1 }
    const join = await signJws('mpin-founding-join+jwt', asFirst, keyOf(2), 'ta2')
    expect((await check([join, attackersJoin.join]))[0]).toBe('NOT_APPROVED')
  })

  test('when one is for another proposal', async () => {
    const proposal = { ...members.proposal, policy: { lead: 9, grace: 0 } }
    const other = await foundingJoin({ proposal, index: 2, key: keyOf(2), random: fixedRandom('x') })
    expect(await check([honest.join, other.join])).toEqual(['CONFLICT', 'ta2 has joined another proposal'])
  })

  test('when one is an opening', async () => {
    const { opening } = await openHonest([honest.join, attackersJoin.join])
    expect((await check([opening, attackersJoin.join]))[0]).toBe('NOT_APPROVED')
  })
})

test('an authority joins only what names its own key, and only n of n', async () => {
  const { proposal } = members
  const stranger = await generateEs256()
  const random = fixedRandom('x')
  const asStranger = foundingJoin({ proposal, index: 1, key: stranger, random })
  expect((await outcome(asStranger))[0]).toBe('NOT_APPROVED')
  expect((await outcome(foundingJoin({ proposal, index: 3, key: stranger, random })))[0]).toBe('NOT_APPROVED')
  const three = await makeMembers({ n: 3 })
  const { signKey } = three.authorities[0] as Party
  const threshold = { ...three.proposal, t: 2 }
  const join = foundingJoin({ proposal: threshold, index: 1, key: signKey, random })
  expect((await outcome(join))[0]).toBe('MALFORMED')
})

test('every authority composes the same document, whatever the order it was told in', async () => {
  const { proposal } = members
  const joins = [honest.join, attackersJoin.join]
  const one = await openHonest(joins)
  const two = await attackersJoin.open({ proposal, joins, key: keyOf(2), random: fixedRandom('pop') })
  const openings = [one.opening, two.opening]
  const first = await one.compose({ proposal, openings })
  const second = await two.compose({ proposal, openings: [...openings].reverse() })
  expect(second.document).toEqual(first.document)
  const checked = await checkOpenings(proposal, joins, openings)
  expect(await composeFirstRevision(proposal, checked.openings)).toEqual(first.document)
  const C1 = G1.generator.mulSecret(first.shares.device)
  expect(toBase64Url(C1.encode())).toBe(first.document.purposes.device.shares[0])
})

describe('a waiting state', () => {
  test('survives its codec', async () => {
    const joins = [honest.join, attackersJoin.join]
    const again = AwaitingJoins.decode(honest.encode())
    expect(again.join).toBe(honest.join)
    const opened = await openHonest(joins, again)
    expect(payloadOf(opened.opening)).toEqual(payloadOf((await openHonest(joins)).opening))
    expect(AwaitingOpenings.decode(opened.encode()).opening).toBe(opened.opening)
  })

  test('that is damaged is refused without repeating what is in it', async () => {
    const bytes = honest.encode()
    const secrets = JSON.parse(fromUtf8(bytes, 'state')) as { secrets: Record<string, string> }
    const wrong = [
      utf8('{'),
      utf8('[]'),
      utf8('{}'),
      bytes.subarray(1),
      AwaitingOpenings.of(1, await shares(), [honest.join], honest.join).encode(),
    ]
    for (const damaged of wrong) {
      const error = (() => {
        try {
          return AwaitingJoins.decode(damaged)
        } catch (error) {
          return error
        }
      })()
      expect(error).toBeInstanceOf(DecodeError)
      for (const secret of Object.values(secrets.secrets)) expect(String(error)).not.toContain(secret)
    }
  })
  const shares = async () => fromPurposes(() => Scalar.fromNumber(1))
})

describe('the coordinator', () => {
  const run = (change: (client: MemberAuthority) => Partial<FoundingClient>) => {
    const one = new MemberAuthority(members, 1)
    const two = new MemberAuthority(members, 2)
    const wrapped: FoundingClient = {
      joinFounding: () => two.joinFounding(),
      openFounding: input => two.openFounding(input),
      signFounding: input => two.signFounding(input),
      concludeFounding: input => two.concludeFounding(input),
      ...change(two),
    }
    return { one, made: outcome(groupMake({ proposal: members.proposal, clients: [one, wrapped] })) }
  }

  test('names the authority that refuses', async () => {
    const { made } = run(() => ({ joinFounding: () => Promise.reject(new Refused('NOT_APPROVED')) }))
    expect(await made).toEqual(['NOT_APPROVED', 'ta2: NOT_APPROVED'])
  })

  test('names the authority that signs another group, and concludes nowhere', async () => {
    const groupId = toBase64Url(new Uint8Array(32))
    const { one, made } = run(two => ({
      signFounding: async input => ({ ...(await two.signFounding(input)), groupId }),
    }))
    expect(await made).toEqual(['CONFLICT', 'ta2 has computed another group'])
    expect(one.concluded).toBeUndefined()
  })

  test('does not conclude with a signature that does not verify', async () => {
    const { one, made } = run(two => ({
      signFounding: async input => ({
        ...(await two.signFounding(input)),
        signature: toBase64Url(new Uint8Array(64)),
      }),
    }))
    expect(await made).toEqual(['NOT_APPROVED', 'the signature of ta2 does not verify'])
    expect(one.concluded).toBeUndefined()
  })

  test('runs again after a run that broke off, and comes to the same group', async () => {
    const clients = [new MemberAuthority(members, 1), new MemberAuthority(members, 2)] as const
    const [one, two] = clients
    const broken: FoundingClient = {
      joinFounding: () => two.joinFounding(),
      openFounding: input => two.openFounding(input),
      signFounding: () => Promise.reject(new Refused('RETRY_LATER')),
      concludeFounding: input => two.concludeFounding(input),
    }
    const { proposal } = members
    expect((await outcome(groupMake({ proposal, clients: [one, broken] })))[0]).toBe('RETRY_LATER')
    const group = await groupMake({ proposal, clients })
    expect(clients.map(client => client.concluded)).toEqual([group.document, group.document])
  })
})
