/** The benchmarks run, say what their page says, and end when a side is wrong. What they measure is no test's matter. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { mark, type Result, runBenchmarks } from '../benchmarks/bench.mjs'
import { measureEncrypt } from '../benchmarks/encrypt.mjs'
import { figures, measure } from '../benchmarks/measure.mjs'
import { measurePermits } from '../benchmarks/permits.mjs'
import { measureSignatures } from '../benchmarks/signatures.mjs'
import { measureSize } from '../benchmarks/sizes.mjs'
import { TARGETS } from '../benchmarks/targets.mjs'
import { measureTls, QUICK as TLS_QUICK } from '../benchmarks/tls/bench.mjs'
import { ROOT } from '../scripts/prepare.mjs'

const bench = (...args: string[]) =>
  spawnSync(process.execPath, [`${ROOT}benchmarks/bench.mjs`, ...args], { encoding: 'utf8' })
const timed = TARGETS.filter(({ unit }) => unit === 'us').map(({ op }) => op)
const sized = TARGETS.filter(({ unit }) => unit === 'bytes').map(({ op }) => op)

test('the page lists the rows with their limits', () => {
  const rows = [
    ...readFileSync(`${ROOT}benchmarks/README.md`, 'utf8').matchAll(
      /^\| `([^`]+)` \|.*\| (\S+)( kB)? \| (\S+)( kB)? \|$/gm,
    ),
  ].map(([, op, must, kB, aim]) => ({
    op,
    must: Number(must) * (kB ? 1000 : 1),
    aim: Number(aim) * (kB ? 1000 : 1),
  }))
  expect(rows).toEqual(TARGETS.map(({ op, must, aim }) => ({ op, must, aim })))
  expect(rows).toHaveLength(16)
})

test('every row runs, each side is right and refuses the forgery', async () => {
  const report = await runBenchmarks(timed, 'quick')
  expect(Object.keys(report)).toEqual(['node', 'cpu', 'engine', 'rows'])
  expect(report.rows.map(({ op }) => op)).toEqual(timed)
  for (const { op, unit, ours, references, ratio, must, aim } of report.rows) {
    expect({ op, unit }).toEqual({ op, unit: 'us' })
    expect(ours).toBeGreaterThan(0)
    expect(Object.keys(references)).toContain('mcl-wasm')
    expect('mcl-wasm-batched' in references).toBe(op.startsWith('login-batch'))
    expect((ratio as number) / (ours / (references['mcl-wasm'] as number))).toBeCloseTo(1, 2)
    expect(aim).toBeLessThan(must)
  }
}, 400_000)

test('the command prints one JSON object', () => {
  const { stdout, stderr, status } = bench('--json', '--quick', 'subgroup-g1', 'size-device')
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  const { node, rows } = JSON.parse(stdout) as { node: string; rows: Result[] }
  expect(node).toBe(process.version)
  const [subgroup, size] = rows as [Result, Result]
  expect(Object.keys(subgroup)).toEqual(['op', 'unit', 'ours', 'references', 'ratio', 'must', 'aim'])
  expect(Object.keys(subgroup.references).sort()).toEqual(['blst', 'mcl-wasm', 'noble'])
  expect(size).toEqual({
    op: 'size-device',
    unit: 'bytes',
    ours: expect.any(Number),
    references: {},
    must: 30_000,
    aim: 20_000,
  })
})

test.each(['no-such-row', '--no-such-flag'])('%s is refused with the usage', name => {
  const { stdout, stderr, status } = bench(name)
  expect({ stdout, status }).toEqual({ stdout: '', status: 2 })
  expect(stderr).toContain(name)
  expect(stderr).toContain('npm run bench')
})

test('TLS: every kind of handshake, memory and bulk, in processes of their own', async () => {
  const { rows, idle, bulk, aims } = await measureTls(TLS_QUICK)
  expect(rows.map(({ kind }) => kind)).toEqual([
    'p256',
    'p256-mutual',
    'psk',
    'psk-paced',
    'first',
    'first-ahead',
    'repeated',
  ])
  for (const { serverUs, clientUs, perSecond } of rows)
    expect(Math.min(serverUs, clientUs, perSecond)).toBeGreaterThan(0)
  const bytes = Object.fromEntries(rows.map(row => [row.kind, row.bytes]))
  // The identity is 117 bytes longer than the static one; ClientHello and tickets differ by some bytes.
  expect(Math.abs((bytes.repeated as number) - (bytes.psk as number) - 117)).toBeLessThan(16)
  expect(bytes.repeated).toBeLessThan(bytes.p256 as number)
  expect(bytes.p256).toBeLessThan(bytes['p256-mutual'] as number)
  expect(idle.map(({ kind }) => kind)).toEqual(['p256', 'p256-mutual', 'psk', 'first'])
  expect(bulk.every(({ megabytesPerSecond }) => megabytesPerSecond > 0)).toBe(true)
  expect(aims).toHaveLength(8)
}, 120_000)

test('TLS: a kind that there is not is refused with the usage', () => {
  const { stdout, stderr, status } = bench('tls', '--only', 'rsa')
  expect({ stdout, status }).toEqual({ stdout: '', status: 2 })
  expect(stderr).toContain('rsa')
})

test('permits: covers, issuing and what others do, on a small fleet', () => {
  const { rows, made, cascade } = measurePermits({ quick: true })
  expect(rows.map(({ r, nodes }) => [r, nodes > 0])).toEqual([
    [0, true],
    [10, true],
    [100, true],
  ])
  expect(made.authorityUs).toBeGreaterThan(0)
  // Built, it is as large as the formula says, or the other rows' figures mean nothing.
  for (const { bytes, modelled } of cascade)
    expect(Math.abs(bytes - modelled)).toBeLessThan(0.25 * modelled + 16)
})

test('signatures: what is good holds and what is false does not, on a small number', () => {
  const { count, signUs, oneByOneUs, batchUs, withForgedUs, ratio } = measureSignatures({ quick: true })
  expect(count).toBe(200)
  for (const us of [signUs, oneByOneUs, batchUs, withForgedUs]) expect(us).toBeGreaterThan(0)
  expect(ratio).toBeCloseTo(batchUs / oneByOneUs, 5)
})

test('encrypt: the bytes come back, beside plain age, and both sides say the same of themselves', () => {
  const { megabytes, turns, ours, age, ratio } = measureEncrypt({ quick: true })
  expect([megabytes, turns]).toEqual([16, 1])
  for (const side of [ours, age]) {
    expect(Object.keys(side)).toEqual(['speed', 'peakMB', 'peakOfSmallMB'])
    for (const figure of Object.values(side)) expect(figure).toBeGreaterThan(0)
  }
  expect(ratio).toBeCloseTo(age.speed / ours.speed, 5)
}, 400_000)

describe('measuring', () => {
  const quick = { warmup: 0, rounds: 3, seconds: 0 }
  const work = (result: boolean) => ({ run: () => result, right: (got: unknown) => got === true })

  test('ends when a side is wrong', () => {
    const make = (i: number) => ({ ours: work(true), 'mcl-wasm': work(i < 2) })
    expect(() => measure('row', { make }, quick)).toThrow('row: mcl-wasm is wrong')
  })
  test('ends when a side takes the forgery', () => {
    const make = () => ({ ours: work(true) })
    expect(() => measure('row', { make, forged: () => ({ ours: work(false) }) }, quick)).toThrow(
      'row: ours is wrong',
    )
  })
  test('counts the rounds that are asked for, divided by what is done in each', () => {
    const made: number[] = []
    const make = (i: number) => {
      made.push(i)
      return { ours: work(true), noble: work(true) }
    }
    const { ours, noble } = measure('row', { per: 64, make }, { ...quick, warmup: 2 })
    expect(made).toEqual([0, 1, 0, 1, 2])
    expect([ours?.samples, noble?.samples]).toEqual([3, 3])
  })
  test('medians and tenth percentiles', () => {
    const samples = Array.from({ length: 100 }, (_, i) => 100 - i)
    expect(figures(samples)).toEqual({ median: 51, p10: 11, samples: 100 })
    expect(figures([7])).toEqual({ median: 7, p10: 7, samples: 1 })
  })
  test('marks what is over its limits', () => {
    const at = (ratio: number): Result => ({
      op: 'row',
      unit: 'us',
      ours: 1,
      references: {},
      ratio,
      must: 0.5,
      aim: 0.3,
    })
    expect([0.3, 0.31, 0.5, 0.51].map(ratio => mark(at(ratio)))).toEqual(['aim', 'must', 'must', 'MISSED'])
    const size = { ...at(0), unit: 'bytes', must: 30_000, aim: 20_000 } as const
    expect(mark({ ...size, ours: 25_000 })).toBe('must')
    expect(mark({ ...size, ours: 30_001 })).toBe('MISSED')
  })
})

test.each([...sized, 'size-device-bigint'])('%s bundles our files and no others', async op => {
  const { bytes, inputs } = await measureSize(op)
  expect(bytes).toBeGreaterThan(5000)
  expect(inputs.length).toBeGreaterThan(15)
  expect(inputs.filter(input => !input.startsWith('packages/crypto/dist/'))).toEqual([])
  // Kernels for FMA are Node's.
  expect(inputs.filter(input => /fma-(wasm|kernels)/.test(input))).toEqual(
    op === 'size-device-bigint' ? [] : ['packages/crypto/dist/no-fma-kernels.js'],
  )
  const has = (file: string): boolean => inputs.includes(`packages/crypto/dist/${file}.js`)
  expect({ g1: has('kernel-g1-wasm'), pairing: has('kernel-pairing-wasm') }).toEqual({
    g1: op !== 'size-device-bigint',
    pairing: op === 'size-all',
  })
})

test('both of a device’s bundles, with the kernel and without WebAssembly, and all of the library keep their size', async () => {
  expect((await measureSize('size-all')).bytes).toBeLessThanOrEqual(60_000)
  expect((await measureSize('size-device')).bytes).toBeLessThanOrEqual(30_000)
  expect((await measureSize('size-device-bigint')).bytes).toBeLessThanOrEqual(15_000)
})
