/**
 * This authority's share s_j of every master secret of one group: six independent scalars for each key epoch that is
 * kept, and what may be done with each (protocols.md §2). They leave this class only sealed, for a worker, or to be
 * dealt anew in a ceremony.
 *
 *   purpose   key shares s_jA    server key share s_jQ
 *   device    yes                to its recipients
 *   pin       yes                to its one recipient: no other multiple of it exists in G2
 *   permit    yes, in clear      –
 *   sign      yes                –
 *   agree     yes                s_jHk2(its name) to its recipients and to devices, for a slot each
 *   encrypt   yes                s_jHe(its name) to its recipients, and to devices for a slot each
 *
 * Between two key epochs a device gets δ_j·A, δ_j = s'_j − s_j, and nothing else is made of two of them.
 *
 * As bytes, which only a vault (share-vault.ts) sees: TLV{1 `milagro-ts-master-shares`, 2 suite, 3 hash of what they
 * come from, 4 be32 share epoch, 5…10 the newest s_j in
 * the order of PURPOSES, 11 their key epochs, be32 each, unless all are the first, 12… TLV{1 purpose, 2 be32 key epoch,
 * 3 s_j} of former ones}.
 */
import type { Ceremony, Shares } from '@milagro-ts/api/ceremony'
import { FIRST_EPOCH } from '@milagro-ts/api/founding'
import type { Group } from '@milagro-ts/api/group'
import { KEPT_EPOCHS } from '@milagro-ts/api/group-document'
import type { EpochStep } from '@milagro-ts/api/key-rotation'
import { be32, concat, equalBytes, fromUtf8, readInteger, utf8 } from '@milagro-ts/crypto/bytes'
import type { NodeIssuerBytes } from '@milagro-ts/crypto/crypto-worker'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { NodeBatch } from '@milagro-ts/crypto/node-shares'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { decodeTlv, encodeTlv, need } from '@milagro-ts/crypto/tlv'
import { StoreError } from '@milagro-ts/store/store-error'

const LABEL = utf8('milagro-ts-master-shares')
const NEWEST_AT = 4
const EPOCHS_AT = NEWEST_AT + PURPOSES.length
const FORMER_AT = EPOCHS_AT + 1
const MOST_FORMER = (KEPT_EPOCHS - 1) * PURPOSES.length

/** Purposes with a server key S = sQ. */
export type ServerKeyPurpose = 'device' | 'pin'
export const isServerKeyPurpose = (purpose: Purpose): purpose is ServerKeyPurpose =>
  purpose === 'device' || purpose === 'pin'

interface MasterSecret {
  readonly purpose: Purpose
  readonly epoch: number
  /** s_j. */
  readonly secret: Scalar
}

/** As the rest of an authority sees them: what they are for, wherever they are. */
export interface MasterShares {
  readonly shareEpoch: number
  /** C_j = s_jP1; undefined for an epoch that this authority has no share of. */
  commitment(purpose: Purpose, epoch: number): G1 | undefined
  /** d_j = s_jA with its proof, a KeyShare's TLV, made in a worker, which hashes A out of `input` itself. */
  issue(pool: CryptoPool, purpose: Purpose, epoch: number, terms: IssueTerms): Promise<Uint8Array>
  /** δ_j·A with its proof over C'_j − C_j, δ_j = s'_j − s_j: this authority's part of what a device adds to its key. */
  issueDelta(
    pool: CryptoPool,
    purpose: ServerKeyPurpose,
    step: EpochStep,
    terms: IssueTerms,
  ): Promise<Uint8Array>
  /** W_j = s_jQ, 96 bytes, to be sealed to a recipient of the group document. */
  serverKeyShare(pool: CryptoPool, purpose: ServerKeyPurpose, epoch: number): Promise<Uint8Array>
  /** d_j = s_jHk2(name) of `agree` with its proof, a KeyShare's TLV. */
  issueAgree(pool: CryptoPool, epoch: number, terms: NameTerms): Promise<Uint8Array>
  /** Permit shares of many nodes with one proof, a NodeShares' TLV, made in a worker. */
  issueNodes(pool: CryptoPool, batch: NodeBatch, issuer: NodeIssuerBytes): Promise<Uint8Array>
  /**
   * s_j by the names that the ceremony gives them, to be dealt anew; of a secret that is yet to be drawn, none.
   * RangeError where they never leave: others deal then.
   */
  forCeremony(ceremony: Pick<Ceremony, 'secrets'>): Shares
  /** For a vault that seals them; `origin` is what they come from. RangeError where they never leave. */
  encode(origin: Uint8Array): Uint8Array
}

/** In this process' memory. */
export class LocalShares implements MasterShares {
  readonly shareEpoch: number
  /** Of each purpose the newest epoch first. */
  readonly #secrets: readonly MasterSecret[]

  private constructor(shareEpoch: number, secrets: readonly MasterSecret[]) {
    this.shareEpoch = shareEpoch
    this.#secrets = secrets
  }

  /** What a founding came to. */
  static ofFounding(secrets: Readonly<Record<Purpose, Scalar>>): LocalShares {
    return new LocalShares(
      FIRST_EPOCH,
      PURPOSES.map(purpose => ({ purpose, epoch: FIRST_EPOCH, secret: secrets[purpose] })),
    )
  }

  /**
   * What a ceremony came to, in the share epoch that its document begins: s'_j of what was dealt, `before` of what
   * wasn't (in a rotation), and nothing of a key epoch that has ended. RangeError unless everything that is kept is there.
   */
  static ofCeremony(
    group: Group,
    ceremony: Pick<Ceremony, 'secrets'>,
    dealt: Shares,
    before: MasterShares | undefined,
  ): LocalShares {
    return new LocalShares(
      group.shareEpoch,
      PURPOSES.flatMap(purpose =>
        group.epochs(purpose).map(({ epoch }) => {
          const name = ceremony.secrets.find(one => one.purpose === purpose && one.epoch === epoch)?.name
          const kept = before instanceof LocalShares ? before.#find(purpose, epoch)?.secret : undefined
          const secret = name === undefined ? kept : dealt.get(name)
          if (secret === undefined) throw new RangeError(`no master share for ${purpose} of epoch ${epoch}`)
          return { purpose, epoch, secret }
        }),
      ),
    )
  }

  forCeremony({ secrets }: Pick<Ceremony, 'secrets'>): Shares {
    return new Map(
      secrets.flatMap(({ name, purpose, epoch }) => {
        const known = this.#find(purpose, epoch)
        return known === undefined ? [] : [[name, known.secret] as const]
      }),
    )
  }

  encode(origin: Uint8Array): Uint8Array {
    const newest = PURPOSES.map(purpose => this.#newest(purpose))
    const former = this.#secrets.filter(one => !newest.includes(one))
    return encodeTlv([
      LABEL,
      utf8(SUITE),
      origin,
      be32(this.shareEpoch),
      ...newest.map(({ secret }) => secret.encode()),
      newest.every(({ epoch }) => epoch === FIRST_EPOCH)
        ? undefined
        : concat(...newest.map(({ epoch }) => be32(epoch))),
      ...former.map(({ purpose, epoch, secret }) => encodeTlv([utf8(purpose), be32(epoch), secret.encode()])),
    ])
  }

  /** `plaintext` is overwritten. StoreError `damaged`: the shares come from somewhere else. */
  static decode(plaintext: Uint8Array, origin: Uint8Array): LocalShares {
    const field = 'master shares'
    const entries = decodeTlv(plaintext, { tags: FORMER_AT + MOST_FORMER, field })
    plaintext.fill(0)
    const [label, suite, hash, shareEpoch] = entries
    const known = equalBytes(need(label, field), LABEL) && equalBytes(need(suite, field), utf8(SUITE))
    if (!known || !equalBytes(need(hash, field), origin))
      throw new StoreError('damaged', 'the sealed master shares belong to another group')
    const epochs = entries[EPOCHS_AT]
    const newest = PURPOSES.map((purpose, i) => ({
      purpose,
      epoch: epochs === undefined ? FIRST_EPOCH : readInteger(epochs.subarray(4 * i, 4 * i + 4), 4, field),
      secret: Scalar.decode(need(entries[NEWEST_AT + i], field), field),
    }))
    const former = entries.slice(FORMER_AT).flatMap(entry => {
      if (entry === undefined) return []
      const [purpose, epoch, secret] = decodeTlv(entry, { tags: 3, field })
      return [
        {
          purpose: purposeOf(fromUtf8(need(purpose, field), field)),
          epoch: readInteger(need(epoch, field), 4, field),
          secret: Scalar.decode(need(secret, field), field),
        },
      ]
    })
    return new LocalShares(readInteger(need(shareEpoch, field), 4, field), [...newest, ...former])
  }

  commitment(purpose: Purpose, epoch: number): G1 | undefined {
    const known = this.#find(purpose, epoch)
    return known && G1.generator.mulSecret(known.secret)
  }

  issue(pool: CryptoPool, purpose: Purpose, epoch: number, terms: IssueTerms): Promise<Uint8Array> {
    return issueWith(pool, purpose, this.#secret(purpose, epoch), terms)
  }

  issueDelta(
    pool: CryptoPool,
    purpose: ServerKeyPurpose,
    { from, to }: EpochStep,
    terms: IssueTerms,
  ): Promise<Uint8Array> {
    const delta = this.#secret(purpose, to).subtract(this.#secret(purpose, from))
    return issueWith(pool, purpose, delta, terms)
  }

  issueNodes(pool: CryptoPool, batch: NodeBatch, issuer: NodeIssuerBytes): Promise<Uint8Array> {
    const secret = this.#secret('permit', batch.terms.permitEpoch)
    return lend(secret, bytes => pool.run('issueNodes', { batch, issuer, secret: bytes }))
  }

  serverKeyShare(pool: CryptoPool, purpose: ServerKeyPurpose, epoch: number): Promise<Uint8Array> {
    return lend(this.#secret(purpose, epoch), secret => pool.run('serverKeyShare', secret))
  }

  issueAgree(pool: CryptoPool, epoch: number, { name, ctx, commitment }: NameTerms): Promise<Uint8Array> {
    const statement = { name, ctx, commitment: commitment.encode() }
    return lend(this.#secret('agree', epoch), secret => pool.run('issueAgree', { statement, secret }))
  }

  #find(purpose: Purpose, epoch: number): MasterSecret | undefined {
    return this.#secrets.find(one => one.purpose === purpose && one.epoch === epoch)
  }

  #newest(purpose: Purpose): MasterSecret {
    return this.#secrets.find(one => one.purpose === purpose) as MasterSecret
  }

  #secret(purpose: Purpose, epoch: number): Scalar {
    const known = this.#find(purpose, epoch)
    if (known === undefined) throw new RangeError(`no master share for ${purpose} of epoch ${epoch}`)
    return known.secret
  }
}

/** d_j of a name TLV, with its proof: in G2 of `agree`, in G1 of `encrypt`. */
export function issueForName(
  shares: MasterShares,
  pool: CryptoPool,
  purpose: 'agree' | 'encrypt',
  epoch: number,
  { name, ctx, commitment }: NameTerms,
): Promise<Uint8Array> {
  return purpose === 'agree'
    ? shares.issueAgree(pool, epoch, { name, ctx, commitment })
    : shares.issue(pool, purpose, epoch, { input: name, ctx, commitment })
}

interface NameTerms {
  /** Of a server or a device, with its slot: what Hk2 or He is taken of. */
  readonly name: Uint8Array
  readonly ctx: Uint8Array
  readonly commitment: G1
}

interface IssueTerms {
  /** What A is hashed out of. */
  readonly input: Uint8Array
  readonly ctx: Uint8Array
  readonly commitment: G1
}

function issueWith(
  pool: CryptoPool,
  purpose: Purpose,
  scalar: Scalar,
  { input, ctx, commitment }: IssueTerms,
): Promise<Uint8Array> {
  const statement = { purpose, input, ctx, commitment: commitment.encode() }
  return lend(scalar, secret => pool.run('issue', { statement, secret }))
}

/** The bytes are this thread's for as long as the job takes. */
async function lend<T>(scalar: Scalar, use: (secret: Uint8Array) => Promise<T>): Promise<T> {
  const secret = scalar.encode()
  try {
    return await use(secret)
  } finally {
    secret.fill(0)
  }
}

function purposeOf(text: string): Purpose {
  const purpose = PURPOSES.find(one => one === text)
  if (purpose === undefined) throw new DecodeError('master shares', 'unknown purpose')
  return purpose
}
