/**
 * Settings of a server: JSON file < environment < flags. A setting `listen.port` is `MILAGRO_RPS_LISTEN_PORT` in the
 * environment. Secrets come from the environment or from a file that `…_FILE` names, never from the JSON file.
 */
import { readFileSync } from 'node:fs'
import { Refused } from './problem.js'
import { WANTS } from './settings.js'
import { parseStrictJson } from './strict-json.js'
import { Compile, type Static, type TSchema } from './typebox.js'

/** One clear line for the operator; ends the start. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

export type Environment = Readonly<Record<string, string | undefined>>

export interface ConfigSources {
  /** For example `MILAGRO_RPS`. */
  readonly prefix: string
  readonly file?: string | undefined
  readonly env: Environment
  /** Settings from flags, already nested. */
  readonly flags?: Readonly<Record<string, unknown>>
}

/** Reads and checks the settings. ConfigError names the first setting that is wrong. */
export function loadConfig<S extends TSchema>(schema: S, sources: ConfigSources): Static<S> {
  const fromFile = sources.file === undefined ? {} : readJson(sources.file)
  const merged = merge(
    merge(fromFile, fromEnvironment(schema, sources.prefix, sources.env)),
    sources.flags ?? {},
  )
  const validator = Compile(schema)
  if (validator.Check(merged)) return merged as Static<S>
  throw new ConfigError(wrongSetting(schema, validator.Errors(merged)))
}

interface SettingError {
  readonly keyword: string
  /** A JSON pointer after `#`, to the schema that the value doesn't fit. */
  readonly schemaPath: string
  readonly instancePath: string
  readonly params: unknown
  readonly message: string
}

/** One line on the first error: which setting, and what it should be; never what it is. */
function wrongSetting(schema: TSchema, [first]: readonly SettingError[]): string {
  const path = (first?.instancePath ?? '').slice(1).replaceAll('/', '.')
  const { requiredProperties, allowedValues } = (first?.params ?? {}) as {
    requiredProperties?: string[]
    allowedValues?: unknown[]
  }
  const missing = requiredProperties?.[0]
  if (missing !== undefined) return `setting '${path === '' ? '' : `${path}.`}${missing}' is missing`
  if (first?.keyword === 'boolean') return `setting '${path}' is not known`
  const wants = allowedValues === undefined ? wantsOf(schema, first) : oneOf(allowedValues)
  const should = wants === undefined ? (first?.message ?? 'is wrong') : `must be ${wants}`
  return `setting '${path === '' ? 'settings' : path}': ${should}`
}

/** In words, where the schema of that setting has them. */
function wantsOf(schema: TSchema, error: SettingError | undefined): string | undefined {
  let found: unknown = schema
  for (const name of (error?.schemaPath ?? '').split('/').slice(1))
    found = isObject(found) || Array.isArray(found) ? (found as Record<string, unknown>)[name] : undefined
  const words = isObject(found) ? found[WANTS] : undefined
  return typeof words === 'string' ? words : undefined
}

function oneOf(values: readonly unknown[]): string {
  const [last, ...others] = values.map(value => `'${value}'`).reverse()
  return others.length === 0 ? `${last}` : `${others.reverse().join(', ')} or ${last}`
}

/** What another's program may see of an environment: nothing of ours but which kernels are wanted, since secrets are among it. */
export function environmentOfOthers(env: Environment): Environment {
  return Object.fromEntries(
    Object.entries(env).filter(
      ([name]) => name === 'MILAGRO_KERNEL' || !name.toUpperCase().startsWith('MILAGRO_'),
    ),
  )
}

/**
 * A secret from `NAME` or from the file that `NAME_FILE` names (its last newline cut off).
 * ConfigError when neither or both are given, or when it is empty.
 */
export function readSecret(name: string, env: Environment): string {
  const direct = env[name]
  const path = env[`${name}_FILE`]
  if (direct !== undefined && path !== undefined)
    throw new ConfigError(`${name} and ${name}_FILE are both set`)
  const value =
    direct ??
    (path === undefined
      ? undefined
      : new TextDecoder().decode(readBytes(path, `${name}_FILE`)).replace(/\r?\n$/, ''))
  if (value === undefined) throw new ConfigError(`set ${name}_FILE (or ${name})`)
  if (value === '') throw new ConfigError(`${direct === undefined ? `${name}_FILE` : name} is empty`)
  return value
}

function readJson(path: string): Record<string, unknown> {
  const bytes = readBytes(path, 'config')
  let value: unknown
  try {
    value = parseStrictJson(bytes)
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    throw new ConfigError(`config file '${path}': ${error.detail}`)
  }
  if (!isObject(value)) throw new ConfigError(`config file '${path}' is not a JSON object`)
  return value
}

function readBytes(path: string, what: string): Uint8Array {
  try {
    return readFileSync(path)
  } catch (error) {
    throw new ConfigError(
      `${what}: cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`,
    )
  }
}

function fromEnvironment(schema: TSchema, prefix: string, env: Environment): Record<string, unknown> {
  const found: Record<string, unknown> = {}
  const properties = (schema as { properties?: Record<string, TSchema> }).properties ?? {}
  for (const [name, property] of Object.entries(properties)) {
    const variable = `${prefix}_${name.replaceAll(/([A-Z])/g, '_$1').toUpperCase()}`
    if ('properties' in property) {
      const inner = fromEnvironment(property, variable, env)
      if (Object.keys(inner).length > 0) found[name] = inner
      continue
    }
    const text = env[variable]
    if (text !== undefined) found[name] = fromText(property, text, variable)
  }
  return found
}

function fromText(schema: TSchema, text: string, variable: string): unknown {
  const type = (schema as { type?: string }).type
  if (type === 'string' || type === undefined) return text
  try {
    return JSON.parse(text)
  } catch {
    throw new ConfigError(`${variable}: '${type}' expected`)
  }
}

function merge(
  low: Readonly<Record<string, unknown>>,
  high: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const merged: Record<string, unknown> = { ...low }
  for (const [name, value] of Object.entries(high)) {
    if (value === undefined) continue
    const below = merged[name]
    merged[name] = isObject(value) && isObject(below) ? merge(below, value) : value
  }
  return merged
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
