/** vectors/enrolment-and-login.json as a device's input, and what the device makes of it. */
import type { DeviceInput } from './device-login.js'
import type { oneLogin } from './one-login.mjs'
import { readVectors } from './vector-files.js'

const frozen = readVectors<ReturnType<typeof oneLogin>>('enrolment-and-login.json')
const { setting, enrolment, keys, pin, permit, login } = frozen
export const { group } = frozen
export const input: DeviceInput = {
  groupId: setting.groupId,
  code: enrolment.code,
  hpkeKey: enrolment.hpkeKey,
  nonce: enrolment.deviceNonce,
  attributes: enrolment.attributes,
  instance: enrolment.instance,
  issueDate: enrolment.issueDate,
  salt: enrolment.salt,
  idCore: enrolment.idCore,
  userCore: enrolment.userCore,
  pinGen: enrolment.pinGen,
  device: { commitments: group.device.commitments, shares: keys.device.shares },
  pin: { commitments: group.pin.commitments, shares: keys.pin.shares },
  stretched: pin.stretched,
  iterations: pin.iterations,
  permit: permit.wire,
  login: {
    audience: login.audience,
    deviceEpoch: setting.epoch.device,
    pinEpoch: setting.epoch.pin,
    slot: setting.slot,
    nonce: login.nonce,
    tlsExporter: login.tlsExporter,
    draws: [login.x.random, login.xPin.random, login.k.random],
  },
}
export const expected = {
  mac: enrolment.mac,
  deviceKey: keys.device.key,
  token: pin.token,
  tokenFile: pin.tokenFile,
  message: login.message,
  authorization: login.authorization,
  json: login.json,
}
