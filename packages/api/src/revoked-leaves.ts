/**
 * Which of the banned leaves are revoked, and in which slot each was: what makes "for good" something that an authority
 * can hold the RA to. A leaf that a state names here is named by every later one, until its keys have ended (ended-keys.ts).
 */
import { DecodeError } from '@milagro-ts/crypto/errors'

/** be32 leaf ‖ be32 slot */
const ENTRY = 8

export interface RevokedLeaf {
  readonly leaf: number
  /** In which it was revoked. */
  readonly slot: number
}

export class RevokedLeaves {
  /** Ascending, none twice. */
  readonly #leaves: Uint32Array
  readonly #slots: Uint32Array

  private constructor(leaves: Uint32Array, slots: Uint32Array) {
    this.#leaves = leaves
    this.#slots = slots
  }

  /** RangeError for what is no leaf or slot, and for one that is there twice: a leaf is revoked once. */
  static of(entries: readonly RevokedLeaf[]): RevokedLeaves {
    if (entries.some(({ leaf, slot }) => leaf !== leaf >>> 0 || slot !== slot >>> 0))
      throw new RangeError('leaves and slots are 0…2³²−1')
    const sorted = entries.toSorted((a, b) => a.leaf - b.leaf)
    if (sorted.some(({ leaf }, i) => leaf === sorted[i - 1]?.leaf))
      throw new RangeError('a leaf is there twice')
    const column = (name: keyof RevokedLeaf) => Uint32Array.from(sorted, entry => entry[name])
    return new RevokedLeaves(column('leaf'), column('slot'))
  }

  /** Entries in ascending order of their leaves, none twice: one set has one spelling. */
  static decode(bytes: Uint8Array, field = 'revoked'): RevokedLeaves {
    if (bytes.length % ENTRY !== 0) throw new DecodeError(field, 'eight bytes a leaf')
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const size = bytes.length / ENTRY
    const [leaves, slots] = [new Uint32Array(size), new Uint32Array(size)]
    for (let i = 0; i < size; i++) {
      leaves[i] = view.getUint32(ENTRY * i)
      slots[i] = view.getUint32(ENTRY * i + 4)
      if (i > 0 && (leaves[i] as number) <= (leaves[i - 1] as number))
        throw new DecodeError(field, 'not in ascending order')
    }
    return new RevokedLeaves(leaves, slots)
  }

  encode(): Uint8Array {
    const bytes = new Uint8Array(ENTRY * this.size)
    const view = new DataView(bytes.buffer)
    this.#leaves.forEach((leaf, i) => {
      view.setUint32(ENTRY * i, leaf)
      view.setUint32(ENTRY * i + 4, this.#slots[i] as number)
    })
    return bytes
  }

  get size(): number {
    return this.#leaves.length
  }
  get leaves(): Iterable<number> {
    return this.#leaves
  }

  /**
   * A leaf of these that `later` doesn't name with the same slot, though it was revoked in `endedBefore` or later; null where
   * there is none.
   */
  missingIn(later: RevokedLeaves, endedBefore: number): number | null {
    let there = 0
    for (let i = 0; i < this.size; i++) {
      const [leaf, slot] = [this.#leaves[i] as number, this.#slots[i] as number]
      if (slot < endedBefore) continue
      while (there < later.size && (later.#leaves[there] as number) < leaf) there++
      if (later.#leaves[there] !== leaf || later.#slots[there] !== slot) return leaf
    }
    return null
  }
}
