/** What the fleet calls a vehicle before it has an identity, and what an operator's device is named. */
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
