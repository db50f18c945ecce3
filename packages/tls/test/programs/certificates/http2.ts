/** Streams and requests over one session. */
import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { Certificates, Say } from '../credentials.js'

export async function run(say: Say, { key, cert, ca }: Certificates): Promise<void> {
  const server = http2.createSecureServer({ key, cert, ca, requestCert: true })
  server.on('session', session => say(`server: a session, ${session.encrypted} ${session.alpnProtocol}`))
  server.on('stream', (stream, headers) => {
    if (headers[':path'] !== '/stream') return
    stream.respond({ [http2.constants.HTTP2_HEADER_STATUS]: 200 })
    stream.end(`a stream, ${headers[':method']}`)
  })
  server.on('request', (request, response) => {
    if (request.url === '/stream') return
    response.end(`a request, ${request.method} ${request.url} ${request.httpVersion}`)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const options = { key, cert, ca, servername: 'gw.example' }
  const session = http2.connect(`https://127.0.0.1:${port}`, options, (_, socket) => {
    say(`client: connected, ${socket.remoteAddress}`)
  })
  say(`client: connecting ${session.connecting}`)
  const asked = async (path: string) => {
    const stream = session.request({ ':path': path })
    stream.setEncoding('utf8')
    let text = ''
    for await (const chunk of stream) text += chunk
    return text
  }
  for (const text of await Promise.all(['/stream', '/a', '/b'].map(asked))) say(`client: ${text}`)
  session.close()
  await once(session, 'close')
  await new Promise(resolve => server.close(resolve))
}
