/** fetch, by a dispatcher that keeps its connection. */
import { once } from 'node:events'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { Agent, fetch, request } from 'undici'
import type { Certificates, Say } from '../credentials.js'

export async function run(say: Say, { key, cert, ca }: Certificates): Promise<void> {
  let connections = 0
  const server = createServer({ key, cert, ca, requestCert: true }, (asked, response) => {
    response.setHeader('x-path', String(asked.url))
    asked.pipe(response)
  })
  server.on('secureConnection', () => connections++)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const connect = { key, cert, ca, servername: 'gw.example' }
  const dispatcher = new Agent({ connections: 1, connect })
  const url = `https://127.0.0.1:${port}`
  for (const path of ['/one', '/two']) {
    const answer = await fetch(url + path, { method: 'POST', body: 'body', dispatcher })
    say(`client: ${answer.status} ${answer.headers.get('x-path')} ${await answer.text()}`)
  }
  const { statusCode, body } = await request(`${url}/three`, { method: 'PUT', body: 'more', dispatcher })
  say(`client: ${statusCode} ${await body.text()}`)
  say(`server: ${connections} connection`)
  await dispatcher.close()
  await new Promise(resolve => server.close(resolve))
}
