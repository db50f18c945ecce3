/** Many simulated runs, what makes them cheap, and what came of them. */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  type KeyObject,
  sign,
} from 'node:crypto'
import { canonicalBytes } from '@milagro-ts/api/canonical-json'
import { HpkeKeyPair } from '@milagro-ts/api/keys'
import { concat, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1 } from '@milagro-ts/crypto/points'
import { expect } from 'vitest'
import type { RunReport } from './ceremony-simulator.js'

type Jws = typeof import('@milagro-ts/api/jws')
type Seal = typeof import('@milagro-ts/api/seal')

/** Most entries of one memory. */
const MOST = 20_000
function remembered<T>(): (key: string, make: () => T) => T {
  const kept = new Map<string, T>()
  return (key, make) => {
    const known = kept.get(key)
    if (known !== undefined) return known
    if (kept.size >= MOST) kept.clear()
    const made = make()
    kept.set(key, made)
    return made
  }
}

/**
 * Participants of one process look at the same bytes again and again: a signature is verified once, an encoding decoded
 * once, a key imported once. Equal points are then one object, by which the simulator knows them too. Signing is node's
 * own, which hands nothing to another thread.
 */
export async function rememberingJws(original: () => Promise<Jws>): Promise<Jws> {
  const jws = await original()
  const once = remembered<ReturnType<Jws['verifyJws']>>()
  const keyOf = remembered<KeyObject>()
  return {
    ...jws,
    signJws: async (typ, payload, key, kid) => {
      const jwk = key.toJwk()
      const own = keyOf(jwk.d, () => createPrivateKey({ key: { ...jwk }, format: 'jwk' }))
      const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64url')
      const signed = `${text(utf8(JSON.stringify({ alg: 'ES256', kid, typ })))}.${text(canonicalBytes(payload))}`
      return `${signed}.${text(sign('sha256', utf8(signed), { key: own, dsaEncoding: 'ieee-p1363' }))}`
    },
    verifyJws: (typ, token, keys) => {
      const kid = 'get' in keys ? kidOf(token) : ''
      const key = 'get' in keys ? keys.get(kid) : keys
      return key === undefined
        ? jws.verifyJws(typ, token, keys)
        : once(`${typ} ${key.toBase64Url()} ${token}`, () => jws.verifyJws(typ, token, keys))
    },
  }
}

function kidOf(token: string): string {
  const header: unknown = JSON.parse(Buffer.from(token.split('.')[0] as string, 'base64url').toString())
  return (header as { kid: string }).kid
}

/** Put in their places as they are: a spy would keep what every call was given and gave, for the whole campaign. */
export function rememberingPoints(): void {
  const points = remembered<G1>()
  const decode = G1.decode
  G1.decode = (bytes, field) => points(toHex(bytes), () => decode(bytes, field))
  const pairs = remembered<Promise<HpkeKeyPair>>()
  const fromSecret = HpkeKeyPair.fromSecret
  HpkeKeyPair.fromSecret = (secret, field) => pairs(toHex(secret), () => fromSecret(secret, field))
}

const agreements = remembered<Uint8Array>()
/** To make one costs more than all else in a seal, and nobody looks for one here: there are 256. */
const ephemerals = remembered<{ privateKey: ReturnType<typeof privateKey>; enc: Uint8Array }>()
function ephemeralFor([which = 0]: Uint8Array) {
  return ephemerals(`${which}`, () => {
    const own = privateKey(new Uint8Array(32).fill(which))
    const enc = createPublicKey(own).export({ format: 'der', type: 'spki' }).subarray(-32)
    return { privateKey: own, enc }
  })
}
const nameOf = (enc: Uint8Array, to: Uint8Array) => toHex(concat(enc, to))

/**
 * The seal of api/seal.ts without WebCrypto, whose twenty calls for each of n² shares cost more than the curve; what a
 * sender and a recipient agree on is computed once.
 */
export const sealOfNode: Seal = {
  seal: async (to, info, plaintext, random) => {
    const { privateKey: own, enc } = ephemeralFor(random(32))
    const shared = agreements(nameOf(enc, to), () => agreed(own, to))
    const { key, nonce } = scheduleOf(shared, enc, to, info)
    const cipher = createCipheriv('aes-256-gcm', key, nonce)
    return concat(enc, cipher.update(plaintext), cipher.final(), cipher.getAuthTag())
  },
  open: async (keyPair, info, sealed) => {
    if (sealed.length < 48) throw new DecodeError('sealed', 'shorter than an encapsulated key and a tag')
    const enc = sealed.subarray(0, 32)
    try {
      const to = keyPair.publicKey
      const shared = agreements(nameOf(enc, to), () => agreed(privateKey(keyPair.secret()), enc))
      const { key, nonce } = scheduleOf(shared, enc, to, info)
      const decipher = createDecipheriv('aes-256-gcm', key, nonce)
      decipher.setAuthTag(sealed.subarray(-16))
      return concat(decipher.update(sealed.subarray(32, -16)), decipher.final())
    } catch {
      return null
    }
  },
}

const PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex')
const SPKI = Buffer.from('302a300506032b656e032100', 'hex')
const privateKey = (secret: Uint8Array) =>
  createPrivateKey({ key: Buffer.concat([PKCS8, secret]), format: 'der', type: 'pkcs8' })

function agreed(own: ReturnType<typeof privateKey>, theirs: Uint8Array): Uint8Array {
  const publicKey = createPublicKey({ key: Buffer.concat([SPKI, theirs]), format: 'der', type: 'spki' })
  try {
    return diffieHellman({ privateKey: own, publicKey })
  } catch {
    throw new DecodeError('hpkeKey', 'not usable')
  }
}

/** RFC 9180 §4.1, §5.1, base mode, with everything of one block. */
function scheduleOf(dh: Uint8Array, enc: Uint8Array, to: Uint8Array, info: Uint8Array) {
  const hmac = (key: Uint8Array, ...parts: Uint8Array[]): Uint8Array =>
    createHmac('sha256', key)
      .update(concat(...parts))
      .digest()
  const labelled = (suite: Uint8Array) => ({
    extract: (salt: Uint8Array, label: string, ikm: Uint8Array) =>
      hmac(salt, utf8('HPKE-v1'), suite, utf8(label), ikm),
    expand: (prk: Uint8Array, label: string, context: Uint8Array, length: number) =>
      hmac(
        prk,
        Uint8Array.of(0, length),
        utf8('HPKE-v1'),
        suite,
        utf8(label),
        context,
        Uint8Array.of(1),
      ).slice(0, length),
  })
  const none = new Uint8Array()
  const kem = labelled(concat(utf8('KEM'), Uint8Array.of(0, 0x20)))
  const hpke = labelled(concat(utf8('HPKE'), Uint8Array.of(0, 0x20, 0, 1, 0, 2)))
  const shared = kem.expand(kem.extract(none, 'eae_prk', dh), 'shared_secret', concat(enc, to), 32)
  const context = concat(
    Uint8Array.of(0),
    hpke.extract(none, 'psk_id_hash', none),
    hpke.extract(none, 'info_hash', info),
  )
  const secret = hpke.extract(shared, 'secret', none)
  return {
    key: hpke.expand(secret, 'key', context, 32),
    nonce: hpke.expand(secret, 'base_nonce', context, 12),
  }
}

/** Runs between two lines about how far a campaign is. */
const EVERY = 500
const progress = (runs: number, found: readonly string[]) =>
  `${runs} runs, ${found.length} violations, ${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MB`

/**
 * Runs with the seeds `from`, `from` + 1, …. A run in which something is found, or that throws, says so with its seed at
 * once; the others go on, and all that was found fails the test at the end.
 */
export async function campaign(from: number, runs: number): Promise<void> {
  const { FAULTS, LIES, simulate, WAYS } = await import('./ceremony-simulator.js')
  const [begin, cpu] = [performance.now(), process.cpuUsage()]
  const tally = {
    ceremonies: 0,
    endings: {} as Record<string, number>,
    faults: {} as Record<string, number>,
    lies: {} as Record<string, number>,
    members: {} as Record<string, number>,
    keyEpochs: {} as Record<string, number>,
  }
  const count = (counts: Record<string, number>, name: string) => {
    counts[name] = (counts[name] ?? 0) + 1
  }
  const found: string[] = []
  for (let seed = from; seed < from + runs; seed++) {
    const report: RunReport | Error = await simulate(seed).catch((error: Error) => error)
    if (report instanceof Error) {
      console.log(`ceremony simulator: seed ${seed} throws: ${report.stack}`)
      found.push(`seed ${seed}: ${report.message}`)
      continue
    }
    if (report.violations.length > 0) console.log(`ceremony simulator: ${JSON.stringify(report)}`)
    found.push(...report.violations.map(violation => `seed ${seed}: ${violation}`))
    if ((seed - from + 1) % EVERY === 0)
      console.log(`ceremony simulator: ${progress(seed - from + 1, found)}`)
    for (const { kind, n, ending, faults, lies, keyEpoch } of report.ceremonies) {
      tally.ceremonies++
      count(tally.members, `${n}`)
      if (kind === 'rotate' && ending.kind === 'done') count(tally.keyEpochs, `${keyEpoch}`)
      count(tally.endings, `${kind} ${ending.kind}`)
      for (const fault of faults) count(tally.faults, fault)
      for (const lie of Object.values(lies)) count(tally.lies, lie)
    }
  }
  const seconds = (performance.now() - begin) / 1000
  const { user, system } = process.cpuUsage(cpu)
  console.log(
    `ceremony simulator: seeds ${from} to ${from + runs - 1}, ${seconds.toFixed(1)} s, ` +
      `${((user + system) / 1e6).toFixed(1)} s of processor, ${JSON.stringify(tally)}`,
  )
  expect(found).toEqual([])
  // Enough happened that something could have gone wrong.
  for (const fault of FAULTS) expect([fault, (tally.faults[fault] ?? 0) > 0]).toEqual([fault, true])
  for (const lie of [...LIES.map(({ name }) => name), ...WAYS])
    expect([lie, (tally.lies[lie] ?? 0) > 0]).toEqual([lie, true])
  for (const n of ['3', '4', '5', '6', '7', '8', '9'])
    expect([n, (tally.members[n] ?? 0) > 0]).toEqual([n, true])
  // In the fourth key epoch the first has ended.
  for (const epoch of ['2', '3', '4'])
    expect([epoch, (tally.keyEpochs[epoch] ?? 0) > 0]).toEqual([epoch, true])
  for (const kind of ['found', 'refresh', 'reshare', 'rotate'])
    for (const ending of ['done', 'fault'])
      expect([kind, ending, (tally.endings[`${kind} ${ending}`] ?? 0) > 0]).toEqual([kind, ending, true])
}
