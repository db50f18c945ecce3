/**
 * `npm run bench -- encrypt`: a gigabyte through `encryptFile` and `decryptFile` (packages/client), as `milagro encrypt` and
 * `decrypt` run them, and beside it through plain age of the same library with an X25519 recipient. The bytes are made and
 * thrown away in this process, so no disk is timed; the highest resident memory shows that it is constant.
 *
 *   --quick   16 MB: to see that it runs
 *   --json    one object
 */
import { cpus } from 'node:os'
import { decryptFile, encryptFile } from '@milagro-ts/client/encrypted-file'
import { decapsulate } from '@milagro-ts/crypto/ibe'
import { encodeName, encryptPoint, IdCore } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption'

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

/** @returns {Promise<Side>} */
async function plainAge() {
  const identity = await generateX25519Identity()
  const encrypter = new Encrypter()
  encrypter.addRecipient(await identityToRecipient(identity))
  const decrypter = new Decrypter()
  decrypter.addIdentity(identity)
  return { encrypt: plain => encrypter.encrypt(plain), decrypt: file => decrypter.decrypt(file) }
}

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

/** @param {{quick: boolean}} effort */
export async function measureEncrypt({ quick }) {
  const length = quick ? 16 * MB : 1_000 * MB
  const sides = { ours: ours(), age: await plainAge() }
  // A first small round, so that neither pays for what both then have.
  for (const side of Object.values(sides)) await through(side, 4 * MB)
  const age = await through(sides.age, length)
  const own = await through(sides.ours, length)
  const before = await through(sides.ours, length / 16)
  const speed = (/** @type {{seconds: number}} */ { seconds }) => length / MB / seconds
  return {
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    megabytes: length / MB,
    /** Encrypting and decrypting, MB/s of plaintext through both. */
    ours: speed(own),
    age: speed(age),
    ratio: own.seconds / age.seconds,
    peakMB: own.peak / MB,
    /** Of a sixteenth. */
    peakOfSmallMB: before.peak / MB,
  }
}

const USAGE = 'npm run bench -- encrypt [--quick] [--json]'

/** @param {readonly string[]} args */
export async function benchEncrypt(args) {
  const unknown = args.filter(arg => !['--quick', '--json'].includes(arg))
  if (unknown.length > 0) {
    console.error(`unknown: ${unknown.join(', ')}\n${USAGE}`)
    return 2
  }
  const figures = await measureEncrypt({ quick: args.includes('--quick') })
  if (args.includes('--json')) console.log(JSON.stringify(figures))
  else {
    const { node, cpu, megabytes, ours: own, age, ratio, peakMB, peakOfSmallMB } = figures
    console.log(`Node ${node}, ${cpu}; ${megabytes} MB, encrypted and decrypted in one pass`)
    console.log(`files for devices    ${own.toFixed(1)} MB/s`)
    console.log(`plain age, X25519    ${age.toFixed(1)} MB/s   ratio of the times ${ratio.toFixed(3)}`)
    console.log(
      `highest memory       ${peakMB.toFixed(0)} MB; with a sixteenth of it ${peakOfSmallMB.toFixed(0)} MB`,
    )
  }
  return 0
}
