/**
 * Permit shares for many nodes of the tree with one proof (protocols.md §5; the composites are those of RFC 9497 §2.2.1).
 *
 *   RPS                                     authority j
 *   -- slot, node_1 … node_m -->            HT_i = HT(node_i, slot), which it hashes itself
 *                                           d_i = s_j·HT_i
 *                                           seed = SHA-256(C_j, all HT inputs, all d_i)
 *                                           r_i = the first 16 bytes of SHA-256(seed ‖ be32 i), 0 < r_i < 2¹²⁸
 *                                           M = Σ r_i·HT_i;  (κ, z) for log_P1 C_j = log_M Z, Z = s_j·M
 *   <-- d_1 … d_m, κ, z --                  in clear: permits are for all to see
 *   Z = Σ r_i·d_i, seed and M worked out again; (κ, z) checked as of any share
 *
 * The r_i are a hash of every d_i, so whoever has a wrong one among them gets through with probability 2⁻¹²⁸ a try. A
 * proof for each node would cost the RPS two double products a share; this costs it 128-bit weights. Combined, a permit
 * is checked once more: e(Σ r_i·permit_i, Q) = e(Σ r_i·HT_i, sQ), r_i drawn at random (batch.ts).
 */
import { be32, concat, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import type { TreeNode } from './permit-tree.js'
import { G1, type PreparedG2 } from './points.js'
import type { Random } from './ports.js'
import { Scalar } from './scalar.js'
import { combineG1 } from './secret-sharing.js'
import { sha256 } from './sha256.js'
import { authorityIssue, KeyShare, shareContext, shareVerify } from './share-proof.js'
import { Permit, type PermitTerms, permitInput, permitPoint, VerifiedPermit } from './time-permit.js'
import { decodeTlv, encodeTlv, need } from './tlv.js'

/** Nodes in one message, at most: some tenths of a second of an authority's worker. */
export const MOST_NODES = 256
const POINT = 48

/** What a batch of shares is for. */
export interface NodeBatch {
  readonly terms: PermitTerms
  readonly slot: number
  readonly nodes: readonly TreeNode[]
}
/** Whose shares they are, and against which statement of the RA. */
export interface NodeIssuer {
  readonly index: number
  readonly shareEpoch: number
  readonly commitment: G1
  /** 16 bytes. */
  readonly jti: Uint8Array
}

/** d_1 … d_m with their proof. */
export class NodeShares {
  readonly #points: readonly G1[]
  readonly #kappa: Scalar
  readonly #z: Scalar

  private constructor(points: readonly G1[], kappa: Scalar, z: Scalar) {
    this.#points = points
    this.#kappa = kappa
    this.#z = z
  }

  static of(points: readonly G1[], kappa: Scalar, z: Scalar): NodeShares {
    return new NodeShares(points, kappa, z)
  }

  /** TLV{1 d_1 ‖ … ‖ d_m (48 each), 2 κ, 3 z}. */
  static decode(bytes: Uint8Array, field = 'shares'): NodeShares {
    const [points, kappa, z] = decodeTlv(bytes, { tags: 3, field })
    return new NodeShares(
      decodePoints(need(points, `${field}.points`), `${field}.points`),
      Scalar.decode(need(kappa, `${field}.kappa`), `${field}.kappa`),
      Scalar.decode(need(z, `${field}.z`), `${field}.z`),
    )
  }

  get points(): readonly G1[] {
    return this.#points
  }
  get kappa(): Scalar {
    return this.#kappa
  }
  get z(): Scalar {
    return this.#z
  }

  encode(): Uint8Array {
    const points = concat(...this.#points.map(point => point.encode()))
    return encodeTlv([points, this.#kappa.encode(), this.#z.encode()])
  }
}

/** As they are sent: depth u8 ‖ be32 index each. */
export function encodeNodes(nodes: readonly TreeNode[]): Uint8Array {
  return concat(...nodes.flatMap(({ depth, index }) => [Uint8Array.of(depth), be32(index)]))
}

/** DecodeError for none, for more than MOST_NODES, and for one that is not in the tree. */
export function decodeNodes(bytes: Uint8Array, field = 'nodes'): TreeNode[] {
  if (bytes.length % 5 !== 0) throw new DecodeError(field, 'five bytes a node')
  const count = bytes.length / 5
  if (count < 1 || count > MOST_NODES) throw new DecodeError(field, `1–${MOST_NODES} nodes`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  return Array.from({ length: count }, (_, i) => {
    const node = { depth: view.getUint8(5 * i), index: view.getUint32(5 * i + 1) }
    if (node.depth > 32 || node.index >= 2 ** node.depth) throw new DecodeError(field, 'no such node')
    return node
  })
}

/** @param secretShare s_j of purpose `permit`. */
export function authorityIssueNodes(
  batch: NodeBatch,
  issuer: NodeIssuer,
  secretShare: Scalar,
  random: Random,
): NodeShares {
  const { inputs, HT } = hashed(batch)
  const points = HT.map(point => point.mulSecret(secretShare))
  const seed = seedOf(issuer.commitment, inputs, points)
  const M = G1.sumOfProducts(HT, weightsOf(seed, HT.length))
  const ctx = contextOf(batch, issuer, seed)
  const { kappa, z } = authorityIssue({ ctx, commitment: issuer.commitment, A: M }, secretShare, random)
  return NodeShares.of(points, kappa, z)
}

/** Are all of them s_j·HT_i for the s_j of C_j? */
export function nodeSharesVerify(batch: NodeBatch, issuer: NodeIssuer, shares: NodeShares): boolean {
  const { points, kappa, z } = shares
  if (points.length !== batch.nodes.length) return false
  const { inputs, HT } = hashed(batch)
  const seed = seedOf(issuer.commitment, inputs, points)
  const weights = weightsOf(seed, HT.length)
  const [M, Z] = [G1.sumOfProducts(HT, weights), G1.sumOfProducts(points, weights)]
  const ctx = contextOf(batch, issuer, seed)
  return shareVerify({ ctx, commitment: issuer.commitment, A: M }, KeyShare.of(Z, kappa, z))
}

/** Permits out of t shares of each node; null where one of them isn't a permit of the group. */
export function composePermits(
  { terms, slot, nodes }: NodeBatch,
  publicKey: PreparedG2,
  shares: readonly { readonly index: number; readonly points: readonly G1[] }[],
  random: Random,
): (VerifiedPermit | null)[] {
  const permits = nodes.map((node, i) =>
    Permit.of(
      slot,
      { type: 'node', ...node },
      combineG1(shares.map(({ index, points }) => ({ index, point: points[i] as G1 }))),
    ),
  )
  return VerifiedPermit.verifyBatch(terms, publicKey, permits, random)
}

/** Whole points of 48 bytes. */
export function decodePoints(bytes: Uint8Array, field: string): G1[] {
  if (bytes.length % POINT !== 0) throw new DecodeError(field, `${POINT} bytes a point`)
  return Array.from({ length: bytes.length / POINT }, (_, i) =>
    G1.decode(bytes.subarray(POINT * i, POINT * (i + 1)), field),
  )
}

function hashed({ terms, slot, nodes }: NodeBatch): { inputs: Uint8Array[]; HT: G1[] } {
  const inputs = nodes.map(node => permitInput(terms, slot, { type: 'node', ...node }))
  return { inputs, HT: inputs.map(permitPoint) }
}

function seedOf(commitment: G1, inputs: readonly Uint8Array[], points: readonly G1[]): Uint8Array {
  return sha256(
    encodeTlv([
      utf8('node-shares'),
      commitment.encode(),
      sha256(concat(...inputs)),
      sha256(concat(...points.map(point => point.encode()))),
    ]),
  )
}

function weightsOf(seed: Uint8Array, count: number): Scalar[] {
  return Array.from({ length: count }, (_, i) =>
    Scalar.randomWeight(() => sha256(concat(seed, be32(i))).subarray(0, 16)),
  )
}

/** ctx of the proof: its identity is the seed, which stands for every node and every share. */
function contextOf(
  { terms }: NodeBatch,
  { index, shareEpoch, jti }: NodeIssuer,
  seed: Uint8Array,
): Uint8Array {
  const { groupId } = terms
  return shareContext({ groupId, purpose: 'permit', index, shareEpoch, identity: seed, jti })
}
