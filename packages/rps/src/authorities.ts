/**
 * The authorities as the RPS calls them: by the addresses in the group document, signed with its request key; asked for
 * shares all at once; looked at in between, for how they are and for newer revisions of the document.
 *
 *   a share      5 s for one authority, the asker's deadline for all; nothing is asked twice: the client asks again
 *   a look       at each, every 30 s, and when an authority is in a later share epoch; 5 s
 *   a revision   whoever brings it, it proves itself; the next one, and the next, until what the authority has
 */
import { type Client, createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, type Group, type GroupAuthority } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { LogHead } from '@milagro-ts/api/issuance-log'
import type { Log } from '@milagro-ts/api/log'
import type { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { Refused } from '@milagro-ts/api/problem'
import { askAuthorities, type Fault, hasMovedOn, type Quorum, type ShareAnswer } from '@milagro-ts/api/quorum'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { Timers } from '@milagro-ts/api/system'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { AuthorityWatch, Request } from './authority-watch.js'
import type { GroupDocuments } from './group-documents.js'

/** Milliseconds for one call. */
const TIMEOUT = 5_000
/** Milliseconds that slower authorities have when enough have answered. */
const STRAGGLERS = 500
/** Milliseconds between two looks that something other than the timer has asked for. */
const SOONEST_LOOK = 5_000

type Asking<Answer extends ShareAnswer, Share> = Omit<
  Parameters<typeof askAuthorities<Answer, Share>>[0],
  'lastResort' | 'onFault' | 'timers'
>
type AuthoritiesPorts = Parameters<typeof requestSigner>[0] & {
  readonly log: Log
  readonly fetch: typeof fetch
  readonly timers: Timers
  readonly documents: GroupDocuments
  readonly watch: AuthorityWatch
  readonly clocks: PeerClocks
  /** A revision was taken in. */
  readonly onRevision: () => void
}

export class Authorities {
  readonly #ports: AuthoritiesPorts
  readonly #authorize: ReturnType<typeof requestSigner>
  readonly #clients = new Map<string, Client<typeof dtaRoutes>>()
  #looking: Promise<void> | undefined
  #lookedAt = Number.NEGATIVE_INFINITY
  #ending = new AbortController()

  constructor(ports: AuthoritiesPorts) {
    this.#ports = ports
    this.#authorize = requestSigner(ports)
  }

  at({ url }: { readonly url: string }): Client<typeof dtaRoutes> {
    const known = this.#clients.get(url)
    if (known !== undefined) return known
    const { fetch } = this.#ports
    const client = createClient(dtaRoutes, {
      baseUrl: url,
      timeout: TIMEOUT,
      authorize: this.#authorize,
      clocks: this.#ports.clocks,
      fetch,
    })
    this.#clients.set(url, client)
    return client
  }

  /** t good shares; NoQuorum as askAuthorities says. Whoever lies is left out of the next rounds for a while. */
  async ask<Answer extends ShareAnswer, Share>(
    request: Omit<Request, 'purpose'>,
    asking: Asking<Answer, Share>,
  ): Promise<Quorum<Share>> {
    const { watch, timers } = this.#ports
    const { group, purpose } = asking
    const lastResort = watch.lastResort(group)
    const onFault = (fault: Fault) => {
      watch.failedShare(group, { ...request, purpose }, fault)
      if (hasMovedOn(group, [fault])) this.lookSoon()
    }
    const quorum = await askAuthorities({ ...asking, lastResort, onFault, timers })
    watch.goodShares(
      group,
      quorum.shares.map(({ index }) => index),
    )
    return quorum
  }

  /** A share for a device that can't reach the authority itself; sealed, so nobody here can say whether it is good. */
  async relay<Answer extends ShareAnswer>(
    group: Group,
    authority: GroupAuthority,
    ask: (authority: Client<typeof dtaRoutes>) => Promise<Answer>,
  ): Promise<Answer> {
    const { watch } = this.#ports
    try {
      const answer = await ask(this.at(authority))
      watch.answered(group, authority.index)
      if (answer.shareEpoch > group.shareEpoch) this.lookSoon()
      return answer
    } catch (error) {
      if (error instanceof Unreachable) watch.failed(group, authority.index)
      if (error instanceof Refused) watch.failed(group, authority.index, error.code)
      throw error
    } finally {
      watch.assess()
    }
  }

  /**
   * What each of them answers, where only the client behind us can tell a good share from a wrong one: when t of one share
   * epoch have answered, the others' too if they come within STRAGGLERS. FROZEN if that is why fewer than t have, else
   * RETRY_LATER.
   *
   * `epochOf`: of an answer to what was asked; null for anything else, which is not handed on.
   * `without`: indices of authorities whose shares the client couldn't use. They are asked as well, and their answers
   * handed on; but they count towards no t, and so end nobody's time. That is all that the client's word does: it can be a
   * lie, so it changes nothing for anybody else, and TIMEOUT holds for this request as for any.
   */
  async askEach<Answer>({
    group,
    ask,
    epochOf,
    without,
  }: {
    group: Group
    ask: (authority: Client<typeof dtaRoutes>, signal: AbortSignal) => Promise<Answer>
    epochOf: (authority: GroupAuthority, answer: Answer) => number | null
    without: ReadonlySet<number>
  }): Promise<Answer[]> {
    const { watch, timers, log } = this.#ports
    for (const index of without) watch.reported(group, index)
    const answers: Answer[] = []
    /** Answers that count, by share epoch. */
    const counted = new Map<number, number>()
    const codes: string[] = []
    const enough = new AbortController()
    const ends: (() => void)[] = []
    await new Promise<void>((done, fail) => {
      let unanswered = group.n
      const askOne = async (authority: GroupAuthority) => {
        try {
          const answer = await ask(this.at(authority), enough.signal)
          if (enough.signal.aborted) return
          watch.answered(group, authority.index)
          const epoch = epochOf(authority, answer)
          if (epoch === null) {
            log.warn({ authority: authority.name }, 'no delta share: not an answer to what was asked')
            codes.push('another answer')
          } else {
            answers.push(answer)
            if (epoch > group.shareEpoch) this.lookSoon()
            const count = (counted.get(epoch) ?? 0) + (without.has(authority.index) ? 0 : 1)
            counted.set(epoch, count)
            if (count === group.t && !without.has(authority.index)) ends.push(timers.after(STRAGGLERS, done))
          }
        } catch (error) {
          if (enough.signal.aborted) return
          const isTheirs = [Refused, Unreachable, UnexpectedAnswer].some(kind => error instanceof kind)
          if (!isTheirs) throw error
          log.warn({ err: error, authority: authority.name }, 'no delta share')
          codes.push(error instanceof Refused ? error.code : 'no answer')
          watch.failed(group, authority.index, ...(error instanceof Refused ? [error.code] : []))
        }
        unanswered--
        if (unanswered === 0) done()
      }
      ends.push(timers.after(TIMEOUT, done))
      for (const authority of group.authorities) askOne(authority).catch(fail)
    }).finally(() => {
      enough.abort()
      for (const end of ends) end()
      watch.assess()
    })
    if (answers.length >= group.t) return answers
    const isFrozen = codes.filter(code => code === 'FROZEN').length > group.n - group.t
    throw new Refused(isFrozen ? 'FROZEN' : 'RETRY_LATER', {
      log: `${answers.length} of ${group.t} authorities gave a delta share: ${codes.join(', ')}`,
      ...(isFrozen ? {} : { retryAfter: 5 }),
    })
  }

  /** A look now, unless there was one just now. */
  lookSoon(): void {
    if (this.#ports.clock() < this.#lookedAt + SOONEST_LOOK) return
    void this.look()
  }

  /** Never rejects. */
  look(): Promise<void> {
    this.#looking ??= this.#look()
      .catch((error: unknown) => {
        if (!this.#ending.signal.aborted)
          this.#ports.log.error({ err: error }, 'a look at the authorities failed; tried again later')
      })
      .finally(() => {
        this.#looking = undefined
      })
    return this.#looking
  }

  /** Ends the look that is under way. */
  async close(): Promise<void> {
    this.#ending.abort()
    await this.#looking
  }

  async #look(): Promise<void> {
    const { documents, watch, clock } = this.#ports
    this.#lookedAt = clock()
    const group = await documents.current()
    const newest = await Promise.all(group.authorities.map(authority => this.#lookAt(group, authority)))
    await Promise.all(group.authorities.map(authority => this.#readDeparture(group, authority)))
    watch.assess()
    for (const { authority, document } of newest.filter(found => found !== null))
      await this.#follow(authority, document)
    if (documents.latest.revision > group.revision) watch.assess()
  }

  /** Whether it has announced its departure, as the signed head of its log says. One that doesn't say leaves it as it was. */
  async #readDeparture(group: Group, authority: GroupAuthority): Promise<void> {
    const { watch, log } = this.#ports
    const { groupId } = group
    const { index, name, signKey } = authority
    try {
      const params = { groupId: toBase64Url(groupId) }
      const { head } = await this.at(authority).logHead({ params, signal: this.#ending.signal })
      watch.departure(group, index, (await LogHead.verify(head, { groupId, name, signKey })).leavesAt)
    } catch (error) {
      if (this.#ending.signal.aborted) return
      const isTheirs = [Refused, DecodeError, Unreachable, UnexpectedAnswer].some(
        kind => error instanceof kind,
      )
      if (!isTheirs) throw error
      log.debug({ authority: name, why: (error as Error).message }, 'no signed head of an authority’s log')
    }
  }

  /** The document it goes by. */
  async #lookAt(
    group: Group,
    authority: GroupAuthority,
  ): Promise<{ authority: GroupAuthority; document: GroupDocument } | null> {
    const { watch } = this.#ports
    const { signal } = this.#ending
    const { index } = authority
    try {
      const document = await this.#document(group, authority, undefined)
      watch.answered(group, index, equalBytes(documentHash(document), documentHash(group.document)))
      return { authority, document }
    } catch (error) {
      if (signal.aborted) return null
      if (error instanceof Refused) watch.failed(group, index, error.code)
      else if (error instanceof Unreachable || error instanceof UnexpectedAnswer) watch.failed(group, index)
      else throw error
      return null
    }
  }

  #document(group: Group, authority: GroupAuthority, revision: number | undefined): Promise<GroupDocument> {
    const params = { groupId: toBase64Url(group.groupId) }
    const query = revision === undefined ? {} : { revision: String(revision) }
    return this.at(authority).group({ params, query, signal: this.#ending.signal })
  }

  /** Takes in what this authority has more of the chain than we. */
  async #follow(authority: GroupAuthority, newest: GroupDocument): Promise<void> {
    const { documents, log, onRevision } = this.#ports
    try {
      for (;;) {
        const group = await documents.current()
        const number = group.revision + 1
        if (newest.revision < number) return
        const next = newest.revision === number ? newest : await this.#document(group, authority, number)
        if (next.revision !== number)
          throw new Refused('CONFLICT', { detail: 'another revision than asked for' })
        if (!(await documents.publish(next))) return
        log.info({ revision: number, authority: authority.name }, 'a new revision of the group document')
        onRevision()
      }
    } catch (error) {
      if (this.#ending.signal.aborted) return
      const isTheirs = [Refused, DecodeError, Unreachable, UnexpectedAnswer].some(
        kind => error instanceof kind,
      )
      if (!isTheirs) throw error
      log.warn({ err: error, authority: authority.name }, "an authority's group document was not taken")
    }
  }
}
