/**
 * A service's door: who holds this credential, and may they still come in?
 *
 *   Authorization: Bearer <access token>   for this audience, signed by the RPS, not expired
 *   Authorization: MPIN <message>          a one-pass proof, which the RPS checks
 *   then, whichever it was                 not banned, not revoked: the RPS' stream of signed ban events, fresh
 *
 * A ban shuts the door within the time that an event takes, though the token would run for minutes. While the stream is
 * lost for 30 seconds nobody comes in (RETRY_LATER).
 */
import { type Client, createClient, type Exchange, Unreachable } from '@milagro-ts/api/call'
import type { Group } from '@milagro-ts/api/group'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import type { Log } from '@milagro-ts/api/log'
import { isOwnClock, PeerClocks } from '@milagro-ts/api/peer-clocks'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { verifyAccessToken, verifyEvent, verifyState } from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { type DenyList, EventFollower } from './ban-events.js'
import { TokenKeys } from './token-keys.js'

export interface GuardOptions {
  /** The RPS' origin: also the issuer of its tokens. */
  readonly rpsUrl: string
  /** What devices log in for: this service's origin, or the name that the RPS knows it by. */
  readonly audience: string
  /** The service's name among the recipients of the group document, and its request key there. */
  readonly name: string
  readonly requestKey: Es256PrivateKey
  /** The pinned group; later revisions come from the RPS when they are needed. */
  readonly group: Group
  readonly random: Random
  readonly clock: Clock
  readonly timers: Timers
  /** For the stream of ban events, and for all else where there is no `exchange`. */
  readonly fetch: typeof fetch
  readonly exchange?: Exchange | undefined
  readonly log: Log
  /** Called after every change of the deny list. */
  readonly changed?: (list: DenyList) => void
}

/** Milliseconds between two looks for newer revisions that devices can cause. */
const LOOK_PAUSE = 5_000
/** Refusals of a signed message that keys of an earlier epoch may be the reason of. */
const SIGNER_KEYS: ReadonlySet<Code> = new Set<Code>(['WRONG_PERMIT', 'WRONG_PROOF'])

/** A device (and a user on it) that has proven itself. */
export interface Holder {
  readonly idCore: IdCore
  readonly userCore: string | undefined
  readonly amr: readonly ('device' | 'pin')[]
  /** Unix milliseconds at which the credential ends. A one-pass proof is good for the request that it came with. */
  readonly expiresAt: number
}

export class Guard {
  /** The RPS, called as this service. */
  readonly rps: Client<typeof rpsRoutes>
  readonly keys: TokenKeys
  readonly follower: EventFollower
  /** Whether the service's clock agrees with the RPS'; for its own readiness. */
  readonly clocks: PeerClocks
  readonly #options: GuardOptions
  #group: Group
  /** When newer revisions were last looked for on a device's word. */
  #lookedAt = Number.NEGATIVE_INFINITY

  constructor(options: GuardOptions) {
    const { rpsUrl, name, requestKey: key, clock, random, timers, fetch, exchange, log, changed } = options
    this.#options = options
    this.#group = options.group
    const authorize = requestSigner({ name, key, clock, random })
    const clocks = new PeerClocks({ clock, log })
    this.clocks = clocks
    this.rps = createClient(rpsRoutes, { baseUrl: rpsUrl, fetch, exchange, authorize, clocks })
    this.keys = new TokenKeys({ rps: this.rps, clock })
    this.follower = new EventFollower({
      rpsUrl,
      authorize,
      verifyState: state => this.#byRa(group => verifyState({ state, group })),
      verifyEvent: event => this.#byRa(group => verifyEvent({ event, group })),
      clock,
      timers,
      fetch,
      clocks,
      log,
      ...(changed === undefined ? {} : { changed }),
    })
  }

  /** Begins to follow the ban events; until their first state is there, nobody comes in. */
  start(): void {
    this.follower.start()
  }
  stop(): Promise<void> {
    return this.follower.stop()
  }

  /**
   * @param authorization The header's value.
   * @param tlsExporter Of the connection that it came on, where TLS ends in this process (api/channel-binding.ts): a one-pass
   * proof is bound to it where the audience's policy wants that. A token is bound to no connection; for such an audience there
   * are some only where the RPS ends TLS itself, by logins that were bound to their connections there.
   * Refused UNAUTHENTICATED, BANNED, REVOKED, EXPIRED …, RETRY_LATER while the RPS or its events can't be heard.
   */
  check(authorization: string | undefined, tlsExporter?: Uint8Array): Promise<Holder> {
    return this.#check(this.#options.audience, authorization, tlsExporter)
  }

  /**
   * The same door for another audience of this service, which the RPS may ask more of: what logs in for the one is no
   * credential for the other.
   */
  for(audience: string): Pick<Guard, 'check'> {
    return {
      check: (authorization, tlsExporter) => this.#check(audience, authorization, tlsExporter),
    }
  }

  /** What the RA says of an identity: attributes and instance, of the user too. */
  identity({ idCore, userCore }: Pick<Holder, 'idCore' | 'userCore'>) {
    const query = userCore === undefined ? {} : { userCore }
    return this.#identity({ params: { idCore: idCore.mpinId }, query })
  }

  /**
   * The same, and the identity's permit of the slot as it is carried, for a service that has its own proof of the device.
   * Refused BANNED, REVOKED, NOT_FOUND; PERMIT_EXPIRED: the slot is over and no permit of it is held.
   */
  permitted(idCore: IdCore, slot: number) {
    return this.#identity({ params: { idCore: idCore.mpinId }, query: { slot: String(slot) } })
  }

  /** Once more where the connection was one that the RPS had just given up: asking twice changes nothing. */
  #identity(input: Parameters<Client<typeof rpsRoutes>['identity']>[0]) {
    const asked = this.rps.identity(input).catch((error: unknown) => {
      if (error instanceof Unreachable && error.system === 'ECONNRESET') return this.rps.identity(input)
      throw error
    })
    return fromRps(asked)
  }

  /**
   * What a device has signed by itself, by the group as far as it is known. A key epoch may have begun since: what is refused
   * for its keys sends us to the RPS for revisions, and is looked at once more if there are any; a device can send us there
   * every few seconds and no oftener.
   */
  async bySigner<T>(verify: (group: Group) => Promise<T>): Promise<T> {
    const { clock } = this.#options
    const known = this.#group
    try {
      return await verify(known)
    } catch (error) {
      const mayBeOld = error instanceof Refused && SIGNER_KEYS.has(error.code)
      if (!mayBeOld || clock() < this.#lookedAt + LOOK_PAUSE) throw error
      this.#lookedAt = clock()
      await fromRps(this.#follow())
      if (this.#group === known) throw error
      return verify(this.#group)
    }
  }

  /** The RA may have changed its keys since: what isn't signed by those we know sends us to the RPS for revisions. */
  async #byRa<T>(verify: (group: Group) => Promise<T>): Promise<T> {
    const known = this.#group
    try {
      return await verify(known)
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== 'NOT_APPROVED') throw error
      await this.#follow()
      if (this.#group === known) throw error
      return verify(this.#group)
    }
  }

  /** Takes in the revisions that have come since. */
  async #follow(): Promise<void> {
    const { revision: newest } = await this.rps.group({ query: {} })
    for (let next = this.#group.revision + 1; next <= newest; next++) {
      const group = await this.#group.verifyNext(await this.rps.group({ query: { revision: String(next) } }))
      // Another caller may have followed meanwhile.
      if (group.revision > this.#group.revision) this.#group = group
      this.#options.log.info({ revision: next }, 'a new revision of the group document')
    }
  }

  async #check(
    audience: string,
    authorization: string | undefined,
    tlsExporter: Uint8Array | undefined,
  ): Promise<Holder> {
    const [scheme = '', credential = ''] = (authorization ?? '').split(' ', 2)
    if (scheme === 'Bearer') return this.#token(audience, credential)
    if (scheme === 'MPIN') return this.#onePass(audience, credential, tlsExporter)
    throw new Refused('UNAUTHENTICATED', { detail: 'a Bearer token or an MPIN proof' })
  }

  async #token(audience: string, token: string): Promise<Holder> {
    const { rpsUrl: issuer, clock } = this.#options
    const keys = await this.keys.forToken(token)
    const verified = await verifyAccessToken({ token, keys, issuer, audience, now: clock() })
    const { idCore, amr } = verified
    const userCore = verified.userCore.length === 0 ? undefined : toBase64Url(verified.userCore)
    this.follower.check(idCore.mpinId, userCore)
    return { idCore, userCore, amr, expiresAt: verified.expiresAt * 1000 }
  }

  async #onePass(audience: string, message: string, tlsExporter: Uint8Array | undefined): Promise<Holder> {
    const { clock } = this.#options
    const binding = tlsExporter === undefined ? {} : { tlsExporter: toBase64Url(tlsExporter) }
    const answer = await fromRps(this.rps.verifyOnePass({ body: { message, ...binding } }))
    if (answer.audience !== audience) throw new Refused('UNAUTHENTICATED')
    const { idCore, userCore, amr } = answer
    this.follower.check(idCore, userCore)
    return { idCore: IdCore.fromBase64Url(idCore), userCore, amr, expiresAt: clock() }
  }
}

/** The RPS' refusals of the peer's proof go on to the peer; what it says of this server, or that it is away, doesn't. */
export async function fromRps<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof Unreachable) {
      throw new Refused('RETRY_LATER', { detail: 'the authentication server is unreachable', retryAfter: 1 })
    }
    if (isOwnClock(error))
      throw new Refused('RETRY_LATER', {
        detail: 'the clocks of this service and of the authentication server differ',
        log: error.message,
        retryAfter: 5,
      })
    if (error instanceof Refused && (error.code === 'UNAUTHENTICATED' || error.code === 'FORBIDDEN')) {
      throw new Refused('INTERNAL', { log: `the authentication server refuses this one: ${error.message}` })
    }
    throw error
  }
}
