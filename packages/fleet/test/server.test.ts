import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ConfigError } from '@milagro-ts/api/config'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { loadFleetConfig, readPassphrase } from '@milagro-ts/fleet/config'
import { LeafCeiling } from '@milagro-ts/fleet/leaf-ceiling'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { RowSeal } from '@milagro-ts/fleet/sealed-rows'
import { createFleet, openFleetKeys } from '@milagro-ts/fleet/server'
import { openDatabase } from '@milagro-ts/store/database'
import { sql } from '@milagro-ts/store/kysely'
import { StoreError } from '@milagro-ts/store/store-error'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { GOLF, PASSPHRASE, refusal, World } from './fleet-world.js'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

describe('a server', () => {
  test('tells its health on the admin listener, and nothing of the public one there', async () => {
    const live = await fetch(`${world.adminUrl}/health/live`)
    const ready = await fetch(`${world.adminUrl}/health/ready`)
    expect([live.status, ready.status, await ready.json()]).toMatchObject([
      200,
      200,
      { ok: true, checks: { store: true, raKeys: true } },
    ])
    const metrics = await (await fetch(`${world.adminUrl}/metrics`)).text()
    expect(metrics).toContain('milagro_fleet_requests_total')
    expect((await fetch(`${world.adminUrl}/v1/vehicles`)).status).toBe(404)
    expect((await fetch(`${world.url}/metrics`)).status).toBe(404)
    expect(statSync(join(world.dataDir, 'keys.sealed')).mode & 0o777).toBe(0o600)
  })

  test('decides nothing while its store can’t be written, and recovers by itself', async () => {
    const { id, code } = await world.api.addVehicle({ body: { instance: 'STORE-1', attributes: GOLF } })
    const { body } = await world.registration({ instance: 'STORE-1', code: code!.code })
    await sql`PRAGMA query_only = ON`.execute(world.store.db)
    try {
      expect(await refusal(world.asRps().verify({ body }))).toBe('RETRY_LATER')
      expect(await refusal(world.api.ban({ body: { vehicle: id, reason: 'x' } }))).toBe('RETRY_LATER')
      expect((await fetch(`${world.adminUrl}/health/ready`)).status).toBe(503)
    } finally {
      await sql`PRAGMA query_only = OFF`.execute(world.store.db)
    }
    expect((await world.asRps().verify({ body })).state).toBe('approved')
  })

  test('takes a callback once, from the RPS, for this address', async () => {
    expect(await refusal(world.asRps('tracking', world.members.tracking.signKey).state({}))).toBe('FORBIDDEN')
    expect(await refusal(world.asRps('rps', world.members.tracking.signKey).state({}))).toBe(
      'UNAUTHENTICATED',
    )
    const requests: string[] = []
    const { state } = world.asRps()
    const original = globalThis.fetch
    globalThis.fetch = (input, init) => {
      requests.push(new Headers(init?.headers).get('authorization') ?? '')
      return original(input, init)
    }
    try {
      await state({})
    } finally {
      globalThis.fetch = original
    }
    const headers = { authorization: requests[0]! }
    const again = await fetch(`${world.url}/v1/state`, { headers })
    expect([again.status, await again.json()]).toMatchObject([409, { code: 'REPLAYED' }])
    const elsewhere = await fetch(`${world.url}/v1/permit`, { headers })
    expect(elsewhere.status).toBe(405)
  })
})

describe('a start', () => {
  const options = (changes: object = {}) => ({
    config: { ...world.config, ...changes },
    passphrase: PASSPHRASE,
    store: world.store,
    clock: world.time.clock,
    timers: world.time,
    random: world.random,
  })
  const failure = (answer: Promise<unknown>) =>
    answer.then(
      () => 'no failure',
      (error: Error) => `${error.name}: ${error.message}`,
    )

  test('refuses a wrong passphrase and the keys of another server', async () => {
    const wrong = failure(openFleetKeys({ ...options(), passphrase: 'wrong' }))
    expect(await wrong).toMatch(/^StoreError: .*keys\.sealed: the passphrase is wrong/)
    expect(await failure(openFleetKeys(options({ name: 'other' })))).toMatch(/belongs to the server 'fleet'/)
  })

  test('refuses RA keys without the sealed file that opens them', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'fleet-test-'))
    expect(await failure(openFleetKeys(options({ dataDir })))).toMatch(/has RA keys but no keys\.sealed/)
    rmSync(dataDir, { recursive: true })
  })

  test('refuses a group document that is not the pinned one', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'fleet-test-'))
    const store = await openDatabase<FleetSchema>({ file: ':memory:', migrations })
    const begin = (changes: object) =>
      failure(createFleet({ ...options({ dataDir, ...changes }), store, keyCheck: publicKeysFault }))
    const groupFile = join(dataDir, 'group.json')
    expect(await begin({ groupFile })).toMatch(
      /^ConfigError: setting 'groupFile': cannot read '.*' \(ENOENT\)$/,
    )
    writeFileSync(groupFile, '{')
    expect(await begin({ groupFile })).toMatch(/is not JSON$/)
    writeFileSync(groupFile, JSON.stringify({ ...world.group.document, t: 2 }))
    expect(await begin({ groupFile })).toMatch(/^ConfigError: setting 'groupFile'/)
    writeFileSync(groupFile, JSON.stringify(world.group.document))
    expect(await begin({ groupFile, groupId: 'A'.repeat(43) })).toMatch(/another group/)
    expect(await begin({ groupFile: undefined })).toMatch(/'groupFile' and 'groupId' are missing/)
    await store.close()
    rmSync(dataDir, { recursive: true })
  })

  test('reads its settings, and names the one that is wrong', () => {
    const file = join(world.dataDir, 'config.json')
    const settings = { ...world.config, dataDir: 'x' }
    const load = (changes: object, env = {}) => {
      writeFileSync(file, JSON.stringify({ ...settings, ...changes }))
      return loadFleetConfig(file, env)
    }
    expect(load({}, { MILAGRO_FLEET_PUBLIC_URL: 'https://fleet.example' }).publicUrl).toBe(
      'https://fleet.example',
    )
    expect(() => load({ codeDays: 0 })).toThrow(/setting 'codeDays'/)
    expect(() => load({ listen: { host: 'x' } })).toThrow(/setting 'listen\.port' is missing/)
    expect(() => load({ passphrase: 'x' })).toThrow(/setting 'passphrase' is not known/)
    expect(() => readPassphrase({})).toThrow(ConfigError)
    expect(readPassphrase({ MILAGRO_FLEET_PASSPHRASE: 'x' })).toBe('x')
  })
})

describe('the leaf ceiling', () => {
  test('is above every leaf given out, and a start goes on above it', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'fleet-test-'))
    const store = await openDatabase<FleetSchema>({ file: ':memory:', migrations })
    const next = (leaves: LeafCeiling) => store.db.transaction().execute(tx => leaves.next(tx))
    const kept = () => Number(readFileSync(join(dataDir, 'leaf-ceiling'), 'utf8'))
    const leaves = LeafCeiling.open(dataDir)
    for (let number = 1; number <= 600; number++) {
      const leaf = await next(leaves)
      expect(leaf).toBe(number)
      expect(kept()).toBeGreaterThanOrEqual(leaf)
    }
    const before = kept()
    // As after a restore from a backup.
    await store.db.updateTable('counter').set({ value: 5 }).where('name', '=', 'leaf').execute()
    const restarted = LeafCeiling.open(dataDir)
    expect([await next(restarted), await next(restarted)]).toEqual([before + 1, before + 2])
    expect(kept()).toBeGreaterThan(before)
    writeFileSync(join(dataDir, 'leaf-ceiling'), 'none\n')
    expect(() => LeafCeiling.open(dataDir)).toThrow(StoreError)
    await store.close()
    rmSync(dataDir, { recursive: true })
  })
})

describe('a sealed row', () => {
  const seal = new RowSeal(fixedRandom('data key')(32), fixedRandom('nonces'))
  const secret = Uint8Array.of(1, 2, 3)

  test('opens in its own row, under its own key, unchanged', () => {
    const sealed = seal.seal('code:1', secret)
    expect(seal.open('code:1', sealed)).toEqual(secret)
    expect(seal.seal('code:1', secret)).not.toEqual(sealed)
    const other = new RowSeal(fixedRandom('other key')(32), fixedRandom('nonces'))
    expect(() => seal.open('code:2', sealed)).toThrow(StoreError)
    expect(() => other.open('code:1', sealed)).toThrow(StoreError)
    for (let at = 0; at < sealed.length; at++) {
      const changed = sealed.slice()
      changed[at] = (changed[at] as number) ^ 1
      expect(() => seal.open('code:1', changed)).toThrow(StoreError)
      expect(() => seal.open('code:1', sealed.subarray(0, at))).toThrow(StoreError)
    }
    expect(() => new RowSeal(new Uint8Array(16), fixedRandom('x'))).toThrow(RangeError)
  })
})

describe('the process', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleet-test-'))
  const config = join(folder, 'config.json')
  afterAll(() => rmSync(folder, { recursive: true }))

  interface Ended {
    readonly code: number | null
    readonly events: Record<string, unknown>[]
    readonly errors: string
  }
  /** Runs until it ends, or is told to once it says that it is ready. */
  function run(flags: string[], env: Record<string, string> = {}): Promise<Ended> {
    const child = spawn(process.execPath, [MAIN, '--config', config, ...flags], {
      env: { PATH: process.env.PATH, MILAGRO_FLEET_PASSPHRASE: PASSPHRASE, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let [out, errors] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text
      if (out.includes('"ready"')) child.kill('SIGTERM')
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    return new Promise(resolve => {
      child.on('close', code => {
        const lines = out.split('\n').filter(line => line !== '')
        resolve({ code, events: lines.map(line => JSON.parse(line) as Record<string, unknown>), errors })
      })
    })
  }
  const settings = () => ({ ...world.config, dataDir: join(folder, 'data'), logLevel: 'error' })
  const write = (value: object) => writeFileSync(config, JSON.stringify(value))

  test('makes its keys, starts, prints the setup code once, ends when told to', async () => {
    const { groupFile: _file, groupId: _id, ...before } = settings()
    write(before)
    const made = await run(['--init'])
    expect(made).toMatchObject({ code: 0, errors: '', events: [{ event: 'initialised', name: 'fleet' }] })
    expect(made.events[0]?.raKeys).toEqual([{ kid: expect.any(String), key: expect.any(String) }])
    expect((await run(['--init'])).events).toEqual(made.events)

    write(settings())
    const first = await run([])
    expect(first).toMatchObject({ code: 0, errors: '' })
    expect(first.events.map(({ event }) => event)).toEqual(['setup-code', 'ready'])
    expect(first.events[0]).toMatchObject({
      operator: 'admin',
      code: expect.stringMatching(/^([A-Z2-7]{4}-){19}[A-Z2-7]{4}$/),
    })
    expect(first.events[0]?.enrol).toBe(
      `MILAGRO_CODE=${first.events[0]?.code} milagro device enroll --with-pin --instance operator:admin ` +
        `--attribute operator=admin --store operator.json --rps ${world.config.rps.url}`,
    )
    expect(first.events[1]).toMatchObject({
      url: expect.any(String),
      adminUrl: expect.any(String),
      pid: expect.any(Number),
    })
    const second = await run([])
    expect(second.events.map(({ event }) => event)).toEqual(['ready'])
    const recovery = await run(['--operator-code', 'admin'])
    expect(recovery).toMatchObject({ code: 0, events: [{ event: 'operator-code', operator: 'admin' }] })
    expect(recovery.events[0]?.enrol).toContain(
      `MILAGRO_CODE=${recovery.events[0]?.code} milagro device enroll`,
    )
  })

  test('says in one line why it can’t start', async () => {
    const taken = createServer()
    await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
    const { port } = taken.address() as { port: number }
    const cases: [object, string[], Record<string, string>, number, RegExp][] = [
      [settings(), ['--wrong'], {}, 2, /--wrong/],
      [settings(), ['--operator-code', 'Not A Name'], {}, 2, /--operator-code wants a name/],
      [{ ...settings(), codeDays: 'x' }, [], {}, 2, /setting 'codeDays'/],
      [settings(), [], { MILAGRO_FLEET_PASSPHRASE: 'wrong' }, 1, /passphrase is wrong/],
      [settings(), [], { MILAGRO_FLEET_PASSPHRASE: '' }, 2, /MILAGRO_FLEET_PASSPHRASE/],
      [{ ...settings(), listen: { host: '127.0.0.1', port } }, [], {}, 1, /127\.0\.0\.1:\d+ is taken/],
    ]
    for (const [value, flags, env, code, line] of cases) {
      write(value)
      const ended = await run(flags, env)
      expect([ended.code, ended.events.filter(({ event }) => event === 'ready')]).toEqual([code, []])
      expect(ended.errors).toMatch(line)
      expect(ended.errors.trimEnd().split('\n')).toHaveLength(1)
    }
    await new Promise(resolve => taken.close(resolve))
  })
})
