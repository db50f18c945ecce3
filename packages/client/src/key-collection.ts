/**
 * Collects one key from the authorities against a ticket.
 *
 *   device                                                authority j (itself, or through the RPS)
 *   -- ticket, purpose -->                                A from the ticket's identity; d_j = s_j·A with its proof
 *                          <-- Seal(hpkeKey; d_j, κ, z) --
 *   open with info = ctx; verify (κ, z) against C_j       another identity, epoch, index or jti: doesn't open
 *   D = Σ λ_j·d_j
 *
 * A relay sees sealed bytes only. The proofs pin every d_j to C_j of the group document, and Σ λ_j·C_j = IVK was
 * checked there, so D is the group's key for A whichever t shares it came from. Asking again is safe: the same ticket
 * gets the same share.
 */
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { Group } from '@milagro-ts/api/group'
import type { HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { type AskedAuthority, askAuthorities } from '@milagro-ts/api/quorum'
import { open } from '@milagro-ts/api/seal'
import type { TicketPurpose, VerifiedTicket } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { type AccusedAuthority, ClientError } from './errors.js'
import type { Ports } from './ports.js'
import { repeatSafely } from './repeat.js'

/** Milliseconds for all authorities together. */
const DEADLINE = 60_000

export interface Collection {
  readonly group: Group
  readonly ticket: VerifiedTicket
  /** As it is shown to authorities: one JWS per RA signature. */
  readonly signatures: readonly string[]
  readonly keyPair: HpkeKeyPair
}

interface Answer {
  readonly index: number
  readonly shareEpoch: number
  readonly sealed: string
  readonly via: AccusedAuthority['via']
}

/**
 * D. WRONG_SHARE names the authorities whose shares didn't verify, when too few others were left; Refused with the
 * authorities' own code (ALREADY_ISSUED, EXPIRED, FROZEN …) or RETRY_LATER when too few answered.
 */
export async function collectKey(ports: Ports, purpose: TicketPurpose, collection: Collection): Promise<G1> {
  const { group } = collection
  const accused: AccusedAuthority[] = []
  try {
    const { shares, faults } = await askAuthorities<Answer, G1>({
      group,
      purpose,
      deadlineMs: DEADLINE,
      ask: (authority, signal) => askForShare(ports, purpose, collection, authority, signal),
      verify: async (authority, answer) => {
        const d = await openShare(purpose, collection, authority, answer)
        if (d === null) accused.push({ index: authority.index, name: authority.name, via: answer.via })
        return d
      },
    })
    for (const fault of faults) ports.onFault(fault)
    return combineG1(shares.map(({ index, share }) => ({ index, point: share })))
  } catch (error) {
    if (!(error instanceof Refused) || error.code !== 'WRONG_SHARE') throw error
    throw new ClientError('WRONG_SHARE', error.detail, { cause: error, authorities: accused })
  }
}

/** An answer that isn't one: no authority has the index 0. */
const NONSENSE = { index: 0, shareEpoch: 0, sealed: '' }

function askForShare(
  { authority, rps, reach, wait }: Ports,
  purpose: TicketPurpose,
  { group, signatures }: Collection,
  { index, url }: AskedAuthority,
  signal: AbortSignal,
): Promise<Answer> {
  const body = { ticket: [...signatures], purpose }
  const groupId = toBase64Url(group.groupId)
  const direct = () => from('direct', authority(url).shares({ params: { groupId }, body, signal }))
  const relayed = () => from('relay', rps.relayShare({ params: { index: String(index) }, body, signal }))
  const either = async () => {
    try {
      return await direct()
    } catch (error) {
      if (!(error instanceof Unreachable) || signal.aborted) throw error
      return relayed()
    }
  }
  return repeatSafely(wait, { direct, relay: relayed, either }[reach], signal)
}

async function from(via: Answer['via'], call: Promise<Omit<Answer, 'via'>>): Promise<Answer> {
  try {
    return { ...(await call), via }
  } catch (error) {
    if (error instanceof UnexpectedAnswer) return { ...NONSENSE, via }
    throw error
  }
}

/** d_j, or null for a share that isn't this authority's, doesn't open or doesn't verify. */
async function openShare(
  purpose: TicketPurpose,
  { ticket, keyPair }: Collection,
  { index, commitment }: AskedAuthority,
  answer: Answer,
): Promise<G1 | null> {
  if (answer.index !== index) return null
  try {
    const { A, ctx } = ticket.shareTerms(purpose, index, answer.shareEpoch)
    const plaintext = await open(keyPair, ctx, fromBase64Url(answer.sealed, 'sealed'))
    if (plaintext === null) return null
    const share = KeyShare.decode(plaintext)
    return shareVerify({ ctx, commitment, A }, share) ? share.d : null
  } catch (error) {
    if (error instanceof DecodeError) return null
    throw error
  }
}
