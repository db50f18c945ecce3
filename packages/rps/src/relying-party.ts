/**
 * The relying-party application as the RPS calls it. What it refuses about an identity is passed on; what it refuses
 * about the RPS itself (its key, its clock) is the operator's affair, so the client is told RETRY_LATER and the log why.
 */
import { type Client, createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { Log } from '@milagro-ts/api/log'
import type { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { Answer, Body } from '@milagro-ts/api/route'
import { type RegistrationAnswer, rpaRoutes } from '@milagro-ts/api/rpa-routes'

/** Milliseconds for one callback. */
const TIMEOUT = 5_000
/** Tellings under way at once; beyond it they are dropped, so that a dead RPA doesn't fill the memory. */
const TELLINGS = 100

export type Happening = Body<typeof rpaRoutes.authenticated>
export type Standing = Answer<typeof rpaRoutes.permit>

export class RelyingParty {
  readonly #client: Client<typeof rpaRoutes>
  readonly #log: Log
  readonly #tellings = new Set<Promise<void>>()

  constructor({
    url,
    fetch,
    clocks,
    log,
    ...signer
  }: Parameters<typeof requestSigner>[0] & {
    url: string
    fetch: typeof globalThis.fetch
    clocks: PeerClocks
    log: Log
  }) {
    this.#client = createClient(rpaRoutes, {
      baseUrl: url,
      fetch,
      timeout: TIMEOUT,
      authorize: requestSigner(signer),
      clocks,
    })
    this.#log = log
  }

  /** Refused with what the RPA says about the registration, or RETRY_LATER. */
  verify(registration: Body<typeof rpaRoutes.verify>): Promise<RegistrationAnswer> {
    const passedOn = ['MALFORMED', 'CONFLICT', 'NOT_APPROVED', 'EXPIRED', 'BANNED', 'REVOKED'] as const
    return this.#client.verify({ body: registration }).catch(error => refuse('verify', error, passedOn))
  }

  /** Null: the RPA knows no such identity (or no such user on it). Refused BANNED, REVOKED or RETRY_LATER. */
  standing(identity: Body<typeof rpaRoutes.permit>): Promise<Standing | null> {
    return this.#client.permit({ body: identity }).catch((error: unknown) => {
      if (error instanceof Refused && error.code === 'NOT_FOUND') return null
      return refuse('permit', error, ['BANNED', 'REVOKED'])
    })
  }

  /** The signed revocation state; Refused RETRY_LATER. */
  async state(): Promise<string> {
    const { state } = await this.#client.state({}).catch(error => refuse('state', error, []))
    return state
  }

  /** Tells the RPA what happened, without making anybody wait for it. What is lost, the next login says again. */
  tell(happening: Happening): void {
    if (this.#tellings.size >= TELLINGS) {
      this.#log.warn({ event: happening.event }, 'the RPA is too slow: it was not told of an event')
      return
    }
    const telling: Promise<void> = this.#client.authenticated({ body: happening }).then(
      () => void this.#tellings.delete(telling),
      (error: unknown) => {
        this.#tellings.delete(telling)
        this.#log.warn({ err: error, event: happening.event }, 'the RPA was not told of an event')
      },
    )
    this.#tellings.add(telling)
  }

  /** Resolves when nothing is being told any more. */
  async settled(): Promise<void> {
    await Promise.all(this.#tellings)
  }
}

function refuse(route: string, error: unknown, passedOn: readonly Code[]): never {
  if (error instanceof Unreachable || error instanceof UnexpectedAnswer)
    throw new Refused('RETRY_LATER', { log: `RPA, ${route}: ${error.message}`, retryAfter: 5 })
  if (!(error instanceof Refused)) throw error
  const { code, detail, field, retryAfter } = error
  if (passedOn.includes(code)) throw new Refused(code, { detail, field })
  throw new Refused('RETRY_LATER', { log: `RPA, ${route}: ${error.message}`, retryAfter: retryAfter ?? 5 })
}
