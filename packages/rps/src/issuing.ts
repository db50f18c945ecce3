/**
 * A slot's whole cover in one go, beside the server or without it: `milagro permits issue`. It asks as the RPS (its
 * request key and name), keeps what it has in a database of its own, and goes on from there when it was interrupted.
 *
 *   newest leaves → what is missing of the cover, 256 nodes at a time, some batches at once → the next, until none is missing
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { type Cosigned, pointOfPermit, writeBundle } from '@milagro-ts/api/permit-bundle'
import { Refused } from '@milagro-ts/api/problem'
import { poolKeyCheck } from '@milagro-ts/api/server-pool'
import { type BundlePayload, type LeavesState, verifyCosignature } from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { MOST_NODES } from '@milagro-ts/crypto/node-shares'
import type { TreeNode } from '@milagro-ts/crypto/permit-tree'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { targetBytes } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import { Authorities } from './authorities.js'
import { AuthorityWatch } from './authority-watch.js'
import type { RpsConfig } from './config.js'
import { GroupDocuments } from './group-documents.js'
import { RelyingParty } from './relying-party.js'
import { type RpsKeys, rpsKeys } from './rps-keys.js'
import { TreePermits } from './tree-permits.js'

export interface IssuingPorts {
  readonly config: RpsConfig
  readonly passphrase: string
  /** Opened with `rpsMigrations`; not the server's. Closed by its opener. */
  readonly store: Store<unknown>
  /** Closed by its opener. */
  readonly pool: CryptoPool
  /** Batches under way at once. */
  readonly atOnce: number
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly fetch: typeof fetch
  readonly log: Log
  readonly metrics: Metrics
}

export class Issuing {
  readonly group: Group
  readonly #ports: IssuingPorts
  readonly #tree: TreePermits
  readonly #authorities: Authorities
  readonly #requestKey: RpsKeys['requestKey']

  private constructor(made: {
    ports: IssuingPorts
    group: Group
    tree: TreePermits
    authorities: Authorities
    requestKey: RpsKeys['requestKey']
  }) {
    this.group = made.group
    this.#ports = made.ports
    this.#tree = made.tree
    this.#authorities = made.authorities
    this.#requestKey = made.requestKey
  }

  /** ConfigError, StoreError as the server's start. */
  static async open(ports: IssuingPorts): Promise<Issuing> {
    const { config, passphrase, store, pool, clock, random, timers, fetch, log, metrics } = ports
    const { name, dataDir } = config
    const { requestKey } = await rpsKeys.read({ dataDir, name, passphrase })
    const signer = { name, key: requestKey, clock, random }
    const documents = await GroupDocuments.open({ config, store, fetch, keyCheck: poolKeyCheck(pool) })
    const watch = new AuthorityWatch({ group: () => documents.latest, clock, log, metrics })
    const clocks = new PeerClocks({ clock, log })
    const onRevision = () => {}
    const authorities = new Authorities({
      ...signer,
      fetch,
      timers,
      documents,
      watch,
      clocks,
      log,
      onRevision,
    })
    const relyingParty = new RelyingParty({ ...signer, url: config.rpa.url, fetch, clocks })
    const group = await newestGroup(documents, authorities, store)
    const tree = await TreePermits.open(
      { store, relyingParty, authorities, pool, clock, eventNumber: async () => null, onBehind: () => {} },
      group,
    )
    return new Issuing({ ports, group, tree, authorities, requestKey })
  }

  async close(): Promise<void> {
    await this.#authorities.close()
  }

  /** Makes what is missing; the state whose cover is whole now. `progress` gets the nodes that are there, of all. */
  async issue(slot: number, progress: (done: number, all: number) => void): Promise<LeavesState> {
    for (;;) {
      const state = await this.#tree.newest(this.group, slot)
      const cover = state.leaves.cover()
      const held = await this.#held(slot)
      const missing: TreeNode[] = []
      for (let place = 0; place < cover.length; place++) {
        const node = cover.at(place)
        if (!held.has(nameOf(node))) missing.push(node)
      }
      let done = cover.length - missing.length
      progress(done, cover.length)
      if (missing.length === 0) {
        const cosigned = await this.#tree.cosign(this.group, slot)
        if (cosigned < this.group.t)
          throw new Refused('RETRY_LATER', { detail: `${cosigned} co-signatures, ${this.group.t} needed` })
        return state
      }
      let next = 0
      // A ban in the middle makes another cover: the batches end, and what is missing is worked out anew.
      const work = async () => {
        while (next < missing.length && this.#tree.state === state) {
          const nodes = missing.slice(next, next + MOST_NODES)
          next += MOST_NODES
          await this.#make(slot, nodes).catch((error: unknown) => {
            if (this.#tree.state === state || !(error instanceof Refused)) throw error
          })
          done += nodes.length
          progress(done, cover.length)
        }
      }
      await Promise.all(Array.from({ length: this.#ports.atOnce }, work))
    }
  }

  /** The bundle of what `issue` has made. Refused NOT_FOUND while a node is missing. */
  async bundle(
    slot: number,
    write: (name: string, bytes: Uint8Array) => Promise<void>,
  ): Promise<BundlePayload> {
    const { store, clock, config } = this.#ports
    const { state } = this.#tree
    const notYet = (what: string) => new Refused('NOT_FOUND', { detail: `${what}: issue the slot first` })
    if (state === undefined) throw notYet('no banned leaves yet')
    const cosignatures = await this.#cosignatures(state)
    if (cosignatures.length < this.group.t) throw notYet(`${cosignatures.length} co-signatures`)
    const pointOf = async (node: TreeNode) => {
      const [row] = await store.read(reader =>
        reader.all('SELECT permit FROM permit WHERE slot = ? AND target = ?', [
          slot,
          targetBytes({ type: 'node', ...node }),
        ]),
      )
      if (row === undefined) throw notYet('a permit is missing')
      return pointOfPermit(row.permit as Uint8Array)
    }
    const signer = { key: this.#requestKey, kid: config.name }
    return writeBundle({ group: this.group, slot, state, cosignatures, pointOf, signer, now: clock(), write })
  }

  /** Those that hold in the group as it is now: after a reshare an index may be another authority's. */
  async #cosignatures(state: LeavesState): Promise<Cosigned[]> {
    const { group } = this
    const rows = await this.#ports.store.read(reader =>
      reader.all('SELECT authority, cosignature FROM cosignature WHERE number = ? ORDER BY authority', [
        state.number,
      ]),
    )
    const good: Cosigned[] = []
    for (const row of rows) {
      const cosigned = { index: Number(row.authority), cosignature: row.cosignature as string }
      try {
        await verifyCosignature({ ...cosigned, group, state })
        good.push(cosigned)
      } catch (error) {
        if (!(error instanceof Refused || error instanceof DecodeError)) throw error
      }
    }
    return good
  }

  async #make(slot: number, nodes: readonly TreeNode[]): Promise<void> {
    const permits = await this.#tree.compose(this.group, slot, nodes)
    await this.#ports.store.atomic(connection => {
      for (const { target, bytes } of permits)
        connection.run(
          'INSERT INTO permit (slot, target, permit) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET permit = excluded.permit',
          [slot, targetBytes(target), bytes],
        )
    })
  }

  async #held(slot: number): Promise<ReadonlySet<string>> {
    const rows = await this.#ports.store.read(reader =>
      reader.all('SELECT target FROM permit WHERE slot = ?', [slot]),
    )
    return new Set(rows.map(({ target }) => Buffer.from(target as Uint8Array).toString('base64url')))
  }
}

/**
 * As the authorities go by it, if they can be reached: the folder may be older than a ceremony, or than the RA's keys. What
 * was made for slots that are a new key epoch's is made again.
 */
async function newestGroup(
  documents: GroupDocuments,
  authorities: Authorities,
  store: Store<unknown>,
): Promise<Group> {
  const { epoch: before } = documents.latest.keys('permit')
  await authorities.look()
  const group = await documents.current()
  const begins = group.epochs('permit').flatMap(({ epoch, firstSlot }) => (epoch > before ? [firstSlot] : []))
  if (begins.length > 0)
    await store.atomic(connection =>
      connection.run('DELETE FROM permit WHERE slot >= ?', [Math.min(...begins)]),
    )
  return group
}

const nameOf = (node: TreeNode): string =>
  Buffer.from(targetBytes({ type: 'node', ...node })).toString('base64url')
