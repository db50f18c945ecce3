/** What the fleet calls a vehicle before it has an identity, and what an operator's device is named. */
import { Refused } from '@milagro-ts/api/problem'
import type { Attributes, Factors } from '@milagro-ts/crypto/identity'

/** Instances of operators' devices begin with this; no vehicle's may. */
export const OPERATOR_PREFIX = 'operator:'

/** Device alone is enough, and a driver's PIN counts where a service asks for one. */
export const DEFAULT_FACTORS: Factors = 2

export interface NewVehicle {
  /** VIN or another name of this one thing; unique in the fleet. */
  readonly instance: string
  readonly attributes: Attributes
  readonly factors: Factors
}

/**
 * What an operator reads on a terminal or a page: no control characters (a terminal obeys them) and none that turn the
 * direction of writing (a VIN that reads otherwise than it is). Refused MALFORMED names the field.
 */
export function checkReadable(field: string, ...texts: readonly string[]): void {
  if (!texts.every(isReadable))
    throw new Refused('MALFORMED', { field, detail: 'a character that can’t be shown as it is' })
}

export function isReadable(text: string): boolean {
  return !UNREADABLE.test(text)
}

const UNREADABLE = /[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u

export function checkAttributes(attributes: Attributes): void {
  checkReadable('attributes', ...Object.entries(attributes).flat())
}

/** A driver without a name could be told from nobody. */
export function checkDriver(attributes: Attributes): void {
  checkAttributes(attributes)
  if (attributes.driverName === undefined)
    throw new Refused('MALFORMED', { field: 'attributes', detail: 'driverName is missing' })
}

/** Attributes in one form: NFC, ordered by name. Two records with the same text are the same attributes. */
export function attributesText(attributes: Attributes): string {
  const entries = Object.entries(attributes).map(([name, value]): [string, string] => [
    name.normalize('NFC'),
    value.normalize('NFC'),
  ])
  entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  return JSON.stringify(entries)
}

export function attributesOf(text: string): Attributes {
  return Object.fromEntries(JSON.parse(text) as [string, string][])
}
