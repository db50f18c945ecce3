/** `--attribute name=value`, as often as needed. */
import { UsageError } from './io.js'

export function attributesOf(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map(pair => {
      const [, name, value] = /^([^=]+)=(.+)$/s.exec(pair) ?? []
      if (name === undefined || value === undefined) throw new UsageError(`'${pair}' is not name=value`)
      return [name, value]
    }),
  )
}
