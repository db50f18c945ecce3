/**
 * The tree over an append-only log (RFC 9162 §2.1; RFC 6962's is the same): its root says what stands in the log, a
 * short proof that an entry is in it, or that a later log begins with all of an earlier one.
 *
 *   leaf   = SHA-256(0x00 ‖ entry)
 *   node   = SHA-256(0x01 ‖ left ‖ right)
 *   root   = node(root of the first k leaves, root of the rest), k the largest power of two below the size;
 *            SHA-256 of nothing for an empty log
 *
 *          root 0…6
 *         ╱        ╲
 *      0…3          4…6          complete subtrees, of 2^level leaves that begin at a multiple of it, never change:
 *     ╱   ╲        ╱   ╲         only they are kept. Those of a log of 7 entries are 0…3, 4…5 and 6: its peaks, which
 *   0…1   2…3   4…5     6        are all that is needed to go on and to say the root.
 *
 * Sizes and positions are whole numbers below 2^32; a hash is 32 bytes.
 */
import { concat, equalBytes } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'

const LEAF = Uint8Array.of(0)
const NODE = Uint8Array.of(1)

export const EMPTY_ROOT = sha256(new Uint8Array())

export const leafHash = (entry: Uint8Array): Uint8Array => sha256(concat(LEAF, entry))
export const nodeHash = (left: Uint8Array, right: Uint8Array): Uint8Array => sha256(concat(NODE, left, right))

/** Hash of the complete subtree over the leaves position·2^level … (position + 1)·2^level − 1. */
export type NodeAt = (level: number, position: number) => Uint8Array

/** Of the first `size` leaves. */
export function treeRoot(size: number, nodeAt: NodeAt): Uint8Array {
  return size === 0 ? EMPTY_ROOT : rangeHash(0, size, nodeAt)
}

/** PATH(index, D[size]) of RFC 9162 §2.1.3.1, from the leaf upwards. RangeError unless index < size. */
export function inclusionProof(index: number, size: number, nodeAt: NodeAt): Uint8Array[] {
  if (!(index >= 0 && index < size)) throw new RangeError('no such entry')
  const path = (from: number, to: number): Uint8Array[] => {
    if (to - from === 1) return []
    const middle = from + split(to - from)
    return index < middle
      ? [...path(from, middle), rangeHash(middle, to, nodeAt)]
      : [...path(middle, to), rangeHash(from, middle, nodeAt)]
  }
  return path(0, size)
}

/** PROOF(before, D[after]) of RFC 9162 §2.1.4.1; empty for an empty log and for equal sizes. */
export function consistencyProof(before: number, after: number, nodeAt: NodeAt): Uint8Array[] {
  if (!(before >= 0 && before <= after)) throw new RangeError('a log grows')
  if (before === 0 || before === after) return []
  const subproof = (from: number, to: number, isKnown: boolean): Uint8Array[] => {
    if (before === to) return isKnown ? [] : [rangeHash(from, to, nodeAt)]
    const middle = from + split(to - from)
    return before <= middle
      ? [...subproof(from, middle, isKnown), rangeHash(middle, to, nodeAt)]
      : [...subproof(middle, to, false), rangeHash(from, middle, nodeAt)]
  }
  return subproof(0, after, true)
}

/** RFC 9162 §2.1.3.2. */
export function verifyInclusion({
  leaf,
  index,
  size,
  root,
  proof,
}: {
  leaf: Uint8Array
  index: number
  size: number
  root: Uint8Array
  proof: readonly Uint8Array[]
}): boolean {
  if (!(index >= 0 && index < size)) return false
  let [node, last, hash] = [index, size - 1, leaf]
  for (const sibling of proof) {
    if (last === 0) return false
    if (node % 2 === 1 || node === last) {
      hash = nodeHash(sibling, hash)
      while (node % 2 === 0 && node !== 0) [node, last] = [half(node), half(last)]
    } else hash = nodeHash(hash, sibling)
    ;[node, last] = [half(node), half(last)]
  }
  return last === 0 && equalBytes(hash, root)
}

export interface TreeHead {
  readonly size: number
  readonly root: Uint8Array
}

/** RFC 9162 §2.1.4.2: the later log begins with all of the earlier one. */
export function verifyConsistency(before: TreeHead, after: TreeHead, proof: readonly Uint8Array[]): boolean {
  if (before.size > after.size) return false
  if (before.size === after.size) return proof.length === 0 && equalBytes(before.root, after.root)
  if (before.size === 0) return proof.length === 0 && equalBytes(before.root, EMPTY_ROOT)
  const path = [...proof]
  // A size that is a power of two is a complete subtree: its root stands in the proof's place of departure.
  if (Number.isInteger(Math.log2(before.size))) path.unshift(before.root)
  let [node, last] = [before.size - 1, after.size - 1]
  while (node % 2 === 1) [node, last] = [half(node), half(last)]
  const first = path.shift()
  if (first === undefined) return false
  let [old, now] = [first, first]
  for (const sibling of path) {
    if (last === 0) return false
    if (node % 2 === 1 || node === last) {
      old = nodeHash(sibling, old)
      now = nodeHash(sibling, now)
      while (node % 2 === 0 && node !== 0) [node, last] = [half(node), half(last)]
    } else now = nodeHash(now, sibling)
    ;[node, last] = [half(node), half(last)]
  }
  return last === 0 && equalBytes(old, before.root) && equalBytes(now, after.root)
}

/** A log as somebody keeps it who reads along: its peaks, the largest first. */
export class Peaks {
  readonly size: number
  readonly #hashes: readonly Uint8Array[]

  private constructor(size: number, hashes: readonly Uint8Array[]) {
    this.size = size
    this.#hashes = hashes
  }

  static readonly empty = new Peaks(0, [])

  /** RangeError unless there is one hash for each bit of the size. */
  static decode(size: number, bytes: Uint8Array): Peaks {
    const count = [...size.toString(2)].filter(bit => bit === '1').length
    if (bytes.length !== 32 * count) throw new RangeError('not the peaks of a log of that size')
    return new Peaks(
      size,
      Array.from({ length: count }, (_, i) => bytes.slice(32 * i, 32 * (i + 1))),
    )
  }

  encode(): Uint8Array {
    return concat(...this.#hashes)
  }

  append(leaf: Uint8Array): Peaks {
    const hashes = [...this.#hashes]
    let hash = leaf
    for (let size = this.size; size % 2 === 1; size = half(size))
      hash = nodeHash(hashes.pop() as Uint8Array, hash)
    return new Peaks(this.size + 1, [...hashes, hash])
  }

  get root(): Uint8Array {
    const [smallest, ...others] = [...this.#hashes].reverse()
    if (smallest === undefined) return EMPTY_ROOT
    return others.reduce((right, left) => nodeHash(left, right), smallest)
  }

  get head(): TreeHead {
    return { size: this.size, root: this.root }
  }
}

/** `from` is a multiple of the largest power of two that is not above to − from. */
function rangeHash(from: number, to: number, nodeAt: NodeAt): Uint8Array {
  const level = Math.log2(to - from)
  if (Number.isInteger(level)) return nodeAt(level, from / 2 ** level)
  const middle = from + split(to - from)
  return nodeHash(rangeHash(from, middle, nodeAt), rangeHash(middle, to, nodeAt))
}

/** The largest power of two below `size`. */
const split = (size: number): number => 2 ** (Math.ceil(Math.log2(size)) - 1)
const half = (n: number): number => Math.floor(n / 2)
