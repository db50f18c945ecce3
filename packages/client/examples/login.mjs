import { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'

const { RPS, SERVICE, CAR_CODE, DRIVER_CODE } = process.env
const car = await Device.enrol({
  rps: RPS,
  code: CAR_CODE, // 128 secret bits and the group's fingerprint, from whoever runs the fleet
  attributes: { brand: 'Acme', model: 'Roadster', variant: 'GT' },
  instance: 'WVWZZZ1JZXW000001',
  store: fileTokenStore('car/device.json'),
})
await car.enrolUser({ code: DRIVER_CODE, attributes: { driverName: 'Jo' }, pin: '1234' })
const { accessToken } = await car.login({ audience: SERVICE, user: 'Jo', pin: '1234' })
console.log(accessToken)
