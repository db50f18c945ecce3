/**
 * `npm run bench -- encrypt`: a gigabyte through `encryptFile` and `decryptFile` (packages/client), as `milagro encrypt` and
 * `decrypt` run them, and beside it through plain age of the same library with an X25519 recipient. The bytes are made and
 * thrown away in one process, so no disk is timed; the highest resident memory shows that it is constant. Sides take turns,
 * each turn in a process of its own (`node encrypt.mjs <side> <bytes>`), so that neither has the other's heap.
 *
 *   --quick   16 MB, one turn each: to see that it runs
 *   --json    one object
 */
import { execFileSync } from 'node:child_process'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { decryptFile, encryptFile } from '@milagro-ts/client/encrypted-file'
import { decapsulate } from '@milagro-ts/crypto/ibe'
import { encodeName, encryptPoint, IdCore } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption'
import { figures } from './measure.mjs'

/** @typedef {ReadableStream<Uint8Array>} Bytes */
/** @typedef {{encrypt: (source: Bytes) => Promise<Bytes>, decrypt: (source: Bytes) => Promise<Bytes>}} Side */

/** @type {import('@milagro-ts/crypto/ports').Random} */
const random = length => crypto.getRandomValues(new Uint8Array(length))
const MB = 1_000_000
/** As files are read. */
const PIECE = 65_536

/** @param {number} length @returns {Bytes} */
function source(length) {
  const piece = random(PIECE)
  let left = length
  return new ReadableStream(
    {
      pull(controller) {
        if (left === 0) return controller.close()
        const part = piece.slice(0, Math.min(PIECE, left))
        left -= part.length
        controller.enqueue(part)
      },
    },
    { highWaterMark: 0 },
  )
}

/** What the library itself asks of a group and a device, under keys made here. @returns {Side} */
function ours() {
  const groupId = random(32)
  const s = Scalar.random(random)
  const Ppub = G2.generator.mulSecret(s)
  const idCore = IdCore.decode(Uint8Array.of(0, 0, 0, 1, 0, 1, 0, ...random(32)))
  const name = encodeName(groupId, { kind: 1, idCore })
  const key = encryptPoint(name).mulSecret(s)
  const group = {
    groupId,
    slotRule: { origin: 0, length: 86_400 },
    keysAt: () => ({ epoch: 1, firstSlot: 0, pub: Ppub }),
  }
  const device = {
    groupId,
    encryptionName: () => name,
    decapsulate: async (/** @type {Uint8Array} */ bytes) => decapsulate({ name, Ppub }, key, bytes),
  }
  return {
    encrypt: plain => encryptFile(plain, { to: [{ kind: 1, idCore }], group, now: 86_400_000, random }),
    decrypt: file => decryptFile(file, device),
  }
}

/** The same library with an X25519 recipient. @returns {Promise<Side>} */
async function age() {
  const identity = await generateX25519Identity()
  const encrypter = new Encrypter()
  encrypter.addRecipient(await identityToRecipient(identity))
  const decrypter = new Decrypter()
  decrypter.addIdentity(identity)
  return { encrypt: plain => encrypter.encrypt(plain), decrypt: file => decrypter.decrypt(file) }
}

/** @type {Readonly<Record<string, () => Side | Promise<Side>>>} */
const SIDES = { ours, age }

/** Seconds, and the highest resident memory in bytes. @param {Side} side @param {number} length */
async function through({ encrypt, decrypt }, length) {
  let peak = 0
  let count = 0
  const begin = performance.now()
  const reader = (await decrypt(await encrypt(source(length)))).getReader()
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    count += read.value.length
    peak = Math.max(peak, process.memoryUsage.rss())
  }
  if (count !== length) throw new Error(`${count} bytes came back of ${length}`)
  return { seconds: (performance.now() - begin) / 1000, peak }
}

/** In a process of its own. @param {string} side @param {number} length @returns {{seconds: number, peak: number}} */
function turn(side, length) {
  const args = [fileURLToPath(import.meta.url), side, String(length)]
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }))
}

/** @param {{quick: boolean}} effort */
export function measureEncrypt({ quick }) {
  const length = quick ? 16 * MB : 1_000 * MB
  const turns = quick ? 1 : 3
  const sides = Object.keys(SIDES)
  /** @type {Record<string, ReturnType<typeof turn>[]>} */
  const taken = Object.fromEntries(sides.map(side => [side, []]))
  for (let i = 0; i < turns; i++)
    for (const side of i % 2 === 0 ? sides : sides.toReversed()) taken[side]?.push(turn(side, length))
  /** Encrypting and decrypting: MB/s of plaintext through both. */
  const of = (/** @type {string} */ side) => {
    const times = taken[side] ?? []
    return {
      speed: length / MB / figures(times.map(({ seconds }) => seconds)).median,
      peakMB: Math.max(...times.map(({ peak }) => peak)) / MB,
      /** Of a sixteenth. */
      peakOfSmallMB: turn(side, length / 16).peak / MB,
    }
  }
  const [own, plain] = [of('ours'), of('age')]
  return {
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    megabytes: length / MB,
    turns,
    ours: own,
    age: plain,
    /** Of the times. */
    ratio: plain.speed / own.speed,
  }
}

const USAGE = 'npm run bench -- encrypt [--quick] [--json]'

/** @param {readonly string[]} args */
export function benchEncrypt(args) {
  const unknown = args.filter(arg => !['--quick', '--json'].includes(arg))
  if (unknown.length > 0) {
    console.error(`unknown: ${unknown.join(', ')}\n${USAGE}`)
    return 2
  }
  const report = measureEncrypt({ quick: args.includes('--quick') })
  if (args.includes('--json')) console.log(JSON.stringify(report))
  else {
    const { node, cpu, megabytes, turns, ours: own, age: plain, ratio } = report
    console.log(
      `Node ${node}, ${cpu}; ${megabytes} MB, encrypted and decrypted in one pass; median of ${turns}`,
    )
    for (const [name, { speed, peakMB, peakOfSmallMB }] of /** @type {const} */ ([
      ['files for devices', own],
      ['plain age, X25519', plain],
    ]))
      console.log(
        `${name}    ${speed.toFixed(1)} MB/s   highest memory ${peakMB.toFixed(0)} MB; with a sixteenth of it ${peakOfSmallMB.toFixed(0)} MB`,
      )
    console.log(`ratio of the times   ${ratio.toFixed(3)}`)
  }
  return 0
}

const [, script, side = '', length] = process.argv
if (script === fileURLToPath(import.meta.url)) {
  const made = await SIDES[side]?.()
  if (made === undefined) throw new Error(`no side ${side}`)
  // What a process does once is not timed.
  await through(made, 4 * MB)
  console.log(JSON.stringify(await through(made, Number(length))))
}
