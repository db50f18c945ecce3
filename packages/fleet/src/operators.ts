/**
 * Operators have no passwords. Each has a device of their own in the register, enrolled through the RPS like a car's,
 * and calls with an access token for fleet's own address. The first one enrols with a setup code that the server
 * prints once; the others are invited by an operator.
 *
 * A token counts while its identity is in force and not banned *here*: the register is asked at every call, so a ban
 * doesn't wait for the token's five minutes to pass.
 */
import { type Client, createClient, Unreachable } from '@milagro-ts/api/call'
import { Es256PublicKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import type { Meta } from '@milagro-ts/api/serve'
import { verifyAccessToken } from '@milagro-ts/api/statements'
import type { Factors } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Actor } from './audit.js'
import { type Bans, isBanned } from './bans.js'
import type { IssuedCode } from './codes.js'
import type { Register } from './register.js'
import type { FleetSchema } from './schema.js'
import { OPERATOR_PREFIX } from './vehicle.js'

export interface Operator {
  readonly device: number
  readonly name: string
  readonly actor: Actor
}

export interface OperatorPorts {
  readonly store: Store<FleetSchema>
  readonly register: Register
  readonly bans: Bans
  readonly clock: Clock
  readonly rpsUrl: string
  /** `iss` of the RPS' tokens. */
  readonly issuer: string
  /** `aud` of a token for us. */
  readonly publicUrl: string
  /** Whether an operator's device has a PIN, and tokens must show that it was given. */
  readonly withPin: boolean
  readonly fetch: typeof fetch
}

/** A code that an operator enrols by at a shell, without a console. */
export interface OperatorCode extends IssuedCode {
  readonly operator: string
  /** The whole command, the code included. It asks for the PIN, and makes the token store where it is said. */
  readonly enrol: string
}

export class Operators {
  readonly #ports: OperatorPorts
  readonly #keys: TokenKeys

  constructor(ports: OperatorPorts) {
    this.#ports = ports
    this.#keys = new TokenKeys(ports)
  }

  /** The `operator` check of `mount`. */
  async check({ headers }: Pick<Meta, 'headers'>): Promise<Operator> {
    const { clock, issuer, publicUrl: audience, withPin, store, bans } = this.#ports
    const token = /^Bearer ([A-Za-z0-9._-]{16,4096})$/.exec(headers.authorization ?? '')?.[1]
    if (token === undefined) throw new Refused('UNAUTHENTICATED', { detail: 'no access token' })
    const keys = await this.#keys.forToken(token)
    const { idCore, amr } = await verifyAccessToken({ token, keys, issuer, audience, now: clock() })
    const device = await store.db
      .selectFrom('identity')
      .innerJoin('device', 'device.id', 'identity.device_id')
      .select(['device.id', 'device.instance', 'device.kind', 'identity.revoked_at'])
      .where('identity.id_core', '=', idCore.bytes)
      .executeTakeFirst()
    if (device?.kind !== 'operator') throw new Refused('FORBIDDEN', { detail: 'not an operator' })
    if (device.revoked_at !== null) throw new Refused('REVOKED')
    await bans.liftExpired()
    if (await isBanned(store.db, { device: device.id }, Math.floor(clock() / 1000)))
      throw new Refused('BANNED')
    if (withPin && !amr.includes('pin')) throw new Refused('FORBIDDEN', { detail: 'log in with the PIN' })
    const name = device.instance.slice(OPERATOR_PREFIX.length)
    return { device: device.id, name, actor: device.instance }
  }

  async invite(name: string, actor: Actor): Promise<{ id: number; code: IssuedCode }> {
    const factors: Factors = this.#ports.withPin ? 1 : 0
    const { id, code } = await this.#ports.register.add(
      {
        kind: 'operator',
        instance: OPERATOR_PREFIX + name,
        attributes: { operator: name },
        factors,
        ownPin: this.#ports.withPin,
      },
      { withCode: true },
      actor,
    )
    return { id, code: code as IssuedCode }
  }

  /**
   * The code for the very first operator, once: null when there is an operator, or a setup code that can still be
   * used. One that ran out unused is replaced.
   */
  async setupCode(name: string): Promise<OperatorCode | null> {
    const operators = await this.#ports.register.list({ kind: 'operator', limit: 1000 })
    if (operators.length === 0) return this.#withCommand(name, (await this.invite(name, 'console')).code)
    const first = operators.find(({ instance }) => instance === OPERATOR_PREFIX + name)
    const waits = operators.every(({ state }) => state === 'registered')
    if (!waits || first === undefined) return null
    return this.#withCommand(name, await this.#ports.register.deviceCode('operator', first.id, 'console'))
  }

  /**
   * For whoever holds the server's machine and passphrase, when no operator can log in any more: a code for `name`,
   * as a new operator or as the next generation of a known one.
   */
  async recoveryCode(name: string): Promise<OperatorCode> {
    const { register } = this.#ports
    const [known] = await register.list({ kind: 'operator', instance: OPERATOR_PREFIX + name, limit: 1 })
    if (known === undefined) return this.#withCommand(name, (await this.invite(name, 'console')).code)
    const code =
      known.state === 'enrolled'
        ? await register.nextGeneration('operator', known.id, 'console')
        : await register.deviceCode('operator', known.id, 'console')
    // A token store with a former identity takes no other of that name.
    const hadOne = known.state === 'enrolled' || known.state === 'revoked'
    return this.#withCommand(name, code, hadOne ? 'operator-new.json' : undefined)
  }

  /** Instance and attributes are those that `invite` has registered, and that a code is good for. */
  #withCommand(name: string, issued: IssuedCode, store = 'operator.json'): OperatorCode {
    const { issuer, withPin } = this.#ports
    const words = [
      `MILAGRO_CODE=${issued.code} milagro device enroll`,
      ...(withPin ? ['--with-pin'] : []),
      `--instance ${OPERATOR_PREFIX}${name} --attribute operator=${name}`,
      `--store ${store} --rps ${shellWord(issuer)}`,
    ]
    return { operator: name, ...issued, enrol: words.join(' ') }
  }
}

function shellWord(text: string): string {
  return /^[\w.:/@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}

/** How long the RPS' keys are believed unasked, and how often an unknown kid may make us ask, in ms. */
const KEYS_LIFETIME = 300_000
const KEYS_PAUSE = 2000

/** The RPS' token keys, fetched when needed. */
class TokenKeys {
  readonly #clock: Clock
  readonly #rps: Pick<Client<typeof rpsRoutes>, 'jwks'>
  #keys: ReadonlyMap<string, Es256PublicKey> = new Map()
  #fetchedAt = Number.NEGATIVE_INFINITY
  #fetching: Promise<void> | undefined

  constructor({ clock, rpsUrl, fetch }: OperatorPorts) {
    this.#clock = clock
    this.#rps = createClient(rpsRoutes, { baseUrl: rpsUrl, fetch, timeout: 5000 })
  }

  async forToken(token: string): Promise<ReadonlyMap<string, Es256PublicKey>> {
    const age = this.#clock() - this.#fetchedAt
    if (age > KEYS_LIFETIME || (age > KEYS_PAUSE && !this.#keys.has(kidOf(token)))) await this.#fetch()
    return this.#keys
  }

  async #fetch(): Promise<void> {
    this.#fetching ??= this.#fetchKeys().finally(() => {
      this.#fetching = undefined
    })
    await this.#fetching
  }

  async #fetchKeys(): Promise<void> {
    try {
      const { keys } = await this.#rps.jwks({})
      this.#keys = new Map(keys.map(jwk => [jwk.kid, Es256PublicKey.fromJwk(jwk)]))
      this.#fetchedAt = this.#clock()
    } catch (error) {
      if (!(error instanceof Unreachable) && !(error instanceof Refused)) throw error
      // Keys that were good five minutes ago still verify; without any, nothing can be decided.
      if (this.#keys.size === 0)
        throw new Refused('RETRY_LATER', { detail: 'the RPS can’t be asked for its keys' })
    }
  }
}

/** The header's kid, unverified: it only decides whether to ask for keys. */
function kidOf(token: string): string {
  try {
    const header: unknown = JSON.parse(Buffer.from(token.split('.', 1)[0] ?? '', 'base64url').toString())
    const { kid } = header as { kid?: unknown }
    return typeof kid === 'string' ? kid : ''
  } catch {
    return ''
  }
}
