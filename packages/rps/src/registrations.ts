/**
 * Registrations: a device, a user on a device, a new PIN. The RPA decides; the RPS checks what it alone can (the
 * device's word for its user, the old PIN) and knows each registration by its enrolment key.
 *
 *   state      who moves it                                     to
 *   (none)     a device's, taken by the RPA                     pending, approved, refused, expired
 *   (none)     a user's or a PIN's, its message verified        proven
 *   proven     the RPA                                          pending, approved, refused, expired
 *   pending    the RPA, a person behind it                      pending, approved, refused, expired
 *   approved   the RPA again: the same ticket, or a fresh one   approved, expired
 *   refused, expired   nobody
 *
 * The same request again is answered again: a proven message counts for its registration from then on, so that asking
 * what became of it needs no second one. Another request under the same key is CONFLICT.
 */
import { canonicalHash } from '@milagro-ts/api/canonical-json'
import { decodeHpkeKey } from '@milagro-ts/api/keys'
import { pinChangePayload, userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { Refused } from '@milagro-ts/api/problem'
import type { Body } from '@milagro-ts/api/route'
import type { RegistrationAnswer, rpaRoutes } from '@milagro-ts/api/rpa-routes'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { equalBytes, fromBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import { LoginClaim } from '@milagro-ts/crypto/mpin'
import type { Clock } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Connection, Store } from '@milagro-ts/store/database'
import type { Accounts } from './accounts.js'
import type { RelyingParty } from './relying-party.js'
import { userFields } from './tokens.js'

type State = 'proven' | RegistrationAnswer['state']
const MOVES: Readonly<Record<State | 'none', readonly State[]>> = {
  none: ['proven', 'pending', 'approved', 'refused', 'expired'],
  proven: ['pending', 'approved', 'refused', 'expired'],
  pending: ['pending', 'approved', 'refused', 'expired'],
  approved: ['approved', 'expired'],
  refused: [],
  expired: [],
}
/** Milliseconds after its last move that a registration is remembered. */
const REMEMBERED = 30 * 86_400_000

type DeviceBody = Extract<Body<typeof rpsRoutes.register>, { kind: 'device' }>
type UserBody = Extract<Body<typeof rpsRoutes.register>, { kind: 'user' }>
type ForwardedBody = Body<typeof rpaRoutes.verify>

/** Verifies a message in mode `sign` for the RPS' own audience; `pin` says whether it must carry a PIN proof. */
export type ProveSigned = (
  message: LoginClaim,
  payloadHash: Uint8Array,
  pin: 'optional' | 'required',
) => Promise<void>

export interface RegistrationPorts {
  readonly store: Store<unknown>
  readonly relyingParty: RelyingParty
  readonly accounts: Accounts
  readonly checkRevocation: (idCore: IdCore, userCore: Uint8Array) => Promise<void>
  readonly clock: Clock
}

interface Row {
  readonly vouchHash: Uint8Array | undefined
  readonly state: State
}

/** A request that a verified message stands for. */
interface Vouched {
  readonly message: LoginClaim
  readonly vouchHash: Uint8Array
  readonly payloadHash: Uint8Array
  readonly pin: 'optional' | 'required'
}

export class Registrations {
  readonly #ports: RegistrationPorts

  constructor(ports: RegistrationPorts) {
    this.#ports = ports
  }

  /** Refused MALFORMED, CONFLICT, RETRY_LATER, or as the RPA refuses. */
  async device(body: DeviceBody): Promise<RegistrationAnswer> {
    const { key } = enrolmentFields(body)
    const digest = canonicalHash(body)
    const row = await this.#find(key, digest)
    if (row !== undefined && isOver(row.state)) return { state: row.state }
    const answer = await this.#ports.relyingParty.verify(body)
    await this.#move(key, digest, answer.state)
    await this.#learn(answer)
    return answer
  }

  /** The device's word comes as a `sign` message over (attributes, enrolment key). Refusals as of a verification, too. */
  user(body: UserBody, prove: ProveSigned): Promise<RegistrationAnswer> {
    const { vouch, ...claimed } = body
    const { key } = enrolmentFields(body)
    const message = LoginClaim.fromJson(vouch)
    return this.#vouched(
      key,
      { ...claimed, idCore: message.idCore.mpinId },
      {
        message,
        vouchHash: canonicalHash(vouch),
        payloadHash: sha256(userEnrolmentPayload(body.attributes, key)),
        pin: 'optional',
      },
      prove,
    )
  }

  /** A `sign` message with both proofs over the enrolment key asks for the next pinGen. */
  pinChange(body: Body<typeof rpsRoutes.changePin>, prove: ProveSigned): Promise<RegistrationAnswer> {
    const key = decodeHpkeKey(body.hpkeKey)
    const message = LoginClaim.fromJson(body.message)
    const { pin, idCore } = message
    if (pin === undefined)
      throw new Refused('MALFORMED', { field: 'factors', detail: 'the old PIN is needed' })
    return this.#vouched(
      key,
      {
        kind: 'pin',
        idCore: idCore.mpinId,
        ...userFields(pin.userCore),
        pinGen: pin.pinGen,
        hpkeKey: body.hpkeKey,
      },
      {
        message,
        vouchHash: canonicalHash(body.message),
        payloadHash: sha256(pinChangePayload(key)),
        pin: 'required',
      },
      prove,
    )
  }

  async purge(now: number): Promise<void> {
    await this.#ports.store.atomic(connection =>
      connection.run('DELETE FROM registration WHERE changed_at < ?', [now - REMEMBERED]),
    )
  }

  async #vouched(
    key: Uint8Array,
    forwarded: ForwardedBody,
    { message, vouchHash, payloadHash, pin }: Vouched,
    prove: ProveSigned,
  ): Promise<RegistrationAnswer> {
    const { idCore } = message
    const digest = canonicalHash(forwarded)
    const row = await this.#find(key, digest)
    if (row?.vouchHash === undefined || !equalBytes(row.vouchHash, vouchHash)) {
      await prove(message, payloadHash, pin)
      await this.#proven(key, digest, vouchHash)
    } else {
      // The message was proven before; whether its sender may still speak is asked anew.
      await this.#ports.checkRevocation(idCore, message.pin?.userCore ?? NO_USER)
    }
    if (row !== undefined && isOver(row.state)) return { state: row.state }
    const answer = await this.#ports.relyingParty.verify(forwarded)
    await this.#move(key, digest, answer.state)
    await this.#learn(answer)
    return answer
  }

  /** Refused CONFLICT when the key belongs to another request. */
  async #find(key: Uint8Array, digest: Uint8Array): Promise<Row | undefined> {
    const [found] = await this.#ports.store.atomic(connection =>
      connection.all('SELECT digest, vouch_hash, state FROM registration WHERE hpke_key = ?', [key]),
    )
    if (found === undefined) return undefined
    if (!equalBytes(found.digest as Uint8Array, digest)) throw otherRequest()
    return {
      vouchHash: (found.vouch_hash as Uint8Array | null) ?? undefined,
      state: found.state as State,
    }
  }

  /** The message counts from now on, in the place of an earlier one for the same request. */
  async #proven(key: Uint8Array, digest: Uint8Array, vouchHash: Uint8Array): Promise<void> {
    await this.#ports.store.atomic(connection => {
      if (stateOf(connection, key, digest) === 'none')
        insert(connection, key, digest, 'proven', this.#ports.clock())
      connection.run('UPDATE registration SET vouch_hash = ? WHERE hpke_key = ?', [vouchHash, key])
    })
  }

  async #move(key: Uint8Array, digest: Uint8Array, state: RegistrationAnswer['state']): Promise<void> {
    const now = this.#ports.clock()
    await this.#ports.store.atomic(connection => {
      const from = stateOf(connection, key, digest)
      // Two of the same request may run at once; the one that comes second finds its move made.
      if (from === state) return
      if (!MOVES[from].includes(state))
        throw new Refused('RETRY_LATER', { log: `the RPA moves a registration from ${from} to ${state}` })
      if (from === 'none') insert(connection, key, digest, state, now)
      else
        connection.run('UPDATE registration SET state = ?, changed_at = ? WHERE hpke_key = ?', [
          state,
          now,
          key,
        ])
    })
  }

  /** A ticket for a PIN generation was made: from now on it is one that may log in. */
  async #learn(answer: RegistrationAnswer): Promise<void> {
    if (answer.state !== 'approved' || answer.user === undefined) return
    const { userCore, pinGen } = answer.user
    await this.#ports.accounts.issued(
      IdCore.fromBase64Url(answer.idCore),
      userCore === undefined ? NO_USER : fromBase64Url(userCore, 'userCore', 32),
      pinGen,
    )
  }
}

/** Refused CONFLICT when the key belongs to another request. */
function stateOf(connection: Connection, key: Uint8Array, digest: Uint8Array): State | 'none' {
  const [row] = connection.all('SELECT digest, state FROM registration WHERE hpke_key = ?', [key])
  if (row === undefined) return 'none'
  if (!equalBytes(row.digest as Uint8Array, digest)) throw otherRequest()
  return row.state as State
}

function insert(
  connection: Connection,
  key: Uint8Array,
  digest: Uint8Array,
  state: State,
  now: number,
): void {
  connection.run('INSERT INTO registration (hpke_key, digest, state, changed_at) VALUES (?, ?, ?, ?)', [
    key,
    digest,
    state,
    now,
  ])
}

function isOver(state: State): state is 'refused' | 'expired' {
  return MOVES[state].length === 0
}

function otherRequest(): Refused {
  return new Refused('CONFLICT', { detail: 'this enrolment key belongs to another request' })
}

/** The fields in their one spelling; codeId and mac stand together or not at all. */
function enrolmentFields(body: DeviceBody | UserBody): { key: Uint8Array } {
  const key = decodeHpkeKey(body.hpkeKey)
  fromBase64Url(body.nonce, 'nonce', 32)
  if ((body.codeId === undefined) !== (body.mac === undefined))
    throw new Refused('MALFORMED', { field: 'mac', detail: 'codeId and mac stand together' })
  return { key }
}
