import { cp, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { freePort } from '../../../test/free-port.js'
import { makeCar, ticketFor } from '../../dta/test/world.js'
import { type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagroWith } from './world.js'

let folder: Folder
let system: RunningFleet
const SLOW = ['--slow-device', '1000']

beforeAll(async () => {
  folder = await Folder.make()
  system = await runFleet(folder)
})
afterAll(() => folder.close())

const operator = (...argv: string[]) =>
  milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_RPS_URL: system.rps },
    ...argv,
    '--store',
    folder.file('operator.json'),
    '--url',
    system.fleet,
    '--json',
  )
const car = (env: Record<string, string>, ...argv: string[]) =>
  milagroWith(
    { MILAGRO_RPS_URL: system.rps, ...env },
    'device',
    ...argv,
    '--store',
    folder.file('car.json'),
    '--json',
  )

test('an operator’s day and a car’s, by the command alone', { timeout: 120_000 }, async () => {
  const enrolled = await milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_CODE: system.setupCode },
    'device',
    'enroll',
    '--with-pin',
    '--instance',
    `operator:${system.operator}`,
    '--attribute',
    `operator=${system.operator}`,
    '--store',
    folder.file('operator.json'),
    '--rps',
    system.rps,
    ...SLOW,
    '--json',
  )
  expect(enrolled).toMatchObject({ exit: 0, err: '' })
  expect((await stat(folder.file('operator.json'))).mode & 0o777).toBe(0o600)
  expect((await operator('fleet', 'status')).json).toMatchObject({ groupId: system.groupId, vehicles: 0 })

  // No fleet there, or one by another name than the RPS knows it by.
  const at = (url: string) =>
    milagroWith(
      { MILAGRO_PIN: '271828', MILAGRO_RPS_URL: system.rps },
      ...['fleet', 'list', '--store', folder.file('operator.json'), '--url', url],
    )
  for (const url of [system.dta, system.rps, `http://127.0.0.1:${await freePort()}`])
    expect(await at(url)).toMatchObject({
      exit: 2,
      err: `milagro: USAGE: --url: there is no fleet at ${url}\n`,
    })
  expect(await at(system.fleet.replace('127.0.0.1', 'localhost'))).toMatchObject({
    exit: 2,
    err: expect.stringContaining('--url: the RPS has no audience http://localhost:'),
  })

  const added = await operator('fleet', 'add', 'vehicle', 'VIN-1', '--attribute', 'brand=Fiat', 'model=500e')
  expect(added.exit).toBe(0)
  const identity = ['--instance', 'VIN-1', '--attribute', 'brand=Fiat', 'model=500e']
  const code = { MILAGRO_CODE: added.json.code as string }
  const first = await car(code, 'enroll', ...identity)
  expect(first).toMatchObject({ exit: 0, err: '' })
  expect((await car(code, 'enroll', ...identity)).json).toEqual(first.json)

  const driver = await operator('fleet', 'add', 'driver', 'Ada Lovelace', '--vehicle', 'VIN-1')
  const ada = { MILAGRO_CODE: driver.json.code as string, MILAGRO_PIN: '1815' }
  const seat = ['enroll', '--user', 'ada', '--attribute', 'driverName=Ada Lovelace', ...SLOW]
  expect((await car(ada, ...seat)).json).toMatchObject({ user: 'ada' })
  expect((await car({}, 'list')).json).toMatchObject({
    identities: [{ instance: 'VIN-1', unlocker: null, users: [{ name: 'ada', pinGen: 1 }] }],
  })

  const login = ['login', '--audience', system.fleet]
  expect((await car({}, ...login)).json).toMatchObject({ authenticated: { amr: ['device'] } })
  const withPin = [...login, '--user', 'ada']
  expect((await car({ MILAGRO_PIN: '1815' }, ...withPin)).json).toMatchObject({
    authenticated: { amr: ['device', 'pin'] },
  })
  for (let attempt = 1; attempt <= 3; attempt++) {
    expect(await car({ MILAGRO_PIN: '1816' }, ...withPin)).toMatchObject({
      exit: 1,
      json: { code: 'WRONG_PIN' },
    })
  }
  expect((await car({ MILAGRO_PIN: '1815' }, ...withPin)).json).toMatchObject({ ok: false, code: 'LOCKED' })
  const driverId = String(driver.json.driver)
  expect((await operator('fleet', 'unlock', 'VIN-1', '--driver', driverId)).exit).toBe(0)
  expect((await car({ MILAGRO_PIN: '1815' }, ...withPin)).exit).toBe(0)

  const change = ['change-pin', '--user', 'ada', ...SLOW]
  expect((await car({ MILAGRO_PIN: '1815', MILAGRO_NEW_PIN: '2718' }, ...change)).exit).toBe(0)
  expect((await car({ MILAGRO_PIN: '2718' }, ...withPin)).exit).toBe(0)

  expect((await car({}, 'permit')).json.slot).toBeTypeOf('number')
  const file = await folder.write('letter.txt', 'hello')
  expect((await car({}, 'sign', file, '--audience', system.fleet)).json.receipt).toMatch(
    /^[\w-]+\.[\w-]+\.[\w-]+$/,
  )

  const ban = await operator(
    'fleet',
    'ban',
    '--vehicle',
    'VIN-1',
    '--reason',
    'stolen',
    '--until',
    '2099-01-01T00:00Z',
  )
  expect(ban.json).toMatchObject({ reason: 'stolen', expiresAt: 4_070_908_800 })
  expect((await car({}, ...login)).json).toMatchObject({ ok: false, code: 'BANNED' })
  expect((await operator('fleet', 'list', 'bans')).json.bans).toHaveLength(1)
  expect((await operator('fleet', 'unban', String(ban.json.id))).exit).toBe(0)
  expect((await operator('fleet', 'unban', String(ban.json.id))).json).toMatchObject({
    code: 'NOT_FOUND',
    why: 'no ban in force has that number',
  })
  expect((await operator('fleet', 'ban', '--vehicle', 'VIN-1', '--reason', '')).json).toMatchObject({
    code: 'MALFORMED',
    why: expect.stringContaining('reason'),
  })
  expect((await operator('fleet', 'rotate-key')).json).toMatchObject({ state: 'open', needed: 1 })
  expect(await operator('fleet', 'rotate-key', '--finish')).toMatchObject({
    exit: 1,
    json: { why: expect.stringContaining('1 must sign, ta1 (') },
  })
  expect((await operator('fleet', 'rotate-key', '--abandon')).exit).toBe(0)
  expect((await car({}, ...login)).exit).toBe(0)

  expect((await operator('fleet', 'audit')).json.authorities).toMatchObject([
    { name: 'ta1', intact: true, unknown: [] },
  ])
  const lot = ['--instance', 'LOT-*', '--attribute', 'brand=Fiat', 'model=500e|Panda', '--count', '1']
  const template = await operator('fleet', 'template', 'add', 'lot 1', ...lot, '--until', '2099-01-01T00:00Z')
  expect(template).toMatchObject({ exit: 0, json: { id: 1, expiresAt: 4_070_908_800 } })
  const again = await operator('fleet', 'resend', '--template', '1')
  expect(again.json.code).not.toBe(template.json.code)
  const panda = ['enroll', '--instance', 'LOT-7', '--attribute', 'brand=Fiat', 'model=Panda']
  const inLot = (code: unknown) =>
    milagroWith(
      { MILAGRO_RPS_URL: system.rps, MILAGRO_CODE: code as string },
      'device',
      ...panda,
      '--store',
      folder.file('panda.json'),
      '--json',
    )
  expect((await inLot(template.json.code)).json).toMatchObject({ code: 'NOT_APPROVED' })
  expect(await inLot(again.json.code)).toMatchObject({ exit: 0, err: '' })
  expect((await operator('fleet', 'template', 'end', '1')).exit).toBe(0)
  expect((await operator('fleet', 'template', 'list')).json.templates).toMatchObject([
    { name: 'lot 1', state: 'ended', approved: 1, instance: { prefix: 'LOT-' } },
  ])
  expect((await operator('fleet', 'resend', 'VIN-1')).json).toMatchObject({ code: 'CONFLICT' })
  expect((await operator('fleet', 'resend', 'VIN-1', '--next-generation')).json.code).toMatch(/^[A-Z2-7-]+$/)
  expect((await operator('fleet', 'resend', 'VIN-1', '--driver', driverId, '--reset-pin')).exit).toBe(0)
  expect((await operator('fleet', 'resend')).exit).toBe(2)
  expect((await operator('fleet', 'list', 'deliveries')).json).toMatchObject({ deliveries: [] })

  const entries = (await operator('fleet', 'audit', '--log')).json.entries as { action: string }[]
  expect(entries.length).toBeGreaterThan(5)
  const log = await milagroWith({}, 'dta', 'audit', '--url', system.dta, '--group', system.groupId, '--json')
  expect(log.json).toMatchObject({ intact: true })
  expect(log.json.entries).toBeGreaterThanOrEqual(4)

  expect((await operator('fleet', 'revoke', 'VIN-1')).exit).toBe(0)
  expect((await car({}, ...login)).json).toMatchObject({ ok: false, code: 'REVOKED' })
})

test('audit ends with 1 until an operator has acknowledged what was found', async () => {
  await system.fleetStore.atomic(connection =>
    connection.run(
      "INSERT INTO log_fault (log, fault, detail, found_at, heads) VALUES (1, 'shorter', 'it has 1 entries, it had 2', 0, '[]')",
    ),
  )
  const found = await operator('fleet', 'audit')
  expect(found).toMatchObject({ exit: 1, json: { code: 'REFUSED' } })
  const [, finding] =
    /^the log of ta1 is shorter: it has 1 entries, it had 2 \(finding ([0-9a-f]{24})\)$/.exec(
      found.json.why as string,
    ) ?? []
  const acknowledge = (...more: string[]) => operator('fleet', 'acknowledge', ...more)
  expect((await acknowledge(finding as string)).exit).toBe(2)
  const known = ['--reason', 'its disk was put back']
  expect((await acknowledge('5c1e09d27a4b8f6033b1c7e2', ...known)).json).toMatchObject({ code: 'NOT_FOUND' })
  expect(await acknowledge(finding as string, ...known)).toMatchObject({ exit: 0, err: '' })
  expect((await acknowledge(finding as string, ...known)).json).toMatchObject({ code: 'CONFLICT' })
  const audit = await operator('fleet', 'audit')
  expect(audit).toMatchObject({
    exit: 0,
    json: { authorities: [{ faults: [{ finding, acknowledged: { reason: 'its disk was put back' } }] }] },
  })
  expect((await operator('fleet', 'status')).json.logs).toMatchObject({ alarms: [] })
})

test('a key that somebody had issued past the register ends the audit with 1, by its entry', async () => {
  const { ra, groupId } = system
  const thief = await makeCar({ groupId })
  const authority = createClient(dtaRoutes, { baseUrl: system.dta })
  const ticket = await ticketFor({ ra: ra.key, groupId, clock: { now: Date.now() } }, thief, {}, ra)
  await authority.shares({ params: { groupId }, body: { ticket, purpose: 'device' } })
  const { entries } = (
    await milagroWith({}, 'dta', 'audit', '--url', system.dta, '--group', groupId, '--json')
  ).json
  const finding = `ta1 entry ${entries}: no vehicle for identity ${toBase64Url(sha256(thief.idCore.bytes))}`
  expect(await operator('fleet', 'audit')).toMatchObject({
    exit: 1,
    json: { ok: false, code: 'REFUSED', why: expect.stringContaining(finding) },
  })
})

test('a vehicle enrols by the six words that a person compares', { timeout: 60_000 }, async () => {
  const identity = ['--instance', 'VIN-2', '--attribute', 'brand=Fiat']
  const enrol = () =>
    milagroWith(
      {},
      'device',
      'enroll',
      '--words',
      '--group',
      system.groupId,
      ...identity,
      '--patience',
      '0',
      '--store',
      folder.file('car-2.json'),
      '--rps',
      system.rps,
      '--json',
    )
  const waiting = await enrol()
  expect(waiting).toMatchObject({ exit: 1, json: { code: 'STILL_PENDING' } })
  const words = /^compare: (.*)$/m.exec(waiting.err)?.[1] ?? ''
  const { json } = await operator('fleet', 'list', 'approvals')
  const [approval] = json.approvals as { id: number; words: string }[]
  expect(approval?.words).toBe(words)
  const id = String(approval?.id)
  const wrong = await operator('fleet', 'approve', id, '--words', words.split(' ').reverse().join(' '))
  expect(wrong).toMatchObject({ exit: 1, json: { code: 'NOT_APPROVED' } })
  expect((await operator('fleet', 'approve', id, '--words', words)).exit).toBe(0)
  expect((await enrol()).exit).toBe(0)
})

test('a CSV file is imported whole or not at all; codes can go to a file of one’s own', async () => {
  const csv = await folder.write('cars.csv', 'vin,brand\nVIN-10,Fiat\nVIN-11,"Alfa, Romeo"\n')
  const imported = await operator('fleet', 'import', csv, '--out', folder.file('codes.csv'))
  expect(imported.json).toEqual({ vehicles: 2, out: folder.file('codes.csv') })
  expect((await stat(folder.file('codes.csv'))).mode & 0o777).toBe(0o600)
  expect(await readFile(folder.file('codes.csv'), 'utf8')).toMatch(/^vin,code\nVIN-10,[A-Z2-7-]+\nVIN-11,/)
  const bad = await folder.write('bad.csv', 'vin,brand\nVIN-12,Fiat\nVIN-12,Fiat\n')
  expect((await operator('fleet', 'import', bad)).exit).toBe(1)
  // More than fleet takes at once: said here, not found out by a connection that breaks off.
  const large = await folder.write('large.csv', `vin,brand\n${'VIN-14,Fiat\n'.repeat(800_000)}`)
  expect(await operator('fleet', 'import', large)).toMatchObject({
    exit: 1,
    json: { why: expect.stringMatching(/large\.csv' is too large .* takes 8388608\): split it/) },
  })
  const latin1 = await folder.write('latin1.csv', '')
  await writeFile(latin1, Buffer.from('vin,brand\nVIN-12,Citroën\n', 'latin1'))
  expect(await operator('fleet', 'import', latin1)).toMatchObject({
    exit: 1,
    json: { code: 'MALFORMED', why: 'csv: line 2: a letter that is not UTF-8: save the file as UTF-8' },
  })
  const good = await folder.write('good.csv', 'vin,brand\nVIN-12,Fiat\n')
  for (const nowhere of [folder.file('nowhere/codes.csv'), folder.path])
    expect(await operator('fleet', 'import', good, '--out', nowhere)).toMatchObject({ exit: 2 })
  const { vehicles } = (await operator('fleet', 'list')).json as { vehicles: { instance: string }[] }
  expect(vehicles.map(({ instance }) => instance)).not.toContain('VIN-12')
  expect(vehicles.map(({ instance }) => instance)).toContain('VIN-11')
})

test('what an operator types wrong is usage, what the register refuses is not', async () => {
  expect(await operator('fleet', 'ban', '--reason', 'none')).toMatchObject({
    exit: 2,
    json: { code: 'USAGE' },
  })
  expect(await operator('fleet', 'resend', 'VIN-99')).toMatchObject({ exit: 1, json: { code: 'NOT_FOUND' } })
  expect(await operator('fleet', 'list', 'trucks')).toMatchObject({ exit: 2 })
  const resent = await operator('fleet', 'resend', 'VIN-10')
  expect(resent.json.code).toMatch(/^[A-Z2-7-]+$/)
  const wrongPin = await milagroWith(
    { MILAGRO_PIN: '0' },
    'fleet',
    'status',
    '--store',
    folder.file('operator.json'),
    '--url',
    system.fleet,
    '--rps',
    system.rps,
    '--json',
  )
  expect(wrongPin).toMatchObject({ exit: 1, json: { code: 'WRONG_PIN' } })
  const noPin = await milagroWith(
    {},
    'fleet',
    'status',
    '--store',
    folder.file('operator.json'),
    '--url',
    system.fleet,
    '--rps',
    system.rps,
  )
  expect(noPin).toMatchObject({ exit: 2, err: expect.stringContaining('MILAGRO_PIN_FILE') })
  const nobody = await milagroWith({}, 'device', 'list', '--store', folder.file('none.json'), '--json')
  expect(nobody).toMatchObject({ exit: 1, json: { code: 'NOT_ENROLLED' } })
})

test('two vans in one store that a key file unlocks: moved without it they stay shut', async () => {
  const store = folder.file('data/vans.json')
  const keyFile = folder.file('keys/vans.key')
  const device = (env: Record<string, string>, ...argv: string[]) =>
    milagroWith({ MILAGRO_RPS_URL: system.rps, ...env }, 'device', ...argv)
  const unlocked = ['--store', store, '--unlocker', keyFile]
  for (const vin of ['VAN-1', 'VAN-2']) {
    const added = await operator('fleet', 'add', 'vehicle', vin, '--attribute', 'brand=Fiat')
    const code = { MILAGRO_CODE: added.json.code as string }
    const enrolment = ['enroll', '--instance', vin, '--attribute', 'brand=Fiat', ...unlocked]
    expect(await device(code, ...enrolment)).toMatchObject({ exit: 0, err: '' })
  }
  const listed = await device({}, 'list', '--store', store, '--json')
  expect(listed.json).toMatchObject({
    identities: [
      { instance: 'VAN-1', unlocker: 'file' },
      { instance: 'VAN-2', unlocker: 'file' },
    ],
  })
  expect((await device({}, 'list', '--store', store)).out).toMatch(
    /^VAN-1 \S{52}\n {2}group (?:[0-9a-f]{4} ?){8}, unlocked by file\nVAN-2 /,
  )

  const login = ['login', '--audience', system.fleet, '--json']
  expect((await device({}, ...login, ...unlocked)).json).toMatchObject({ ok: false, code: 'WHICH_IDENTITY' })
  const named = [...login, '--identity', 'VAN-2']
  expect((await device({}, ...named, ...unlocked)).exit).toBe(0)
  expect((await device({}, ...login, '--identity', 'VAN-3', ...unlocked)).json).toMatchObject({
    ok: false,
    code: 'NOT_ENROLLED',
  })

  // To another machine: the data folder is copied, what lies outside of it is not.
  await mkdir(folder.file('moved'))
  await cp(folder.file('data'), folder.file('moved/data'), { recursive: true })
  const moved = ['--store', folder.file('moved/data/vans.json')]
  expect(await device({}, ...named.filter(flag => flag !== '--json'), ...moved)).toMatchObject({
    exit: 1,
    out: '',
    err: 'milagro: WRONG_UNLOCKER: the device key wants a file unlocker\n',
  })
  const movedKey = folder.file('moved/keys/vans.key')
  expect((await device({}, ...named, ...moved, '--unlocker', movedKey)).json).toMatchObject({
    ok: false,
    code: 'WRONG_UNLOCKER',
    why: expect.stringContaining('ENOENT'),
  })
  await mkdir(folder.file('moved/keys'))
  await writeFile(movedKey, new Uint8Array(32).fill(1), { mode: 0o600 })
  expect((await device({}, ...named, ...moved, '--unlocker', movedKey)).json).toMatchObject({
    ok: false,
    code: 'WRONG_UNLOCKER',
    why: 'the file unlocker is not the one of this device key',
  })
  await rename(keyFile, movedKey)
  expect((await device({}, ...named, ...moved, '--unlocker', movedKey)).exit).toBe(0)

  const inside = await device({}, ...named, '--store', store, '--unlocker', folder.file('data/vans.key'))
  expect(inside).toMatchObject({ exit: 2, json: { code: 'USAGE' } })
})
