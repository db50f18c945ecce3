/**
 * The callbacks that an RPS makes to its relying-party application, on top of a directory. `mount(app, rpaRoutes,
 * callbacks, …)` serves them with fastify, `createRpaHandler` (handlers.ts) with any other HTTP server.
 *
 * A registration by code: the MAC is recomputed with the code's secret before the directory hears of it, so nothing
 * that the RPS or a relay changed (key, attributes, instance, nonce) gets as far as a decision. Without a code the
 * directory is told the six words and waits for a person.
 */

import { decodeHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Body } from '@milagro-ts/api/route'
import type { Approved, RegistrationAnswer, rpaRoutes } from '@milagro-ts/api/rpa-routes'
import type { Handlers, ServerCaller } from '@milagro-ts/api/serve'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type { Approval, CheckedRegistration, Directory } from './directory.js'
import {
  type ClaimedFields,
  type RegistrationAuthority,
  registrationDigest,
} from './registration-authority.js'

export type RpaRoutes = typeof rpaRoutes
export type Callbacks = Handlers<RpaRoutes>

type Verify = Body<RpaRoutes['verify']>
type ByKind<K extends Verify['kind']> = Extract<Verify, { kind: K }>

export interface CallbackPorts {
  readonly authority: RegistrationAuthority
  readonly directory: Directory
  /** The recipient of the group document that may call: the RPS. */
  readonly rpsName: string
}

export function createCallbacks({ authority, directory, rpsName }: CallbackPorts): Callbacks {
  return {
    async verify({ caller, body }) {
      onlyRps(caller)
      const registration = await checked(body)
      const decision = await directory.decide(registration)
      if (decision.state !== 'approved') return { state: decision.state } satisfies RegistrationAnswer
      const signed = await authority.ticket(decision, registration.hpkeKey)
      const ticket =
        signed === decision.ticket
          ? signed
          : await directory.keepTicket(registration.hpkeKey, signed, decision.ticket)
      return approved(decision, ticket)
    },

    async permit({ caller, body }) {
      onlyRps(caller)
      const idCore = IdCore.fromBase64Url(body.idCore)
      const standing = await directory.standing(idCore, userCoreOf(body))
      if (standing === null) throw new Refused('NOT_FOUND')
      if (standing.state === 'revoked') throw new Refused('REVOKED', { field: 'idCore' })
      // `field` tells the RPS which of the two to remember as banned.
      if (standing.banned !== undefined)
        throw new Refused('BANNED', { field: standing.banned === 'user' ? 'userCore' : 'idCore' })
      const statement = await authority.permitStatement({ idCore, slot: body.slot })
      const { attributes, instance, account } = standing
      return {
        statement,
        attributes: { ...attributes },
        instance,
        ...(account === undefined
          ? {}
          : {
              account: {
                issuedPinGen: account.issuedPinGen,
                acceptedPinGen: account.acceptedPinGen,
                ...(account.attributes === undefined ? {} : { attributes: { ...account.attributes } }),
              },
            }),
      }
    },

    async tree({ caller, body }) {
      onlyRps(caller)
      return authority.tree(await directory.revocations(), body)
    },

    async authenticated({ caller, body }) {
      onlyRps(caller)
      const happenings = body.notices.map(notice => ({
        ...notice,
        pinGen: notice.pinGen,
        idCore: IdCore.fromBase64Url(notice.idCore),
        userCore: userCoreOf(notice),
      }))
      const unknown = await directory.happened(happenings)
      return { unknown: unknown.map(({ id }) => id) }
    },

    async state({ caller }) {
      onlyRps(caller)
      return { state: await authority.state(await directory.revocations()) }
    },
  }

  function onlyRps({ name }: ServerCaller): void {
    if (name !== rpsName) throw new Refused('FORBIDDEN')
  }

  async function checked(body: Verify): Promise<CheckedRegistration> {
    switch (body.kind) {
      case 'device':
        return checkedDevice(body)
      case 'user':
        return checkedUser(body)
      case 'pin': {
        const { kind, pinGen } = body
        const hpkeKey = decodeHpkeKey(body.hpkeKey)
        const named = {
          kind,
          hpkeKey,
          idCore: IdCore.fromBase64Url(body.idCore),
          userCore: userCoreOf(body),
          pinGen,
        }
        return { ...named, digest: registrationDigest(named) }
      }
    }
  }

  async function checkedDevice(body: ByKind<'device'>): Promise<CheckedRegistration> {
    const claimed = { ...claimedFields(body), instance: body.instance }
    const proof = await proven(body, claimed)
    const { kind } = body
    const digest = registrationDigest({ kind, ...claimed, ...proof })
    return { kind, ...claimed, codeId: proof.codeId ?? null, words: authority.words(claimed), digest }
  }

  async function checkedUser(body: ByKind<'user'>): Promise<CheckedRegistration> {
    const claimed = claimedFields(body)
    const proof = await proven(body, claimed)
    const { kind } = body
    const idCore = IdCore.fromBase64Url(body.idCore)
    const digest = registrationDigest({ kind, ...claimed, ...proof, idCore })
    return { kind, ...claimed, idCore, codeId: proof.codeId ?? null, words: authority.words(claimed), digest }
  }

  /** Refused NOT_APPROVED for an unknown code and for a MAC that isn't made with it, in one voice. */
  async function proven(
    body: ByKind<'device' | 'user'>,
    claimed: ClaimedFields,
  ): Promise<{ codeId?: Uint8Array; mac?: Uint8Array }> {
    if ((body.codeId === undefined) !== (body.mac === undefined))
      throw new Refused('MALFORMED', { field: 'mac', detail: 'codeId and mac stand together' })
    if (body.codeId === undefined || body.mac === undefined) return {}
    const codeId = fromBase64Url(body.codeId, 'codeId', 16)
    const mac = fromBase64Url(body.mac, 'mac', 32)
    const secret = await directory.codeSecret(codeId)
    if (secret === null || !authority.macHolds(secret, mac, claimed)) {
      const log = secret === null ? 'unknown enrolment code' : 'the enrolment MAC does not hold'
      throw new Refused('NOT_APPROVED', { detail: 'the enrolment code does not fit this registration', log })
    }
    return { codeId, mac }
  }
}

function claimedFields(body: ByKind<'device' | 'user'>): Omit<ClaimedFields, 'instance'> {
  return {
    attributes: body.attributes,
    hpkeKey: decodeHpkeKey(body.hpkeKey),
    nonce: fromBase64Url(body.nonce, 'nonce', 32),
  }
}

function userCoreOf({ userCore }: { userCore?: string | undefined }): Uint8Array {
  return userCore === undefined ? NO_USER : fromBase64Url(userCore, 'userCore', 32)
}

function approved({ identity, user }: Approval, ticket: readonly string[]): Approved {
  const { idCore, leaf, generation, factors, issueDate, salt } = identity
  return {
    state: 'approved',
    idCore: idCore.mpinId,
    leaf,
    generation,
    factors,
    issueDate,
    salt: toBase64Url(salt),
    ...(user === undefined
      ? {}
      : {
          user: {
            ...(user.userCore.length === 0 ? {} : { userCore: toBase64Url(user.userCore) }),
            ...(user.salt === undefined ? {} : { salt: toBase64Url(user.salt) }),
            pinGen: user.pinGen,
          },
        }),
    ticket: [...ticket],
  }
}
