/** A service with limits of its own, and a client that keeps its connection. */
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import https from '@milagro-ts/tls/https'
import type { Identities, Say } from '../credentials.js'

export async function run(say: Say, { service, car }: Identities): Promise<void> {
  let connections = 0
  const server = https.createServer({ ...service, requestCert: true, keepAliveTimeout: 60_000 })
  server.headersTimeout = 61_000
  server.maxHeadersCount = 50
  server.setTimeout(120_000)
  server.on('secureConnection', () => connections++)
  server.on('request', async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    response.setHeader('content-type', 'text/plain')
    response.end(`${request.method} ${request.url} ${body} ${'authorized' in request.socket}`)
  })
  server.on('checkContinue', (request, response) => {
    say('server: asked to continue')
    response.writeContinue()
    server.emit('request', request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  say(`server: ${server.listening}, ${server.keepAliveTimeout}, ${server.requestTimeout}, ${server.timeout}`)

  const read = async (answer: IncomingMessage) => {
    let text = ''
    for await (const chunk of answer) text += chunk
    say(`client: ${answer.statusCode} ${answer.headers['content-type']} ${text}`)
  }
  const agent = new https.Agent({ identity: car, keepAlive: true, maxSockets: 1 })
  const at = { host: '127.0.0.1', port, servername: 'gw.example', agent }
  for (const path of ['/one', '/two']) {
    const request = https.get({ ...at, path })
    await read((await once(request, 'response'))[0])
  }
  const post = https.request({ ...at, path: '/three', method: 'POST', headers: { expect: '100-continue' } })
  post.flushHeaders()
  await once(post, 'continue')
  post.end('body')
  await read((await once(post, 'response'))[0])
  say(`server: ${connections} connection`)

  // Without an agent of its own, and with a callback.
  await new Promise<void>((resolve, reject) => {
    const url = `https://127.0.0.1:${port}/four?x=1`
    https
      .get(url, { identity: car, servername: 'gw.example' }, answer => read(answer).then(resolve, reject))
      .on('error', reject)
  })
  say(`server: ${connections} connections`)
  agent.destroy()
  server.closeAllConnections()
  await new Promise(resolve => server.close(resolve))
  const late = https.get({ ...at, path: '/five' })
  say(`client: ${(await once(late, 'error'))[0].code}`)
}
