import { readSecret } from '@milagro-ts/api/config'
import { createLog } from '@milagro-ts/api/log'
import { createServer } from '@milagro-ts/tls/https'
import { openTlsService } from '@milagro-ts/tls/service'
import { makeService, readService } from '@milagro-ts/tls/service-folder'

const { RPS: url = '', GROUP_ID: groupId, PORT = '7443' } = process.env
const settings = { name: 'depot.example', dataDir: 'depot', groupFile: 'group.json', groupId, rps: { url } }
const passphrase = readSecret('DEPOT_PASSPHRASE', process.env)

if (process.argv[2] === 'init') {
  const keys = await makeService(settings, passphrase)
  console.log(JSON.stringify({ ...keys, kind: 2, generation: 1, purposes: ['agree'] }))
} else {
  const parts = await readService(settings, passphrase)
  const service = await openTlsService({ ...parts, log: createLog('depot') })
  const server = createServer({ ...service }, (request, response) => {
    const { instance, attributes } = request.peer
    response.end(`good morning, ${attributes.brand} ${instance}\n`)
  })
  server.listen(Number(PORT), '127.0.0.1', () => console.log('open'))
  process.once('SIGTERM', () => server.close(() => service.close()))
}
