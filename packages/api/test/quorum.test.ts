import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { canonicalHash } from '@milagro-ts/api/canonical-json'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import {
  type AskedAuthority,
  askAuthorities,
  hasMovedOn,
  NoQuorum,
  type ShareAnswer,
} from '@milagro-ts/api/quorum'
import { open, seal } from '@milagro-ts/api/seal'
import { signTicket, verifyTicket } from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue, KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'
import { type Fixture, makeGroup, reshared } from './group-fixture.js'

const T0 = 1_767_225_600 + 3600
const SHARE_EPOCH = 1

let twoOfThree: Fixture
let threeOfThree: Fixture
beforeAll(async () => {
  twoOfThree = await makeGroup({ n: 3, t: 2 })
  threeOfThree = await makeGroup({ n: 3, t: 3 })
})

/** A clock that is turned by hand: `ring` is the deadline, `ring(1000)` what was set for then. */
function handTimers() {
  const pending = new Map<number, () => void>()
  let stopped = false
  const timers: Timers = {
    every: () => () => undefined,
    after: (milliseconds, run) => {
      pending.set(milliseconds, run)
      return () => {
        stopped = true
        pending.delete(milliseconds)
      }
    },
  }
  return { timers, ring: (at = DEADLINE) => pending.get(at)?.(), isStopped: () => stopped }
}
const DEADLINE = 5_000
const never = () => new Promise<never>(() => undefined)

interface Answer extends ShareAnswer {
  readonly share: string
}
type Given = (authority: AskedAuthority, signal: AbortSignal) => Promise<Answer>

/** Answers by index; `good` is the share that verifies. */
function ask(
  { group }: Fixture,
  answers: Record<number, Given>,
  clock = handTimers(),
  lastResort?: ReadonlySet<number>,
) {
  return askAuthorities<Answer, string>({
    group,
    purpose: 'device',
    epoch: 1,
    ask: (authority, signal) => (answers[authority.index] as Given)(authority, signal),
    verify: (_authority, { share }) => (share === 'good' ? share : null),
    deadlineMs: DEADLINE,
    timers: clock.timers,
    ...(lastResort === undefined ? {} : { lastResort }),
  })
}
const of =
  (share: string, shareEpoch = SHARE_EPOCH): Given =>
  async ({ index }) => ({ index, shareEpoch, share })
const good = of('good')
const lie = of('bad')
const dead = async () => {
  throw new Unreachable('no answer', { cause: Object.assign(new Error('x'), { code: 'ECONNREFUSED' }) })
}
const refuse = (code: 'EXPIRED' | 'ALREADY_ISSUED' | 'FROZEN') => async () => {
  throw new Refused(code)
}
const refused = (answer: Promise<unknown>): Promise<NoQuorum> =>
  answer.then(
    () => {
      throw new Error('expected a refusal')
    },
    (error: unknown) => {
      if (error instanceof NoQuorum) return error
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
      epoch: 1,
      ask: async authority => {
        const { A, ctx } = ticket.shareTerms('device', authority.index, SHARE_EPOCH)
        const share = authorityIssue({ commitment: authority.commitment, A, ctx }, shareOf(authority), random)
        const sealed = await seal(sealedTo ?? ticket.hpkeKey, ctx, share.encode(), random)
        return { index: authority.index, shareEpoch: SHARE_EPOCH, sealed: toBase64Url(sealed) }
      },
      verify: async (authority, { sealed, shareEpoch }) => {
        const { A, ctx } = ticket.shareTerms('device', authority.index, shareEpoch)
        const opened = await open(pair, ctx, fromBase64Url(sealed, 'sealed'))
        if (opened === null) return null
        const share = KeyShare.decode(opened)
        return shareVerify({ commitment: authority.commitment, A, ctx }, share) ? share.d : null
      },
      deadlineMs: DEADLINE,
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
    expect(
      faults.map(({ name, kind }) => `${name}: ${kind}`).filter(text => text !== 'ta1: wrong-share'),
    ).toEqual([])
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
      epoch: 1,
      ask: (authority, aborted) => {
        if (authority.index !== 2) return good(authority, aborted)
        signal = aborted
        return never()
      },
      verify: (_authority, { share }) => share,
      deadlineMs: DEADLINE,
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
    expect(faults).toEqual([{ index: 1, name: 'ta1', kind: 'unreachable', why: 'ECONNREFUSED' }])
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
    expect(error.log).toBe('ta1: unreachable (ECONNREFUSED), ta2: wrong-share, ta3: EXPIRED')
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
    let late: ((answer: Answer) => void) | undefined
    const slow = () =>
      new Promise<Answer>(resolve => {
        late = resolve
      })
    const answer = refused(ask(threeOfThree, { 1: good, 2: slow, 3: never }, clock))
    clock.ring()
    late?.({ index: 2, shareEpoch: SHARE_EPOCH, share: 'good' })
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

describe('another share epoch', () => {
  let later: Fixture
  beforeAll(async () => {
    later = await reshared(threeOfThree, { t: 2 })
  })

  test('is no lie: t of the asker’s own are taken', async () => {
    const { shares, faults } = await ask(later, { 1: of('bad', 1), 2: of('good', 2), 3: of('good', 2) })
    expect(shares.map(({ index }) => index)).toEqual([2, 3])
    expect(faults).toEqual([{ index: 1, name: 'ta1', kind: 'other-epoch', shareEpoch: 1 }])
    expect(hasMovedOn(later.group, faults)).toBe(false)
  })

  test('of most: later, accusing nobody, and the asker learns that there may be a newer revision', async () => {
    const error = await refused(ask(twoOfThree, { 1: of('bad', 2), 2: good, 3: of('good', 2) }))
    expect([error.code, error.detail]).toEqual(['RETRY_LATER', 'in another share epoch: ta1, ta3'])
    expect(error.log).toBe('ta1: other-epoch, ta3: other-epoch')
    expect(hasMovedOn(twoOfThree.group, error.faults)).toBe(true)
  })

  test('that lies behind: the authority has not followed yet, and there is nothing newer', async () => {
    const error = await refused(ask(later, { 1: good, 2: good, 3: of('good', 2) }))
    expect(error.code).toBe('RETRY_LATER')
    expect(hasMovedOn(later.group, error.faults)).toBe(false)
  })

  test('does not hide a liar, nor is one made of the other', async () => {
    const error = await refused(ask(threeOfThree, { 1: of('good', 2), 2: lie, 3: dead }))
    expect([error.code, error.detail]).toEqual(['WRONG_SHARE', 'wrong share from ta2'])
    expect(hasMovedOn(threeOfThree.group, error.faults)).toBe(true)
  })

  test('may have given the authority another index: only within an epoch another index is a lie', async () => {
    const as =
      (shareEpoch: number): Given =>
      async () => ({ index: 3, shareEpoch, share: 'good' })
    const moved = await refused(ask(threeOfThree, { 1: good, 2: as(2), 3: good }))
    expect([moved.code, moved.faults[0]?.kind]).toEqual(['RETRY_LATER', 'other-epoch'])
    const lying = await refused(ask(threeOfThree, { 1: good, 2: as(1), 3: good }))
    expect([lying.code, lying.faults[0]?.why]).toEqual(['WRONG_SHARE', "another authority's"])
  })

  test('faults are heard of when they are seen, not when all have answered', async () => {
    const heard: string[] = []
    const clock = handTimers()
    const asking = askAuthorities<Answer, string>({
      group: threeOfThree.group,
      purpose: 'device',
      epoch: 1,
      ask: ({ index }) =>
        index === 2 ? of('bad')({ index } as AskedAuthority, undefined as never) : never(),
      verify: (_authority, { share }) => (share === 'good' ? share : null),
      deadlineMs: DEADLINE,
      timers: clock.timers,
      onFault: ({ name, kind }) => heard.push(`${name} ${kind}`),
    })
    await expect.poll(() => heard).toEqual(['ta2 wrong-share'])
    clock.ring()
    await refused(asking)
    expect(heard).toEqual(['ta2 wrong-share', 'ta1 unreachable', 'ta3 unreachable'])
  })
})

test('a wrong share goes with the hash of the answer, so that its sender can’t deny it', async () => {
  const { faults } = await refused(ask(threeOfThree, { 1: good, 2: lie, 3: good }))
  const answer = { index: 2, shareEpoch: SHARE_EPOCH, share: 'bad' }
  const answerHash = toBase64Url(canonicalHash(answer))
  expect(faults).toEqual([{ index: 2, name: 'ta2', kind: 'wrong-share', answerHash, why: 'does not verify' }])
})

describe('the last resort', () => {
  /** Who was asked, in order. */
  const watched = (answers: Record<number, Given>) => {
    const order: number[] = []
    const watch = Object.entries(answers).map(([index, answer]): [string, Given] => [
      index,
      (authority, signal) => {
        order.push(authority.index)
        return answer(authority, signal)
      },
    ])
    return { order, answers: Object.fromEntries(watch) as Record<number, Given> }
  }

  test('is not asked while the others suffice', async () => {
    const { order, answers } = watched({ 1: lie, 2: good, 3: good })
    const { shares, faults } = await ask(twoOfThree, answers, handTimers(), new Set([1]))
    expect([order, shares.length, faults]).toEqual([[2, 3], 2, []])
  })

  test('is asked as soon as the others can’t give t any more', async () => {
    const { order, answers } = watched({ 1: good, 2: dead, 3: good })
    const { shares } = await ask(twoOfThree, answers, handTimers(), new Set([1]))
    expect([order, shares.map(({ index }) => index)]).toEqual([
      [2, 3, 1],
      [1, 3],
    ])
  })

  test('is asked after a second when one of the others is slow', async () => {
    const clock = handTimers()
    const { order, answers } = watched({ 1: good, 2: never, 3: good })
    const asking = ask(twoOfThree, answers, clock, new Set([1]))
    expect(order).toEqual([2, 3])
    clock.ring(1_000)
    expect(order).toEqual([2, 3, 1])
    expect((await asking).shares.map(({ index }) => index)).toEqual([1, 3])
  })

  test('is asked at once where all are needed, and may be everybody', async () => {
    const { order, answers } = watched({ 1: good, 2: good, 3: good })
    await ask(threeOfThree, answers, handTimers(), new Set([2]))
    expect(order).toEqual([1, 3, 2])
    expect((await ask(twoOfThree, answers, handTimers(), new Set([1, 2, 3]))).shares).toHaveLength(2)
  })
})
