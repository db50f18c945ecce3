/** The worker pool: with threads, without, and its order of work with workers that only say yes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { HandedKey, LoginItem, PermitItem } from '@milagro-ts/crypto/crypto-worker'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { sign } from '@milagro-ts/crypto/ibs'
import {
  agreePointG1,
  agreePointG2,
  encodeName,
  keyIdentityInput,
  signIdentityPoint,
} from '@milagro-ts/crypto/identity'
import { LoginClaim, LoginMessage } from '@milagro-ts/crypto/mpin'
import { CryptoPool, type PoolOptions, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { AuthenticatedLogin, CheckedPermit, ProvenLogin } from '@milagro-ts/crypto/pooled-login'
import { combineG1, splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareContext } from '@milagro-ts/crypto/share-proof'
import { AgreeClientKey, ClientAgreement, slotName } from '@milagro-ts/crypto/static-agreement'
import { encodePermit, PermitClaim } from '@milagro-ts/crypto/time-permit'
import { afterEach, describe, expect, test } from 'vitest'
import {
  binding,
  car,
  digestOf,
  EPOCH,
  groupId,
  keysOf,
  loginAlone,
  loginWithPin,
  makeCar,
  masters,
  mustBe,
  nonceTerms,
  rule,
  SLOT,
  scalarOf,
  seeded,
} from './world.js'

/** The built file: a thread can't load a source. */
const BUILT = new URL('../dist/node-pool.js', import.meta.url)
const OBEDIENT = new URL('./obedient-worker.mjs', import.meta.url)

/** Timers by hand. */
class HandTimers {
  readonly #set = new Set<() => void>()
  after(_: number, run: () => void): () => void {
    this.#set.add(run)
    return () => this.#set.delete(run)
  }
  fire(): void {
    const due = [...this.#set]
    this.#set.clear()
    for (const run of due) run()
  }
  get size(): number {
    return this.#set.size
  }
}

const open: CryptoPool[] = []
afterEach(async () => {
  for (const pool of open.splice(0)) await pool.close()
})
let now = 1_000_000
const timersOfNode = {
  after: (milliseconds: number, run: () => void) => {
    const timer = setTimeout(run, milliseconds)
    return () => clearTimeout(timer)
  },
}
function start(options: Partial<PoolOptions> = {}): CryptoPool {
  const pool = CryptoPool.start({
    workers: 0,
    random: seeded('weights'),
    clock: () => now,
    timers: timersOfNode,
    ...options,
  })
  open.push(pool)
  return pool
}
const keyOf = (purpose: 'device' | 'pin'): HandedKey => ({
  purpose,
  epoch: EPOCH[purpose],
  ivk: masters[purpose].ivk.encode(),
  S: masters[purpose].sQ.encode(),
})
const bothKeys = async () => [keyOf('device'), keyOf('pin')]
const claimOf = (message: LoginMessage) => LoginClaim.decode(message.encode())
const verify = (pool: CryptoPool, message: LoginMessage) =>
  ProvenLogin.verify(pool, claimOf(message), binding, '192.0.2.1')
const wrong = (() => {
  const { U_dev } = loginAlone()
  return LoginMessage.of(nonceTerms, { U_dev, V_dev: G1.generator })
})()

describe.each([
  ['on this thread', { workers: 0 }],
  ['in one thread', { workers: 1, script: BUILT }],
  ['in two threads', { workers: 2, script: BUILT }],
])('%s', (_, options) => {
  test('device proofs hold or not, in a batch', async () => {
    const pool = start(options)
    expect(await pool.handOver(bothKeys)).toEqual([true, true])
    const cars = [1, 2, 3, 4, 5, 6].map(leaf => makeCar(leaf))
    const messages = cars.map((idCore, i) => (i === 3 ? wrong : loginAlone({ ...nonceTerms, idCore })))
    const proven = await Promise.all(messages.map(message => verify(pool, message)))
    expect(proven.map(one => one !== null)).toEqual([true, true, true, false, true, true])
    expect(AuthenticatedLogin.byDevice(mustBe(proven[0])).idCore.equals(cars[0] as typeof car)).toBe(true)
  })

  test('PIN proofs, for whom the device was proven', async () => {
    const pool = start(options)
    await pool.handOver(bothKeys)
    const verdicts = []
    for (const pin of ['1234', '0000']) {
      const proven = mustBe(await verify(pool, loginWithPin(pin)))
      expect(() => AuthenticatedLogin.byDevice(proven)).toThrow(RangeError)
      verdicts.push(await AuthenticatedLogin.byPin(pool, proven))
    }
    expect(verdicts.map(who => who?.amr)).toEqual([['device', 'pin'], undefined])
    await expect(AuthenticatedLogin.byPin(pool, mustBe(await verify(pool, loginAlone())))).rejects.toThrow(
      RangeError,
    )
  })

  test('a PIN proof without a valid device proof is not looked at', async () => {
    const pool = start(options)
    await pool.handOver(bothKeys)
    const { U_dev, pin } = loginWithPin()
    const message = LoginMessage.of(nonceTerms, { U_dev, V_dev: G1.generator }, pin)
    expect(await pool.pinProof({ message: message.encode(), binding })).toBe(false)
    expect(await pool.pinProof({ message: loginWithPin().encode(), binding })).toBe(true)
  })

  test('what is no point is a DecodeError that names the field, and spoils no batch', async () => {
    const pool = start(options)
    await pool.handOver(bothKeys)
    const broken = loginAlone().encode()
    const at = broken.findIndex((__, i) => equalBytes(broken.slice(i, i + 48), loginAlone().V_dev.encode()))
    broken[at] = 0
    const answers = await Promise.allSettled([
      verify(pool, loginAlone()),
      ProvenLogin.verify(pool, LoginClaim.decode(broken), binding, undefined),
    ])
    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect((answers[1] as PromiseRejectedResult).reason).toBeInstanceOf(DecodeError)
    expect((answers[1] as PromiseRejectedResult).reason).toMatchObject({ field: 'vDev' })
    await expect(pool.run('combine', [{ index: 1, point: new Uint8Array(48) }])).rejects.toBeInstanceOf(
      DecodeError,
    )
    // A programmer's mistake is neither.
    await expect(pool.run('combine', [])).rejects.toThrow('no shares')
  })

  test('server keys of another secret are refused; without one nothing is verified', async () => {
    const pool = start(options)
    await expect(verify(pool, loginAlone())).rejects.toBeInstanceOf(PoolUnavailable)
    expect(await pool.handOver(async () => [{ ...keyOf('device'), ivk: masters.pin.ivk.encode() }])).toEqual([
      false,
    ])
    await expect(verify(pool, loginAlone())).rejects.toBeInstanceOf(PoolUnavailable)
  })

  test('the bytes of the server keys stay nowhere on this thread', async () => {
    const pool = start(options)
    const file = new ArrayBuffer(192)
    // Buffers, whose slices are views: what both are parts of can't move to a worker.
    const keys = (await bothKeys()).map((key, i) => {
      const S = Buffer.from(file, 96 * i, 96)
      S.set(key.S)
      return { ...key, S }
    })
    expect(await pool.handOver(async () => keys)).toEqual([true, true])
    for (const { S } of keys) expect(S.every(byte => byte === 0)).toBe(true)
    expect(await verify(pool, loginAlone())).not.toBeNull()
  })

  test('a server’s key of `agree`: shares with proofs, the key for its slot, and PSKs by it', async () => {
    const pool = start(options)
    const s = scalarOf('master agree')
    const party = { kind: 2, name: 'gw.example', generation: 1 } as const
    const B = slotName(groupId, party, SLOT)
    const shares = splitSecret(s, { t: 2, n: 3 }, seeded('shares of agree')).slice(1)
    const points = await Promise.all(
      shares.map(async ({ index, scalar }) => {
        const jti = digestOf('jti').slice(0, 16)
        const ctx = shareContext({ groupId, purpose: 'agree', index, shareEpoch: 1, identity: B, jti })
        const statement = { name: B, ctx, commitment: G1.generator.mulSecret(scalar).encode() }
        const secret = scalar.encode()
        const share = await pool.run('issueAgree', { statement, secret })
        const other = { ...statement, name: slotName(groupId, party, SLOT + 1) }
        expect(await pool.run('agreeShareVerify', { statement: other, share })).toBeNull()
        return { index, point: mustBe(await pool.run('agreeShareVerify', { statement, share })) }
      }),
    )
    const S = await pool.run('combineAgree', points)
    const handed: HandedKey = {
      purpose: 'agree',
      groupId,
      name: party.name,
      generation: party.generation,
      slot: SLOT,
      epoch: 5,
      ivk: G1.generator.mulSecret(s).encode(),
      S,
    }
    const client = AgreeClientKey.of(
      { groupId, idCore: car, epoch: 5 },
      agreePointG1(encodeName(groupId, { kind: 1, idCore: car })).mulSecret(s),
    )
    const { identity, psk } = ClientAgreement.begin(client, { party, slot: SLOT }, seeded('r')).psk('m1')
    const ask = () => pool.externalPsk({ B, identity }, '192.0.2.1')
    await expect(ask()).rejects.toBeInstanceOf(PoolUnavailable)
    const copy = () => ({ ...handed, S: S.slice() })
    expect(await pool.handOver(async () => [{ ...copy(), slot: SLOT + 1 }])).toEqual([false])
    expect(await pool.handOver(async () => [copy()])).toEqual([true])
    expect(await ask()).toEqual(psk)
    // Of those that go together each gets its own.
    const bytes = fromBase64Url(identity.slice(3), 'identity', 91)
    const noPoint = `m1.${toBase64Url(bytes.fill(0xff, 43))}`
    const wrong = pool.externalPsk({ B, identity: noPoint }, '192.0.2.1')
    const ofSlot = ClientAgreement.begin(client, { party, slot: SLOT + 1 }, seeded('r')).psk('m1').identity
    const early = pool.externalPsk({ B, identity: ofSlot }, '192.0.2.1')
    const [first, none, other, last] = await Promise.allSettled([ask(), wrong, early, ask()])
    for (const one of [first, last]) expect(one).toEqual({ status: 'fulfilled', value: psk })
    expect((none as PromiseRejectedResult).reason).toMatchObject({ name: 'DecodeError', field: 'R' })
    expect((other as PromiseRejectedResult).reason).toMatchObject({ name: 'DecodeError', field: 'identity' })
    // What is handed over next takes its place.
    const next = slotName(groupId, party, SLOT + 1)
    const S_next = agreePointG2(next).mulSecret(s).encode()
    expect(await pool.handOver(async () => [{ ...handed, slot: SLOT + 1, S: S_next }])).toEqual([true])
    await expect(ask()).rejects.toBeInstanceOf(PoolUnavailable)
  })

  test('permits, carried and composed; key shares, issued and verified', async () => {
    const pool = start(options)
    const terms = { groupId, permitEpoch: EPOCH.permit, rule }
    const key = { terms, publicKey: masters.permit.sQ.encode() }
    const target = { type: 'id', idCore: car } as const
    const { permitInput } = await import('@milagro-ts/crypto/time-permit')
    const input = permitInput(terms, SLOT, target)
    const points = await Promise.all(
      masters.permit.shares.slice(0, 2).map(async ({ index, scalar }, i) => {
        const jti = digestOf('jti').slice(0, 16)
        const ctx = shareContext({ groupId, purpose: 'permit', index, shareEpoch: 1, identity: input, jti })
        const commitment = (masters.permit.commitments[i] as G1).encode()
        const statement = { purpose: 'permit', input, ctx, commitment } as const
        const share = await pool.run('issue', { statement, secret: scalar.encode() })
        const other = { ...statement, commitment: G1.generator.encode() }
        expect(await pool.run('shareVerify', { statement: other, share })).toBeNull()
        const d = mustBe(await pool.run('shareVerify', { statement, share }))
        expect(KeyShare.decode(share).d.encode()).toEqual(d)
        return { index, point: d }
      }),
    )
    const permit = mustBe(await CheckedPermit.compose(pool, key, SLOT, target, points))
    expect([permit.slot, permit.covers(car), permit.covers(makeCar(6))]).toEqual([SLOT, true, false])
    expect(await CheckedPermit.verify(pool, key, PermitClaim.decode(permit.bytes))).not.toBeNull()
    const forged = PermitClaim.decode(encodePermit(SLOT, target, G1.generator.encode()))
    expect(await CheckedPermit.verify(pool, key, forged)).toBeNull()
    expect(await CheckedPermit.compose(pool, key, SLOT, target, points.slice(1))).toBeNull()
  })

  test('signatures, in a batch: each has its own verdict', async () => {
    const pool = start(options)
    const s = scalarOf('master sign')
    const message = digestOf('a message')
    const terms = { groupId, slot: SLOT, context: 'a test', signEpoch: 1 }
    const claimOf = (idCore: typeof car, signed = message) => ({
      terms,
      idCore: idCore.bytes,
      publicKey: G2.generator.mulSecret(s).encode(),
      message,
      signature: sign(
        { ...terms, idCore },
        signIdentityPoint(groupId, idCore).mulSecret(s),
        signed,
        seeded('x'),
      ).encode(),
    })
    const items = [
      claimOf(makeCar(1)),
      claimOf(makeCar(2), digestOf('another message')),
      { ...claimOf(makeCar(3)), signature: new Uint8Array(96).fill(1) },
      claimOf(makeCar(4)),
    ]
    const verdicts = await Promise.allSettled(
      items.map((item, i) => pool.signature(item, { source: undefined, identity: `car ${i}` })),
    )
    expect(verdicts.map(one => (one.status === 'fulfilled' ? one.value : one.reason.name))).toEqual([
      true,
      false,
      'DecodeError',
      true,
    ])
  })

  test('server key shares, public keys of a group, and the hash of every purpose', async () => {
    const pool = start(options)
    const { shares, commitments, ivk, sQ } = masters.device
    const W = await Promise.all(
      shares.map(async ({ index, scalar }) => ({
        index,
        point: await pool.run('serverKeyShare', scalar.encode()),
      })),
    )
    const [first] = W as [(typeof W)[number]]
    const C = commitments.map(commitment => commitment.encode())
    expect(await pool.run('sameLogarithm', { commitment: C[0] as Uint8Array, W: first.point })).toBe(true)
    expect(await pool.run('sameLogarithm', { commitment: C[1] as Uint8Array, W: first.point })).toBe(false)
    expect(await pool.run('combineServerKey', { ivk: ivk.encode(), shares: W })).toEqual(sQ.encode())
    expect(await pool.run('combineServerKey', { ivk: C[0] as Uint8Array, shares: W })).toBeNull()
    const keys = { t: 2, ivk: ivk.encode(), commitments: C, pub: undefined }
    expect(await pool.run('publicKeysFault', keys)).toBeNull()
    expect(await pool.run('publicKeysFault', { ...keys, pub: masters.pin.sQ.encode() })).toBe('pub')
    expect(await pool.run('publicKeysFault', { ...keys, ivk: masters.pin.ivk.encode() })).toBe('ivk')
    const input = keyIdentityInput(groupId, { purpose: 'device', idCore: car })
    const issued = await Promise.all(
      shares.slice(0, 2).map(async ({ index, scalar }, i) => {
        const statement = {
          purpose: 'device',
          input,
          ctx: digestOf('ctx'),
          commitment: C[i] as Uint8Array,
        } as const
        const share = KeyShare.decode(await pool.run('issue', { statement, secret: scalar.encode() }))
        return { index, point: share.d }
      }),
    )
    expect(combineG1(issued).equals(keysOf(car).D_dev)).toBe(true)
  })
})

describe('the order of work', () => {
  /** A pool of one worker that says yes, with batches counted. */
  function obedient(options: Partial<PoolOptions> = {}) {
    const timers = new HandTimers()
    const batches: number[] = []
    const events: string[] = []
    const pool = start({
      workers: 1,
      script: OBEDIENT,
      timers,
      on: (event, { size }) => {
        events.push(event)
        if (event === 'batch') batches.push(size as number)
      },
      ...options,
    })
    const send = (first: number, source = 'a', identity = `${source} ${first}`) => {
      const item: LoginItem = { message: Uint8Array.of(first), binding }
      return pool.deviceProof(item, { source, identity })
    }
    return { pool, timers, batches, events, send }
  }
  const GOOD = 2
  const BAD = 0

  test('a batch closes when it is full, or when its time is over', async () => {
    const { timers, batches, send } = obedient({ batch: 3 })
    const full = [send(GOOD), send(GOOD), send(GOOD)]
    expect(await Promise.all(full)).toEqual([true, true, true])
    expect(batches).toEqual([3])
    const waits = [send(GOOD), send(GOOD)]
    await new Promise(resolve => setImmediate(resolve))
    expect(batches).toEqual([3])
    timers.fire()
    expect(await Promise.all(waits)).toEqual([true, true])
    expect(batches).toEqual([3, 2])
  })

  test('what comes while the worker is busy fills the next batch', async () => {
    const { timers, batches, send } = obedient({ batch: 4 })
    const sent = Array.from({ length: 11 }, () => send(GOOD))
    timers.fire()
    while (timers.size > 0 || batches.length < 3) {
      timers.fire()
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(await Promise.all(sent)).toEqual(sent.map(() => true))
    expect(batches).toEqual([4, 4, 3])
  })

  test('a source or identity that failed goes alone, for five minutes', async () => {
    const { timers, batches, send } = obedient({ batch: 8 })
    const wrong = send(BAD, 'mallory', 'alice')
    timers.fire()
    expect(await wrong).toBe(false)
    expect(batches.splice(0)).toEqual([1])
    const sent = [send(GOOD, 'mallory'), send(GOOD, 'bob', 'alice'), send(GOOD, 'bob'), send(GOOD, 'carol')]
    timers.fire()
    while (timers.size > 0) timers.fire()
    await Promise.all(sent)
    expect(batches.splice(0).sort()).toEqual([1, 1, 2])
    now += 300_000
    const later = [send(GOOD, 'mallory'), send(GOOD, 'bob', 'alice')]
    timers.fire()
    await Promise.all(later)
    expect(batches).toEqual([2])
  })

  test('a source’s flood takes its turns: others are in the next batch', async () => {
    const { timers, pool, send } = obedient({ batch: 4 })
    const flood = Array.from({ length: 40 }, () => send(GOOD, 'flood'))
    const done: string[] = []
    const other = send(GOOD, 'other').then(() => done.push('other'))
    const last = (flood.at(-1) as Promise<boolean>).then(() => done.push('flood'))
    while (pool.waiting > 0) {
      timers.fire()
      await new Promise(resolve => setImmediate(resolve))
    }
    await Promise.all([other, last, ...flood])
    expect(done).toEqual(['other', 'flood'])
  })

  test.each([
    [1, [4, 2]],
    [2, [2, 2, 1, 1]],
  ])('PSKs that wait go together, shared out among %i workers', async (workers, sizes) => {
    const { batches, pool } = obedient({ workers })
    const item = { B: new Uint8Array(32), identity: 'm1.' }
    await Promise.all(Array.from({ length: 6 }, (_, i) => pool.externalPsk(item, `source ${i}`)))
    expect(batches).toEqual(sizes)
    // Nothing waits for company.
    await pool.externalPsk(item, 'one more')
    expect(batches).toEqual([...sizes, 1])
  })

  test('a full queue turns away, with a time to come back; a PIN proof is taken all the same', async () => {
    const { timers, events, pool, send } = obedient({ batch: 64, limit: 5 })
    const waits = Array.from({ length: 5 }, () => send(GOOD))
    const refused = await Promise.allSettled([send(GOOD), send(GOOD)])
    const pin = pool.pinProof({ message: Uint8Array.of(GOOD), binding })
    expect(refused.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    const reasons = refused.map(one => (one as PromiseRejectedResult).reason as PoolUnavailable)
    expect(reasons.map(reason => reason instanceof PoolUnavailable)).toEqual([true, true])
    expect(reasons.map(({ retryAfter }) => retryAfter)).toEqual([1, 2])
    expect(events.filter(event => event === 'full')).toHaveLength(2)
    timers.fire()
    expect(await pin).toBe(true)
    expect(await Promise.all(waits)).toEqual(waits.map(() => true))
  })

  test('where the queue is full, a source that waits for less takes a place of the one that waits for most', async () => {
    const { pool, events } = obedient({ limit: 5 })
    const psk = (source: string) =>
      pool.externalPsk({ B: new Uint8Array(32), identity: 'm1.' }, source).then(
        () => source,
        (error: unknown) => (error instanceof PoolUnavailable ? 'turned away' : 'broken'),
      )
    const flood = Array.from({ length: 10 }, () => psk('flood'))
    const others = [psk('car'), psk('truck'), psk('flood')]
    // Four have gone to the worker at once, and five wait.
    expect(await Promise.all(flood)).toEqual([...Array(7).fill('flood'), ...Array(3).fill('turned away')])
    expect(await Promise.all(others)).toEqual(['car', 'truck', 'turned away'])
    expect(events.filter(event => event === 'full')).toHaveLength(4)
  })

  test('whoever showed a false permit shows the next ones by itself', async () => {
    const { pool, timers, batches } = obedient({ batch: 8 })
    const permit = (bytes: number[], source: string) =>
      pool.permit({ permit: Uint8Array.from(bytes) } as unknown as PermitItem, { source, identity: source })
    const wrong = permit([], 'mallory')
    timers.fire()
    expect(await wrong).toBe(false)
    const [again, ...others] = [permit([1], 'mallory'), permit([1], 'car'), permit([1], 'truck')]
    expect(await again).toBe(true)
    timers.fire()
    expect(await Promise.all(others)).toEqual([true, true])
    expect(batches).toEqual([1, 1, 2])
  })

  test('suspects fill a quarter of the queue, no more', async () => {
    const { timers, send } = obedient({ limit: 8 })
    const first = send(BAD, 'mallory')
    timers.fire()
    await first
    const sent = Array.from({ length: 6 }, () => send(GOOD, 'mallory'))
    const other = send(GOOD, 'other')
    const settled = Promise.allSettled(sent)
    while (timers.size > 0) timers.fire()
    expect(await other).toBe(true)
    const kept = (await settled).filter(({ status }) => status === 'fulfilled').length
    expect(kept).toBeGreaterThanOrEqual(2)
    expect(kept).toBeLessThan(6)
  })

  test('whoever fills the suspects’ lane gives way to an identity that was made a suspect', async () => {
    const { timers, events, pool, send } = obedient({ limit: 16 })
    const wrong = send(BAD, 'mallory', 'alice')
    timers.fire()
    await wrong
    const flood = Promise.allSettled(Array.from({ length: 6 }, () => send(GOOD, 'mallory')))
    const alice = send(GOOD, 'home', 'alice')
    expect(pool.waiting).toBeLessThanOrEqual(4)
    const bob = send(GOOD, 'home', 'alice')
    while (timers.size > 0) timers.fire()
    expect(await Promise.all([alice, bob])).toEqual([true, true])
    const refused = (await flood).filter(({ status }) => status === 'rejected')
    for (const one of refused) expect((one as PromiseRejectedResult).reason).toBeInstanceOf(PoolUnavailable)
    expect(events.filter(event => event === 'full')).toHaveLength(refused.length)
    expect(refused.length).toBeGreaterThan(1)
  })

  test('a worker that ends takes its jobs with it, is counted, and is replaced with the keys it needs', async () => {
    const { timers, events, pool, send } = obedient({ batch: 1 })
    let loads = 0
    const load = async () => {
      loads++
      return [keyOf('device')]
    }
    await pool.handOver(load)
    expect(await send(GOOD)).toBe(true)
    await expect(send(66)).rejects.toBeInstanceOf(PoolUnavailable)
    expect(events.filter(event => event === 'crash')).toHaveLength(1)
    const next = send(GOOD)
    timers.fire()
    expect(await next).toBe(true)
    expect(loads).toBe(2)
  })

  test('what came while the workers took keys is taken up when they have them', async () => {
    const { timers, pool, send } = obedient()
    const handed = pool.handOver(async () => [keyOf('device')])
    await Promise.resolve()
    const [login, other] = [send(GOOD), pool.permit({} as PermitItem)]
    // Their time is over while no worker is free; then nothing more comes.
    timers.fire()
    await handed
    expect(await Promise.all([login, other])).toEqual([true, true])
  })

  test('a worker is replaced with its keys also while others are still to get theirs', async () => {
    const { timers, pool, send } = obedient({ workers: 2, batch: 1 })
    let loads = 0
    /** The worker that is the second to take keys waits until the first byte is set. */
    const gate = new Int32Array(new SharedArrayBuffer(8))
    const handed = pool.handOver(async () => {
      loads++
      return [{ ...keyOf('device'), ivk: new Uint8Array(gate.buffer) }]
    })
    // The first has them, and ends: what it was doing is lost.
    while (Atomics.load(gate, 1) < 2) await new Promise(resolve => setImmediate(resolve))
    await expect(send(66)).rejects.toBeInstanceOf(PoolUnavailable)
    timers.fire()
    expect(await send(GOOD)).toBe(true)
    expect(loads).toBe(2)
    Atomics.store(gate, 0, 1)
    Atomics.notify(gate, 0)
    expect(await handed).toEqual([true])
  })

  test('workers that don’t stay alive are not started for ever', async () => {
    const { timers, events, send } = obedient({ batch: 1 })
    for (let i = 0; i < 3; i++) {
      timers.fire()
      await expect(send(66)).rejects.toBeInstanceOf(PoolUnavailable)
    }
    expect(events.filter(event => event === 'crash')).toHaveLength(3)
    // A pause is on: this one waits for its end.
    const waits = send(GOOD)
    let isDone = false
    void waits.then(() => {
      isDone = true
    })
    await new Promise(resolve => setImmediate(resolve))
    expect(isDone).toBe(false)
    timers.fire()
    expect(await waits).toBe(true)
  })

  test('closing answers everybody, and takes nothing more', async () => {
    const { pool, send } = obedient({ batch: 64 })
    const waits = [send(GOOD), send(GOOD), pool.run('cache')]
    const settled = Promise.allSettled(waits)
    await pool.close()
    for (const one of await settled) expect(one.status).toBe('rejected')
    await expect(send(GOOD)).rejects.toBeInstanceOf(PoolUnavailable)
    expect(pool.waiting).toBe(0)
  })

  test('a fault inside a worker is an error here', async () => {
    const { pool } = obedient()
    await expect(pool.run('cache')).rejects.toThrow('in a worker: nothing like it')
  })
})

test('a process waits for its job, and ends when nobody closes the pool', async () => {
  const script = fileURLToPath(new URL('./forgotten-pool.mjs', import.meta.url))
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')])
  expect([said, code]).toEqual(['96\n', 0])
})

test('a number of workers is a number of workers', () => {
  expect(() => start({ workers: -1 })).toThrow(RangeError)
  expect(() => start({ workers: 1.5 })).toThrow(RangeError)
})
