/**
 * The relying-party application as the RPS calls it. What it refuses about an identity is passed on; what it refuses
 * about the RPS itself (its key, its clock) is the operator's affair, so the client is told RETRY_LATER and the log why.
 */
import { type Client, createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { Answer, Body } from '@milagro-ts/api/route'
import { type Notice, type RegistrationAnswer, rpaRoutes } from '@milagro-ts/api/rpa-routes'

/** Milliseconds for one callback. */
const TIMEOUT = 5_000

export type Standing = Answer<typeof rpaRoutes.permit>

export class RelyingParty {
  readonly #client: Client<typeof rpaRoutes>

  constructor({
    url,
    fetch,
    clocks,
    ...signer
  }: Parameters<typeof requestSigner>[0] & {
    url: string
    fetch: typeof globalThis.fetch
    clocks: PeerClocks
  }) {
    this.#client = createClient(rpaRoutes, {
      baseUrl: url,
      fetch,
      timeout: TIMEOUT,
      authorize: requestSigner(signer),
      clocks,
    })
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

  /** Which leaves are the newest, for a slot; with the leaves, unless `number` is theirs. Refused RETRY_LATER. */
  tree(slot: number, number: number | undefined): Promise<Answer<typeof rpaRoutes.tree>> {
    const body = { slot, ...(number === undefined ? {} : { number }) }
    return this.#client.tree({ body }).catch(error => refuse('tree', error, []))
  }

  /**
   * Tells what happened (notices.ts); returns the ids of notices of identities that it doesn't know. Refused, Unreachable,
   * UnexpectedAnswer: it may have been told or not.
   */
  async happened(notices: readonly Notice[]): Promise<readonly string[]> {
    const { unknown } = await this.#client.authenticated({ body: { notices: [...notices] } })
    return unknown
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
