/**
 * A gigabyte through `milagro encrypt | milagro decrypt`, as processes of their own: it comes back, in memory that doesn't grow
 * with it, and a flipped bit is refused.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { createCipheriv, createHash, type Hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Readable, Transform, type Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagroWith } from './world.js'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const SIZE = 1_000_000_000
const CHUNK = 1 << 20
/** Plaintext after which a process has what it needs; what it takes from then on would grow with the file. */
const WARM = 100_000_000
const MB = 1_000_000

let folder: Folder
let system: RunningFleet
let idCore: string

beforeAll(async () => {
  folder = await Folder.make()
  system = await runFleet(folder)
  const operator = ['--store', folder.file('operator.json'), '--rps', system.rps]
  await milagroWith(
    { MILAGRO_PIN: '314159', MILAGRO_CODE: system.setupCode },
    ...['device', 'enroll', '--with-pin', '--instance', `operator:${system.operator}`],
    ...['--attribute', `operator=${system.operator}`, ...operator, '--slow-device', '1000'],
  )
  const added = await milagroWith(
    { MILAGRO_PIN: '314159' },
    ...['fleet', 'add', 'vehicle', 'VIN-1', '--attribute', 'brand=Fiat'],
    ...[...operator, '--url', system.fleet, '--json'],
  )
  const enrolled = await milagroWith(
    { MILAGRO_CODE: added.json.code as string, MILAGRO_RPS_URL: system.rps },
    ...['device', 'enroll', '--instance', 'VIN-1', '--attribute', 'brand=Fiat'],
    ...['--store', folder.file('car.json'), '--json'],
  )
  idCore = enrolled.json.idCore as string
}, 180_000)
afterAll(() => folder.close())

/** So many bytes that look like none before, the same each time. */
function* noise(size: number): Generator<Buffer> {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 1), Buffer.alloc(16))
  const zeros = Buffer.alloc(CHUNK)
  for (let left = size; left > 0; left -= CHUNK) yield cipher.update(zeros.subarray(0, Math.min(left, CHUNK)))
}
function hashOfNoise(size: number): string {
  const hash = createHash('sha256')
  for (const chunk of noise(size)) hash.update(chunk)
  return hash.digest('hex')
}

interface Running {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>
  readonly err: () => string
  readonly ended: Promise<number | null>
  /** The most that has been resident, in bytes, as far as it was looked at. */
  readonly peak: () => number
  look(): void
}
function start(...argv: string[]): Running {
  const child = spawn(process.execPath, [MAIN, ...argv], { stdio: ['pipe', 'pipe', 'pipe'] })
  let err = ''
  let peak = 0
  child.stderr.on('data', chunk => {
    err += chunk
  })
  // Whoever ends early takes no more.
  child.stdin.on('error', () => {})
  const look = () => {
    if (child.exitCode !== null) return
    const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
    peak = Math.max(peak, 1024 * Number(/^VmHWM:\s+([0-9]+) kB$/m.exec(status)?.[1] ?? 0))
  }
  return {
    child,
    err: () => err,
    ended: new Promise(resolve => child.once('close', resolve)),
    peak: () => peak,
    look,
  }
}

/** What came out at the end, and how much each process had in hand by WARM and by the end. */
async function through(size: number, onTheWay: Transform) {
  const encrypt = start(
    ...['encrypt', '--to', idCore, '--group', folder.file('group.json'), '--group-id', system.groupId],
  )
  const decrypt = start('decrypt', '--store', folder.file('car.json'), '--rps', system.rps)
  const both = [encrypt, decrypt]
  const began = performance.now()
  const feeding = Promise.allSettled([
    pipeline(Readable.from(noise(size)), encrypt.child.stdin),
    pipeline(encrypt.child.stdout, onTheWay, decrypt.child.stdin),
  ])
  const hash: Hash = createHash('sha256')
  let length = 0
  let warm: number[] | undefined
  for await (const chunk of decrypt.child.stdout) {
    hash.update(chunk as Buffer)
    const before = length
    length += (chunk as Buffer).length
    if (Math.floor(length / CHUNK) === Math.floor(before / CHUNK)) continue
    for (const { look } of both) look()
    if (length >= WARM) warm ??= both.map(({ peak }) => peak())
  }
  const exit = await decrypt.ended
  // Nobody takes what it makes any more.
  if (exit !== 0) encrypt.child.kill()
  await feeding
  const exits = [await encrypt.ended, exit]
  const seconds = (performance.now() - began) / 1000
  const peaks = both.map(({ peak }) => peak())
  const inMb = (bytes: readonly number[]) => bytes.map(one => Math.round(one / MB)).join(' and ')
  console.log(
    `${length / MB} MB in ${seconds.toFixed(0)} s; resident at most ${inMb(peaks)} MB, by ${WARM / MB} MB ${inMb(warm ?? [])} MB`,
  )
  return {
    exits,
    errors: both.map(({ err }) => err()),
    length,
    hash: hash.digest('hex'),
    warm: warm ?? [],
    peaks,
  }
}

const untouched = () => new Transform({ transform: (chunk, _encoding, done) => done(null, chunk) })

/** One bit of the byte at this place. */
function flipping(at: number): Transform {
  let seen = 0
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const place = at - seen
      seen += chunk.length
      if (place < 0 || place >= chunk.length) return done(null, chunk)
      const changed = Buffer.from(chunk)
      changed[place] = (changed[place] as number) ^ 1
      done(null, changed)
    },
  })
}

test.runIf(process.platform === 'linux')('a gigabyte comes back, and memory is as at its tenth', async () => {
  const came = await through(SIZE, untouched())
  expect(came).toMatchObject({ exits: [0, 0], errors: ['', ''], length: SIZE, hash: hashOfNoise(SIZE) })
  for (const [i, peak] of came.peaks.entries()) {
    expect(peak).toBeGreaterThan(20 * MB)
    expect(peak).toBeLessThan(300 * MB)
    expect(peak - (came.warm[i] as number)).toBeLessThan(64 * MB)
  }
})

test('a bit that was flipped in the middle: refused, and nothing of what follows has come out', async () => {
  const at = SIZE / 2
  const { exits, errors, length, hash } = await through(SIZE, flipping(at))
  expect([exits[1], errors[1]]).toEqual([1, 'milagro: MALFORMED: file: it was changed or cut off\n'])
  expect(length).toBeLessThan(at)
  expect(length).toBeGreaterThan(at - 2 * CHUNK)
  expect(hash).toBe(hashOfNoise(length))
})
