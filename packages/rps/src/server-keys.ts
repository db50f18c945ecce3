/**
 * S_dev and S_pin (protocols.md §3): fetched once from the authorities, sealed at rest, checked at every start.
 *
 *   RPS                                             authority j
 *   -- purpose, key epoch, nonce; signed -->        in the group document? for this purpose?
 *   <-- HPKE(hpkeKey; ctx; TLV{1 W_j}) --           W_j = s_jQ
 *   e(C_j, Q) = e(P1, W_j) for each, S = Σ λ_jW_j, e(IVK, Q) = e(P1, S)
 *
 * Whoever has S_pin, a token and a device key tests PINs without a strike, so S leaves this process only sealed, and
 * inside it lives in the workers alone: they compute with it, and each checks it against the group's IVK when it takes
 * it in. This thread has its bytes while it opens or seals the file.
 *
 * There is one S for each key epoch that the group keeps: a device that was silent proves its former key with the former
 * S, and goes over to the present one. When a key epoch ends, its S goes out of the file and out of the workers.
 */
import { join } from 'node:path'
import { canonicalHash } from '@milagro-ts/api/canonical-json'
import type { Group, PurposeKeys } from '@milagro-ts/api/group'
import type { HpkeKeyPair } from '@milagro-ts/api/keys'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { Strict } from '@milagro-ts/api/schemas'
import { open } from '@milagro-ts/api/seal'
import { readSealedJson } from '@milagro-ts/api/sealed-json'
import Type, { Compile, type Static } from '@milagro-ts/api/typebox'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import type { HandedLoginKey } from '@milagro-ts/crypto/crypto-worker'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { encodeName } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { Random } from '@milagro-ts/crypto/ports'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { SUITE } from '@milagro-ts/crypto/suite'
import { decodeTlv, need } from '@milagro-ts/crypto/tlv'
import { writeSealedFile } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import type { Authorities } from './authorities.js'

/** Milliseconds for all authorities together. */
const DEADLINE = 10_000

export const SERVER_KEY_PURPOSES = ['device', 'pin'] as const
export type ServerKeyPurpose = (typeof SERVER_KEY_PURPOSES)[number]

const StoredKeys = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  groupId: Type.String(),
  keys: Type.Array(
    Strict({
      purpose: Type.Enum([...SERVER_KEY_PURPOSES]),
      epoch: Type.Integer({ minimum: 0 }),
      key: Type.String(),
    }),
  ),
})
const storedKeys = Compile(StoredKeys)

export interface ServerKeyPorts {
  readonly name: string
  readonly dataDir: string
  readonly passphrase: string
  readonly hpkeKey: HpkeKeyPair
  readonly authorities: Authorities
  readonly pool: CryptoPool
  readonly random: Random
  readonly log: Log
}

export class ServerKeys {
  readonly #ports: ServerKeyPorts
  /** What the workers have. */
  readonly #held = new Set<string>()
  #fetching: Promise<void> | undefined

  private constructor(ports: ServerKeyPorts) {
    this.#ports = ports
  }

  /**
   * Hands the workers what is sealed in the data folder. StoreError: it can't be opened, or a key in it isn't the
   * group's.
   */
  static async open(ports: ServerKeyPorts, group: Group): Promise<ServerKeys> {
    const opened = new ServerKeys(ports)
    const { dataDir, passphrase } = ports
    const stored = await readStored(pathIn(dataDir), passphrase, group)
    if (stored.some(key => !isKept(group, key))) await opened.#store(group, stored)
    await opened.#handOver(group)
    return opened
  }

  /** Refused RETRY_LATER while there is none: nothing can be verified before. */
  check(purpose: ServerKeyPurpose, epoch: number): void {
    if (!this.#held.has(nameOf(purpose, epoch)))
      throw new Refused('RETRY_LATER', {
        log: `no ${purpose} server key of epoch ${epoch} yet`,
        retryAfter: 5,
      })
  }

  /** Are the keys here that logins of this slot are verified by? */
  isReady(group: Group, slot: number): boolean {
    return SERVER_KEY_PURPOSES.every(purpose => {
      const epoch = group.epochAt(purpose, slot)
      return epoch !== null && this.#held.has(nameOf(purpose, epoch))
    })
  }

  /** Those of every key epoch that the group keeps, and no other. */
  isComplete(group: Group): boolean {
    const wanted = wantedOf(group).map(({ purpose, epoch }) => nameOf(purpose, epoch))
    return wanted.length === this.#held.size && wanted.every(name => this.#held.has(name))
  }

  /**
   * Fetches what the group document has keys for and the data folder hasn't, and destroys what has ended. Refused as
   * askAuthorities says; what could be had is kept.
   */
  async complete(group: Group): Promise<void> {
    if (this.isComplete(group)) return
    this.#fetching ??= this.#fetch(group).finally(() => {
      this.#fetching = undefined
    })
    await this.#fetching
  }

  async #fetch(group: Group): Promise<void> {
    const { dataDir, passphrase, log } = this.#ports
    const before = await readStored(pathIn(dataDir), passphrase, group)
    const asked = await Promise.allSettled(
      wantedOf(group)
        .filter(({ purpose, epoch }) => !this.#held.has(nameOf(purpose, epoch)))
        .map(async ({ purpose, epoch }) => {
          const S = await this.#ask(group, purpose, epoch)
          const key = toBase64Url(S)
          S.fill(0)
          return { purpose, epoch, key }
        }),
    )
    const fetched = asked.flatMap(outcome => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    const ended = before.filter(key => !isKept(group, key))
    const isFetched = (old: { purpose: string; epoch: number }) =>
      fetched.some(({ purpose, epoch }) => purpose === old.purpose && epoch === old.epoch)
    if (fetched.length > 0 || ended.length > 0) {
      await this.#store(group, [...before.filter(old => !isFetched(old)), ...fetched])
      await this.#handOver(group)
      const names = (keys: readonly { purpose: ServerKeyPurpose; epoch: number }[]) =>
        keys.map(({ purpose, epoch }) => nameOf(purpose, epoch))
      log.info({ fetched: names(fetched), destroyed: names(ended) }, 'server keys sealed')
    }
    for (const outcome of asked) if (outcome.status === 'rejected') throw outcome.reason
  }

  /** Of `keys` those whose key epochs are kept. */
  async #store(group: Group, keys: Static<typeof StoredKeys>['keys']): Promise<void> {
    const { dataDir, passphrase, random } = this.#ports
    const stored: Static<typeof StoredKeys> = {
      suite: SUITE,
      v: 1,
      groupId: toBase64Url(group.groupId),
      keys: keys.filter(key => isKept(group, key)),
    }
    await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(stored)), random)
  }

  /** The file's keys to every worker; a worker that takes another's place gets them in the same way. */
  async #handOver(group: Group): Promise<void> {
    const { dataDir, passphrase, pool } = this.#ports
    const path = pathIn(dataDir)
    const load = async () =>
      (await readStored(path, passphrase, group)).flatMap(({ purpose, epoch, key }): HandedLoginKey[] => {
        const ivk = group.keysOf(purpose, epoch)?.ivk
        // A file that a newer group has written, or that is still to be rid of an ended key.
        if (ivk === undefined) return []
        return [{ purpose, epoch, ivk: ivk.encode(), S: fromBase64Url(key, 'key', 96) }]
      })
    let names: readonly { purpose: ServerKeyPurpose; epoch: number }[] = []
    const handedOver = pool.handOver(async () => {
      const keys = await load()
      names = keys.map(({ purpose, epoch }) => ({ purpose, epoch }))
      return keys
    })
    const verdicts = await handedOver.catch((error: unknown) => {
      // A worker has found that one is no point.
      if (error instanceof DecodeError)
        throw new StoreError('damaged', `sealed file ${path}: ${error.message}`)
      throw error
    })
    this.#held.clear()
    names.forEach(({ purpose, epoch }, i) => {
      if (verdicts[i] !== true) throw notTheGroups(path, purpose)
      this.#held.add(nameOf(purpose, epoch))
    })
  }

  /** S, 96 secret bytes. */
  async #ask(group: Group, purpose: ServerKeyPurpose, epoch: number): Promise<Uint8Array> {
    const { name, hpkeKey, authorities, pool, random } = this.#ports
    const { groupId } = group
    const recipient = group.recipient(name)
    if (recipient === undefined)
      throw new Refused('FORBIDDEN', { log: `${name} is no recipient of the group` })
    const identity = encodeName(groupId, {
      kind: recipient.kind === 3 ? 3 : 2,
      name,
      generation: recipient.generation,
    })
    const jti = random(16)
    const body = { purpose, keyEpoch: epoch, nonce: toBase64Url(jti) }
    const { shares } = await authorities.ask(
      { requestHash: toBase64Url(canonicalHash(body)) },
      {
        group,
        purpose,
        epoch,
        deadlineMs: DEADLINE,
        ask: (authority, signal) =>
          authorities.at(authority).serverKeys({ params: { groupId: toBase64Url(groupId) }, body, signal }),
        verify: async ({ index, commitment }, { shareEpoch, sealed }) => {
          const ctx = shareContext({ groupId, purpose, index, shareEpoch, identity, jti })
          const plaintext = await open(hpkeKey, ctx, fromBase64Url(sealed, 'sealed'))
          if (plaintext === null) return null
          const [W] = decodeTlv(plaintext, { tags: 1, field: 'serverKey' })
          const point = need(W, 'serverKey.W')
          const holds = await pool.run('sameLogarithm', { commitment: commitment.encode(), W: point })
          return holds ? point : null
        },
      },
    )
    const points = shares.map(({ index, share }) => ({ index, point: share }))
    const { ivk } = group.keysOf(purpose, epoch) as PurposeKeys
    const S = await pool.run('combineServerKey', { ivk: ivk.encode(), shares: points })
    if (S === null)
      throw new Refused('RETRY_LATER', { log: `the ${purpose} shares don't make the group's key` })
    return S
  }
}

function notTheGroups(path: string, purpose: string): StoreError {
  return new StoreError('damaged', `sealed file ${path}: the ${purpose} key is not the group's`)
}

const pathIn = (dataDir: string) => join(dataDir, 'server-keys.sealed')
const nameOf = (purpose: ServerKeyPurpose, epoch: number) => `${purpose}/${epoch}`

/** Both purposes' keys of every key epoch that is kept. */
function wantedOf(group: Group): { purpose: ServerKeyPurpose; epoch: number }[] {
  return SERVER_KEY_PURPOSES.flatMap(purpose =>
    group.epochs(purpose).map(({ epoch }) => ({ purpose, epoch })),
  )
}

function isKept(group: Group, { purpose, epoch }: { purpose: ServerKeyPurpose; epoch: number }): boolean {
  return group.keysOf(purpose, epoch) !== null
}

async function readStored(
  path: string,
  passphrase: string,
  group: Group,
): Promise<Static<typeof StoredKeys>['keys']> {
  try {
    return await readSealedJson(path, passphrase, stored => {
      if (!storedKeys.Check(stored)) throw new DecodeError('keys', 'not an RPS’')
      if (!equalBytes(fromBase64Url(stored.groupId, 'groupId', 32), group.groupId))
        throw new StoreError('foreign', `sealed file ${path} belongs to another group`)
      for (const { key } of stored.keys) fromBase64Url(key, 'key', 96).fill(0)
      return stored.keys
    })
  } catch (error) {
    if (error instanceof StoreError && error.reason === 'missing') return []
    throw error
  }
}
