/**
 * What the RPS says about those it has verified, signed with its token key: access tokens (RFC 9068), receipts, the
 * time. Each is made for an `AuthenticatedLogin`, which only a verification makes, never for a claimed identity.
 */
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Answer } from '@milagro-ts/api/route'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import type { AuthenticatedFields } from '@milagro-ts/api/schemas'
import {
  ACCESS_TOKEN_LIFETIME,
  type AccessToken,
  type Signer,
  signAccessToken,
  signReceipt,
  signTime,
  verifyAccessToken,
} from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { AuthenticatedLogin } from '@milagro-ts/crypto/pooled-login'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'

export class Tokens {
  readonly #issuer: string
  readonly #clock: Clock
  readonly #random: Random
  readonly #signer: Signer

  constructor(ports: { issuer: string; tokenKey: Es256PrivateKey; clock: Clock; random: Random }) {
    this.#issuer = ports.issuer
    this.#clock = ports.clock
    this.#random = ports.random
    this.#signer = { key: ports.tokenKey, kid: kidOf(ports.tokenKey) }
  }

  /**
   * At most 5 minutes, and never beyond the slot of the permit that it rests on.
   * @param slotEnd Unix seconds at which that slot is over. Refused EXPIRED when it is.
   */
  async access(
    who: AuthenticatedLogin,
    { slot, slotEnd }: { slot: number; slotEnd: number },
  ): Promise<{ accessToken: string; expiresIn: number }> {
    const iat = this.#now()
    const exp = Math.min(iat + ACCESS_TOKEN_LIFETIME, slotEnd)
    if (exp <= iat) throw new Refused('EXPIRED', { field: 'slot', detail: 'the slot has just ended' })
    const accessToken = await signAccessToken(
      { ...this.#about(who), slot, iat, exp, jti: toBase64Url(this.#random(16)) },
      this.#signer,
    )
    return { accessToken, expiresIn: exp - iat }
  }

  /** Of a message in mode `sign`. */
  receipt(who: AuthenticatedLogin, payloadHash: Uint8Array): Promise<string> {
    const said = {
      ...this.#about(who),
      slot: who.slot,
      payloadHash: toBase64Url(payloadHash),
      iat: this.#now(),
    }
    return signReceipt(said, this.#signer)
  }

  /** @param nonce 32 bytes as base64url, of the one who asks. */
  time(nonce: string): Promise<string> {
    return signTime({ nonce, time: this.#now() }, this.#signer)
  }

  /** A token for the RPS' own audience. Refused UNAUTHENTICATED. */
  verify(token: string): Promise<AccessToken> {
    return verifyAccessToken({
      token,
      keys: new Map([[this.#signer.kid, this.#signer.key.publicKey]]),
      issuer: this.#issuer,
      audience: this.#issuer,
      now: this.#clock(),
    })
  }

  jwks(): Answer<typeof rpsRoutes.jwks> {
    const { kid, key } = this.#signer
    return { keys: [{ ...key.publicKey.toJwk(), kid, use: 'sig', alg: 'ES256' }] }
  }

  #about(who: AuthenticatedLogin) {
    return {
      iss: this.#issuer,
      aud: who.audience,
      sub: who.idCore.mpinId,
      ...userFields(who.userCore),
      amr: [...who.amr],
    }
  }

  #now(): number {
    return Math.floor(this.#clock() / 1000)
  }
}

/** Who was proven, as it goes over the wire. */
export function authenticatedFields(
  who: Pick<AuthenticatedLogin, 'idCore' | 'userCore' | 'amr' | 'slot' | 'audience'>,
): AuthenticatedFields {
  return {
    idCore: who.idCore.mpinId,
    ...userFields(who.userCore),
    amr: [...who.amr],
    slot: who.slot,
    audience: who.audience,
  }
}

export function userFields(userCore: Uint8Array): { userCore?: string } {
  return userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }
}

/** The first 64 bits of the key's hash: another key is another kid. */
function kidOf({ publicKey }: Es256PrivateKey): string {
  return toBase64Url(sha256(publicKey.encode()).subarray(0, 8))
}
