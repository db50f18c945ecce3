/**
 * Takes a device from its former keys to those of a later key epoch (api/key-rotation.ts has the whole exchange). Here
 * the former keys are proven; what the authorities answer is sealed to the device's own key, so nobody here can read it,
 * and a share for another key has a proof that the device refuses. A device that got too few good ones asks again and
 * says whose it couldn't use: then it isn't these that are waited for.
 */
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import { type KeyRotation, keyRotationPayload, ROTATED_PURPOSES } from '@milagro-ts/api/key-rotation'
import { decodeHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Answer, Body } from '@milagro-ts/api/route'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { LoginClaim, MODE } from '@milagro-ts/crypto/mpin'
import type { Clock } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Authorities } from './authorities.js'
import type { Identities } from './identities.js'
import { currentSlot } from './nonces.js'
import type { Attempt, Verified } from './verification.js'

type RotationBody = Body<typeof rpsRoutes.rotateKey>
type RotationAnswer = Answer<typeof rpsRoutes.rotateKey>
/** Verifies a message in mode `sign` for the RPS itself. */
type Prove = (
  attempt: Pick<Attempt, 'message' | 'payloadHash' | 'modes' | 'factors' | 'needsPermit' | 'epochs'>,
) => Promise<Verified>

export class KeyRotations {
  readonly #identities: Identities
  readonly #authorities: Authorities
  readonly #clock: Clock

  constructor(ports: { identities: Identities; authorities: Authorities; clock: Clock }) {
    this.#identities = ports.identities
    this.#authorities = ports.authorities
    this.#clock = ports.clock
  }

  /**
   * Refused with what a proof is refused with; MALFORMED for steps that don't begin at the proven keys, EXPIRED for ones
   * that don't end in a later key epoch of the group's.
   */
  async rotate(group: Group, body: RotationBody, prove: Prove): Promise<RotationAnswer> {
    const message = LoginClaim.fromJson(body.message)
    const rotation = rotationOf(group, body, message)
    const without = withoutOf(group, body)
    const { authenticated } = await prove({
      message,
      payloadHash: sha256(keyRotationPayload(rotation)),
      modes: [MODE.sign],
      factors: 'identity',
      needsPermit: true,
      epochs: 'kept',
    })
    const { idCore } = authenticated
    const { hpkeKey, device, pin } = body
    // Who is proven, not who is claimed: the PIN's part comes from the message that its proof held for.
    const account =
      pin === undefined || message.pin === undefined
        ? {}
        : {
            pinGen: message.pin.pinGen,
            ...(authenticated.userCore.length === 0 ? {} : { userCore: toBase64Url(authenticated.userCore) }),
          }
    const standing = await this.#identities.ask(
      idCore,
      authenticated.userCore,
      currentSlot(group, this.#clock()),
    )
    if (standing === null) throw new Refused('WRONG_PROOF', { log: 'the RPA does not know the identity' })
    const { statement } = standing
    const steps = { ...(device && { device }), ...(pin && { pin }) }
    const params = { groupId: toBase64Url(group.groupId) }
    const answers = await this.#authorities.askEach({
      group,
      ask: (authority, signal) =>
        authority.deltas({ params, body: { statement, hpkeKey, ...steps, ...account }, signal }),
      epochOf: (authority, answer) => deltaEpoch(group, authority, rotation, answer),
      without,
    })
    const of = (purpose: 'device' | 'pin') => answers.flatMap(answer => answer[purpose] ?? [])
    return { ...(device && { device: of('device') }), ...(pin && { pin: of('pin') }) }
  }
}

/** The share epoch of an answer to each step; null unless it is one, and in the group's own the authority's own. */
export function deltaEpoch(
  group: Group,
  { index }: GroupAuthority,
  steps: Pick<KeyRotation, 'device' | 'pin'>,
  answer: Answer<typeof dtaRoutes.deltas>,
): number | null {
  const shares = ROTATED_PURPOSES.filter(purpose => steps[purpose] !== undefined).map(
    purpose => answer[purpose],
  )
  const epoch = shares[0]?.shareEpoch
  if (epoch === undefined || shares.some(share => share?.shareEpoch !== epoch)) return null
  // In another share epoch the same authority may well have another index. Here it would speak for another one.
  if (epoch === group.shareEpoch && shares.some(share => share?.index !== index)) return null
  return epoch
}

/** Authorities whose shares the device couldn't use. Of more than n − t there are no t left to wait for. */
function withoutOf({ n, t }: Group, { without = [] }: RotationBody): ReadonlySet<number> {
  const indices = new Set(without)
  if (indices.size > n - t || without.some(index => index > n))
    throw new Refused('MALFORMED', { field: 'without', detail: `of ${n} authorities ${t} are needed` })
  return indices
}

function rotationOf(group: Group, { hpkeKey, device, pin }: RotationBody, message: LoginClaim): KeyRotation {
  const malformed = (field: string, detail: string) => new Refused('MALFORMED', { field, detail })
  if (device === undefined && pin === undefined) throw malformed('device', 'a step is wanted')
  if (pin !== undefined && message.pin === undefined)
    throw malformed('pin', 'a PIN key goes with its PIN only')
  if (device !== undefined && device.from !== message.deviceEpoch)
    throw malformed('device.from', 'not the key epoch of the device proof')
  if (pin !== undefined && pin.from !== message.pin?.pinEpoch)
    throw malformed('pin.from', 'not the key epoch of the PIN proof')
  for (const [purpose, step] of [
    ['device', device],
    ['pin', pin],
  ] as const)
    if (step !== undefined && (step.to <= step.from || group.keysOf(purpose, step.to) === null))
      throw new Refused('EXPIRED', { field: `${purpose}.to`, detail: 'not a later key epoch of the group' })
  return { hpkeKey: decodeHpkeKey(hpkeKey), device, pin }
}
