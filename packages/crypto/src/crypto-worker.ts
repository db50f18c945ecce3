/**
 * What a worker of a pool computes: pairings, sums of products, key shares, and the decoding of the points that go into
 * them. Bytes come in, bytes and verdicts go out; a server's main thread does none of it (node-pool.ts).
 *
 * S_dev, S_pin and the slot keys of TLS (and their lines, which equal them) are computed with nowhere but here. A PIN proof is looked at only for a message
 * whose device proof this worker has found to hold.
 */
import { concat, toBase64Url, toHex, utf8 } from './bytes.js'
import { type Dealing, type FirstPower, shareFits, sumOfDealings } from './dealing.js'
import { DecodeError } from './errors.js'
import { hashToG1 } from './hash-to-curve.js'
import { Signature, type SignatureTerms, signaturesVerify } from './ibs.js'
import { agreePointG2, IdCore } from './identity.js'
import { IdentityPoints } from './identity-points.js'
import { Authenticated, type Binding, type BoundMessage, DeviceProven, LoginMessage } from './mpin.js'
import {
  authorityIssueNodes,
  composePermits,
  decodePoints,
  type NodeBatch,
  type NodeIssuer,
  NodeShares,
  nodeSharesVerify,
} from './node-shares.js'
import { G1, G2, PreparedG2 } from './points.js'
import type { Random } from './ports.js'
import { possessionVerify } from './possession.js'
import { Scalar } from './scalar.js'
import { combineG1, combineG2 } from './secret-sharing.js'
import { authorityServerKeyShare, publicKeysFault, ServerKey, sameLogarithm } from './server-key.js'
import { sha256 } from './sha256.js'
import { authorityIssue, KeyShare, shareVerify, shareVerifyG2 } from './share-proof.js'
import { AgreeSlotKey, PskIdentity, serverAgree } from './static-agreement.js'
import type { Purpose } from './suite.js'
import { Permit, type PermitTerms, VerifiedPermit } from './time-permit.js'

export type Bytes = Uint8Array

/** A server key on its way into a worker. */
export type HandedKey = HandedLoginKey | HandedSlotKey
export interface HandedLoginKey {
  readonly purpose: 'device' | 'pin'
  readonly epoch: number
  readonly ivk: Bytes
  /** 96 secret bytes. */
  readonly S: Bytes
}
/** A server's key of `agree` for one slot. */
export interface HandedSlotKey {
  readonly purpose: 'agree'
  readonly groupId: Bytes
  readonly name: string
  readonly generation: number
  readonly slot: number
  /** Of the key epoch that the slot fixes. */
  readonly epoch: number
  readonly ivk: Bytes
  /** 96 secret bytes. */
  readonly S: Bytes
}
export interface LoginItem {
  /** A LoginMessage's TLV. */
  readonly message: Bytes
  readonly binding: Binding
}
export interface PermitItem {
  readonly terms: PermitTerms
  /** sQ of `permit`, 96 bytes. */
  readonly publicKey: Bytes
  readonly permit: Bytes
}
/** Of a PSK identity as it came, at the server whose slot key has this B. */
export interface PskItem {
  readonly B: Bytes
  readonly identity: string
}
/** What is wrong with the bytes of one in a batch. */
export interface Malformed {
  readonly field: string
  readonly why: string
}
/** Of one in a batch: a verdict, or what is wrong with its bytes, or that the key for it isn't here. */
export type Outcome = boolean | Malformed | 'no key'

export interface ShareStatement {
  readonly purpose: Purpose
  /** What H1 hashes to A. */
  readonly input: Bytes
  readonly ctx: Bytes
  readonly commitment: Bytes
}
/** Of a share of a server's key of `agree`: `name` is what Hk2 hashes. */
export interface AgreeStatement {
  readonly name: Bytes
  readonly ctx: Bytes
  readonly commitment: Bytes
}

/** A signature under an identity, all in bytes. */
export interface SignatureClaim {
  readonly terms: Omit<SignatureTerms, 'idCore'>
  readonly idCore: Bytes
  /** sQ of `sign`, 96 bytes. */
  readonly publicKey: Bytes
  readonly message: Bytes
  /** U ‖ V */
  readonly signature: Bytes
}

/** A NodeIssuer with the bytes of C_j. */
export type NodeIssuerBytes = Omit<NodeIssuer, 'commitment'> & { readonly commitment: Bytes }
/** A Dealing's bytes: commitments of 48 bytes each. */
export interface DealingBytes {
  readonly firstPower: FirstPower
  readonly commitments: readonly Bytes[]
}
export interface IndexedBytes {
  readonly index: number
  readonly point: Bytes
}

/** Messages whose device proof held and whose PIN proof is still to come: 1–2 kB each. */
const AWAITING_PIN = 1_024
/** Public keys whose lines are kept: one for each key epoch. */
const PUBLIC_KEYS = 16

export class CryptoWorker {
  readonly #random: Random
  readonly #identities: number
  readonly #keys = new Map<string, ServerKey>()
  readonly #publicKeys = new Map<string, PreparedG2>()
  /** By B in hex. */
  readonly #slotKeys = new Map<string, AgreeSlotKey>()
  readonly #awaitingPin = new Map<string, DeviceProven>()
  #points: IdentityPoints | undefined

  /** `identities`: how many A_dev are kept. */
  constructor(ports: { readonly random: Random; readonly identities: number }) {
    this.#random = ports.random
    this.#identities = ports.identities
  }

  /**
   * Takes server keys in that belong to their IVK; by place. They take the place of all that were here before. The bytes
   * that brought them are overwritten.
   */
  serverKeys(keys: readonly HandedKey[]): boolean[] {
    this.#keys.clear()
    this.#slotKeys.clear()
    return keys.map(key => {
      const [ivk, S] = [G1.decode(key.ivk, 'ivk'), G2.decode(key.S, 'S')]
      key.S.fill(0)
      if (key.purpose === 'agree') return this.#takeSlotKey(key, ivk, S)
      const taken = ServerKey.verify(ivk, S)
      if (taken !== null) this.#keys.set(nameOf(key.purpose, key.epoch), taken)
      return taken !== null
    })
  }

  /** Device proofs, those of one key epoch in one product. */
  devices(items: readonly LoginItem[]): Outcome[] {
    const outcomes: Outcome[] = items.map(() => 'no key')
    const byEpoch = new Map<number, { place: number; bound: BoundMessage }[]>()
    items.forEach(({ message, binding }, place) => {
      const bound = decoded(() => ({ message: LoginMessage.decode(message), binding }))
      if ('why' in bound) outcomes[place] = bound
      else entriesOf(byEpoch, bound.message.deviceEpoch).push({ place, bound })
    })
    for (const [epoch, entries] of byEpoch) {
      const S_dev = this.#keys.get(nameOf('device', epoch))
      if (S_dev === undefined) continue
      const bound = entries.map(entry => entry.bound)
      const verdicts = DeviceProven.verifyBatch(bound, S_dev, this.#random, this.#pointsOf(bound))
      verdicts.forEach((proven, i) => {
        const { place } = entries[i] as (typeof entries)[number]
        outcomes[place] = proven !== null
        if (proven?.message.pin !== undefined) this.#awaitPin(items[place] as LoginItem, proven)
      })
    }
    return outcomes
  }

  /** The PIN proof of a message whose device proof holds; false where either doesn't. */
  pin(item: LoginItem): Outcome {
    const name = loginName(item)
    const proven = this.#awaitingPin.get(name) ?? this.#proveAgain(item)
    this.#awaitingPin.delete(name)
    if (proven === 'no key') return proven
    const pin = proven?.message.pin
    if (proven === null || pin === undefined) return false
    const S_pin = this.#keys.get(nameOf('pin', pin.pinEpoch))
    if (S_pin === undefined) return 'no key'
    return Authenticated.byPin(proven, S_pin, this.#random) !== null
  }

  /** Permits, those under one key and of one group in one product. */
  permits(items: readonly PermitItem[]): Outcome[] {
    const outcomes: Outcome[] = items.map(() => false)
    const byKey = new Map<string, { place: number; item: PermitItem; permit: Permit }[]>()
    items.forEach((item, place) => {
      const permit = decoded(() => Permit.decode(item.permit))
      if ('why' in permit) outcomes[place] = permit
      else entriesOf(byKey, permitKeyName(item)).push({ place, item, permit })
    })
    for (const entries of byKey.values()) {
      const { terms, publicKey } = (entries[0] as (typeof entries)[number]).item
      const permits = entries.map(({ permit }) => permit)
      const verified = VerifiedPermit.verifyBatch(terms, this.#prepared(publicKey), permits, this.#random)
      for (const [i, { place }] of entries.entries()) outcomes[place] = verified[i] !== null
    }
    return outcomes
  }

  /** Signatures, those under one key in one product. */
  signatures(items: readonly SignatureClaim[]): Outcome[] {
    const outcomes: Outcome[] = items.map(() => false)
    const byKey = new Map<
      string,
      { place: number; claim: Parameters<typeof signaturesVerify>[0][number] }[]
    >()
    items.forEach(({ terms, idCore, publicKey, message, signature }, place) => {
      const claim = decoded(() => ({
        terms: { ...terms, idCore: IdCore.decode(idCore) },
        message,
        signature: Signature.decode(signature),
      }))
      if ('why' in claim) outcomes[place] = claim
      else entriesOf(byKey, toHex(publicKey)).push({ place, claim })
    })
    for (const entries of byKey.values()) {
      const { publicKey } = items[(entries[0] as (typeof entries)[number]).place] as SignatureClaim
      const claims = entries.map(({ claim }) => claim)
      const holds = signaturesVerify(claims, this.#prepared(publicKey), this.#random)
      for (const [i, { place }] of entries.entries()) outcomes[place] = holds[i] === true
    }
    return outcomes
  }

  /** d_j of a share whose proof holds, else null. */
  shareVerify({ statement, share }: { statement: ShareStatement; share: Bytes }): Bytes | null {
    const { ctx, commitment, purpose, input } = statement
    const read = KeyShare.decode(share)
    const points = { ctx, commitment: G1.decode(commitment, 'commitment'), A: hashToG1(purpose, input) }
    return shareVerify(points, read) ? read.d.encode() : null
  }

  /** Σ λ_j·d_j, 48 bytes. */
  combine(shares: readonly IndexedBytes[]): Bytes {
    return combineG1(shares.map(({ index, point }) => ({ index, point: G1.decode(point, 'd') }))).encode()
  }

  /** d_j = s_jA with its proof: a KeyShare's TLV. The secret's bytes are overwritten. */
  issue({ statement, secret }: { statement: ShareStatement; secret: Bytes }): Bytes {
    const { ctx, commitment, purpose, input } = statement
    const points = { ctx, commitment: G1.decode(commitment, 'commitment'), A: hashToG1(purpose, input) }
    return authorityIssue(points, takeScalar(secret), this.#random).encode()
  }

  /** d_j = s_jHk2(name) with its proof: a KeyShare's TLV. The secret's bytes are overwritten. */
  issueAgree({ statement, secret }: { statement: AgreeStatement; secret: Bytes }): Bytes {
    return authorityIssue(agreePoints(statement), takeScalar(secret), this.#random).encode()
  }

  /** d_j of a share of a server's key of `agree` whose proof holds, else null: 96 secret bytes. */
  agreeShareVerify({ statement, share }: { statement: AgreeStatement; share: Bytes }): Bytes | null {
    const read = KeyShare.decodeG2(share)
    return shareVerifyG2(agreePoints(statement), read) ? read.d.encode() : null
  }

  /** Σ λ_j·d_j in G2: 96 secret bytes. Whoever takes the key in checks that it is its name's. */
  combineAgree(shares: readonly IndexedBytes[]): Bytes {
    return combineG2(shares.map(({ index, point }) => ({ index, point: G2.decode(point, 'd') }))).encode()
  }

  /** Shares of many nodes: a NodeShares' TLV. The secret's bytes are overwritten. */
  issueNodes({ batch, issuer, secret }: { batch: NodeBatch; issuer: NodeIssuerBytes; secret: Bytes }): Bytes {
    return authorityIssueNodes(batch, issuerOf(issuer), takeScalar(secret), this.#random).encode()
  }

  /** The points of shares whose proof holds, 48 bytes each; else null. */
  nodeSharesVerify(claim: { batch: NodeBatch; issuer: NodeIssuerBytes; shares: Bytes }): Bytes | null {
    const shares = NodeShares.decode(claim.shares)
    if (!nodeSharesVerify(claim.batch, issuerOf(claim.issuer), shares)) return null
    return concat(...shares.points.map(point => point.encode()))
  }

  /** Permits out of the points of t authorities: 48 bytes each, by place; null where they make none of the group. */
  composePermits({
    batch,
    publicKey,
    shares,
  }: {
    batch: NodeBatch
    publicKey: Bytes
    shares: readonly IndexedBytes[]
  }): (Bytes | null)[] {
    const points = shares.map(({ index, point }) => ({ index, points: decodePoints(point, 'shares') }))
    if (points.some(share => share.points.length !== batch.nodes.length))
      throw new DecodeError('shares', 'one for each node')
    return composePermits(batch, this.#prepared(publicKey), points, this.#random).map(
      verified => verified?.permit.point.encode() ?? null,
    )
  }

  /** W_j = s_jQ, 96 bytes. The secret's bytes are overwritten. */
  serverKeyShare(secret: Bytes): Bytes {
    return authorityServerKeyShare(takeScalar(secret)).encode()
  }

  /** Is W of the secret that C commits to? */
  sameLogarithm({ commitment, W }: { commitment: Bytes; W: Bytes }): boolean {
    return sameLogarithm(G1.decode(commitment, 'commitment'), G2.decode(W, 'W'))
  }

  /** S = Σ λ_jW_j, if it belongs to `ivk`: 96 secret bytes. */
  combineServerKey({ ivk, shares }: { ivk: Bytes; shares: readonly IndexedBytes[] }): Bytes | null {
    const points = shares.map(({ index, point }) => ({ index, point: G2.decode(point, 'W') }))
    return ServerKey.combine(G1.decode(ivk, 'ivk'), points)?.encode() ?? null
  }

  /** Σ λ_jW_j of public shares, 96 bytes. */
  combinePublicKey(shares: readonly IndexedBytes[]): Bytes {
    return combineG2(shares.map(({ index, point }) => ({ index, point: G2.decode(point, 'W') }))).encode()
  }

  publicKeysFault(keys: {
    t: number
    ivk: Bytes
    commitments: readonly Bytes[]
    pub: Bytes | undefined
  }): 'ivk' | 'pub' | null {
    return publicKeysFault({
      t: keys.t,
      ivk: G1.decode(keys.ivk, 'ivk'),
      commitments: keys.commitments.map(commitment => G1.decode(commitment, 'commitment')),
      pub: keys.pub === undefined ? undefined : G2.decode(keys.pub, 'pub'),
    })
  }

  possessionVerify(claim: {
    session: Bytes
    purpose: Purpose
    index: number
    commitment: Bytes
    kappa: Bytes
    z: Bytes
  }): boolean {
    const { session, purpose, index } = claim
    const proof = { kappa: Scalar.decode(claim.kappa, 'kappa'), z: Scalar.decode(claim.z, 'z') }
    return possessionVerify({ session, purpose, index }, G1.decode(claim.commitment, 'commitment'), proof)
  }

  /** Does f_i(j) fit what the dealer has committed to? The share's bytes are overwritten. */
  shareFits({ dealing, index, share }: { dealing: DealingBytes; index: number; share: Bytes }): boolean {
    return shareFits(dealingOf(dealing), index, takeScalar(share))
  }

  /** Σ_i w_i·Σ_k j^k·A_{i,k}, 48 bytes. */
  sumOfDealings(terms: {
    dealings: readonly DealingBytes[]
    index: number
    weights: readonly Bytes[] | undefined
  }): Bytes {
    const weights = terms.weights?.map(weight => Scalar.decode(weight, 'weight'))
    return sumOfDealings(terms.dealings.map(dealingOf), terms.index, weights).encode()
  }

  /** PSKs by place, 32 secret bytes each; malformed is an R that is no point, or another slot's identity. */
  externalPsks(items: readonly PskItem[]): (Bytes | Malformed | 'no key')[] {
    return items.map(({ B, identity }) => {
      const key = this.#slotKeys.get(toHex(B))
      if (key === undefined) return 'no key'
      return decoded(() => {
        const psk = PskIdentity.decode(identity)
        if (psk.slot !== key.slot) throw new DecodeError('identity', 'not of the slot of the key')
        return serverAgree(key, psk)
      })
    })
  }

  /** Hits and misses of the cache of identity points. */
  cache(): { readonly hits: number; readonly misses: number; readonly size: number } {
    const { hits = 0, misses = 0, size = 0 } = this.#points ?? {}
    return { hits, misses, size }
  }

  #takeSlotKey({ groupId, name, generation, slot, epoch }: HandedSlotKey, ivk: G1, S: G2): boolean {
    const party = { kind: 2, name, generation } as const
    const taken = AgreeSlotKey.verify({ groupId, party, slot, epoch }, ivk, S)
    if (taken !== null) this.#slotKeys.set(toHex(taken.name), taken)
    return taken !== null
  }

  #proveAgain({ message, binding }: LoginItem): DeviceProven | null | 'no key' {
    const read = LoginMessage.decode(message)
    const S_dev = this.#keys.get(nameOf('device', read.deviceEpoch))
    return S_dev === undefined ? 'no key' : DeviceProven.verify(read, binding, S_dev)
  }

  #awaitPin(item: LoginItem, proven: DeviceProven): void {
    if (this.#awaitingPin.size >= AWAITING_PIN) {
      const [oldest] = this.#awaitingPin.keys()
      this.#awaitingPin.delete(oldest as string)
    }
    this.#awaitingPin.set(loginName(item), proven)
  }

  /** A server has one group; the first that it verifies for is it. */
  #pointsOf([first]: readonly BoundMessage[]): IdentityPoints | undefined {
    if (first !== undefined) this.#points ??= new IdentityPoints(first.binding.groupId, this.#identities)
    return this.#points
  }

  #prepared(publicKey: Bytes): PreparedG2 {
    const name = toHex(publicKey)
    const known = this.#publicKeys.get(name)
    if (known !== undefined) return known
    const prepared = PreparedG2.of(G2.decode(publicKey, 'publicKey'))
    if (this.#publicKeys.size >= PUBLIC_KEYS) this.#publicKeys.clear()
    this.#publicKeys.set(name, prepared)
    return prepared
  }
}

const nameOf = (purpose: 'device' | 'pin', epoch: number): string => `${purpose}/${epoch}`

function loginName({ message, binding: { groupId, tlsExporter } }: LoginItem): string {
  return toBase64Url(sha256(concat(groupId, tlsExporter ?? new Uint8Array(), message)))
}

function permitKeyName({ terms: { groupId, permitEpoch, rule }, publicKey }: PermitItem): string {
  return toHex(sha256(concat(groupId, utf8(`${permitEpoch} ${rule.origin} ${rule.length}`), publicKey)))
}

function entriesOf<K, V>(map: Map<K, V[]>, key: K): V[] {
  const known = map.get(key)
  if (known !== undefined) return known
  const entries: V[] = []
  map.set(key, entries)
  return entries
}

function decoded<T extends object>(decode: () => T): T | Malformed {
  try {
    return decode()
  } catch (error) {
    if (error instanceof DecodeError) return { field: error.field, why: error.why }
    throw error
  }
}

function dealingOf({ firstPower, commitments }: DealingBytes): Dealing {
  return { firstPower, commitments: commitments.map(commitment => G1.decode(commitment, 'commitment')) }
}

function agreePoints({ name, ctx, commitment }: AgreeStatement) {
  return { ctx, commitment: G1.decode(commitment, 'commitment'), A: agreePointG2(name) }
}

function issuerOf({ commitment, ...rest }: NodeIssuerBytes): NodeIssuer {
  return { ...rest, commitment: G1.decode(commitment, 'commitment') }
}

function takeScalar(secret: Bytes): Scalar {
  const scalar = Scalar.decode(secret, 'secret')
  secret.fill(0)
  return scalar
}
