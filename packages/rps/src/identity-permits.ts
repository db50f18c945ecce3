/**
 * Permits for one identity each (protocols.md §5), for small groups.
 *
 *   RPS                              RPA                        authority j
 *   -- idCore, slot -->              banned?
 *   <-- statement, signed by the RA --
 *   -- statement -------------------------------------------->  d_j = s_j·HT, (κ, z)
 *   shareVerify each, permit = Σ λ_j·d_j, e(permit, Q) = e(HT, sQ)
 */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { type VerifiedPermitStatement, verifyPermitStatement } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { type IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { CheckedPermit } from '@milagro-ts/crypto/pooled-login'
import type { Clock } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { type PermitTarget, permitInput } from '@milagro-ts/crypto/time-permit'
import type { Authorities } from './authorities.js'
import type { Identities } from './identities.js'
import { currentSlot } from './nonces.js'
import {
  DEADLINE,
  keyAt,
  type PermitSource,
  refuseForAuthorities,
  termsAt,
  type Wanted,
} from './permit-source.js'

export interface IdentityPermitPorts {
  readonly identities: Identities
  readonly authorities: Authorities
  readonly pool: CryptoPool
  readonly clock: Clock
}

export class IdentityPermits implements PermitSource {
  readonly #ports: IdentityPermitPorts

  constructor(ports: IdentityPermitPorts) {
    this.#ports = ports
  }

  async target(_group: Group, { idCore }: Wanted): Promise<PermitTarget> {
    return { type: 'id', idCore }
  }

  heldTarget(_group: Group, idCore: IdCore): PermitTarget {
    return { type: 'id', idCore }
  }

  async permit(
    group: Group,
    target: PermitTarget,
    { idCore, userCore, slot }: Wanted,
  ): Promise<CheckedPermit> {
    const { identities, authorities, pool, clock } = this.#ports
    const now = currentSlot(group, clock())
    const standing =
      (await identities.ask(idCore, userCore, slot, now)) ??
      // The user may be what the RPA doesn't know; that is an answer for after the permit.
      (userCore.length === 0 ? null : await identities.ask(idCore, NO_USER, slot, now))
    if (standing === null) throw new Refused('WRONG_PROOF', { log: 'the RPA does not know the identity' })
    const { statement } = standing
    const { jti } = await this.#checked(group, statement, idCore, slot)

    const { groupId } = group
    const input = permitInput(termsAt(group, slot), slot, target)
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
    const permit = await CheckedPermit.compose(pool, keyAt(group, slot), slot, target, points)
    if (permit === null)
      throw new Refused('RETRY_LATER', { log: "good permit shares don't make a permit of the group" })
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
}
