/** The smallest directory that decides by code: a map of vehicles. What a customer's own application would start from. */
import { Refused } from '@milagro-ts/api/problem'
import { equalBytes, toHex } from '@milagro-ts/crypto/bytes'
import { codeId } from '@milagro-ts/crypto/enrolment'
import { type Attributes, type IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type {
  Approval,
  CheckedRegistration,
  Decision,
  Directory,
  Happening,
  IdentityRecord,
  Revocations,
  Standing,
} from '@milagro-ts/rpa/directory'
import type { RegistrationAuthority } from '@milagro-ts/rpa/registration-authority'

interface Vehicle {
  readonly instance: string
  readonly attributes: Attributes
  readonly secret: Uint8Array
  identity?: IdentityRecord
  banned?: boolean
}
interface Kept {
  readonly digest: Uint8Array
  readonly decision: Decision
}

export class MemoryDirectory implements Directory {
  readonly vehicles: Vehicle[] = []
  readonly happenings: Happening[] = []
  readonly words: string[] = []
  readonly #kept = new Map<string, Kept>()
  readonly #authority: () => RegistrationAuthority
  #leaf = 0

  constructor(authority: () => RegistrationAuthority) {
    this.#authority = authority
  }

  async codeSecret(id: Uint8Array): Promise<Uint8Array | null> {
    return this.vehicles.find(({ secret }) => equalBytes(codeId(secret), id))?.secret ?? null
  }

  async decide(registration: CheckedRegistration): Promise<Decision> {
    const key = toHex(registration.hpkeKey)
    const kept = this.#kept.get(key)
    if (kept !== undefined) {
      if (!equalBytes(kept.digest, registration.digest)) throw new Refused('CONFLICT')
      return kept.decision
    }
    const decision = this.#first(registration)
    this.#kept.set(key, { digest: registration.digest, decision })
    return decision
  }

  #first(registration: CheckedRegistration): Decision {
    if (registration.kind !== 'device') throw new Refused('NOT_APPROVED')
    if (registration.codeId === null) {
      this.words.push(registration.words)
      return { state: 'pending' }
    }
    const vehicle = this.vehicles.find(({ instance }) => instance === registration.instance)
    if (vehicle === undefined || vehicle.identity !== undefined) throw new Refused('CONFLICT')
    const allotted = { leaf: ++this.#leaf, generation: 0, factors: 0 as const }
    vehicle.identity = this.#authority().newIdentity(registration, allotted)
    return { state: 'approved', identity: vehicle.identity, purposes: ['device'] } satisfies Approval
  }

  async keepTicket(
    hpkeKey: Uint8Array,
    ticket: readonly string[],
    former: readonly string[] | undefined,
  ): Promise<readonly string[]> {
    const kept = this.#kept.get(toHex(hpkeKey))
    if (kept?.decision.state !== 'approved') throw new TypeError('no approval to keep a ticket for')
    if (kept.decision.ticket !== former && kept.decision.ticket !== undefined) return kept.decision.ticket
    this.#kept.set(toHex(hpkeKey), { ...kept, decision: { ...kept.decision, ticket } })
    return ticket
  }

  async standing(idCore: IdCore, userCore: Uint8Array): Promise<Standing | null> {
    const vehicle = this.vehicles.find(({ identity }) => identity?.idCore.equals(idCore))
    if (vehicle === undefined || userCore.length > 0) return null
    const { attributes, instance, banned } = vehicle
    return { state: 'in force', attributes, instance, banned: banned ? 'device' : undefined }
  }

  async revocations(): Promise<Revocations> {
    const banned = this.vehicles.flatMap(({ banned, identity }) =>
      banned && identity ? [{ idCore: identity.idCore, userCore: NO_USER }] : [],
    )
    return { number: banned.length, banned, revoked: [] }
  }

  async happened(happenings: readonly Happening[]): Promise<readonly Happening[]> {
    this.happenings.push(...happenings)
    return happenings.filter(
      ({ idCore }) => !this.vehicles.some(({ identity }) => identity?.idCore.equals(idCore)),
    )
  }
}
