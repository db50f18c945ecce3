/**
 * The tree of leaves (complete subtrees: Naor, Naor, Lotspiech 2001, §3.1; protocols.md §5). Height 32; a leaf is an
 * identity's number in the group, and one that nobody has is not banned.
 *
 *   cover = the nodes that have no banned leaf below them while their parent has one     the root if nobody is banned
 *
 * Every leaf that isn't banned lies under exactly one node of the cover, a banned one under none. Between two banned
 * neighbours p < s the cover is the gap p + 1 … s − 1 cut into the largest aligned pieces, so it is written down in one
 * pass over the sorted banned leaves: at most r·log₂(N/r) nodes for r of them under a subtree of N leaves, and up to
 * 32 beside that subtree.
 */
import { DecodeError } from './errors.js'

export const TREE_HEIGHT = 32
const LEAVES = 2 ** TREE_HEIGHT

/** The top `depth` bits of the leaves below it. */
export interface TreeNode {
  readonly depth: number
  readonly index: number
}

/** Leaves below a node: the first, and how many. RangeError for a node that is not in the tree. */
export function leavesBelow({ depth, index }: TreeNode): { readonly first: number; readonly count: number } {
  const isInside = Number.isInteger(depth) && depth >= 0 && depth <= TREE_HEIGHT
  if (!isInside || !Number.isInteger(index) || index < 0 || index >= 2 ** depth)
    throw new RangeError('no such node')
  const count = 2 ** (TREE_HEIGHT - depth)
  return { first: index * count, count }
}

/** Nodes in the order of their leaves, without an object for each: there may be a million. */
export class NodeList {
  readonly #depths: Uint8Array
  readonly #indices: Uint32Array

  private constructor(depths: Uint8Array, indices: Uint32Array) {
    this.#depths = depths
    this.#indices = indices
  }

  static of(nodes: readonly TreeNode[]): NodeList {
    for (const node of nodes) leavesBelow(node)
    return new NodeList(
      Uint8Array.from(nodes, ({ depth }) => depth),
      Uint32Array.from(nodes, ({ index }) => index),
    )
  }

  /** The cover of what isn't among `banned`, which is sorted and without repetition. */
  static cover(banned: Uint32Array): NodeList {
    let depths = new Uint8Array(64)
    let indices = new Uint32Array(64)
    let length = 0
    const add = (depth: number, index: number) => {
      if (length === depths.length) {
        const [moreDepths, moreIndices] = [new Uint8Array(2 * length), new Uint32Array(2 * length)]
        moreDepths.set(depths)
        moreIndices.set(indices)
        depths = moreDepths
        indices = moreIndices
      }
      depths[length] = depth
      indices[length++] = index
    }
    let from = 0
    for (let i = 0; i <= banned.length; i++) {
      const end = i === banned.length ? LEAVES : (banned[i] as number)
      while (from < end) {
        // As large as `from` is aligned for, and no larger than what is left of the gap.
        const room = 31 - Math.clz32(Math.min(end - from, LEAVES - 1))
        const aligned = from === 0 ? TREE_HEIGHT : 31 - Math.clz32(from & -from)
        const height = end - from === LEAVES ? TREE_HEIGHT : Math.min(room, aligned)
        add(TREE_HEIGHT - height, from / 2 ** height)
        from += 2 ** height
      }
      from = end + 1
    }
    return new NodeList(depths.slice(0, length), indices.slice(0, length))
  }

  get length(): number {
    return this.#depths.length
  }
  /** RangeError outside 0…length−1. */
  at(place: number): TreeNode {
    const [depth, index] = [this.#depths[place], this.#indices[place]]
    if (depth === undefined || index === undefined) throw new RangeError('no node at this place')
    return { depth, index }
  }
  slice(from: number, to: number): TreeNode[] {
    return Array.from({ length: Math.max(0, Math.min(to, this.length) - from) }, (_, i) => this.at(from + i))
  }
}

/** The leaves that get no permits: banned for now, or revoked for good. */
export class BannedLeaves {
  readonly #leaves: Uint32Array

  private constructor(leaves: Uint32Array) {
    this.#leaves = leaves
  }

  /** RangeError for what is no leaf. */
  static of(leaves: Iterable<number>): BannedLeaves {
    const all = [...leaves]
    if (all.some(leaf => !Number.isInteger(leaf) || leaf < 0 || leaf >= LEAVES))
      throw new RangeError('a leaf is 0…2³²−1')
    const sorted = Uint32Array.from(all).sort()
    return new BannedLeaves(sorted.filter((leaf, i) => i === 0 || leaf !== sorted[i - 1]))
  }

  /** be32 each, in ascending order, none twice: one set has one spelling. */
  static decode(bytes: Uint8Array, field = 'leaves'): BannedLeaves {
    if (bytes.length % 4 !== 0) throw new DecodeError(field, 'four bytes a leaf')
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const leaves = new Uint32Array(bytes.length / 4)
    for (let i = 0; i < leaves.length; i++) {
      leaves[i] = view.getUint32(4 * i)
      if (i > 0 && (leaves[i] as number) <= (leaves[i - 1] as number))
        throw new DecodeError(field, 'not in ascending order')
    }
    return new BannedLeaves(leaves)
  }

  encode(): Uint8Array {
    const bytes = new Uint8Array(4 * this.size)
    const view = new DataView(bytes.buffer)
    this.#leaves.forEach((leaf, i) => {
      view.setUint32(4 * i, leaf)
    })
    return bytes
  }

  get size(): number {
    return this.#leaves.length
  }

  /** These and more of them. RangeError for what is no leaf. */
  and(leaves: Iterable<number>): BannedLeaves {
    return BannedLeaves.of([...this.#leaves, ...leaves])
  }

  has(leaf: number): boolean {
    return this.#leaves[this.#firstFrom(leaf)] === leaf
  }

  /** The node of the cover that the leaf lies under; null for a banned leaf. */
  nodeOf(leaf: number): TreeNode | null {
    const place = this.#firstFrom(leaf)
    const next = this.#leaves[place]
    if (next === leaf) return null
    // One bit more than what is shared with the nearer neighbour: the first node that the neighbour isn't under.
    const beside = (other: number | undefined) => (other === undefined ? 0 : Math.clz32(leaf ^ other) + 1)
    const depth = Math.max(beside(next), beside(this.#leaves[place - 1]))
    return { depth, index: depth === 0 ? 0 : leaf >>> (TREE_HEIGHT - depth) }
  }

  /** Is this very node in the cover? */
  covers(node: TreeNode): boolean {
    const found = this.nodeOf(leavesBelow(node).first)
    return found !== null && found.depth === node.depth && found.index === node.index
  }

  cover(): NodeList {
    return NodeList.cover(this.#leaves)
  }

  /** Place of the first banned leaf from `leaf` on. */
  #firstFrom(leaf: number): number {
    let [low, high] = [0, this.#leaves.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#leaves[middle] as number) < leaf) low = middle + 1
      else high = middle
    }
    return low
  }
}
