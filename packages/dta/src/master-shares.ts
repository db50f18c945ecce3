/**
 * This authority's share s_j of every master secret of one group: six independent scalars, and what may be done with
 * each (protocols.md §2). They leave this class only sealed, for a worker, or to be dealt anew in a ceremony.
 *
 *   purpose   key shares s_jA    server key share s_jQ
 *   device    yes                to its recipients
 *   pin       yes                to its one recipient: no other multiple of it exists in G2
 *   permit    yes, in clear      –
 *   sign      yes                –
 *   agree, encrypt               not issued yet
 *
 * At rest: TLV{1 `milagro-ts-master-shares`, 2 suite, 3 hash of the proposal, 4 be32 share epoch, 5… s_j in the order
 * of PURPOSES}, sealed with the authority's passphrase.
 */
import { FIRST_EPOCH } from '@milagro-ts/api/founding'
import { be32, equalBytes, readInteger, utf8 } from '@milagro-ts/crypto/bytes'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { decodeTlv, encodeTlv, need } from '@milagro-ts/crypto/tlv'
import { openSealed, sealBytes } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'

const LABEL = utf8('milagro-ts-master-shares')

/** Purposes with a server key S = sQ. */
export type ServerKeyPurpose = 'device' | 'pin'
export const isServerKeyPurpose = (purpose: Purpose): purpose is ServerKeyPurpose =>
  purpose === 'device' || purpose === 'pin'

export class MasterShares {
  readonly shareEpoch: number
  readonly #secrets: ReadonlyMap<Purpose, Scalar>

  private constructor(shareEpoch: number, secrets: ReadonlyMap<Purpose, Scalar>) {
    this.shareEpoch = shareEpoch
    this.#secrets = secrets
  }

  /** What a founding came to. */
  static ofFounding(secrets: Readonly<Record<Purpose, Scalar>>): MasterShares {
    return new MasterShares(FIRST_EPOCH, new Map(PURPOSES.map(purpose => [purpose, secrets[purpose]])))
  }

  /** What a ceremony came to: s'_j in the share epoch that its document begins. RangeError unless all purposes are there. */
  static ofCeremony(shareEpoch: number, secrets: ReadonlyMap<Purpose, Scalar>): MasterShares {
    if (PURPOSES.some(purpose => !secrets.has(purpose))) throw new RangeError('a purpose has no share')
    return new MasterShares(shareEpoch, secrets)
  }

  /** s_j of every purpose, to be dealt anew in a ceremony. */
  forCeremony(): ReadonlyMap<Purpose, Scalar> {
    return this.#secrets
  }

  /** For the group that `proposalHash` founds: shares of one group can't be put in place of another's. */
  seal(passphrase: string, proposalHash: Uint8Array, random: Random): Uint8Array {
    const plaintext = encodeTlv([
      LABEL,
      utf8(SUITE),
      proposalHash,
      be32(this.shareEpoch),
      ...PURPOSES.map(purpose => this.#secret(purpose).encode()),
    ])
    const sealed = sealBytes(passphrase, plaintext, random)
    plaintext.fill(0)
    return sealed
  }

  /** StoreError `damaged`: wrong passphrase, changed bytes, or the shares of another group. */
  static open(passphrase: string, sealed: Uint8Array, proposalHash: Uint8Array): MasterShares {
    const plaintext = openSealed(passphrase, sealed)
    const field = 'master shares'
    const [label, suite, hash, epoch, ...secrets] = decodeTlv(plaintext, { tags: 4 + PURPOSES.length, field })
    plaintext.fill(0)
    const known = equalBytes(need(label, field), LABEL) && equalBytes(need(suite, field), utf8(SUITE))
    if (!known || !equalBytes(need(hash, field), proposalHash))
      throw new StoreError('damaged', 'the sealed master shares belong to another group')
    return new MasterShares(
      readInteger(need(epoch, field), 4, field),
      new Map(PURPOSES.map((purpose, i) => [purpose, Scalar.decode(need(secrets[i], field), field)])),
    )
  }

  /** C_j = s_jP1. */
  commitment(purpose: Purpose): G1 {
    return G1.generator.mulSecret(this.#secret(purpose))
  }

  /** d_j = s_jA with its proof, a KeyShare's TLV, made in a worker, which hashes A out of `input` itself. */
  issue(
    pool: CryptoPool,
    purpose: Purpose,
    { input, ctx, commitment }: { input: Uint8Array; ctx: Uint8Array; commitment: G1 },
  ): Promise<Uint8Array> {
    const statement = { purpose, input, ctx, commitment: commitment.encode() }
    return this.#lend(purpose, secret => pool.run('issue', { statement, secret }))
  }

  /** W_j = s_jQ, 96 bytes, to be sealed to a recipient of the group document. */
  serverKeyShare(pool: CryptoPool, purpose: ServerKeyPurpose): Promise<Uint8Array> {
    return this.#lend(purpose, secret => pool.run('serverKeyShare', secret))
  }

  /** The bytes are this thread's for as long as the job takes. */
  async #lend<T>(purpose: Purpose, use: (secret: Uint8Array) => Promise<T>): Promise<T> {
    const secret = this.#secret(purpose).encode()
    try {
      return await use(secret)
    } finally {
      secret.fill(0)
    }
  }

  #secret(purpose: Purpose): Scalar {
    const secret = this.#secrets.get(purpose)
    if (secret === undefined) throw new RangeError(`no master share for ${purpose}`)
    return secret
  }
}
