/**
 * Time permits at the RPS (protocols.md §5): held by slot and target, made by the source that the group's policy names
 * (permit-source.ts).
 *
 *   login        held, or made now                                      find, obtain
 *   carried      as good as a made one: anyone can check it             takeCarried
 *   ahead        identity: of whoever logged in, the next `lead` slots  prepare
 *                tree: the whole cover of the current and the next
 *                `lead` slots, those at a drawn moment                  tick
 *
 * A permit is always checked by itself, never merged into the login's own equation. While RPA or authorities are away,
 * what is kept or carried goes on to the end of its slot, and into as many slots more as the group's `lead` says.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { type IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { MOST_NODES } from '@milagro-ts/crypto/node-shares'
import { TREE_HEIGHT, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { CheckedPermit } from '@milagro-ts/crypto/pooled-login'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { PermitClaim, type PermitTarget, slotStart, targetBytes } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import type { IdentityPermits } from './identity-permits.js'
import { currentSlot } from './nonces.js'
import { keyAt, type PermitSource, type Wanted } from './permit-source.js'
import type { TreePermits } from './tree-permits.js'

/** Verified permits kept in memory beside the store, where they are bytes that would have to be verified again. */
const IN_MEMORY = 50_000

/** Identities whose permits ahead are being made at once, and that wait for it. */
const AHEAD_AT_ONCE = 4
const AHEAD_WAITING = 10_000
/** Milliseconds without another attempt after RPA or authorities have failed. */
const AHEAD_PAUSE = 30_000
/** Part of a slot over which the making of the next slots' permits is spread, so that not all come at midnight. */
const SPREAD = 0.5

export interface PermitPorts {
  readonly store: Store<unknown>
  readonly identity: IdentityPermits
  readonly tree: TreePermits
  readonly pool: CryptoPool
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
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
  /** By slot: the number of the state whose cover is held whole. */
  readonly #covered = new Map<number, number>()
  #covering: Promise<void> | undefined
  /** When, in unix milliseconds, the slots after `slot` are made. */
  #aheadFrom: { readonly slot: number; readonly at: number } | undefined
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
    const known = await this.#find(group, carried.target, slot)
    if (known !== null && equalBytes(known.bytes, carried.bytes) && known.covers(idCore)) return known
    if (carried.slot < slot) throw new Refused('PERMIT_EXPIRED')
    if (carried.slot > slot) throw new Refused('WRONG_PERMIT', { detail: 'its slot has not begun' })
    const verified = await this.#verify(group, carried)
    if (verified === null || !verified.covers(idCore)) throw new Refused('WRONG_PERMIT')
    await this.#keep(group, [verified])
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
    if (slot !== currentSlot(group, this.#ports.clock())) {
      const wider = await this.#wider(group, idCore, slot)
      if (wider !== null) return wider
      throw new Refused('PERMIT_EXPIRED', { detail: 'the slot is over and no permit of it is held' })
    }
    try {
      const target = await this.#source(group).target(group, wanted)
      return await this.#composeOnce(group, wanted, target)
    } catch (error) {
      const wider =
        error instanceof Refused && error.code === 'RETRY_LATER'
          ? await this.#wider(group, idCore, slot)
          : null
      if (wider === null) throw error
      return wider
    }
  }

  /**
   * For an identity that has just been permitted: the permits of the `lead` slots after this one, without anybody waiting
   * for them. It logs in during those although no authority answers; unless it is banned, which the deny list says.
   * Best effort: what fails is tried again at a later login. Nothing to do where permits are for nodes: `tick` makes all.
   */
  prepare(group: Group, idCore: IdCore): void {
    const { clock } = this.#ports
    const { lead, permits } = group.policy
    const { mpinId } = idCore
    if (permits === 'tree' || lead === 0 || this.#isClosed || clock() < this.#pausedUntil) return
    if (this.#verified.has(nameOf(group, { type: 'id', idCore }, currentSlot(group, clock()) + lead))) return
    if (this.#preparing.has(mpinId) || this.#declined.has(mpinId) || this.#waiting.size >= AHEAD_WAITING)
      return
    this.#waiting.set(mpinId, { group, idCore })
    this.#prepareNext()
  }

  /**
   * Where permits are for nodes: makes what is missing of the current slot's cover, and, from a moment on that is drawn
   * for each slot, of the next ones'. To be called every few seconds; what runs already goes on, what failed rests a
   * while. Never rejects.
   */
  tick(group: Group): Promise<void> {
    const { clock, log } = this.#ports
    if (group.policy.permits !== 'tree' || this.#isClosed) return Promise.resolve()
    if (this.#covering !== undefined) return this.#covering
    if (clock() < this.#pausedUntil || clock() / 1000 < group.slotRule.origin) return Promise.resolve()
    this.#covering = this.#cover(group)
      .catch((error: unknown) => {
        this.#pausedUntil = clock() + AHEAD_PAUSE
        const why = error instanceof Refused ? error.log : undefined
        this.#ports.metrics.count('permits_ahead_failed', {
          code: error instanceof Refused ? error.code : 'other',
        })
        log.warn({ err: error, why }, 'not all permits of the cover for now')
      })
      .finally(() => {
        this.#covering = undefined
      })
    return this.#covering
  }

  /** The revocations have changed: the cover may be another one. */
  doubt(): void {
    this.#ports.tree.doubt()
    this.#covered.clear()
    this.#pausedUntil = Number.NEGATIVE_INFINITY
  }

  /** Begins nothing more; resolves when nothing is under way. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#waiting.clear()
    await Promise.all([this.#covering, ...this.#preparing.values()])
  }

  /** Of this slot, if it is held; asks nobody. */
  async find(group: Group, idCore: IdCore, slot: number): Promise<CheckedPermit | null> {
    const target = this.#source(group).heldTarget(group, idCore)
    return target === null ? null : this.#find(group, target, slot)
  }

  /** Forgets what belongs to slots before `slot`. */
  async purge(slot: number): Promise<void> {
    for (const [name, permit] of this.#verified) if (permit.slot < slot) this.#verified.delete(name)
    for (const known of this.#covered.keys()) if (known < slot) this.#covered.delete(known)
    this.#declined.clear()
    this.#ports.tree.purge(slot)
    await this.#ports.store.atomic(connection => connection.run('DELETE FROM permit WHERE slot < ?', [slot]))
  }

  #source(group: Group): PermitSource {
    return group.policy.permits === 'tree' ? this.#ports.tree : this.#ports.identity
  }

  async #find(group: Group, target: PermitTarget, slot: number): Promise<CheckedPermit | null> {
    const inMemory = this.#verified.get(nameOf(group, target, slot))
    if (inMemory !== undefined) return inMemory
    const [row] = await this.#ports.store.read(reader =>
      reader.all('SELECT permit FROM permit WHERE slot = ? AND target = ?', [slot, targetBytes(target)]),
    )
    const verified =
      row === undefined ? null : await this.#verify(group, PermitClaim.decode(row.permit as Uint8Array))
    if (verified !== null) this.#remember(group, verified)
    return verified
  }

  /**
   * While nobody can make the leaf's own node: one further up, of before the last bans. It is public and anybody may
   * carry it until its slot ends; whoever is banned is refused by the deny list all the same.
   */
  async #wider(group: Group, idCore: IdCore, slot: number): Promise<CheckedPermit | null> {
    if (group.policy.permits !== 'tree') return null
    for (let depth = TREE_HEIGHT; depth >= 0; depth--) {
      const index = depth === 0 ? 0 : idCore.leaf >>> (TREE_HEIGHT - depth)
      const held = await this.#find(group, { type: 'node', depth, index }, slot)
      if (held !== null) return held
    }
    return null
  }

  async #cover(group: Group): Promise<void> {
    const { clock, random, tree } = this.#ports
    const current = currentSlot(group, clock())
    if (this.#aheadFrom?.slot !== current) {
      const [drawn = 0] = random(1)
      const start = slotStart(group.slotRule, current) * 1000
      // After a start in the middle of a slot it is at once, if the moment is over.
      this.#aheadFrom = { slot: current, at: start + (drawn / 256) * SPREAD * group.slotRule.length * 1000 }
    }
    const last = clock() >= this.#aheadFrom.at ? current + group.policy.lead : current
    for (let slot = current; slot <= last && !this.#isClosed; slot++) {
      if (this.#covered.get(slot) === tree.state?.number && tree.state !== undefined) continue
      await this.#coverSlot(group, slot, slot > current)
    }
  }

  /** What is missing of one slot's cover, some hundreds of nodes at a time. */
  async #coverSlot(group: Group, slot: number, isAhead: boolean): Promise<void> {
    const { store, tree, metrics } = this.#ports
    const state = await tree.newest(group, slot)
    const rows = await store.read(reader => reader.all('SELECT target FROM permit WHERE slot = ?', [slot]))
    const held = new Set(rows.map(({ target }) => toBase64Url(target as Uint8Array)))
    const cover = state.leaves.cover()
    let missing: TreeNode[] = []
    const make = async () => {
      const nodes = missing
      missing = []
      if (nodes.length === 0) return
      await this.#keep(group, await tree.compose(group, slot, nodes))
      metrics.count('permit_batches_composed')
      if (isAhead) metrics.count('permits_ahead')
    }
    for (let place = 0; place < cover.length; place++) {
      const node = cover.at(place)
      if (held.has(toBase64Url(targetBytes({ type: 'node', ...node })))) continue
      missing.push(node)
      if (missing.length === MOST_NODES) await make()
      // A newer state has another cover: the next tick begins with it.
      if (this.#isClosed || tree.state !== state) return
    }
    await make()
    this.#covered.set(slot, state.number)
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
      await this.#composeOnce(group, { idCore, userCore: NO_USER, slot }, { type: 'id', idCore })
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

  #composeOnce(group: Group, wanted: Wanted, target: PermitTarget): Promise<CheckedPermit> {
    const key = `${nameOf(group, target, wanted.slot)} ${toBase64Url(wanted.userCore)}`
    const running = this.#composing.get(key)
    if (running !== undefined) return running
    const composing = this.#compose(group, wanted, target).finally(() => this.#composing.delete(key))
    this.#composing.set(key, composing)
    return composing
  }

  async #compose(group: Group, wanted: Wanted, target: PermitTarget): Promise<CheckedPermit> {
    const permit = await this.#source(group).permit(group, target, wanted)
    this.#ports.metrics.count('permits_composed')
    await this.#keep(group, [permit])
    return permit
  }

  #verify(group: Group, permit: PermitClaim): Promise<CheckedPermit | null> {
    return CheckedPermit.verify(this.#ports.pool, keyAt(group, permit.slot), permit)
  }

  async #keep(group: Group, permits: readonly CheckedPermit[]): Promise<void> {
    await this.#ports.store.atomic(connection => {
      for (const { slot, target, bytes } of permits)
        connection.run(
          'INSERT INTO permit (slot, target, permit) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET permit = excluded.permit',
          [slot, targetBytes(target), bytes],
        )
    })
    for (const permit of permits) this.#remember(group, permit)
  }

  #remember(group: Group, permit: CheckedPermit): void {
    if (this.#verified.size >= IN_MEMORY) {
      const [oldest] = this.#verified.keys()
      if (oldest !== undefined) this.#verified.delete(oldest)
    }
    this.#verified.set(nameOf(group, permit.target, permit.slot), permit)
  }
}

/** With the key epoch: a rotation that concluded late may find permits of the former one for slots that are its own. */
const nameOf = (group: Group, target: PermitTarget, slot: number) =>
  `${toBase64Url(targetBytes(target))} ${slot} ${group.epochAt('permit', slot)}`
