/** stranger-tls.mjs shares no code with us and needs docs/protocols/tls.md alone: it meets a server of ours. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { toHex } from '@milagro-ts/crypto/bytes'
import { agreePointG1, encodeName } from '@milagro-ts/crypto/identity'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { createServer } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Car, NAME, SLOT, World } from '../packages/tls/test/world.js'
import { ROOT } from '../scripts/prepare.mjs'

const stranger = join(ROOT, 'test/stranger-tls.mjs')

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

function run(args: readonly string[], input = ''): Promise<Record<string, unknown>[]> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [stranger, ...args])
    let text = ''
    child.stdout.on('data', chunk => {
      text += chunk
    })
    child.on('error', reject)
    child.on('close', () =>
      resolve(
        text
          .trimEnd()
          .split('\n')
          .map(line => JSON.parse(line)),
      ),
    )
    child.stdin.end(input)
  })
}

interface More {
  /** Whose key it is. */
  readonly master?: Scalar
  readonly server?: string
  readonly slot?: number
}
const keyOf = ({ idCore }: Car, master: Scalar) =>
  agreePointG1(encodeName(world.groupId, { kind: 1, idCore }))
    .mulSecret(master)
    .encode()

async function serve(): Promise<{ port: number; inside: string[] }> {
  const { door, timers, log } = world
  const inside: string[] = []
  const server = createServer({ door, timers, log }, (socket, peer) => {
    inside.push(peer.mpinId)
    socket.on('error', () => undefined)
    socket.end(`welcome ${peer.mpinId}`)
  })
  server.on('tlsClientError', () => undefined)
  return { port: await world.listen(server), inside }
}
const connecting = async (car: Car, port: number, { master = world.s, ...more }: More = {}) => {
  const where = {
    host: '127.0.0.1',
    port,
    server: NAME,
    generation: 1,
    slot: SLOT,
    agreeEpoch: 1,
    groupId: toHex(world.groupId),
    idCore: toHex(car.idCore.bytes),
    D: toHex(keyOf(car, master)),
    ...more,
  }
  return (await run([], JSON.stringify(where))).at(-2) ?? {}
}

test('it shares no code with us: nothing but Node and noble is imported', () => {
  const source = readFileSync(stranger, 'utf8')
  const imported = [...source.matchAll(/^import .* from '(.*)'$/gm)].map(([, from]) => from)
  expect(imported).toEqual(['node:crypto', 'node:fs', 'node:tls', '@noble/curves/bls12-381.js'])
  // Nor in another spelling, nor later.
  const words = source.match(/\b(import(?!\.meta\.url)|require|createRequire|getBuiltinModule)\b/g)
  expect(words).toEqual(imported.map(() => 'import'))
})

test('the page holds every input that a client needs to check itself', async () => {
  const lines = await run(['--self-check'])
  expect(lines.at(-1)).toEqual({ event: 'stranger', ok: true })
  expect(lines.filter(({ event, ok }) => event === 'value' && ok === true).length).toBe(9)
})

test('the page itself says every tag of a hash that the client writes', () => {
  const page = readFileSync(join(ROOT, 'docs/protocols/tls.md'), 'utf8')
  const curves = ['G1', 'G2'].map(group => `AGREE-with-BLS12381${group}_XMD:SHA-256_SSWU_RO_`)
  for (const tag of [...curves, 'NONCE', 'PSK', 'KDF-PSK-M1'])
    expect(page).toContain(`\`MILAGRO-TS-V1-${tag}\``)
  // These are all that it has.
  const source = readFileSync(stranger, 'utf8')
  const written = [...source.matchAll(/MILAGRO-TS-V1-([\w-]*)/g)].map(([, tag]) => tag)
  expect(new Set(written)).toEqual(new Set(['AGREE-with-BLS12381', '', 'KDF-PSK-M1']))
  expect([...source.matchAll(/Hq\('(\w+)'/g)].map(([, label]) => label)).toEqual(['NONCE', 'PSK'])
})

test('it connects to our server by its own key, without a certificate', async () => {
  const { port, inside } = await serve()
  const car = world.car(1)
  expect(await connecting(car, port)).toMatchObject({
    event: 'connected',
    said: `welcome ${car.mpinId}`,
    cipher: 'TLS_AES_128_GCM_SHA256',
    certificate: false,
  })
  expect(inside).toEqual([car.mpinId])
})

test('a wrong key, another server’s name, another slot: it doesn’t come in', async () => {
  const { port, inside } = await serve()
  const master = Scalar.random(length => crypto.getRandomValues(new Uint8Array(length)))
  for (const more of [{ master }, { server: 'other.example' }, { slot: SLOT + 1 }])
    expect(await connecting(world.car(1), port, more)).toEqual({})
  expect(inside).toEqual([])
})
