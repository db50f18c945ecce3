/**
 * The RPS' process, as far as a TLS server asks it about devices: it has read attributes and instance long ago, and holds the
 * slot's permit of the tree's root, which speaks for everybody. What it costs is nobody's figure here.
 */
import { createServer } from 'node:http'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { permitOf, secretOf } from './world.mjs'

/** @type {Record<string, (input: any) => unknown>} */
const tasks = {
  /** The origin. @param {{secret: string}} start */
  listen: async ({ secret }) => {
    const answer = JSON.stringify({
      attributes: { brand: 'Acme' },
      instance: 'VIN1',
      permit: toBase64Url(permitOf(secretOf(secret))),
    })
    const server = createServer((request, response) => {
      if (!request.headers.authorization?.startsWith('MPIN-Request ')) throw new Error('not signed')
      response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' })
      response.end(answer)
    })
    await new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(undefined)))
    return `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (server.address()).port}`
  },
}

process.on('message', async (/** @type {{task: string, input: unknown}} */ { task, input }) => {
  process.send?.({ done: await tasks[task]?.(input) })
})
process.on('disconnect', () => process.exit())
