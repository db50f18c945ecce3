import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { type AskedAuthority, askAuthorities } from '@milagro-ts/api/quorum'
import { open, seal } from '@milagro-ts/api/seal'
import { signTicket, verifyTicket } from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue, KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'
import { type Fixture, makeGroup } from './group-fixture.js'

const T0 = 1_767_225_600 + 3600
const SHARE_EPOCH = 1

let twoOfThree: Fixture
let threeOfThree: Fixture
beforeAll(async () => {
  twoOfThree = await makeGroup({ n: 3, t: 2 })
  threeOfThree = await makeGroup({ n: 3, t: 3 })
})

/** A clock that is turned by hand: `ring` is the deadline. */
function handTimers() {
  let pending: (() => void) | undefined
  let stopped = false
  const timers: Timers = {
    every: () => () => undefined,
    after: (_ms, run) => {
      pending = run
      return () => {
        stopped = true
      }
    },
  }
  return { timers, ring: () => pending?.(), isStopped: () => stopped }
}
const never = () => new Promise<never>(() => undefined)

/** Answers by index; `good` is the answer that verifies. */
function ask(fixture: Fixture, answers: Record<number, () => Promise<string>>, clock = handTimers()) {
  return askAuthorities({
    group: fixture.group,
    purpose: 'device',
    ask: ({ index }) => (answers[index] as () => Promise<string>)(),
    verify: (_authority, answer) => (answer === 'good' ? answer : null),
    deadlineMs: 1000,
    timers: clock.timers,
  })
}
const good = async () => 'good'
const lie = async () => 'bad'
const dead = async () => {
  throw new Unreachable('no answer')
}
const refuse = (code: 'EXPIRED' | 'ALREADY_ISSUED' | 'FROZEN') => async () => {
  throw new Refused(code)
}
const refused = (answer: Promise<unknown>): Promise<Refused> =>
  answer.then(
    () => {
      throw new Error('expected a refusal')
    },
    (error: unknown) => {
      if (error instanceof Refused) return error
      throw error
    },
  )

describe('a car gets its key in sealed shares', () => {
  const device = async (
    fixture: Fixture,
    shareOf: (authority: AskedAuthority) => Scalar,
    sealedTo?: Uint8Array,
  ) => {
    const { group, members } = fixture
    const random = fixedRandom('car')
    const pair = await generateHpkeKey(random)
    const idCore = IdCore.zero
    const payload = {
      suite: 'BLS12381-SHA256-V1' as const,
      groupId: toBase64Url(group.groupId),
      keyEpochs: { device: 1 },
      idCore: idCore.mpinId,
      purposes: ['device' as const],
      hpkeKey: toBase64Url(pair.publicKey),
      hpkeKeyHash: toBase64Url(enrolmentKeyHash(pair.publicKey)),
      iat: T0,
      exp: T0 + 60,
      jti: toBase64Url(random(16)),
    }
    const ra = members.ra[0]
    if (ra === undefined) throw new Error('no RA key')
    const token = await signTicket(payload, { key: ra, kid: 'ra1' })
    const ticket = await verifyTicket({ ticket: [token], group, now: T0 * 1000 })
    const { shares, faults } = await askAuthorities({
      group,
      purpose: 'device',
      ask: async authority => {
        const { A, ctx } = ticket.shareTerms('device', authority.index, SHARE_EPOCH)
        const share = authorityIssue({ commitment: authority.commitment, A, ctx }, shareOf(authority), random)
        return seal(sealedTo ?? ticket.hpkeKey, ctx, share.encode(), random)
      },
      verify: async (authority, sealed) => {
        const { A, ctx } = ticket.shareTerms('device', authority.index, SHARE_EPOCH)
        const opened = await open(pair, ctx, sealed)
        if (opened === null) return null
        const share = KeyShare.decode(opened)
        return shareVerify({ commitment: authority.commitment, A, ctx }, share) ? share.d : null
      },
      deadlineMs: 1000,
      timers: handTimers().timers,
    })
    const D = combineG1(shares.map(({ index, share }) => ({ index, point: share })))
    const { A } = ticket.shareTerms('device', 1, SHARE_EPOCH)
    return { faults, right: D.equals(A.mulSecret(fixture.secrets.device)) }
  }
  const honest = (fixture: Fixture) => (authority: AskedAuthority) =>
    fixture.shares.device[authority.index - 1] as Scalar

  test('from any two of three, and from three of three', async () => {
    expect(await device(twoOfThree, honest(twoOfThree))).toEqual({ faults: [], right: true })
    expect(await device(threeOfThree, honest(threeOfThree))).toEqual({ faults: [], right: true })
  })

  test('although one lies: nobody else is named, whoever answers first', async () => {
    const lying = (authority: AskedAuthority) =>
      twoOfThree.shares[authority.index === 1 ? 'pin' : 'device'][authority.index - 1] as Scalar
    const { faults, right } = await device(twoOfThree, lying)
    expect(right).toBe(true)
    // Two honest answers may come first, and then nobody waits for the third.
    expect([{ index: 1, name: 'ta1', kind: 'wrong-share' }]).toEqual(expect.arrayContaining([...faults]))
  })

  test('not where all must answer and one lies', async () => {
    const lying = (authority: AskedAuthority) =>
      threeOfThree.shares[authority.index === 2 ? 'pin' : 'device'][authority.index - 1] as Scalar
    const error = await refused(device(threeOfThree, lying))
    expect([error.code, error.detail]).toEqual(['WRONG_SHARE', 'wrong share from ta2'])
  })

  test('not when the shares are sealed to another key', async () => {
    const relay = await generateHpkeKey(fixedRandom('relay'))
    const error = await refused(device(twoOfThree, honest(twoOfThree), relay.publicKey))
    expect(error.code).toBe('WRONG_SHARE')
  })
})

describe('t good answers are enough', () => {
  test('a slow authority holds nobody up, and is told that nobody waits', async () => {
    const clock = handTimers()
    let signal: AbortSignal | undefined
    const { shares, faults } = await askAuthorities({
      group: twoOfThree.group,
      purpose: 'device',
      ask: (authority, aborted) => {
        if (authority.index !== 2) return good()
        signal = aborted
        return never()
      },
      verify: (_authority, answer) => answer,
      deadlineMs: 1000,
      timers: clock.timers,
    })
    expect(shares.map(({ index }) => index)).toEqual([1, 3])
    expect(faults).toEqual([])
    expect(signal?.aborted).toBe(true)
    expect(clock.isStopped()).toBe(true)
  })

  test('a dead one is reported', async () => {
    const { shares, faults } = await ask(twoOfThree, { 1: dead, 2: good, 3: good })
    expect(shares.map(({ index }) => index)).toEqual([2, 3])
    expect(faults).toEqual([{ index: 1, name: 'ta1', kind: 'unreachable' }])
  })

  test('exactly t come back, ascending, when all are good', async () => {
    const { shares } = await ask(twoOfThree, { 1: good, 2: good, 3: good })
    expect(shares).toHaveLength(2)
    const indices = shares.map(({ index }) => index)
    expect(indices).toEqual([...indices].sort())
  })
})

describe('too few', () => {
  test('a liar is named before anything else is said', async () => {
    const error = await refused(ask(threeOfThree, { 1: dead, 2: lie, 3: refuse('EXPIRED') }))
    expect([error.code, error.detail]).toEqual(['WRONG_SHARE', 'wrong share from ta2'])
    expect(error.log).toBe('ta1: unreachable, ta2: wrong-share, ta3: EXPIRED')
  })

  test('an answer that does not decode, or fits no schema, is a lie', async () => {
    const undecodable = async () => {
      throw new DecodeError('share', 'too short')
    }
    const foreign = async () => {
      throw new UnexpectedAnswer('html')
    }
    const error = await refused(ask(twoOfThree, { 1: undecodable, 2: foreign, 3: good }))
    expect([error.code, error.detail]).toEqual(['WRONG_SHARE', 'wrong share from ta1, ta2'])
  })

  test('the authorities’ own code, when they refuse alike', async () => {
    const same = refuse('ALREADY_ISSUED')
    expect((await refused(ask(twoOfThree, { 1: same, 2: same, 3: good }))).code).toBe('ALREADY_ISSUED')
    expect((await refused(ask(threeOfThree, { 1: good, 2: same, 3: good }))).code).toBe('ALREADY_ISSUED')
  })

  test('one refusal beside one dead does not speak for the group', async () => {
    const error = await refused(ask(twoOfThree, { 1: refuse('FROZEN'), 2: dead, 3: good }))
    expect([error.code, error.detail]).toEqual(['RETRY_LATER', 'no answer from ta2'])
  })

  test('different codes are nobody’s answer', async () => {
    const answers = { 1: refuse('EXPIRED'), 2: refuse('FROZEN'), 3: refuse('EXPIRED') }
    expect((await refused(ask(threeOfThree, answers))).code).toBe('RETRY_LATER')
  })

  test('at the deadline the silent ones are reported, and what comes later changes nothing', async () => {
    const clock = handTimers()
    let late: ((answer: string) => void) | undefined
    const slow = () =>
      new Promise<string>(resolve => {
        late = resolve
      })
    const answer = refused(ask(threeOfThree, { 1: good, 2: slow, 3: never }, clock))
    clock.ring()
    late?.('good')
    const error = await answer
    expect([error.code, error.detail?.startsWith('no answer from')]).toEqual(['RETRY_LATER', true])
    expect(error.detail).toContain('ta3')
  })

  test('a mistake of the caller is not an authority’s fault', async () => {
    const broken = async () => {
      throw new TypeError('undefined is not a function')
    }
    await expect(ask(twoOfThree, { 1: good, 2: broken, 3: never })).rejects.toBeInstanceOf(TypeError)
  })
})
