/** A broker in this process, and a client that publishes and hears. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect } from '@milagro-ts/tls/mqtt'
import { createServer } from '@milagro-ts/tls/tls'
import { Aedes } from 'aedes'
import type { Identities, Say } from '../credentials.js'

export async function run(say: Say, { service, car }: Identities): Promise<void> {
  const broker = await Aedes.createBroker()
  const server = createServer({ ...service, requestCert: true }, socket => broker.handle(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const options = { identity: car, servername: 'gw.example', clientId: 'car', reconnectPeriod: 0 }
  const client = connect(`mqtts://someone@127.0.0.1:${port}`, options)
  const heard = new Promise<string>(resolve => {
    client.on('message', (topic, payload) => resolve(`${topic} ${payload}`))
  })
  // Before it is connected: it waits.
  const subscribed = client.subscribeAsync('positions')
  say(`client: ${client.connected}`)
  await subscribed
  say(`client: ${client.connected}, ${client.options.username}`)
  await client.publishAsync('positions', 'somewhere', { qos: 1 })
  say(`client: ${await heard}`)
  await client.endAsync()
  await new Promise<void>(resolve => broker.close(resolve))
  await new Promise(resolve => server.close(resolve))
}
