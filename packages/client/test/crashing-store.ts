/** A token store that dies at a chosen write, before or after it reached the disk, and remembers every text it held. */
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'

export class Crash extends Error {
  override readonly name = 'Crash'
}

export class CrashingStore implements TokenStore {
  readonly #inner = memoryTokenStore()
  /** Everything that was ever durable. */
  readonly texts: string[] = []
  writes = 0
  #crash: { at: number; after: boolean } | undefined

  /** The next `at`-th write from now on dies; `after`: once it is durable. */
  crashAt(at: number, after: boolean): void {
    this.#crash = { at: this.writes + at, after }
  }

  read(): Promise<string | null> {
    return this.#inner.read()
  }

  async replace(former: string | null, next: string): Promise<boolean> {
    this.writes++
    const dies = this.#crash?.at === this.writes ? this.#crash : undefined
    if (dies !== undefined) this.#crash = undefined
    if (dies?.after === false) throw new Crash()
    const done = await this.#inner.replace(former, next)
    if (done) this.texts.push(next)
    if (dies !== undefined) throw new Crash()
    return done
  }

  /** τ by account and pinGen, over all texts: two for one key are the end of its PIN. */
  tokens(): Map<string, Set<string>> {
    const found = new Map<string, Set<string>>()
    for (const text of this.texts) {
      for (const { users } of JSON.parse(text).identities) {
        for (const { token, next } of users) {
          for (const file of next === undefined ? [token] : [token, next]) {
            const account = `${file.idCore}/${file.userCore}/${file.pinGen}`
            found.set(account, (found.get(account) ?? new Set()).add(file.token))
          }
        }
      }
    }
    return found
  }
}
