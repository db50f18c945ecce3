/**
 * Settings of a process that reads them again at SIGHUP. Those that may change take effect at once, the others keep their
 * values until a restart, and where anything is wrong all stays as it is.
 */
import type { Log } from '@milagro-ts/api/log'

export class ReloadableSettings<C extends object> {
  readonly #load: () => C
  readonly #reloadable: readonly string[]
  #current: C

  /** @param reloadable Names of those that may change. ConfigError, as `load` throws it. */
  constructor(load: () => C, reloadable: readonly string[]) {
    this.#load = load
    this.#reloadable = reloadable
    this.#current = load()
  }

  get current(): C {
    return this.#current
  }

  /** Whether they could be read; the log has why not, and which want a restart. Never throws. */
  reload(log: Log): boolean {
    try {
      const next = this.#load()
      const fixed = changed(this.#current, next).filter(name => !this.#reloadable.includes(name))
      this.#current = { ...this.#current, ...only(next, this.#reloadable) }
      if (fixed.length > 0) log.warn({ settings: fixed }, 'these settings want a restart')
      log.info('the settings were read again')
      return true
    } catch (error) {
      log.error({ err: error }, 'the settings were not read again; it goes on with those it has')
      return false
    }
  }
}

function changed(before: object, after: object): string[] {
  const [old, now] = [before, after].map(value => new Map<string, unknown>(Object.entries(value))) as [
    Map<string, unknown>,
    Map<string, unknown>,
  ]
  return [...new Set([...old.keys(), ...now.keys()])].filter(
    name => JSON.stringify(old.get(name)) !== JSON.stringify(now.get(name)),
  )
}
/** Those settings, each: absent in `settings` is absent in the answer's place, too. */
const only = (settings: object, names: readonly string[]) =>
  Object.fromEntries(names.map(name => [name, (settings as Record<string, unknown>)[name]]))
