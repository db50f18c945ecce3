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
 * gets the same share, and after a refresh or a reshare in the middle of it a share of the new epoch: D stays.
 */
import { Unreachable } from '@milagro-ts/api/call'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group } from '@milagro-ts/api/group'
import type { HpkeKeyPair } from '@milagro-ts/api/keys'
import {
  type AskedAuthority,
  askAuthorities,
  hasMovedOn,
  NoQuorum,
  type ShareAnswer,
} from '@milagro-ts/api/quorum'
import type { Answer } from '@milagro-ts/api/route'
import { open } from '@milagro-ts/api/seal'
import type { TicketPurpose, VerifiedTicket } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { type AccusedAuthority, ClientError } from './errors.js'
import { followGroup } from './group-store.js'
import type { Ports } from './ports.js'
import { repeatSafely } from './repeat.js'

/** Milliseconds for all authorities together; each is asked up to three times in it (repeat.ts). */
const DEADLINE = 60_000
/** Milliseconds before another look for the revision that authorities are ahead by: the RPS looks twice a minute. */
export const LOOKS = [0, 5_000, 10_000, 20_000]

export interface Collection {
  readonly group: Group
  readonly ticket: VerifiedTicket
  /** As it is shown to authorities: one JWS per RA signature. */
  readonly signatures: readonly string[]
  readonly keyPair: HpkeKeyPair
}

type ShareOf = Answer<typeof dtaRoutes.shares>

/**
 * D. WRONG_SHARE names the authorities whose shares didn't verify, when too few others were left; Refused with the
 * authorities' own code (ALREADY_ISSUED, EXPIRED, FROZEN …) or RETRY_LATER when too few answered. Authorities that are a
 * share epoch ahead are asked again once the RPS has the revision that says so.
 */
export async function collectKey(ports: Ports, purpose: TicketPurpose, collection: Collection): Promise<G1> {
  const { ticket, signatures, keyPair } = collection
  const body = { ticket: [...signatures], purpose }
  const shares = await collectShares<ShareOf, G1>(ports, collection.group, group => ({
    purpose,
    epoch: ticket.keysFor(purpose, group).epoch,
    direct: ({ url }, params, signal) => ports.authority(url).shares({ params, body, signal }),
    relay: (params, signal) => ports.rps.relayShare({ params, body, signal }),
    verify: async ({ index, commitment }, { shareEpoch, sealed }) => {
      const { A, ctx } = ticket.shareTerms(purpose, index, shareEpoch)
      const plaintext = await open(keyPair, ctx, fromBase64Url(sealed, 'sealed'))
      if (plaintext === null) return null
      const share = KeyShare.decode(plaintext)
      return shareVerify({ ctx, commitment, A }, share) ? share.d : null
    },
  }))
  return combineG1(shares)
}

/** What is asked of the authorities of one revision, and how an answer is told to be good. */
export interface Asking<Answer, Share> {
  readonly purpose: Purpose
  readonly epoch: number
  direct(authority: AskedAuthority, params: { groupId: string }, signal: AbortSignal): Promise<Answer>
  relay(params: { index: string }, signal: AbortSignal): Promise<Answer>
  /** Null for a share that doesn't open or doesn't verify. */
  verify(authority: AskedAuthority, answer: Answer): Promise<Share | null>
}

/** t good shares, ready to combine; throws as collectKey says. `asking` is for the revision that it is given. */
export async function collectShares<Answer extends ShareAnswer, Share>(
  ports: Ports,
  known: Group,
  asking: (group: Group) => Asking<Answer, Share>,
): Promise<{ readonly index: number; readonly point: Share }[]> {
  let group = known
  for (const pause of LOOKS) {
    try {
      return await collectOnce(ports, group, asking(group))
    } catch (error) {
      if (!(error instanceof NoQuorum) || error.code !== 'RETRY_LATER') throw error
      const isBehind = hasMovedOn(group, error.faults)
      if (isBehind && pause > 0) await ports.wait(pause)
      const newest = await followGroup(ports, group)
      // Nothing new: they are down. A new revision may have them at other addresses.
      if (!isBehind && newest.revision === group.revision) throw error
      group = newest
    }
  }
  return collectOnce(ports, group, asking(group))
}

async function collectOnce<Answer extends ShareAnswer, Share>(
  ports: Ports,
  group: Group,
  { purpose, epoch, direct, relay, verify }: Asking<Answer, Share>,
): Promise<{ readonly index: number; readonly point: Share }[]> {
  const groupId = toBase64Url(group.groupId)
  /** Which way the last answer of each came. */
  const ways = new Map<number, AccusedAuthority['via']>()
  const ask = (authority: AskedAuthority, signal: AbortSignal): Promise<Answer> => {
    const { index } = authority
    const directly = () => {
      ways.set(index, 'direct')
      return direct(authority, { groupId }, signal)
    }
    const relayed = () => {
      ways.set(index, 'relay')
      return relay({ index: String(index) }, signal)
    }
    const either = async () => {
      try {
        return await directly()
      } catch (error) {
        if (!(error instanceof Unreachable) || signal.aborted) throw error
        return relayed()
      }
    }
    return repeatSafely(ports.wait, { direct: directly, relay: relayed, either }[ports.reach], signal)
  }
  try {
    const quorum = await askAuthorities<Answer, Share>({
      group,
      purpose,
      epoch,
      deadlineMs: DEADLINE,
      ask,
      verify,
    })
    for (const fault of quorum.faults) ports.onFault(fault)
    return quorum.shares.map(({ index, share }) => ({ index, point: share }))
  } catch (error) {
    if (!(error instanceof NoQuorum) || error.code !== 'WRONG_SHARE') throw error
    const authorities = error.faults.flatMap(({ kind, index, name }) =>
      kind === 'wrong-share' ? [{ index, name, via: ways.get(index) ?? 'direct' }] : [],
    )
    throw new ClientError('WRONG_SHARE', error.detail, { cause: error, authorities })
  }
}
