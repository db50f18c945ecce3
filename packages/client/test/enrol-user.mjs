// Enrols a user on the device in a token store, once standard input says so:
// node enrol-user.mjs RPS STORE NOW CODE PIN; says {pid, name} or {pid, code} in one line.
import { once } from 'node:events'
import { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'

const [, , rps, file, now, code, pin] = process.argv
const car = await Device.open({
  rps,
  store: fileTokenStore(file),
  clock: () => Number(now),
  wait: () => Promise.resolve(),
  pinCost: { iterations: 10, slowDevice: true },
})
process.stdout.write('open\n')
await once(process.stdin, 'data')
const { pid } = process
try {
  const name = await car.enrolUser({ code, attributes: { driverName: 'Jo' }, pin })
  process.stdout.write(`${JSON.stringify({ pid, name })}\n`)
} catch (error) {
  process.stdout.write(`${JSON.stringify({ pid, code: error.code ?? error.message })}\n`)
}
process.exit()
