/** One after the other: the logins of one account, whose strikes the RPS counts. */

export class Turns {
  readonly #last = new Map<string, Promise<unknown>>()

  /** Runs `work` when everything that was given for `name` before has ended, well or badly. */
  take<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(name) ?? Promise.resolve()
    const mine = before.then(work)
    const settled = mine.then(
      () => undefined,
      () => undefined,
    )
    this.#last.set(name, settled)
    return mine
  }
}
