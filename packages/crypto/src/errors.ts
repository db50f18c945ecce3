/** Bytes or text that are not what they should be. Both texts may be shown to the peer: they never hold the value. */
export class DecodeError extends Error {
  override readonly name = 'DecodeError'
  readonly field: string
  readonly why: string

  constructor(field: string, why: string) {
    super(`${field}: ${why}`)
    this.field = field
    this.why = why
  }
}
