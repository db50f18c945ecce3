import { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { get } from '@milagro-ts/tls/https'

const { RPS = '', PORT = '7443' } = process.env
const car = await Device.open({ rps: RPS, store: fileTokenStore('car.json') })
const to = { host: '127.0.0.1', port: PORT, identity: car, servername: 'depot.example' }
get(to, answer => answer.pipe(process.stdout)).once('error', ({ message }) => {
  console.error(message)
  process.exitCode = 1
})
