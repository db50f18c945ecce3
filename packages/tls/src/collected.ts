/** Bytes that come in pieces, in one place: each is copied a few times at most, however small the pieces are. */
export class Collected {
  #room: Buffer = Buffer.alloc(0)
  #length = 0

  get length(): number {
    return this.#length
  }
  /** Until the next piece comes. */
  get bytes(): Buffer {
    return this.#room.subarray(0, this.#length)
  }

  add(piece: Uint8Array): void {
    const length = this.#length + piece.length
    if (this.#length === 0) {
      // Most come in one: that stays where it is.
      this.#room = Buffer.from(piece.buffer, piece.byteOffset, piece.length)
    } else {
      if (length > this.#room.length || !this.#isOwn) this.#grow(length)
      this.#room.set(piece, this.#length)
    }
    this.#length = length
  }

  #isOwn = false
  #grow(length: number): void {
    const room = Buffer.allocUnsafe(2 * length)
    room.set(this.bytes)
    this.#room = room
    this.#isOwn = true
  }
}
