/** A WebSocket beside an ordinary answer. */
import { once } from 'node:events'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { WebSocket, WebSocketServer } from 'ws'
import type { Certificates, Say } from '../credentials.js'

export async function run(say: Say, { key, cert, ca }: Certificates): Promise<void> {
  const server = https.createServer({ key, cert, ca, requestCert: true })
  server.on('request', (_, response) => response.end('plain'))
  const sockets = new WebSocketServer({ server, path: '/stream' })
  sockets.on('connection', (socket, request) => {
    say(`server: ${request.url}, ${request.headers.upgrade}`)
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const options = { key, cert, ca, servername: 'gw.example' }
  const socket = new WebSocket(`wss://127.0.0.1:${port}/stream`, options)
  say(`client: ${socket.readyState === WebSocket.CONNECTING}`)
  await once(socket, 'open')
  socket.send('position')
  const [data] = await once(socket, 'message')
  say(`client: ${data}`)
  socket.close(1000)
  say(`client: ${(await once(socket, 'close'))[0]}`)

  const elsewhere = new WebSocket(`wss://127.0.0.1:${port}/other`, options)
  say(`client: ${(await once(elsewhere, 'error'))[0].message}`)
  sockets.close()
  server.closeAllConnections()
  await new Promise(resolve => server.close(resolve))
}
