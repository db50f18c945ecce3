/** An echo: the client writes before it knows the server, and both say who they have met. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import tls from 'node:tls'
import type { Certificates, Say } from '../credentials.js'

export async function run(say: Say, { key, cert, ca }: Certificates): Promise<void> {
  const server = tls.createServer({ key, cert, ca, requestCert: true, rejectUnauthorized: true }, socket => {
    say(`server: ${socket.getProtocol()}, authorized ${socket.authorized}`)
    socket.pipe(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const options = { key, cert, ca, servername: 'gw.example', rejectUnauthorized: true } as const
  const socket = tls.connect(port, '127.0.0.1', options, () => {
    say(`client: ${socket.getProtocol()}, authorized ${socket.authorized}, from ${socket.remoteAddress}`)
  })
  say(`client: connecting ${socket.connecting}, ${socket instanceof tls.TLSSocket}`)
  socket.setEncoding('utf8')
  socket.write('hello, ')
  socket.once('secureConnect', () => socket.end('world'))
  let text = ''
  for await (const chunk of socket) text += chunk
  say(`client: ${text}`)

  // One that gives up before it is connected, and one that nobody listens to.
  const gone = tls.connect({ ...options, port, host: '127.0.0.1' })
  gone.destroy()
  await once(gone, 'close')
  say(`client: ${gone.destroyed}`)
  await new Promise(resolve => server.close(resolve))
  const refused = tls.connect({ ...options, port, host: '127.0.0.1' })
  const [error] = await once(refused, 'error')
  say(`client: ${error.code} at ${error.address}`)
}
