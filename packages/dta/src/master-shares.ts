/**
 * This authority's share s_j of every master secret of one group: six independent scalars, and what may be done with
 * each (protocols.md §2). They leave this class only sealed. What is public of them was shown at the founding.
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
import { G1, type G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { authorityServerKeyShare } from '@milagro-ts/crypto/server-key'
import { authorityIssue, type KeyShare } from '@milagro-ts/crypto/share-proof'
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

  /** d_j = s_jA with its proof. `A` must be a point that this authority hashed itself. */
  issue(purpose: Purpose, statement: { ctx: Uint8Array; commitment: G1; A: G1 }, random: Random): KeyShare {
    return authorityIssue(statement, this.#secret(purpose), random)
  }

  /** W_j = s_jQ, to be sealed to a recipient of the group document. */
  serverKeyShare(purpose: ServerKeyPurpose): G2 {
    return authorityServerKeyShare(this.#secret(purpose))
  }

  #secret(purpose: Purpose): Scalar {
    const secret = this.#secrets.get(purpose)
    if (secret === undefined) throw new RangeError(`no master share for ${purpose}`)
    return secret
  }
}
