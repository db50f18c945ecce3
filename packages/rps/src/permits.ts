/**
 * Time permits per identity (protocols.md §5).
 *
 *   RPS                              RPA                        authority j
 *   -- idCore, slot -->              banned?
 *   <-- statement, signed by the RA --
 *   -- statement -------------------------------------------->  d_j = s_j·HT, (κ, z)
 *   shareVerify each, permit = Σ λ_j·d_j, e(permit, Q) = e(HT, sQ), kept for (idCore, slot)
 *
 * A carried permit is as good as a composed one, since anyone can check it; it is always checked, never merged into
 * the login's own equation. While RPA or authorities are away, what is kept or carried goes on to the end of its slot,
 * and into as many slots more as the group's `lead` says: whoever is given a permit gets those ahead in the background.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { type VerifiedPermitStatement, verifyPermitStatement } from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { type IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { G2 } from '@milagro-ts/crypto/points'
import { CheckedPermit } from '@milagro-ts/crypto/pooled-login'
import type { Clock } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { PermitClaim, type PermitTerms, permitInput } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import type { Authorities } from './authorities.js'
import type { Identities } from './identities.js'
import { currentSlot } from './nonces.js'

/** Milliseconds for all authorities together. */
const DEADLINE = 5_000
/** Verified permits kept in memory beside the store, where they are bytes that would have to be verified again. */
const IN_MEMORY = 50_000

/** Identities whose permits ahead are being made at once, and that wait for it. */
const AHEAD_AT_ONCE = 4
const AHEAD_WAITING = 10_000
/** Milliseconds without another attempt after RPA or authorities have failed. */
const AHEAD_PAUSE = 30_000

export interface PermitPorts {
  readonly store: Store<unknown>
  readonly identities: Identities
  readonly authorities: Authorities
  readonly pool: CryptoPool
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
}

/** Whose permit, and for which slot. */
export interface Wanted {
  readonly idCore: IdCore
  /** Of the user who logs in, so that one question to the RPA does for both. */
  readonly userCore: Uint8Array
  readonly slot: number
}

export class Permits {
  readonly #ports: PermitPorts
  readonly #verified = new Map<string, CheckedPermit>()
  readonly #composing = new Map<string, Promise<CheckedPermit>>()
  /** Permits ahead: who waits, what runs, whom the RPA doesn't give any, and until when nothing is tried. */
  readonly #waiting = new Map<string, { readonly group: Group; readonly idCore: IdCore }>()
  readonly #preparing = new Map<string, Promise<void>>()
  readonly #declined = new Set<string>()
  #pausedUntil = Number.NEGATIVE_INFINITY
  #isClosed = false

  constructor(ports: PermitPorts) {
    this.#ports = ports
  }

  /**
   * A permit that someone carries. Refused WRONG_PERMIT: garbage, another identity's, or of a slot that hasn't begun;
   * PERMIT_EXPIRED: of a slot before `slot`.
   */
  async takeCarried(
    group: Group,
    { idCore, slot }: Omit<Wanted, 'userCore'>,
    carried: PermitClaim,
  ): Promise<CheckedPermit> {
    const known = await this.find(group, idCore, slot)
    if (known !== null && equalBytes(known.bytes, carried.bytes)) return known
    if (carried.slot < slot) throw new Refused('PERMIT_EXPIRED')
    if (carried.slot > slot) throw new Refused('WRONG_PERMIT', { detail: 'its slot has not begun' })
    const verified = await this.#verify(group, carried)
    if (verified === null || !verified.covers(idCore)) throw new Refused('WRONG_PERMIT')
    await this.#keep(idCore, verified)
    return verified
  }

  /**
   * The permit that is kept, or a new one. Refused BANNED, REVOKED, WRONG_PROOF (the RPA doesn't know the identity),
   * PERMIT_EXPIRED (none is kept for a slot that is over), WRONG_SHARE naming the liar, FROZEN, RETRY_LATER.
   */
  async obtain(group: Group, wanted: Wanted): Promise<CheckedPermit> {
    const { idCore, slot } = wanted
    const known = await this.find(group, idCore, slot)
    if (known !== null) return known
    if (slot !== currentSlot(group, this.#ports.clock()))
      throw new Refused('PERMIT_EXPIRED', { detail: 'the slot is over and no permit of it is held' })
    return this.#composeOnce(group, wanted)
  }

  /**
   * For an identity that has just been permitted: the permits of the `lead` slots after this one, without anybody waiting
   * for them. It logs in during those although no authority answers; unless it is banned, which the deny list says.
   * Best effort: what fails is tried again at a later login.
   */
  prepare(group: Group, idCore: IdCore): void {
    const { clock } = this.#ports
    const { lead } = group.policy
    const { mpinId } = idCore
    if (lead === 0 || this.#isClosed || clock() < this.#pausedUntil) return
    if (this.#verified.has(nameOf(idCore, currentSlot(group, clock()) + lead))) return
    if (this.#preparing.has(mpinId) || this.#declined.has(mpinId) || this.#waiting.size >= AHEAD_WAITING)
      return
    this.#waiting.set(mpinId, { group, idCore })
    this.#prepareNext()
  }

  /** Begins nothing more; resolves when nothing is under way. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#waiting.clear()
    await Promise.all(this.#preparing.values())
  }

  async find(group: Group, idCore: IdCore, slot: number): Promise<CheckedPermit | null> {
    const inMemory = this.#verified.get(nameOf(idCore, slot))
    if (inMemory !== undefined) return inMemory
    const [row] = await this.#ports.store.read(reader =>
      reader.all('SELECT permit FROM permit WHERE id_core = ? AND slot = ?', [idCore.bytes, slot]),
    )
    const verified =
      row === undefined ? null : await this.#verify(group, PermitClaim.decode(row.permit as Uint8Array))
    if (verified !== null) this.#remember(idCore, verified)
    return verified
  }

  /** Forgets what belongs to slots before `slot`. */
  async purge(slot: number): Promise<void> {
    for (const [name, permit] of this.#verified) if (permit.slot < slot) this.#verified.delete(name)
    this.#declined.clear()
    await this.#ports.store.atomic(connection => connection.run('DELETE FROM permit WHERE slot < ?', [slot]))
  }

  #prepareNext(): void {
    for (const [mpinId, { group, idCore }] of this.#waiting) {
      if (this.#preparing.size >= AHEAD_AT_ONCE) return
      this.#waiting.delete(mpinId)
      const preparing = this.#prepare(group, idCore)
        .catch((error: unknown) => this.#notPrepared(mpinId, error))
        .finally(() => {
          this.#preparing.delete(mpinId)
          this.#prepareNext()
        })
      this.#preparing.set(mpinId, preparing)
    }
  }

  async #prepare(group: Group, idCore: IdCore): Promise<void> {
    const { clock, metrics } = this.#ports
    const current = currentSlot(group, clock())
    for (let slot = current + 1; slot <= current + group.policy.lead && !this.#isClosed; slot++) {
      if ((await this.find(group, idCore, slot)) !== null) continue
      await this.#composeOnce(group, { idCore, userCore: NO_USER, slot })
      metrics.count('permits_ahead')
    }
  }

  #notPrepared(mpinId: string, error: unknown): void {
    const { clock, log, metrics } = this.#ports
    const code = error instanceof Refused ? error.code : 'other'
    metrics.count('permits_ahead_failed', { code })
    if (code === 'BANNED' || code === 'REVOKED' || code === 'WRONG_PROOF') {
      this.#declined.add(mpinId)
      return
    }
    // The next ones would fail alike, and everybody's own permit comes first.
    this.#waiting.clear()
    this.#pausedUntil = clock() + AHEAD_PAUSE
    const why = error instanceof Refused ? error.log : undefined
    log.warn({ err: error, why }, 'no permits ahead for now')
  }

  #composeOnce(group: Group, wanted: Wanted): Promise<CheckedPermit> {
    const key = `${nameOf(wanted.idCore, wanted.slot)} ${toBase64Url(wanted.userCore)}`
    const running = this.#composing.get(key)
    if (running !== undefined) return running
    const composing = this.#compose(group, wanted).finally(() => this.#composing.delete(key))
    this.#composing.set(key, composing)
    return composing
  }

  async #compose(group: Group, { idCore, userCore, slot }: Wanted): Promise<CheckedPermit> {
    const { identities, authorities, pool, clock, metrics } = this.#ports
    const now = currentSlot(group, clock())
    const standing =
      (await identities.ask(idCore, userCore, slot, now)) ??
      // The user may be what the RPA doesn't know; that is an answer for after the permit.
      (userCore.length === 0 ? null : await identities.ask(idCore, NO_USER, slot, now))
    if (standing === null) throw new Refused('WRONG_PROOF', { log: 'the RPA does not know the identity' })
    const { statement } = standing
    const { jti } = await this.#checked(group, statement, idCore, slot)

    const { groupId } = group
    const input = permitInput(termsAt(group, slot), slot, { type: 'id', idCore })
    // What an authority keeps of a statement is this hash, too.
    const requestHash = toBase64Url(sha256(utf8(statement)))
    const { shares } = await authorities
      .ask(
        { requestHash },
        {
          group,
          purpose: 'permit',
          epoch: termsAt(group, slot).permitEpoch,
          deadlineMs: DEADLINE,
          ask: (authority, signal) =>
            authorities
              .at(authority)
              .permits({ params: { groupId: toBase64Url(groupId) }, body: { statement }, signal }),
          verify: ({ index, commitment }, { shareEpoch, share }) => {
            const ctx = shareContext({ groupId, purpose: 'permit', index, shareEpoch, identity: input, jti })
            const statement = { purpose: 'permit', input, ctx, commitment: commitment.encode() } as const
            return pool.run('shareVerify', { statement, share: fromBase64Url(share, 'share') })
          },
        },
      )
      .catch(refuseForAuthorities)
    const points = shares.map(({ index, share }) => ({ index, point: share }))
    const target = { type: 'id', idCore } as const
    const permit = await CheckedPermit.compose(pool, keyAt(group, slot), slot, target, points)
    if (permit === null)
      throw new Refused('RETRY_LATER', { log: "good permit shares don't make a permit of the group" })
    metrics.count('permits_composed')
    await this.#keep(idCore, permit)
    return permit
  }

  /** The authorities check it too; a statement for somebody else is seen here, before they are asked. */
  async #checked(
    group: Group,
    statement: string,
    idCore: IdCore,
    slot: number,
  ): Promise<VerifiedPermitStatement> {
    const wrong = (why: string) =>
      new Refused('RETRY_LATER', { log: `the RPA's permit statement: ${why}`, retryAfter: 5 })
    const verified = await verifyPermitStatement({ statement, group, now: this.#ports.clock() }).catch(
      (error: unknown) => {
        throw wrong((error as Error).message)
      },
    )
    if (!verified.idCore.equals(idCore) || verified.slot !== slot) throw wrong('for another identity or slot')
    return verified
  }

  #verify(group: Group, permit: PermitClaim): Promise<CheckedPermit | null> {
    return CheckedPermit.verify(this.#ports.pool, keyAt(group, permit.slot), permit)
  }

  async #keep(idCore: IdCore, permit: CheckedPermit): Promise<void> {
    await this.#ports.store.atomic(connection =>
      connection.run(
        'INSERT INTO permit (id_core, slot, permit) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET permit = excluded.permit',
        [idCore.bytes, permit.slot, permit.bytes],
      ),
    )
    this.#remember(idCore, permit)
  }

  #remember(idCore: IdCore, permit: CheckedPermit): void {
    if (this.#verified.size >= IN_MEMORY) {
      const [oldest] = this.#verified.keys()
      if (oldest !== undefined) this.#verified.delete(oldest)
    }
    this.#verified.set(nameOf(idCore, permit.slot), permit)
  }
}

const nameOf = (idCore: IdCore, slot: number) => `${idCore.mpinId} ${slot}`

function termsAt(group: Group, slot: number): PermitTerms {
  const permitEpoch = group.epochAt('permit', slot)
  if (permitEpoch === null) throw new Refused('EXPIRED', { detail: 'the group begins later' })
  return { groupId: group.groupId, permitEpoch, rule: group.slotRule }
}

/** Terms and public key that a permit of this slot is checked by. */
function keyAt(group: Group, slot: number) {
  const terms = termsAt(group, slot)
  // A group that has begun has keys, and `permit` a public one.
  const { pub } = group.keysAt('permit', slot) as { pub: G2 }
  return { terms, publicKey: pub.encode() }
}

/** What an authority refuses the RPS for (its key, its clock, its statement) is not the device's doing. */
function refuseForAuthorities(error: unknown): never {
  if (error instanceof Refused && !['WRONG_SHARE', 'FROZEN', 'RETRY_LATER'].includes(error.code))
    throw new Refused('RETRY_LATER', { log: `the authorities refuse a permit share: ${error.message}` })
  throw error
}
