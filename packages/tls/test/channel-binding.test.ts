/** Logins that are bound to their TLS connection (RFC 9266): who relays one between two connections gets nowhere. */
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as httpsServer } from 'node:https'
import type { Server } from 'node:net'
import { connect as rawConnect, createServer as rawServer, type TLSSocket } from 'node:tls'
import { tlsExporter } from '@milagro-ts/api/channel-binding'
import { createLog } from '@milagro-ts/api/log'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { authorizationHeader } from '@milagro-ts/crypto/mpin'
import { Guard } from '@milagro-ts/rpa/guard'
import { type ProvenRequest, protect } from '@milagro-ts/rpa/protect'
import { createServer as createHttpsServer } from '@milagro-ts/tls/https'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type Car,
  type Driver,
  NOON,
  OWN,
  type RunningRps,
  TRACKING,
  until,
  World,
} from '../../rps/test/world.js'
import { cert, key } from './someones-certificate.js'
import { NAME, World as TlsWorld } from './world.js'

const BOUND = 'bound'
let world: World
let rps: RunningRps
let tls: TlsWorld
let car: Car
let driver: Driver
const guards: Guard[] = []
beforeAll(async () => {
  world = await World.make()
  world.clock.now = NOON
  rps = await world.startRps()
  // The replay record begins with the server.
  world.clock.turn(61_000)
  tls = await TlsWorld.start()
  car = world.makeCar()
  driver = world.makeDriver(car)
})
afterAll(async () => {
  await tls.close()
  for (const guard of guards) await guard.stop()
  await world.close()
})

async function guardOf(audience: string): Promise<Guard> {
  const guard = new Guard({
    rpsUrl: OWN,
    audience,
    name: 'tracking',
    requestKey: world.tracking.requestKey,
    group: world.group,
    random: systemRandom,
    clock: () => world.clock.now,
    timers: world.clock,
    fetch: (input, init) => fetch(String(input).replace(OWN, rps.url), init),
    log: createLog('guard', { level: 'silent' }),
  })
  guards.push(guard)
  guard.start()
  await until(() => guard.follower.fresh)
  return guard
}

/** Says who has proven itself; the same handler over TLS of either kind. */
function handlerOf(guard: Guard) {
  const protectedBy = protect(guard)
  return (request: IncomingMessage, response: ServerResponse) =>
    protectedBy(request, response, () => response.end((request as ProvenRequest).proven.idCore.mpinId))
}
const listen = async (server: Server) => ({ host: '127.0.0.1', port: await tls.listen(server) })

/** The service by certificates, and the same by identities. */
const services = {
  certificates: async (guard: Guard) => {
    const at = await listen(httpsServer({ cert, key }, handlerOf(guard)))
    return () => secured(rawConnect({ ...at, ca: cert, servername: NAME }))
  },
  identities: async (guard: Guard) => {
    const { door, timers, log } = tls
    const at = await listen(createHttpsServer({ door, timers, log }, handlerOf(guard)))
    return (leaf = 1) => secured(connect({ ...at, servername: NAME, identity: tls.car(leaf) }))
  },
}

function asked(socket: TLSSocket, authorization: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ createConnection: () => socket, headers: { authorization } }, response => {
      let text = ''
      response.on('data', chunk => {
        text += String(chunk)
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
    })
    request.on('error', reject)
    request.end()
  })
}
/** A one-pass proof; each is used once, and time goes on. */
function proof(audience: string, exporter?: Uint8Array, by?: Driver): string {
  const binding = exporter === undefined ? {} : { tlsExporter: exporter }
  return authorizationHeader(world.prove(car, { audience, ...binding, ...(by ? { driver: by } : {}) }))
}
const codeIn = ({ text }: { text: string }) => (JSON.parse(text) as { code: string }).code

describe.each(Object.keys(services) as (keyof typeof services)[])('TLS by %s', kind => {
  test('a proof that is bound to its connection is taken on it, with and without a PIN', async () => {
    const open = await services[kind](await guardOf(BOUND))
    for (const by of [undefined, driver]) {
      const socket = await open()
      expect(await asked(socket, proof(BOUND, tlsExporter(socket), by))).toEqual({
        status: 200,
        text: car.idCore.mpinId,
      })
      socket.destroy()
    }
  })

  /** What stands between takes the victim's connection by some certificate that the victim believes. */
  const relayed = async (audience: string, isBound: boolean) => {
    const open = await services[kind](await guardOf(audience))
    const heard = new Promise<string>(resolve => {
      const mallory = rawServer({ cert, key }, socket => {
        socket.on('error', () => undefined)
        socket.once('data', chunk => resolve(/authorization: (.+)\r\n/i.exec(String(chunk))?.[1] ?? ''))
      })
      void tls.listen(mallory).then(async port => {
        const victim = await secured(rawConnect({ host: '127.0.0.1', port, ca: cert, servername: NAME }))
        victim.on('error', () => undefined)
        asked(victim, proof(audience, isBound ? tlsExporter(victim) : undefined, driver)).catch(
          () => undefined,
        )
        tls.onClose(() => victim.destroy())
      })
    })
    const authorization = await heard
    const own = await open(2)
    return asked(own, authorization).finally(() => own.destroy())
  }

  test('without the binding, whoever relays a proof is the victim', async () => {
    expect(await relayed(TRACKING, false)).toEqual({ status: 200, text: car.idCore.mpinId })
  })

  test('with it a relayed proof doesn’t hold, and costs its sender no strike', async () => {
    const answer = await relayed(BOUND, true)
    expect([answer.status, codeIn(answer)]).toEqual([401, 'WRONG_PROOF'])
    const open = await services[kind](await guardOf(BOUND))
    const socket = await open()
    expect((await asked(socket, proof(BOUND, tlsExporter(socket), driver))).status).toBe(200)
    socket.destroy()
  })

  test('a proof that is bound to nothing is none for an audience that wants it', async () => {
    const open = await services[kind](await guardOf(BOUND))
    const socket = await open()
    const answer = await asked(socket, proof(BOUND))
    expect([answer.status, codeIn(answer)]).toEqual([401, 'WRONG_PROOF'])
    socket.destroy()
  })
})

test('a service that says nothing of its connection is refused, and so is a login at the RPS without one', async () => {
  const guard = await guardOf(BOUND)
  const refused = { code: 'MALFORMED', field: 'tlsExporter' }
  await expect(guard.check(proof(BOUND, systemRandom(32)))).rejects.toMatchObject(refused)
  const message = world.prove(car, { audience: BOUND, tlsExporter: systemRandom(32) })
  await expect(rps.client.login({ body: { login: message.toJson() as never } })).rejects.toMatchObject(
    refused,
  )
  const body = { message: toBase64Url(message.encode()), tlsExporter: toBase64Url(systemRandom(31)) }
  await expect(rps.as(world.tracking).verifyOnePass({ body })).rejects.toMatchObject({ code: 'MALFORMED' })
})

test('both ends have the same 32 bytes, another connection others; under TLS 1.2 there are none', async () => {
  const exporters: Uint8Array[] = []
  const server = rawServer({ cert, key }, socket => {
    socket.on('error', () => undefined)
    exporters.push(socket.getProtocol() === 'TLSv1.3' ? tlsExporter(socket) : new Uint8Array())
    socket.write('x')
  })
  const at = { ...(await listen(server)), ca: cert, servername: NAME }
  const own: Uint8Array[] = []
  for (let i = 0; i < 2; i++) {
    const socket = await secured(rawConnect(at))
    own.push(tlsExporter(socket))
    await new Promise(resolve => socket.once('data', resolve))
    socket.destroy()
  }
  expect(own).toEqual(exporters)
  expect(own[0]).toHaveLength(32)
  expect(own[0]).not.toEqual(own[1])
  const old = await secured(rawConnect({ ...at, maxVersion: 'TLSv1.2' }))
  expect(() => tlsExporter(old)).toThrow(TypeError)
  old.destroy()
})
