/**
 * The order in which an M-Pin message is verified (protocols.md §4), the same for logins, one pass, signatures,
 * permits, PIN changes and a device's word for its user.
 *
 *   (1) shape: mode, audience, exporter, factors, payload               MALFORMED
 *       slot and key epochs                                              EXPIRED
 *       the source's failed proofs                                       RETRY_LATER
 *       nonce taken | clientTime near                                    REPLAYED, EXPIRED | CLOCK
 *   (2) the points decoded, in a worker                                  MALFORMED
 *       the device proof alone: e(V_dev, Q)·e(U_dev + cA_dev, S_dev) = 1  WRONG_PROOF, the source pays
 *       replay record of (idCore, U_dev), for clientTime                 REPLAYED
 *       deny list                                                        BANNED, REVOKED
 *       permit of the slot                                               WRONG_PERMIT, PERMIT_EXPIRED, BANNED …
 *   (3) the account takes this pinGen                                    WRONG_PIN, uncounted
 *       a strike reserved, +1 on both counters                           LOCKED
 *   (4) the PIN proof, with ρ drawn now; the strike settled              WRONG_PIN
 *       deny list again: a ban may have come during all this             BANNED, REVOKED
 *
 * Nothing before (2) looks at who the identity is: no table, no RPA, only the message. That the device proof holds is
 * what says that the authorities issued this identity, so an unknown one costs and says the same as a known one with a
 * wrong proof. Nothing before (3) counts a strike, so an outsider can lock nobody; nothing of (4) happens without one,
 * so a thief can't dodge them.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import type { RateLimit } from '@milagro-ts/api/rate-limit'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { type IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import {
  type Binding,
  factorsSatisfied,
  type LoginClaim,
  MODE,
  type Mode,
  type PinTerms,
} from '@milagro-ts/crypto/mpin'
import { type CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { AuthenticatedLogin, type CheckedPermit, ProvenLogin } from '@milagro-ts/crypto/pooled-login'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { SingleUse } from '@milagro-ts/store/single-use'
import type { AudiencePolicy } from './config.js'
import { isSlotNow } from './nonces.js'
import type { Happening } from './notices.js'
import type { Wanted } from './permit-source.js'

/** Wrong PINs in a row, and in the life of a pinGen. */
export const CONSECUTIVE_LIMIT = 3
const CUMULATIVE_LIMIT = 30
/** Milliseconds after which an unanswered reservation counts as wrong. */
const RESERVATION = 30_000
/** Milliseconds that a one-pass message is remembered: twice the largest Δ, so that a setting can't shorten it. */
export const REPLAY_KEPT = 2 * 300_000

/** What one route asks of one message. */
export interface Attempt {
  readonly message: LoginClaim
  readonly modes: readonly Mode[]
  /** The policy of the one audience that the message must name. */
  readonly audience: Pick<AudiencePolicy, 'name' | 'pin' | 'tlsExporter'>
  /** `device`: the device alone, whatever its identity logs in with. `identity`: what its idCore and the audience ask. */
  readonly factors: 'device' | 'identity'
  /** `kept`: a key of a former key epoch will do, to get one of a later. Else the slot fixes the epoch. */
  readonly epochs?: 'kept'
  readonly needsPermit: boolean
  /** SHA-256 of the payload, in mode `sign`. */
  readonly payloadHash?: Uint8Array | undefined
  /** Of the connection that the message came on. */
  readonly tlsExporter?: Uint8Array | undefined
  /** Whose failed proofs are counted; absent where a service asks for others. */
  readonly source?: string | undefined
}

export interface VerificationPorts {
  readonly group: Group
  /** Where points are: its workers hold S_dev and S_pin. */
  readonly pool: CryptoPool
  /** Refused RETRY_LATER while the workers have no such key. */
  readonly checkServerKey: (purpose: 'device' | 'pin', epoch: number) => void
  readonly clock: Clock
  readonly random: Random
  /** Δ in seconds. */
  readonly delta: number
  /** Unix milliseconds since when the replay record is whole: T0, or what has been purged of it. */
  readonly replaySince: () => Promise<number>
  readonly takeNonce: (nonce: Uint8Array) => Promise<void>
  readonly singleUse: SingleUse
  readonly failedProofs: RateLimit
  readonly checkRevocation: (idCore: IdCore, userCore: Uint8Array) => Promise<void>
  readonly permit: (wanted: Wanted, carried: LoginClaim['permit']) => Promise<CheckedPermit>
  /** May a PIN of this generation be tried? */
  readonly takesPin: (account: { idCore: IdCore; userCore: Uint8Array; pinGen: number }) => Promise<boolean>
  /** A PIN of this generation was right; false when it is over by now. */
  readonly acceptPin: (idCore: IdCore, userCore: Uint8Array, pinGen: number) => Promise<boolean>
  /** Resolves once it is sure that the RPA will be told. */
  readonly tell: (happening: Happening) => Promise<void>
  readonly metrics: Metrics
}

export interface DeviceVerified {
  readonly proven: ProvenLogin
  /** Where the route needs one. */
  readonly permit: CheckedPermit | undefined
}
export interface Verified {
  readonly authenticated: AuthenticatedLogin
  readonly permit: CheckedPermit | undefined
}

/** A port of the server, so that a test can run one that verifies wrongly and see the story stop. */
export interface Verification {
  /** Steps 1 and 2. */
  readonly device: (ports: VerificationPorts, attempt: Attempt) => Promise<DeviceVerified>
  /** All four steps. */
  readonly identity: (ports: VerificationPorts, attempt: Attempt) => Promise<Verified>
}
export const verification: Verification = { device: verifyDevice, identity: verifyIdentity }

/** Refused with one of the codes above; a message that gets through has used its nonce or its place in the record. */
export async function verifyDevice(ports: VerificationPorts, attempt: Attempt): Promise<DeviceVerified> {
  const { message, source } = attempt
  const binding = checkShape(ports, attempt)
  ports.checkServerKey('device', message.deviceEpoch)
  if (message.pin !== undefined) ports.checkServerKey('pin', message.pin.pinEpoch)
  if (source !== undefined) ports.failedProofs.check(source)
  if (message.nonce !== undefined) await ports.takeNonce(message.nonce)
  if (message.clientTime !== undefined) await checkClientTime(ports, message.clientTime)

  const proven = await proveDevice(ports, attempt, binding)
  if (proven === null) {
    ports.metrics.count('device_proofs_failed')
    throw new Refused('WRONG_PROOF')
  }
  const { idCore, slot } = message
  const userCore = message.pin?.userCore ?? NO_USER
  if (message.clientTime !== undefined) await recordReplay(ports, message)
  await ports.checkRevocation(idCore, userCore)
  const permit = attempt.needsPermit
    ? await ports.permit({ idCore, userCore, slot }, message.permit)
    : undefined
  return { proven, permit }
}

/** The source pays before its proof is looked at, and gets it back if it holds: many at once cost what they may. */
async function proveDevice(
  { pool, failedProofs }: VerificationPorts,
  { message, source }: Attempt,
  binding: Binding,
): Promise<ProvenLogin | null> {
  if (source === undefined) return ProvenLogin.verify(pool, message, binding, source)
  failedProofs.take(source)
  try {
    const proven = await ProvenLogin.verify(pool, message, binding, source)
    if (proven !== null) failedProofs.refund(source)
    return proven
  } catch (error) {
    if (error instanceof PoolUnavailable) failedProofs.refund(source)
    throw error
  }
}

export async function verifyIdentity(ports: VerificationPorts, attempt: Attempt): Promise<Verified> {
  const { proven, permit } = await verifyDevice(ports, attempt)
  const { idCore, pin } = attempt.message
  const authenticated =
    pin === undefined ? AuthenticatedLogin.byDevice(proven) : await verifyPin(ports, attempt, proven, pin)
  // RPA and authorities may have taken seconds over the permit and the account; a ban of meanwhile counts.
  await ports.checkRevocation(idCore, pin?.userCore ?? NO_USER)
  return { authenticated, permit }
}

/** Steps 3 and 4. */
async function verifyPin(
  ports: VerificationPorts,
  { message: { idCore, slot, audience } }: Attempt,
  proven: ProvenLogin,
  pin: PinTerms,
): Promise<AuthenticatedLogin> {
  const { userCore, pinGen } = pin
  if (!(await ports.takesPin({ idCore, userCore, pinGen })))
    throw new Refused('WRONG_PIN', { log: 'unknown user, or a PIN generation that is not in use' })
  const tell = (event: 'locked' | 'wrong-pin') =>
    ports.tell({
      event,
      idCore: idCore.mpinId,
      ...(userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }),
      pinGen,
      amr: ['device'],
      audience,
      slot,
    })
  const account = strikeAccount(idCore, userCore, pinGen)
  const reserved = await ports.singleUse.reserve(account, {
    now: ports.clock(),
    consecutiveLimit: CONSECUTIVE_LIMIT,
    cumulativeLimit: CUMULATIVE_LIMIT,
    reservationMs: RESERVATION,
  })
  if ('locked' in reserved) {
    await tell('locked')
    const isForGood = reserved.locked === 'cumulative'
    throw new Refused('LOCKED', { detail: isForGood ? 'a new PIN is needed' : 'an operator must unlock' })
  }
  const settle = (correct: boolean) =>
    ports.singleUse.settle(reserved.reservation, { now: ports.clock(), correct })

  // PoolUnavailable leaves the strike unanswered: it counts as wrong, so that making a worker die gains no guess.
  const authenticated = await AuthenticatedLogin.byPin(ports.pool, proven)
  if (authenticated === null) {
    await settle(false)
    ports.metrics.count('pins_wrong')
    const { consecutive, cumulative } = await ports.singleUse.strikes(account)
    await tell(consecutive >= CONSECUTIVE_LIMIT || cumulative >= CUMULATIVE_LIMIT ? 'locked' : 'wrong-pin')
    throw new Refused('WRONG_PIN')
  }
  const isAccepted = await ports.acceptPin(idCore, userCore, pinGen)
  await settle(true)
  if (!isAccepted) throw new Refused('WRONG_PIN', { log: 'a newer PIN came into use meanwhile' })
  return authenticated
}

/** One counter for each PIN generation: guesses at an old PIN say nothing about a new one. */
export function strikeAccount(idCore: IdCore, userCore: Uint8Array, pinGen: number): string {
  return `${idCore.mpinId}/${toBase64Url(userCore)}/${pinGen}`
}

/** Everything that can be said from the message and the settings alone. */
function checkShape(ports: VerificationPorts, attempt: Attempt): Binding {
  const { message, audience, payloadHash } = attempt
  const { pin } = message
  const malformed = (field: string, detail: string) => new Refused('MALFORMED', { field, detail })
  if (!attempt.modes.includes(message.mode)) throw malformed('mode', 'this route takes another mode')
  if (message.audience !== audience.name) throw malformed('audience', 'not an audience of this route')
  if (
    message.mode === MODE.sign &&
    !(payloadHash && message.payloadHash && equalBytes(payloadHash, message.payloadHash))
  )
    throw malformed('payloadHash', 'not of this payload')
  const isSatisfied =
    attempt.factors === 'device'
      ? pin === undefined
      : factorsSatisfied(message.idCore.factors, pin !== undefined, audience.pin === 'required') &&
        !(audience.pin === 'never' && pin !== undefined)
  if (!isSatisfied) throw malformed('factors', 'a factor is missing or forbidden')
  if (audience.tlsExporter === 'required' && attempt.tlsExporter === undefined)
    throw malformed(
      'tlsExporter',
      'this audience wants logins bound to their connection: TLS 1.3 that ends where they are sent',
    )
  checkSlotAndEpochs(ports, attempt)
  return {
    groupId: ports.group.groupId,
    ...(audience.tlsExporter === 'required' ? { tlsExporter: attempt.tlsExporter } : {}),
  }
}

/** The current slot, or the former one within `grace`; the slot fixes the key epochs, or the latest of them. */
function checkSlotAndEpochs({ group, clock }: VerificationPorts, { message, epochs }: Attempt): void {
  const { slot, deviceEpoch, pin } = message
  if (!isSlotNow(group, slot, clock())) throw new Refused('EXPIRED', { field: 'slot' })
  const checkEpoch = (purpose: 'device' | 'pin', epoch: number) => {
    const inForce = group.epochAt(purpose, slot)
    if (epoch === inForce) return
    const field = `${purpose}Epoch`
    if (epochs !== 'kept' || inForce === null || epoch > inForce) throw new Refused('EXPIRED', { field })
    if (group.keysOf(purpose, epoch) === null)
      throw new Refused('EPOCH_ENDED', {
        field,
        detail: 'the key epoch has ended: enrol the next generation',
      })
  }
  checkEpoch('device', deviceEpoch)
  if (pin !== undefined) checkEpoch('pin', pin.pinEpoch)
}

/** |clientTime − now| ≤ Δ, and after the time that our replay record can speak for. */
async function checkClientTime(
  { clock, delta, replaySince }: VerificationPorts,
  clientTime: number,
): Promise<void> {
  const off = clientTime - Math.floor(clock() / 1000)
  if (Math.abs(off) > delta)
    throw new Refused('CLOCK', {
      detail: `clientTime is ${off} s off, ${delta} are allowed: set it, or use a nonce`,
    })
  // A message of before that may have been used without a trace in the record.
  if (clientTime <= (await replaySince()) / 1000 + delta)
    throw new Refused('CLOCK', {
      detail: 'the replay record begins later: use a nonce, or try again in a while',
    })
}

async function recordReplay({ singleUse, clock }: VerificationPorts, message: LoginClaim): Promise<void> {
  const key = `${message.idCore.mpinId} ${toBase64Url(message.U_dev)}`
  if (!(await singleUse.put('one-pass', key, { expiresAt: clock() + REPLAY_KEPT })))
    throw new Refused('REPLAYED', { detail: 'this message was used before' })
}
