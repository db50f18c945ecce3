/**
 * Delta shares between device and RPS: the RPS asks everybody and can tell no good one from a wrong one, the device can.
 * The authorities are functions here, each as fast as the test says, by a clock turned by hand.
 */
import type { Client } from '@milagro-ts/api/call'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import { deltaTerms } from '@milagro-ts/api/key-rotation'
import { generateEs256 } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { PeerClocks } from '@milagro-ts/api/peer-clocks'
import type { Answer } from '@milagro-ts/api/route'
import { seal } from '@milagro-ts/api/seal'
import { systemRandom } from '@milagro-ts/api/system'
import type { ClientError } from '@milagro-ts/client/errors'
import { type DeltaRequest, type Deltas, fetchDeltas } from '@milagro-ts/client/key-rotation'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { deviceIdentityPoint, IdCore } from '@milagro-ts/crypto/identity'
import type { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue } from '@milagro-ts/crypto/share-proof'
import { Authorities } from '@milagro-ts/rps/authorities'
import { AuthorityWatch } from '@milagro-ts/rps/authority-watch'
import type { GroupDocuments } from '@milagro-ts/rps/group-documents'
import { deltaEpoch } from '@milagro-ts/rps/key-rotations'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import {
  fromPurposes,
  keysOf,
  makeGroup,
  nextRevision,
  publicKeysOf,
  signedBy,
} from '../../api/test/group-fixture.js'
import { FakeClock } from './fake-clock.js'

/** Milliseconds after which it answers, and with what. */
interface Way {
  readonly after: number
  readonly share?: 'wrong' | 'of another share epoch' | 'as if it were the second'
}
type Share = Answer<typeof dtaRoutes.deltas>

const steps = { device: { from: 1, to: 2 } }
const idCore = IdCore.decode(Uint8Array.from({ length: 39 }, (_, i) => (i === 6 ? 2 : i)))
let group: Group
/** δ_j by j − 1, and Δ·A. */
let secrets: Scalar[]
let expected: G1
beforeAll(async () => {
  const fixture = await makeGroup({ n: 3, t: 2 })
  const { t, n } = fixture.group
  const next = fromPurposes(() => Scalar.random(systemRandom))
  const shares = fromPurposes(purpose =>
    splitSecret(next[purpose], { t, n }, systemRandom).map(({ scalar }) => scalar),
  )
  const document = nextRevision(fixture.group, revision => {
    revision.purposes = fromPurposes(purpose => ({
      ...publicKeysOf(purpose, next[purpose], shares[purpose], { epoch: 2, firstSlot: 9 }),
      former: [fixture.document.purposes[purpose]],
    }))
  })
  group = await fixture.group.verifyNext(await signedBy(document, keysOf(fixture.members)))
  secrets = shares.device.map((share, i) => share.subtract(fixture.shares.device[i] as Scalar))
  const delta = next.device.subtract(fixture.secrets.device)
  expected = deviceIdentityPoint(group.groupId, idCore).mulSecret(delta)
})

let clock: FakeClock
let metrics: Metrics
let watch: AuthorityWatch
let authorities: Authorities
beforeEach(async () => {
  clock = new FakeClock(1_800_000_000_000)
  metrics = createMetrics('rps')
  const log = createLog('rps', { level: 'silent' })
  const now = () => clock.now
  watch = new AuthorityWatch({ group: () => group, clock: now, log, metrics })
  authorities = new Authorities({
    name: 'rps',
    key: await generateEs256(),
    clock: now,
    random: systemRandom,
    log,
    fetch: async () => Promise.reject(new TypeError('nobody is asked in this way')),
    timers: clock,
    documents: { current: async () => group } as unknown as GroupDocuments,
    watch,
    clocks: new PeerClocks({ clock: now, log }),
    onRevision: () => undefined,
  })
})

/** What a device gets of authorities that answer so, and how long the RPS took over each request. */
async function rotate(
  ...ways: readonly Way[]
): Promise<{ outcome: Deltas | 'behind' | Error; took: number[] }> {
  const clients = new Map(group.authorities.map(authority => [authorities.at(authority), authority]))
  let answering: Promise<unknown>[] = []
  const took: number[] = []
  const send: DeltaRequest['send'] = async (_, fields) => {
    const began = clock.now
    answering = []
    const ask = (client: Client<typeof dtaRoutes>) => {
      const authority = clients.get(client) as GroupAuthority
      const { after, share } = ways[authority.index - 1] as Way
      const answer = answerOf(authority.index, fields, share)
      let arrived: Promise<void> = Promise.resolve()
      answering.push(
        answer.then(() => {
          arrived = new Promise<void>(done => clock.after(after, done))
        }),
      )
      return answer.then(() => arrived).then(() => answer)
    }
    const answers = await authorities
      .askEach({
        group,
        ask,
        epochOf: (authority, answer) => deltaEpoch(group, authority, steps, answer),
        without: new Set(fields.without),
      })
      .finally(() => took.push(clock.now - began))
    return { device: answers.flatMap(({ device }) => device ?? []) }
  }
  let outcome: Deltas | 'behind' | Error | undefined
  const request = { group, identity: { idCore }, steps, random: systemRandom, send }
  const asking = fetchDeltas(request).then(
    deltas => {
      outcome = deltas
    },
    (error: Error) => {
      outcome = error
    },
  )
  while (outcome === undefined) {
    const computed = answering
    const { length } = computed
    await Promise.all(computed)
    await new Promise(resolve => setImmediate(resolve))
    // Time stands still for what is computed: what was asked meanwhile has its answers under way first.
    if (computed === answering && computed.length === length) clock.turn(100)
  }
  await asking
  return { outcome, took }
}

async function answerOf(
  index: number,
  { hpkeKey }: { readonly hpkeKey: string },
  share: Way['share'],
): Promise<Share> {
  const rotation = { hpkeKey: fromBase64Url(hpkeKey, 'hpkeKey', 32), ...steps }
  const terms = deltaTerms(group, rotation, { idCore }, 'device', index)
  if (terms === null) throw new Error('no such step')
  const secret = share === 'wrong' ? Scalar.random(systemRandom) : (secrets[index - 1] as Scalar)
  const sealed = await seal(
    rotation.hpkeKey,
    terms.ctx,
    authorityIssue(terms, secret, systemRandom).encode(),
    systemRandom,
  )
  return {
    device: {
      index: share === 'as if it were the second' ? 2 : index,
      shareEpoch: group.shareEpoch + (share === 'of another share epoch' ? 1 : 0),
      sealed: toBase64Url(sealed),
    },
  }
}

const [FAST, SLOW] = [{ after: 100 }, { after: 2_000 }]
const isDelta = (outcome: unknown) => (outcome as Deltas).device?.equals(expected)

test('honest ones: t are waited for, and half a second more', async () => {
  const { outcome, took } = await rotate(FAST, FAST, SLOW)
  expect(isDelta(outcome)).toBe(true)
  expect(took).toEqual([600])
})

test('a fast one lies, an honest one is always slow: the device says so, and goes over', async () => {
  const { outcome, took } = await rotate({ ...FAST, share: 'wrong' }, FAST, SLOW)
  // The first answer came without the slow one's share, as every answer would whose asker doesn't say whom it can't use.
  expect(took).toEqual([600, 2_000])
  expect(isDelta(outcome)).toBe(true)
  // A device's word is a hint to people, and nothing else.
  expect(await metrics.registry.metrics()).toContain('rps_authority_shares_reported_total{authority="ta1"} 1')
  expect(watch.standings().map(({ trouble }) => trouble)).toEqual([null, null, null])
  expect(watch.lastResort(group).size).toBe(0)
})

test('one of another share epoch starts nobody’s half second', async () => {
  const { outcome, took } = await rotate({ ...FAST, share: 'of another share epoch' }, FAST, SLOW)
  expect(isDelta(outcome)).toBe(true)
  expect(took).toEqual([2_000])
})

test('nor does one that speaks for another, whom the device would blame', async () => {
  const { outcome, took } = await rotate({ ...FAST, share: 'as if it were the second' }, FAST, SLOW)
  expect(isDelta(outcome)).toBe(true)
  expect(took).toEqual([2_000])
})

test('t of a later share epoch are enough: the device has to follow', async () => {
  const ahead = { ...FAST, share: 'of another share epoch' } as const
  const { outcome, took } = await rotate(ahead, ahead, SLOW)
  expect(outcome).toBe('behind')
  expect(took).toEqual([600])
})

test('a liar, and nobody else who would come: it is named, after five seconds at most', async () => {
  const { outcome, took } = await rotate({ ...FAST, share: 'wrong' }, FAST, { after: 60_000 })
  expect(outcome).toMatchObject({ code: 'WRONG_SHARE', authorities: [{ index: 1 }] })
  expect(took).toEqual([600, 5_000])
})

test('more liars than the group can spare: asked once, all named', async () => {
  const wrong = { ...FAST, share: 'wrong' } as const
  const { outcome, took } = await rotate(wrong, wrong, SLOW)
  expect(outcome).toMatchObject({ code: 'WRONG_SHARE' })
  // In the order in which their answers came.
  const named = (outcome as ClientError).authorities.map(({ index }) => index)
  expect(named.sort()).toEqual([1, 2])
  expect(took).toEqual([600])
})
