/** vectors/enrolment-and-login.json: our own values, frozen. A change of any of them is a change of the protocol. */
import { fromHex } from '@milagro-ts/crypto/bytes'
import { Authenticated, DeviceProven, LoginMessage } from '@milagro-ts/crypto/mpin'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { Permit, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { expect, test } from 'vitest'
import { oneLogin } from './one-login.mjs'
import { point1, point2, readVectors } from './vector-files.js'
import { mustBe, seeded } from './world.js'

const frozen = readVectors<ReturnType<typeof oneLogin>>('enrolment-and-login.json')
const computed = JSON.parse(JSON.stringify(oneLogin())) as typeof frozen

const sections = Object.keys(computed) as (keyof typeof frozen)[]

test.each(sections)('%s is what it was', section => {
  expect(computed[section]).toEqual(frozen[section])
})

test('nothing stands in the file that is not computed', () => {
  expect(Object.keys(frozen)).toEqual(sections)
})

test('the frozen message is accepted, by the frozen keys alone', () => {
  const { group, login, setting, enrolment } = frozen
  const keyOf = (purpose: 'device' | 'pin') =>
    mustBe(ServerKey.verify(point1(group[purpose].ivk), point2(group[purpose].serverKey)))
  const groupId = fromHex(setting.groupId)
  const message = LoginMessage.decode(fromHex(login.message))
  const binding = { groupId, tlsExporter: fromHex(login.tlsExporter) }
  const proven = mustBe(DeviceProven.verify(message, binding, keyOf('device')))
  const who = mustBe(Authenticated.byPin(proven, keyOf('pin'), seeded('ρ')))
  expect(who.idCore.mpinId).toBe(enrolment.mpinId)
  expect(who.userCore).toEqual(fromHex(enrolment.userCore))
  const terms = { groupId, permitEpoch: setting.epoch.permit, rule: setting.rule }
  const permit = Permit.decode(fromHex(frozen.permit.wire))
  expect(VerifiedPermit.verify(terms, point2(group.permit.serverKey), permit)?.covers(who.idCore)).toBe(true)
})
