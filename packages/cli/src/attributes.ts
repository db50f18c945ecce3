/** `--attribute name=value`, as often as needed. */
import { UsageError } from './io.js'

export function attributesOf(pairs: readonly string[]): Record<string, string> {
  const attributes = new Map<string, string>()
  for (const pair of pairs) {
    const [, name, value] = /^([^=]+)=(.+)$/s.exec(pair) ?? []
    if (name === undefined || value === undefined) throw new UsageError(`'${pair}' is not name=value`)
    if (attributes.has(name)) throw new UsageError(`'${name}' is said twice`)
    attributes.set(name, value)
  }
  return Object.fromEntries(attributes)
}
