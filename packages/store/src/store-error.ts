export type StoreReason =
  /** The file is no database, fails its check, or a sealed file doesn't open (wrong passphrase or changed bytes). */
  | 'damaged'
  /** The database was written by a newer version of the program. */
  | 'newer'
  /** The database belongs to another program: its migrations have other names. */
  | 'foreign'
  /** The file isn't there. */
  | 'missing'
  /** Disk full, no permission, locked for too long, an I/O error: may pass; callers fail closed until it does. */
  | 'unavailable'
  /** Another process holds the file lock and didn't let go in time. */
  | 'locked'

/** A store that can't be used. The message is one line for an operator and holds no stored value. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly reason: StoreReason

  constructor(reason: StoreReason, message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}
