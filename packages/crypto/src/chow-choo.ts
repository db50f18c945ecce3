/**
 * Chow–Choo key agreement (Chow and Choo 2007, "Strongly-Secure Identity-Based Key Agreement and Anonymous Extension";
 * protocols.md §7, purpose `agree`): two names, a key on each side, two messages.
 *
 *   client IdC: sHk2(IdC) ∈ G2                                server IdS: sHk1(IdS) ∈ G1
 *   y = Hq(NONCE; 9, …)   PC = y·Hk2(IdC)
 *   w = Hq(NONCE; 10, …)  PG = w·Hk1(IdS)
 *   -- PC, PG -->                                              x = Hq(NONCE; 8, …)  PS = x·Hk1(IdS)
 *                                                       <-- PS
 *   πc = Hq(CHOW-CHOO; PC, PS, PG, IdS)    πs = Hq(CHOW-CHOO; PS, PC, PG, IdC)          both
 *   k = e(πs·Hk1(IdS) + PS, (y + πc)·sHk2(IdC))               k = e((x + πs)·sHk1(IdS), πc·Hk2(IdC) + PC)
 *   K = HKDF(k ‖ w·PS)                                        K = HKDF(k ‖ x·PG)
 *
 * It holds because both k are e(Hk1(IdS), Hk2(IdC))^(s(x + πs)(y + πc)), and wPS = xPG = wxHk1(IdS). Authentication is
 * implicit: only who holds the other name's key has K, and the first message under K shows it. w·x gives forward secrecy
 * against later theft of both keys. Whoever stole the client's key still can't play the server to it, since k needs
 * x + πs with sHk1(IdS), and the other way round. πs binds PS: without it PS = zP1 − πsHk1(IdS) makes k
 * e(zIVK, PC + πcHk2(IdC)), which anybody computes. πc binds PC and PS: with neither, PC = zHk2(M) − πcHk2(IdC) makes k
 * what M has by its own key, and M poses as any client. A state is good for one answer.
 *
 * {@includeCode ../examples/chow-choo.mjs}
 */
import { concat, utf8 } from './bytes.js'
import { hashToScalar } from './hash-to-curve.js'
import { agreePointG1, agreePointG2 } from './identity.js'
import { deriveKey } from './kdf.js'
import { hedgedNonce, NONCE_ROLE } from './nonce.js'
import { type G1, type G2, type GT, pairing } from './points.js'
import type { Random } from './ports.js'
import type { Scalar } from './scalar.js'
import { SUITE } from './suite.js'
import { encodeTlv } from './tlv.js'

/** Name TLVs (identity.ts, encodeName), each as it enters its hash: IdC Hk2, IdS Hk1. Each side pins the other's. */
export interface AgreementNames {
  readonly IdC: Uint8Array
  readonly IdS: Uint8Array
}

export interface ClientMove {
  readonly PC: G2
  readonly PG: G1
}
export interface ServerMove {
  readonly PS: G1
}

/** @param clientKey sHk2(IdC). Secret. */
export function clientBegin(
  names: AgreementNames,
  clientKey: G2,
  random: Random,
): [ClientMove, ClientAwaitingPS] {
  const key = clientKey.encode()
  const y = hedgedNonce(NONCE_ROLE.yChowChoo, random, key, transcript(names))
  const PC = agreePointG2(names.IdC).mulSecret(y)
  const w = hedgedNonce(NONCE_ROLE.wChowChoo, random, key, transcript(names, { PC }))
  const move = { PC, PG: agreePointG1(names.IdS).mulSecret(w) }
  return [move, ClientAwaitingPS.begin(names, clientKey, move, { y, w })]
}

export class ClientAwaitingPS {
  readonly #names: AgreementNames
  readonly #clientKey: G2
  readonly #move: ClientMove
  #nonces: ClientNonces | undefined

  private constructor(names: AgreementNames, clientKey: G2, move: ClientMove, nonces: ClientNonces) {
    this.#names = names
    this.#clientKey = clientKey
    this.#move = move
    this.#nonces = nonces
  }

  /** For clientBegin. */
  static begin(
    names: AgreementNames,
    clientKey: G2,
    move: ClientMove,
    nonces: ClientNonces,
  ): ClientAwaitingPS {
    return new ClientAwaitingPS(names, clientKey, move, nonces)
  }

  /** K, 32 bytes. TypeError at a second answer: y and w are for one PS. */
  agree({ PS }: ServerMove): Uint8Array {
    const nonces = this.#nonces
    if (nonces === undefined) throw new TypeError('this run has its PS already')
    this.#nonces = undefined
    const messages = { ...this.#move, PS }
    const { pi_c, pi_s } = exponents(this.#names, messages)
    const shared = pairing(
      agreePointG1(this.#names.IdS).mulPublic(pi_s).add(PS),
      this.#clientKey.mulSecret(nonces.y.add(pi_c)),
    )
    return sessionKey(this.#names, messages, shared, PS.mulSecret(nonces.w))
  }
}

/** @param serverKey sHk1(IdS). Secret. @returns the answer, and K (32 bytes). */
export function serverAgree(
  names: AgreementNames,
  serverKey: G1,
  move: ClientMove,
  random: Random,
): [ServerMove, Uint8Array] {
  const x = hedgedNonce(NONCE_ROLE.xChowChoo, random, serverKey.encode(), transcript(names))
  const PS = agreePointG1(names.IdS).mulSecret(x)
  const messages = { ...move, PS }
  const { pi_c, pi_s } = exponents(names, messages)
  const shared = pairing(
    serverKey.mulSecret(x.add(pi_s)),
    agreePointG2(names.IdC).mulPublic(pi_c).add(move.PC),
  )
  return [{ PS }, sessionKey(names, messages, shared, move.PG.mulSecret(x))]
}

export interface ClientNonces {
  readonly y: Scalar
  readonly w: Scalar
}
interface Messages extends ClientMove, ServerMove {}

/** info: TLV{1 suite, 2 `client`, 3 IdC, 4 `server`, 5 IdS, 6 PC, 7 PS, 8 PG}; the start of it is what nonces hash as fixed. */
function transcript({ IdC, IdS }: AgreementNames, messages: Partial<Messages> = {}): Uint8Array {
  const { PC, PS, PG } = messages
  return encodeTlv([
    utf8(SUITE),
    utf8('client'),
    IdC,
    utf8('server'),
    IdS,
    PC?.encode(),
    PS?.encode(),
    PG?.encode(),
  ])
}

/** πc and πs. Public. */
function exponents(
  { IdC, IdS }: AgreementNames,
  { PC, PS, PG }: Messages,
): { readonly pi_c: Scalar; readonly pi_s: Scalar } {
  const [pc, ps, pg] = [PC.encode(), PS.encode(), PG.encode()]
  return {
    pi_c: hashToScalar('CHOW-CHOO', encodeTlv([pc, ps, pg, IdS])),
    pi_s: hashToScalar('CHOW-CHOO', encodeTlv([ps, pc, pg, IdC])),
  }
}

const sessionKey = (names: AgreementNames, messages: Messages, shared: GT, ephemeral: G1): Uint8Array =>
  deriveKey('CHOW-CHOO', concat(shared.toBytes(), ephemeral.encode()), transcript(names, messages))
