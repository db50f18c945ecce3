/** A process' servers send a session ticket unless it was started with no-tickets.cnf: seen by itself, and on the wire. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { hasOpensslConfiguration, NO_TICKETS, sendsTickets } from '@milagro-ts/tls/tickets'
import { createServer } from '@milagro-ts/tls/tls'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openssl, opensslVersion } from './openssl.js'
import { World } from './world.js'

const { m1 } = JSON.parse(readFileSync(new URL('../../../vectors/v1.json', import.meta.url), 'utf8')).tls as {
  m1: { identity: string; psk: string }
}

describe('a process that was started like any other', () => {
  test('sends them, and its log says so once, with what helps', async () => {
    const world = await World.start()
    try {
      expect(await sendsTickets()).toBe(true)
      const { door, timers, log } = world
      for (const _ of [1, 2]) await world.listen(createServer({ door, timers, log }))
      const said = () => world.logged.filter(line => line.includes('session ticket'))
      await expect.poll(said).toEqual([expect.stringContaining(JSON.stringify(NO_TICKETS))])
    } finally {
      await world.close()
    }
  })
})

describe('one that was started with no-tickets.cnf', () => {
  let child: ChildProcess
  let said: { port: number; sendsTickets: boolean }
  let logged = ''
  beforeAll(async () => {
    const file = fileURLToPath(new URL('./no-tickets-server.mjs', import.meta.url))
    child = spawn(process.execPath, [NO_TICKETS, file], { stdio: ['pipe', 'pipe', 'pipe'] })
    child.stderr?.on('data', chunk => {
      logged += chunk
    })
    const [line] = await once(child.stdout as NonNullable<typeof child.stdout>, 'data')
    said = JSON.parse(String(line))
  })
  afterAll(async () => {
    child.stdin?.end()
    await once(child, 'close')
  })

  test('sends none, and its log is silent', () => {
    expect(said.sendsTickets).toBe(false)
    expect(logged).toBe('')
  })

  test.skipIf(opensslVersion === undefined)(
    'on the wire: after the handshake a message of the program, and no ticket',
    async () => {
      const psk = ['-psk_identity', m1.identity, '-psk', m1.psk]
      const heard = await openssl(['s_client', '-connect', `127.0.0.1:${said.port}`, ...psk, '-msg'], {
        until: /welcome/,
      })
      expect(heard).toContain('welcome')
      const messages = [...heard.matchAll(/Handshake \[length [0-9a-f]+\], (\w+)/g)].map(([, name]) => name)
      expect(messages).toEqual(['ClientHello', 'ServerHello', 'EncryptedExtensions', 'Finished', 'Finished'])
    },
  )
})

test('whoever has given OpenSSL a configuration keeps it', () => {
  expect(hasOpensslConfiguration({}, ['--expose-gc'])).toBe(false)
  expect(hasOpensslConfiguration({ NODE_OPTIONS: '--enable-fips' }, [])).toBe(false)
  expect(hasOpensslConfiguration({}, [NO_TICKETS])).toBe(true)
  expect(hasOpensslConfiguration({ NODE_OPTIONS: '--openssl-shared-config' }, [])).toBe(true)
  expect(hasOpensslConfiguration({ OPENSSL_CONF: '/etc/ssl/ours.cnf' }, [])).toBe(true)
})
