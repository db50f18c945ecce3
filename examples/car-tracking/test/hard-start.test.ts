/**
 * Every server as a process, and what can be wrong when it starts. Each start ends with one line that names the setting
 * or the file and the way out, with its exit code (1 refused, 2 wrong configuration), and leaves its data folder as it
 * was, byte for byte. One system goes through all of it: in the end its servers start from the folders that have seen
 * every fault, and have lost nothing.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes } from '@milagro-ts/api/dta-routes'
import { Refused } from '@milagro-ts/api/problem'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { Drive, generatedTrack } from '@milagro-ts/car-tracking/gpx'
import { Operator, type Setup } from '@milagro-ts/car-tracking/operator'
import { freePorts } from '@milagro-ts/car-tracking/processes'
import { type Ports, SERVERS, type ServerName, Servers } from '@milagro-ts/car-tracking/servers'
import { SimulatedCar } from '@milagro-ts/car-tracking/simulated-car'
import { trackMigrations } from '@milagro-ts/car-tracking/track-store'
import { programFile } from '@milagro-ts/cli/programs'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { migrations as fleetMigrations } from '@milagro-ts/fleet/schema'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { type Migration, openDatabase } from '@milagro-ts/store/database'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { mayMount, SmallDisk } from '../../../packages/store/test/small-disk.js'

const MILAGRO = fileURLToPath(new URL('../../../packages/cli/dist/main.js', import.meta.url))
const TRACKING = fileURLToPath(new URL('../dist/tracking-main.js', import.meta.url))
const PIN = '271828'
const WRONG_PIN = '314159'
const isRoot = process.getuid?.() === 0
/** Data folders under test at the same time, each with one process. */
const AT_ONCE = 3

type Kind = 'dta' | 'rps' | 'fleet' | 'tracking'
interface Place {
  readonly kind: Kind
  readonly name: ServerName
  readonly variable: string
  readonly program: string
  readonly database: string
  readonly migrations: readonly Migration[]
  /** A further file of its own, and what a damaged one is answered with. */
  readonly own?: { readonly file: string; readonly code: number; readonly says: RegExp }
}
const PLACES: readonly Place[] = [
  {
    kind: 'dta',
    name: 'dta-1',
    variable: 'MILAGRO_DTA_PASSPHRASE',
    program: programFile('dta'),
    database: 'dta.sqlite',
    migrations: dtaMigrations,
    own: { file: 'issued.json', code: 1, says: /issued\.json is not JSON: restore it from a backup/ },
  },
  {
    kind: 'rps',
    name: 'rps',
    variable: 'MILAGRO_RPS_PASSPHRASE',
    program: programFile('rps'),
    database: 'rps.sqlite',
    migrations: rpsMigrations,
    own: { file: 'server-keys.sealed', code: 1, says: /server-keys\.sealed: .*restore/ },
  },
  {
    kind: 'fleet',
    name: 'fleet',
    variable: 'MILAGRO_FLEET_PASSPHRASE',
    program: programFile('fleet'),
    database: 'fleet.sqlite',
    migrations: fleetMigrations as readonly Migration[],
    own: { file: 'leaf-ceiling', code: 1, says: /leaf-ceiling does not hold a number: restore it/ },
  },
  {
    kind: 'tracking',
    name: 'tracking',
    variable: 'MILAGRO_TRACKING_PASSPHRASE',
    program: TRACKING,
    database: 'tracks.sqlite',
    migrations: trackMigrations,
    own: { file: 'admin-token', code: 2, says: /admin-token' is damaged: delete it/ },
  },
]

/** How a server is started under a fault. */
interface Start {
  /** Instead of its settings: changed ones, or a text that isn't JSON, or none. */
  readonly settings?: object | string | null
  readonly env?: Readonly<Record<string, string>>
  /** By `milagro <server> serve`, which the other starts leave out to be quicker. */
  readonly byCommand?: boolean
}
interface Scene extends Place {
  /** The data folder under test. */
  readonly dataDir: string
  /** For what a fault needs beside it. */
  readonly scratch: string
  readonly settings: Readonly<Record<string, unknown>>
}
interface Fault {
  readonly name: string
  readonly only?: readonly Kind[]
  /** Whom it strikes in `npm test`, where that is fewer: `npm run test:long` strikes everybody with everything. */
  readonly sample?: readonly Kind[]
  readonly code: number
  readonly says: (scene: Scene) => RegExp
  /** Does the damage, and says how to start then; `mend` undoes it. */
  readonly strike: (scene: Scene) => Promise<{ start?: Start; mend?: () => Promise<void> }>
}

const quoted = (text: string) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')
const settingFault = (name: string, change: object, says: RegExp, byCommand = false): Fault => ({
  name,
  code: 2,
  says: () => says,
  strike: async ({ settings }) => ({ start: { settings: { ...settings, ...change }, byCommand } }),
})

/** A fault in one file of the folder: `change` makes its new bytes, null takes it away. */
const fileFault = (
  name: string,
  file: (scene: Scene) => string,
  code: number,
  says: (scene: Scene) => RegExp,
  change: (bytes: Buffer) => Buffer | null,
  byCommand = false,
): Fault => ({
  name,
  code,
  says,
  async strike(scene) {
    const path = join(scene.dataDir, file(scene))
    const bytes = await readFile(path)
    const damaged = change(Buffer.from(bytes))
    if (damaged === null) await rm(path)
    else await writeFile(path, damaged)
    return { start: { byCommand }, mend: () => writeFile(path, bytes, { mode: 0o600 }) }
  },
})
const keysFault = (name: string, says: RegExp, change: (bytes: Buffer) => Buffer | null) =>
  fileFault(
    name,
    () => 'keys.sealed',
    1,
    () => says,
    change,
  )
const databaseFault = (
  name: string,
  says: RegExp,
  change: (bytes: Buffer) => Buffer | null,
  byCommand = false,
) =>
  fileFault(
    name,
    ({ database }) => database,
    1,
    ({ database }) => new RegExp(`${quoted(database)}.*${says.source}`),
    change,
    byCommand,
  )
const noise = (bytes: Buffer, from: number, length: number) => {
  for (let i = from; i < Math.min(bytes.length, from + length); i++) bytes[i] = (i * 167 + 13) & 0xff
  return bytes
}

/** Made elsewhere, since whoever has had a database open may leave files beside it. */
async function otherDatabase(
  { dataDir, database, scratch }: Scene,
  make: (file: string) => Promise<void>,
): Promise<{ mend: () => Promise<void> }> {
  const file = join(dataDir, database)
  const bytes = await readFile(file)
  const made = join(await mkdtemp(join(scratch, 'made-')), database)
  await make(made)
  await writeFile(file, await readFile(made))
  return { mend: () => writeFile(file, bytes) }
}

const takenPort = (setting: 'listen' | 'adminListen'): Fault => ({
  name: `${setting}: the port is taken`,
  code: 1,
  says: () => new RegExp(`setting '${setting}': 127\\.0\\.0\\.1:[0-9]+ is taken: .*choose another port$`),
  async strike({ settings }) {
    const taken = await new Promise<Server>((resolve, reject) => {
      const server = createServer()
      server.once('error', reject)
      server.listen(0, '127.0.0.1', () => resolve(server))
    })
    const { port } = taken.address() as { port: number }
    return {
      start: { settings: { ...settings, [setting]: { host: '127.0.0.1', port } } },
      mend: () => new Promise<void>(resolve => taken.close(() => resolve())),
    }
  },
})

/** Where a group file counts: a folder that has keys, and was never served from. */
const groupFault = (
  name: string,
  says: (scene: Scene) => RegExp,
  change: (settings: Scene['settings'], scratch: string) => Promise<object>,
): Fault => ({
  name,
  only: ['rps', 'fleet', 'tracking'],
  code: 2,
  says,
  async strike(scene) {
    const { kind, dataDir, migrations, settings, scratch } = scene
    const sealed = join(dataDir, 'server-keys.sealed')
    const aside = join(scratch, 'server-keys.sealed')
    const { mend } = await otherDatabase(scene, async file => {
      await writeFile(file, await readFile(join(dataDir, scene.database)))
      const store = await openDatabase<unknown>({ file, migrations })
      const table = { rps: 'group_revision', fleet: 'revision', dta: undefined, tracking: undefined }[kind]
      if (table !== undefined) await store.atomic(connection => connection.run(`DELETE FROM ${table}`))
      await store.close()
    })
    if (kind === 'rps') await rename(sealed, aside)
    return {
      start: { settings: { ...settings, ...(await change(settings, scratch)) } },
      async mend() {
        await mend()
        if (kind === 'rps') await rename(aside, sealed)
      },
    }
  },
})

const sampled = (sample: readonly Kind[], fault: Fault): Fault => ({ ...fault, sample })

const FAULTS: readonly Fault[] = [
  settingFault('an unknown setting', { colour: 'red' }, /setting 'colour' is not known$/, true),
  sampled(
    ['dta', 'rps'],
    settingFault(
      'a setting of a wrong type',
      { listen: { host: '127.0.0.1', port: 'high' } },
      /setting 'listen\.port': must be integer$/,
    ),
  ),
  sampled(
    ['fleet', 'tracking'],
    settingFault(
      'a setting that is missing',
      { adminListen: undefined },
      /setting 'adminListen' is missing$/,
    ),
  ),
  {
    name: 'settings that are no JSON',
    sample: ['rps', 'tracking'],
    code: 2,
    says: ({ scratch }) => new RegExp(`config file '${quoted(join(scratch, 'settings.json'))}'`),
    strike: async () => ({ start: { settings: '{"name": ' } }),
  },
  {
    name: 'settings that are not there',
    sample: ['dta', 'fleet'],
    code: 2,
    says: ({ scratch }) =>
      new RegExp(`config: cannot read '${quoted(join(scratch, 'settings.json'))}' \\(ENOENT\\)`),
    strike: async () => ({ start: { settings: null } }),
  },
  {
    name: 'the passphrase’s file is not there',
    sample: ['rps', 'tracking'],
    code: 2,
    says: ({ variable }) => new RegExp(`${variable}_FILE: cannot read '/nowhere' \\(ENOENT\\)$`),
    strike: async ({ variable }) => ({ start: { env: { [`${variable}_FILE`]: '/nowhere' } } }),
  },
  {
    name: 'another passphrase',
    code: 1,
    says: ({ dataDir }) =>
      new RegExp(`${quoted(join(dataDir, 'keys.sealed'))}: the passphrase is wrong or .*give the right one`),
    async strike({ variable, scratch }) {
      const file = join(scratch, 'another.passphrase')
      await writeFile(file, 'not this one\n')
      return { start: { env: { [`${variable}_FILE`]: file } } }
    },
  },
  sampled(
    ['rps', 'tracking'],
    keysFault('keys cut short', /keys\.sealed: .*restore/, bytes => bytes.subarray(0, bytes.length >> 1)),
  ),
  sampled(
    ['dta', 'fleet'],
    keysFault('a bit of the keys flipped', /keys\.sealed: .*restore/, bytes => {
      bytes[bytes.length - 40] = (bytes[bytes.length - 40] as number) ^ 4
      return bytes
    }),
  ),
  keysFault('the keys are gone', /keys\.sealed: restore it from a backup/, () => null),
  databaseFault(
    'an empty database',
    /is empty: restore it from a backup, or, .* anew|is empty: restore it from a backup, or, .*another dataDir/,
    () => Buffer.alloc(0),
  ),
  databaseFault('no database', /is gone: restore it from a backup, or, /, () => null, true),
  sampled(
    ['rps', 'fleet'],
    databaseFault('a database whose header is noise', /is damaged: restore it from a backup/, bytes =>
      noise(bytes, 0, 100),
    ),
  ),
  sampled(
    ['dta', 'tracking'],
    databaseFault('a database with noise in its middle', /is damaged: restore it from a backup/, bytes =>
      noise(bytes, (bytes.length >> 13) * 4096, 3 * 4096),
    ),
  ),
  sampled(
    ['rps', 'dta'],
    databaseFault('a database cut in half', /is damaged: restore it from a backup/, bytes =>
      bytes.subarray(0, (bytes.length >> 13) * 4096),
    ),
  ),
  {
    name: 'a database of a newer version',
    code: 1,
    says: ({ database }) =>
      new RegExp(`${quoted(database)} was written by a newer version .*start that version, or restore`),
    strike: scene =>
      otherDatabase(scene, async file => {
        await writeFile(file, await readFile(join(scene.dataDir, scene.database)))
        const store = await openDatabase<unknown>({ file, migrations: scene.migrations })
        const step = [scene.migrations.length + 1, 'of tomorrow']
        await store.atomic(connection =>
          connection.run('INSERT INTO migration (id, name) VALUES (?, ?)', step),
        )
        await store.close()
      }),
  },
  {
    name: 'another server’s database',
    sample: ['fleet', 'tracking'],
    code: 1,
    says: ({ database }) => new RegExp(`${quoted(database)} belongs to another program`),
    strike: scene =>
      otherDatabase(scene, async file => {
        const step = { id: 1, name: 'of another', up: async () => {} }
        await (await openDatabase({ file, migrations: [step] })).close()
      }),
  },
  {
    name: 'another file of the folder is noise',
    code: 1,
    says: ({ own }) => own?.says as RegExp,
    async strike({ dataDir, own }) {
      const file = join(dataDir, own?.file as string)
      const bytes = await readFile(file)
      await writeFile(file, noise(Buffer.from(bytes), 0, bytes.length))
      return { mend: () => writeFile(file, bytes) }
    },
  },
  {
    name: 'the data folder is not there',
    code: 2,
    says: ({ dataDir }) =>
      new RegExp(
        `setting 'dataDir': '${quoted(dataDir)}-unmounted' is no data folder yet: .*--init, or mount`,
      ),
    async strike({ settings, dataDir }) {
      const start = { settings: { ...settings, dataDir: `${dataDir}-unmounted` } }
      return {
        start,
        async mend() {
          expect(existsSync(`${dataDir}-unmounted`)).toBe(false)
        },
      }
    },
  },
  {
    name: 'the data folder is empty, as a mount point is',
    sample: ['fleet', 'tracking'],
    code: 2,
    says: () => /setting 'dataDir': .* is no data folder yet/,
    async strike({ settings, scratch }) {
      const dataDir = join(scratch, 'mount-point')
      await mkdir(dataDir)
      return {
        start: { settings: { ...settings, dataDir } },
        async mend() {
          expect(await readdir(dataDir)).toEqual([])
          await rm(dataDir, { recursive: true })
        },
      }
    },
  },
  {
    name: 'the data folder cannot be written',
    // Root may write anywhere but on a read-only mount.
    ...(isRoot && !mayMount() ? { only: [] } : {}),
    code: 1,
    says: ({ database }) => new RegExp(`${quoted(database)} can't be (used|opened).*`),
    async strike({ settings, dataDir }) {
      const view = isRoot ? SmallDisk.readOnlyView(dataDir) : null
      if (view !== null)
        return { start: { settings: { ...settings, dataDir: view.path } }, mend: async () => view.unmount() }
      await chmod(dataDir, 0o500)
      return { mend: () => chmod(dataDir, 0o700) }
    },
  },
  sampled(['rps', 'fleet'], takenPort('listen')),
  sampled(['dta', 'tracking'], takenPort('adminListen')),
  sampled(
    ['fleet'],
    groupFault(
      'no group file',
      () => /setting 'groupFile': cannot read '\/nowhere' \(ENOENT\)$/,
      async () => ({ groupFile: '/nowhere' }),
    ),
  ),
  sampled(
    ['rps'],
    groupFault(
      'a group file that is no JSON',
      () => /setting 'groupFile': '.*' is not JSON$/,
      async (_settings, scratch) => {
        const groupFile = join(scratch, 'group.json')
        await writeFile(groupFile, '{"suite": ')
        return { groupFile }
      },
    ),
  ),
  sampled(
    ['tracking'],
    groupFault(
      'a group file that somebody has changed',
      () => /setting 'groupFile': '.*': /,
      async (settings, scratch) => {
        const document = JSON.parse(await readFile(settings.groupFile as string, 'utf8'))
        const groupFile = join(scratch, 'group.json')
        await writeFile(
          groupFile,
          JSON.stringify({ ...document, policy: { ...document.policy, grace: 301 } }),
        )
        return { groupFile }
      },
    ),
  ),
  groupFault(
    'a group file of another group',
    () => /setting 'groupFile': '.*': .*another group/,
    async () => ({ groupId: 'A'.repeat(43) }),
  ),
]

/** `npm run test:long` */
const isLong = process.env.MILAGRO_LONG === '1'
const faultsOf = (kind: Kind) =>
  FAULTS.filter(
    ({ only, sample }) =>
      only?.includes(kind) !== false && (isLong || sample === undefined || sample.includes(kind)),
  )

interface Ended {
  readonly code: number | null
  readonly out: string
  readonly err: string
  /** What the folder held before the start and after it. */
  readonly before: Readonly<Record<string, string>>
  readonly after: Readonly<Record<string, string>>
}

let folder: string
let servers: Servers
let setup: Setup
let idCore: string
let car: Device
const operatorStore = memoryTokenStore()
const ended = new Map<string, Ended | Error>()
const whole = new Map<
  Kind,
  { before: Readonly<Record<string, string>>; after: Readonly<Record<string, string>> }
>()

const login = (pin: string) =>
  car.login({ audience: servers.url('tracking'), user: 'Jo', pin }).then(
    () => 'OK',
    (error: unknown) => {
      if (error instanceof Refused) return error.code
      throw error
    },
  )
const openOperator = (options: { setup?: Setup }) =>
  Operator.open({
    rps: servers.url('rps'),
    fleet: servers.url('fleet'),
    tracking: servers.url('tracking'),
    store: operatorStore,
    pinCost: { iterations: 10, slowDevice: true },
    pin: PIN,
    ...options,
  })
async function issued(): Promise<number[]> {
  const token = (await readFile(join(servers.dataDir('dta-1'), 'admin-token'), 'utf8')).trim()
  const admin = createClient(dtaAdminRoutes, {
    baseUrl: servers.adminUrl('dta-1'),
    authorize: async () => `Bearer ${token}`,
  })
  return (await admin.status({})).groups.map(group => group.issued)
}

/** A car with a driver who has guessed wrong twice, and a track of three positions. */
async function live(): Promise<void> {
  const operator = await openOperator({ setup })
  const attributes = { brand: 'Acme', model: 'Roadster' }
  const { id, code } = await operator.fleet.addVehicle({ body: { instance: 'HARD-1', attributes } })
  const seat = await operator.fleet.assignDriver({
    params: { id: String(id) },
    body: { attributes: { driverName: 'Jo' } },
  })
  car = await Device.enrol({
    rps: servers.url('rps'),
    store: memoryTokenStore(),
    pinCost: { iterations: 10, slowDevice: true },
    code: code?.code as string,
    instance: 'HARD-1',
    attributes,
  })
  await car.enrolUser({ code: seat.code.code, attributes: { driverName: 'Jo' }, pin: PIN })
  idCore = car.mpinId
  const audience = servers.url('tracking')
  const simulated = new SimulatedCar({
    identity: {
      groupId: car.groupId,
      idCore,
      authorization: async () => `Bearer ${(await car.login({ audience })).accessToken}`,
      login: () => car.login({ audience }),
      word: async payload => ({ receipt: await car.sign({ audience, payload }) }),
      leaveDriver: () => false,
    },
    tracking: operator.tracking,
    drive: new Drive(generatedTrack(1), 10),
    notes: null,
    save: async () => {},
    clock: systemClock,
    interval: 1_000,
    say: () => {},
  })
  for (let position = 0; position < 3; position++) await simulated.tick()
  expect(await simulated.report()).toBe(true)
  expect([await login(PIN), await login(WRONG_PIN), await login(WRONG_PIN)]).toEqual([
    'OK',
    'WRONG_PIN',
    'WRONG_PIN',
  ])
  operator.close()
}

/** SHA-256 and mode of every file, by its path in the folder. */
async function contents(dataDir: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const entry of await readdir(dataDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    const hash = createHash('sha256')
      .update(await readFile(path))
      .digest('hex')
    found[relative(dataDir, path)] = `${(await stat(path)).mode.toString(8)} ${hash}`
  }
  return found
}

async function run(scene: Scene, start: Start): Promise<Pick<Ended, 'code' | 'out' | 'err'>> {
  const config = join(scene.scratch, 'settings.json')
  await rm(config, { force: true })
  const { settings = scene.settings } = start
  if (settings !== null)
    await writeFile(config, typeof settings === 'string' ? settings : JSON.stringify(settings))
  const passphrase = { [`${scene.variable}_FILE`]: join(folder, `${scene.name}.passphrase`) }
  const hasCommand = start.byCommand === true && scene.kind !== 'tracking'
  const program = hasCommand ? [MILAGRO, scene.kind, 'serve'] : [scene.program]
  const child = spawn(process.execPath, [...program, '--config', config], {
    env: { PATH: process.env.PATH, ...passphrase, ...start.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text
    // It was to be refused: it ends, and the test says what it did instead.
    if (out.includes('"ready"')) child.kill('SIGTERM')
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  return { code, out, err }
}

/** Every fault of a server, one after the other, in one and the same folder. */
async function suffer(place: Place): Promise<void> {
  const dataDir = servers.dataDir(place.name)
  const scratch = join(folder, `scratch-${place.name}`)
  await mkdir(scratch)
  const settings = JSON.parse(await readFile(join(folder, `${place.name}.json`), 'utf8'))
  const scene: Scene = { ...place, dataDir, scratch, settings }
  const before = await contents(dataDir)
  for (const fault of faultsOf(place.kind)) {
    try {
      const { start = {}, mend } = await fault.strike(scene)
      const struck = await contents(dataDir)
      const how = await run(scene, start)
      ended.set(`${place.kind}: ${fault.name}`, { ...how, before: struck, after: await contents(dataDir) })
      await mend?.()
    } catch (error) {
      ended.set(`${place.kind}: ${fault.name}`, error as Error)
    }
  }
  whole.set(place.kind, { before, after: await contents(dataDir) })
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-hard-'))
  const free = await freePorts(2 * SERVERS.length)
  const ports = Object.fromEntries(
    SERVERS.map((name, i) => [name, { public: free[2 * i], admin: free[2 * i + 1] }]),
  ) as Record<ServerName, Ports>
  servers = newServers(ports)
  await servers.start()
  setup = servers.process('fleet').events.find(({ event }) => event === 'setup-code') as unknown as Setup
  await live()
  const wasIssued = await issued()
  expect(wasIssued.every(count => count > 0)).toBe(true)
  await servers.end()

  const waiting = [...PLACES]
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await suffer(next)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  servers = newServers(ports)
  await servers.start()
  expect(await issued()).toEqual(wasIssued)
}, 600_000)
afterAll(async () => {
  await servers.end()
  await rm(folder, { recursive: true })
})

function newServers(ports: Record<ServerName, Ports>): Servers {
  return new Servers({
    folder,
    ports,
    slotLength: 86_400,
    grace: 300,
    deltaSeconds: 60,
    clock: systemClock,
    random: systemRandom,
    progress: () => undefined,
  })
}

describe.each(PLACES)('$kind', place => {
  const { kind, own } = place
  test.each(faultsOf(kind))('$name', ({ name, code, says }) => {
    const how = ended.get(`${kind}: ${name}`)
    if (how === undefined || how instanceof Error) throw how ?? new Error('this fault was not struck')
    const scene = {
      ...place,
      dataDir: servers.dataDir(place.name),
      scratch: join(folder, `scratch-${place.name}`),
      settings: {},
    }
    expect(how.err).toMatch(new RegExp(`^milagro ${kind}: [^\\n]+\\n$`))
    expect(how.err.trimEnd()).toMatch(says(scene))
    const wanted = name === 'another file of the folder is noise' ? own?.code : code
    expect([how.code, how.out]).toEqual([wanted, ''])
    expect(how.after).toEqual(how.before)
  })

  test('after all of it the folder is as it was', () => {
    expect(whole.get(kind)?.after).toEqual(whole.get(kind)?.before)
  })
})

describe('started again, they have lost nothing', () => {
  let operator: Operator
  beforeAll(async () => {
    operator = await openOperator({})
  })
  afterAll(() => operator.close())

  test('fleet: the vehicle and its driver', async () => {
    const { vehicles } = await operator.fleet.listVehicles({ query: {} })
    expect(vehicles).toMatchObject([{ instance: 'HARD-1', state: 'enrolled' }])
  })
  test('tracking: the positions', async () => {
    // It answers nobody until it hears the ban events again.
    await expect
      .poll(async () => (await operator.tracking.vehicles({})).vehicles, { timeout: 20_000 })
      .toMatchObject([{ idCore, positions: 3 }])
  })
  test('rps: the two wrong guesses, so that a third locks', async () => {
    expect([await login(WRONG_PIN), await login(PIN)]).toEqual(['WRONG_PIN', 'LOCKED'])
  })
})
