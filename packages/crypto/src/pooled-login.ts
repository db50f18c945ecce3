/**
 * Logins and permits on the main thread of a server whose points are in workers (node-pool.ts): what DeviceProven,
 * Authenticated and VerifiedPermit are where the points are. A passed check is an object here, too: each is made by a
 * check alone, and only by asking a pool.
 */
import type { IndexedBytes, PermitItem } from './crypto-worker.js'
import { type IdCore, NO_USER } from './identity.js'
import type { Binding, LoginClaim, Mode } from './mpin.js'
import type { CryptoPool } from './node-pool.js'
import type { NodeBatch } from './node-shares.js'
import type { TreeNode } from './permit-tree.js'
import { encodePermit, PermitClaim, type PermitTarget, permitCovers } from './time-permit.js'

/** A message whose device proof holds. */
export class ProvenLogin {
  readonly #claim: LoginClaim
  readonly #binding: Binding

  private constructor(claim: LoginClaim, binding: Binding) {
    this.#claim = claim
    this.#binding = binding
  }

  get message(): LoginClaim {
    return this.#claim
  }
  get binding(): Binding {
    return this.#binding
  }

  /** The device proof alone. Null: it does not hold. DecodeError: a point is none. PoolUnavailable. */
  static async verify(
    pool: CryptoPool,
    claim: LoginClaim,
    binding: Binding,
    source: string | undefined,
  ): Promise<ProvenLogin | null> {
    const holds = await pool.deviceProof(
      { message: claim.bytes, binding },
      { source, identity: claim.idCore.mpinId },
    )
    return holds ? new ProvenLogin(claim, binding) : null
  }
}

/** Who was proven, by what. */
export class AuthenticatedLogin {
  readonly #claim: LoginClaim
  readonly #withPin: boolean

  private constructor(claim: LoginClaim, withPin: boolean) {
    this.#claim = claim
    this.#withPin = withPin
  }

  get idCore(): IdCore {
    return this.#claim.idCore
  }
  /** Of the person whose PIN was proven, else NO_USER. */
  get userCore(): Uint8Array {
    return (this.#withPin && this.#claim.pin?.userCore) || NO_USER
  }
  get amr(): readonly ('device' | 'pin')[] {
    return this.#withPin ? ['device', 'pin'] : ['device']
  }
  get mode(): Mode {
    return this.#claim.mode
  }
  get audience(): string {
    return this.#claim.audience
  }
  get slot(): number {
    return this.#claim.slot
  }
  get payloadHash(): Uint8Array | undefined {
    return this.#claim.payloadHash
  }

  /** By the device alone. RangeError when the message carries, or its identity demands, a PIN proof: verify that. */
  static byDevice({ message }: ProvenLogin): AuthenticatedLogin {
    if (message.pin !== undefined || message.idCore.factors === 1)
      throw new RangeError('the PIN proof is to be verified')
    return new AuthenticatedLogin(message, false)
  }

  /** Null: a wrong PIN. The caller has reserved a strike before. PoolUnavailable. */
  static async byPin(
    pool: CryptoPool,
    { message, binding }: ProvenLogin,
  ): Promise<AuthenticatedLogin | null> {
    if (message.pin === undefined) throw new RangeError('the message carries no PIN proof')
    if (message.idCore.factors === 0) throw new RangeError('this identity has no PIN')
    const holds = await pool.pinProof({ message: message.bytes, binding })
    return holds ? new AuthenticatedLogin(message, true) : null
  }
}

/** A permit that has passed its check. */
export class CheckedPermit {
  readonly #claim: PermitClaim

  private constructor(claim: PermitClaim) {
    this.#claim = claim
  }

  /** Null: it does not verify. DecodeError: its point is none. PoolUnavailable. */
  static async verify(
    pool: CryptoPool,
    key: Omit<PermitItem, 'permit'>,
    claim: PermitClaim,
  ): Promise<CheckedPermit | null> {
    return (await pool.permit({ ...key, permit: claim.bytes })) ? new CheckedPermit(claim) : null
  }

  /** Out of shares of which each has passed its proof. Null: they make no permit of the group. */
  static async compose(
    pool: CryptoPool,
    key: Omit<PermitItem, 'permit'>,
    slot: number,
    target: PermitTarget,
    shares: readonly IndexedBytes[],
  ): Promise<CheckedPermit | null> {
    const point = await pool.run('combine', shares)
    return CheckedPermit.verify(pool, key, PermitClaim.decode(encodePermit(slot, target, point)))
  }

  /** Of many nodes, by place; null where the shares make no permit of the group. */
  static async composeNodes(
    pool: CryptoPool,
    key: Omit<PermitItem, 'permit'>,
    { slot, nodes }: Omit<NodeBatch, 'terms'>,
    shares: readonly IndexedBytes[],
  ): Promise<(CheckedPermit | null)[]> {
    const batch = { terms: key.terms, slot, nodes }
    const points = await pool.run('composePermits', { batch, publicKey: key.publicKey, shares })
    return points.map((point, i) => {
      if (point === null) return null
      const target: PermitTarget = { type: 'node', ...(nodes[i] as TreeNode) }
      return new CheckedPermit(PermitClaim.decode(encodePermit(slot, target, point)))
    })
  }

  /** As it is carried. */
  get bytes(): Uint8Array {
    return this.#claim.bytes
  }
  get slot(): number {
    return this.#claim.slot
  }
  get target(): PermitTarget {
    return this.#claim.target
  }
  covers(idCore: IdCore): boolean {
    return permitCovers(this.#claim.target, idCore)
  }
}
