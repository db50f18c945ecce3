/** `npm start`: everything on this machine, each server and each car a process of its own, until Ctrl-C. `--help` says the flags. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join, relative, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { brokerInUse, mosquittoFile, mosquittoPid, removeOwnFolder } from './broker.js'
import { ANSWERS, CALLS, type CarSecrets, type CarSettings, Cars } from './cars.js'
import { check } from './check.js'
import { TOWNS } from './gpx.js'
import { createLanding, type Landing } from './landing.js'
import { Operator, type Setup } from './operator.js'
import { isFree, type ManagedProcess, type ProcessEvent, unlessAborted } from './processes.js'
import { AUTHORITIES, GATEWAY, type Ports, SERVERS, Servers } from './servers.js'

const FOLDER = '.milagro'
/** In FOLDER: the port base of its group; and, while it runs, the number of this process. */
const SETTINGS = 'settings.json'
const RUNNING = 'running.pid'
const PORT_BASE = 7400
/** In FOLDER: the setup code of the operator who uses the console. */
const BROWSER_CODE = 'browser.code'
const BROWSER_OPERATOR = 'browser'
/** Seconds: time permits of a day, as the protocol has it unless said. */
const SLOT = 86_400
const GRACE = 300
/** Seconds. One machine, one clock; and for so long after its start the RPS logs no car in. */
const DELTA = 10
/** Seconds after the start in which a new RPS may be why a proof is refused for its time. */
const RECORD_IS_NEW_FOR = 120

/** Where each server listens, from the base on; admin listeners are 50 above. */
const OFFSETS = {
  fleet: 0,
  rps: 1,
  tracking: 2,
  gateway: 4,
  'dta-1': 11,
  'dta-2': 12,
  'dta-3': 13,
} as const
type Listening = keyof typeof OFFSETS

/** Where cars come in by TLS. */
const CARS_BY_TLS = 3
/** Where one car answers another. */
const CAR_ANSWERS = 6
/** The landing page. */
const LANDING = 9
const LANDING_PAGES = fileURLToPath(new URL('../dist/landing/', import.meta.url))
const DOCS = fileURLToPath(new URL('../../../docs/', import.meta.url))

const ADMIN = 50
const USAGE = `npm start: everything on this machine, each server and each car a process of its own, until Ctrl-C

npm start -- [options]
  --fresh             forget the former state and start over
  --port-base <n>     first of the ports (${PORT_BASE} unless said)
  --open              open the landing page in a browser
  --check             play the story once in a temporary folder and say how it went, in JSON lines
  --rps-main <file>   with --check: another program in the RPS' place
  --help              say this

State is kept in ${FOLDER}/. It listens on the loopback: ports <n> to <n> + ${Math.max(...Object.values(OFFSETS))}, and administration ${ADMIN} above.
`
/** Above it the highest admin listener would have no port. */
const LAST_BASE = 65_535 - ADMIN - Math.max(...Object.values(OFFSETS))

/** The cars of the example: brand, model, variant, and who drives. */
const CARS = [
  {
    name: 'car-1',
    attributes: { brand: 'Volkswagen', model: 'ID.3', variant: 'Pro' },
    driver: 'Ada Lovelace',
  },
  { name: 'car-2', attributes: { brand: 'Fiat', model: '500e', variant: 'Icon' }, driver: 'Grace Hopper' },
  { name: 'car-3', attributes: { brand: 'Renault', model: 'Zoe', variant: 'Life' }, driver: undefined },
] as const

/** One clear line for the person who typed the command. */
class StartError extends Error {
  override readonly name = 'StartError'
}

const ending = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ending.abort(signal))

try {
  const flags = readFlags()
  if (flags.help) process.stdout.write(USAGE)
  else if (flags.check) {
    const say = (line: string) => void process.stdout.write(`${line}\n`)
    process.exitCode = (await check({ rpsMain: flags.rpsMain, say, signal: ending.signal })) ? 0 : 1
  } else await run(flags)
} catch (error) {
  process.stderr.write(`npm start: ${(error as Error).message}\n`)
  process.exitCode = error instanceof StartError ? 2 : 1
}

interface Flags {
  readonly help: boolean
  readonly check: boolean
  readonly fresh: boolean
  readonly open: boolean
  readonly portBase: number | undefined
  readonly rpsMain: string | undefined
}

function readFlags(): Flags {
  try {
    const { values } = parseArgs({
      options: {
        help: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        fresh: { type: 'boolean', default: false },
        open: { type: 'boolean', default: false },
        'port-base': { type: 'string' },
        'rps-main': { type: 'string' },
      },
    })
    const base = values['port-base']
    if (base !== undefined && (!/^[1-9][0-9]{3,4}$/.test(base) || Number(base) > LAST_BASE))
      throw new Error(`--port-base is a port from 1000 to ${LAST_BASE}`)
    const rpsMain = values['rps-main']
    if (rpsMain !== undefined && !existsSync(rpsMain)) throw new Error(`--rps-main: there is no ${rpsMain}`)
    return {
      help: values.help,
      check: values.check,
      fresh: values.fresh,
      open: values.open,
      portBase: base === undefined ? undefined : Number(base),
      rpsMain: rpsMain === undefined ? undefined : resolve(rpsMain),
    }
  } catch (error) {
    throw new StartError((error as Error).message)
  }
}

async function run({ fresh, open, portBase }: Flags): Promise<void> {
  const begin = performance.now()
  const folder = resolve(FOLDER)
  // Before anything is touched: --fresh would take the files from under a system that runs.
  await checkNotRunning(folder)
  const inUse = await brokerInUse(folder)
  if (inUse !== undefined) throw new StartError(inUse)
  if (fresh) {
    await removeOwnFolder(folder)
    await rm(folder, { recursive: true, force: true })
  }
  const founded = await foundedBase(folder)
  if (founded !== undefined && portBase !== undefined && founded !== portBase) {
    throw new StartError(
      `the group in ${FOLDER}/ was founded with --port-base ${founded}; --fresh starts over`,
    )
  }
  const base = founded ?? portBase ?? PORT_BASE
  const ports = portsFrom(base)
  await checkFree(base, founded === undefined ? '--port-base <n>' : '--fresh --port-base <n>')
  await mkdir(folder, { recursive: true, mode: 0o700 })
  await writeFileAtomic(join(folder, SETTINGS), `${JSON.stringify({ portBase: base })}\n`)
  await writeFileAtomic(join(folder, RUNNING), `${process.pid}\n`)

  const servers = new Servers({
    folder,
    ports,
    mosquitto: mosquittoFile(),
    slotLength: SLOT,
    grace: GRACE,
    deltaSeconds: DELTA,
    clock: systemClock,
    random: systemRandom,
    progress: step => say(`  ${step}`),
  })
  const cars = new Cars({ folder, servers, answering: { host: '127.0.0.1', port: base + CAR_ANSWERS } })
  let landing: Landing | undefined
  try {
    say(`state in ${relative('.', folder)}/`)
    await unlessAborted(ending.signal, bringUp(folder, servers, cars))
    landing = await openLanding(base + LANDING, folder, servers, cars)
    if (open) openInBrowser(landing.url)
    announce(landing, folder, servers, cars, Math.round((performance.now() - begin) / 100) / 10)
    await untilEnded(servers, cars)
  } catch (error) {
    if (!ending.signal.aborted) throw error
  } finally {
    say('ending')
    await landing?.close()
    await cars.end()
    await servers.end()
    await rm(join(folder, RUNNING), { force: true })
  }
}

async function bringUp(folder: string, servers: Servers, cars: Cars): Promise<void> {
  await servers.start()
  if (servers.mqttLeftOut !== undefined) say(`  MQTT is left out: ${servers.mqttLeftOut}`)
  // Cars try until they reach it.
  await Promise.all([servers.startBroker(), driveOff(folder, servers, cars)])
}

/** Registers cars that fleet doesn't know, starts them all, and tells two of them of each other. */
async function driveOff(folder: string, servers: Servers, cars: Cars): Promise<void> {
  const unregistered = CARS.filter(car =>
    secretNames(car).some(name => !existsSync(secretFile(folder, car, name))),
  )
  const browserCode = join(folder, BROWSER_CODE)
  if (unregistered.length > 0 || !existsSync(browserCode)) {
    say('  the operator logs in')
    const operator = await openOperator(folder, servers)
    await madeOnce(browserCode, async () => {
      const { code } = await operator.fleet.inviteOperator({ body: { name: BROWSER_OPERATOR } })
      return code.code
    })
    for (const car of unregistered) await registerCar(folder, car, operator)
    operator.close()
  }
  say(`  ${CARS.map(({ name }) => name).join(', ')} drive off`)
  await Promise.all(CARS.map(car => startCar(folder, car, cars)))
  const ready = await Promise.all(cars.all.map(car => car.ready()))
  const idCoreOf = (name: string) => ready[cars.all.findIndex(car => car.name === name)]?.idCore as string
  await cars.introduce({ answers: idCoreOf(ANSWERS), calls: idCoreOf(CALLS) })
}

/** The base of the first start, which the group document and every audience hold; undefined before it. */
async function foundedBase(folder: string): Promise<number | undefined> {
  const file = join(folder, SETTINGS)
  if (!existsSync(file)) return undefined
  const base = portBaseOf(await readFile(file, 'utf8'))
  if (base === undefined)
    throw new StartError(`${join(FOLDER, SETTINGS)} is damaged: mend it, or start over with --fresh`)
  return base
}

function portBaseOf(text: string): number | undefined {
  try {
    const { portBase } = JSON.parse(text) as { portBase?: unknown }
    return typeof portBase === 'number' && portBase >= 1000 && portBase <= LAST_BASE ? portBase : undefined
  } catch {
    // Not JSON, or null: damaged either way, and the caller says so.
    return undefined
  }
}

/**
 * A process that was killed leaves its number behind, which by now may be anybody's: it counts only while the
 * ports are in use too.
 */
async function checkNotRunning(folder: string): Promise<void> {
  const pid = Number((await kept(join(folder, RUNNING))) ?? Number.NaN)
  if (!Number.isInteger(pid) || pid < 1 || !isAlive(pid)) return
  const settings = await kept(join(folder, SETTINGS))
  const base = settings === undefined ? undefined : portBaseOf(settings)
  if (base !== undefined && (await isFree(base)) && (await isFree(portsFrom(base)['dta-1'].public))) return
  throw new StartError(`${FOLDER}/ is in use: end process ${pid} first`)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function portsFrom(base: number): Readonly<Record<Listening, Ports>> {
  const at = (name: Listening) => ({
    public: base + OFFSETS[name],
    admin: base + OFFSETS[name] + ADMIN,
  })
  return {
    fleet: at('fleet'),
    rps: at('rps'),
    tracking: { ...at('tracking'), tls: base + CARS_BY_TLS },
    gateway: at('gateway'),
    'dta-1': at('dta-1'),
    'dta-2': at('dta-2'),
    'dta-3': at('dta-3'),
  }
}

async function checkFree(base: number, flags: string): Promise<void> {
  const ports = portsFrom(base)
  const wanted = ([...SERVERS, GATEWAY] as const).flatMap(name => [
    [ports[name].public, name] as const,
    [ports[name].admin, name] as const,
  ])
  const others = [
    [base + CARS_BY_TLS, 'tracking by TLS'],
    [base + CAR_ANSWERS, `${ANSWERS} for ${CALLS}`],
    [base + LANDING, 'overview'],
  ] as const
  for (const [port, name] of [...wanted, ...others]) {
    if (await isFree(port)) continue
    throw new StartError(
      `port ${port} (${name}) is taken: end what listens there, or use npm start -- ${flags}`,
    )
  }
}

async function openOperator(folder: string, servers: Servers): Promise<Operator> {
  return Operator.open({
    rps: servers.url('rps'),
    store: fileTokenStore(join(folder, 'operator.json')),
    fleet: servers.url('fleet'),
    tracking: servers.url('tracking'),
    pin: await madeOnce(join(folder, 'operator.pin'), () => String(100_000 + digits(900_000))),
    setup: await setupOf(folder, servers),
  })
}

/** Fleet says its setup code once, so it is kept: a start that was interrupted before the enrolment goes on with it. */
async function setupOf(folder: string, servers: Servers): Promise<Setup | undefined> {
  const file = join(folder, 'operator.setup')
  const said = servers.process('fleet').events.find(({ event }) => event === 'setup-code')
  if (said !== undefined) {
    const { operator, code } = said as unknown as Setup
    await writeFileAtomic(file, JSON.stringify({ operator, code }))
  }
  const text = await kept(file)
  return text === undefined ? undefined : (JSON.parse(text) as Setup)
}

type ExampleCar = (typeof CARS)[number]
type SecretName = keyof CarSecrets

function secretNames({ driver }: ExampleCar): readonly SecretName[] {
  return driver === undefined ? ['code'] : ['code', 'driverCode', 'pin']
}
function secretFile(folder: string, { name }: ExampleCar, secret: SecretName): string {
  return join(folder, `${name}.${secret}`)
}
function instanceOf({ name }: ExampleCar): string {
  return `DEMO-${name.toUpperCase()}`
}

/**
 * Makes a car and its driver known to fleet, and keeps their codes. Codes are asked for where there are none: also
 * when a former start was interrupted just before it kept them.
 */
async function registerCar(folder: string, car: ExampleCar, { fleet }: Operator): Promise<void> {
  const { attributes, driver } = car
  const instance = instanceOf(car)
  const { vehicles } = await fleet.listVehicles({ query: { instance } })
  const vehicle = vehicles[0] ?? (await fleet.addVehicle({ body: { instance, attributes, withCode: false } }))
  const params = { id: String(vehicle.id) }
  await madeOnce(
    secretFile(folder, car, 'code'),
    async () => (await fleet.vehicleCode({ params, body: {} })).code,
  )
  if (driver === undefined) return
  await madeOnce(secretFile(folder, car, 'driverCode'), async () => {
    const { code } = await fleet.assignDriver({ params, body: { attributes: { driverName: driver } } })
    return code.code
  })
  await madeOnce(secretFile(folder, car, 'pin'), () => String(1000 + digits(9000)))
}

/** Starts the process of a car that fleet knows. */
async function startCar(folder: string, car: ExampleCar, cars: Cars): Promise<void> {
  const { name, attributes, driver } = car
  const settings: CarSettings = {
    name,
    instance: instanceOf(car),
    attributes,
    // All in one town, so that the map shows their streets.
    seed: CARS.indexOf(car) * TOWNS.length,
    // Of a car with a driver the RPS says who drove; the others ask nobody.
    signs: driver === undefined ? 'itself' : 'rps',
    positionEvery: 1_000,
    reportEvery: 3_000,
    ...(driver === undefined ? {} : { driver: { attributes: { driverName: driver } } }),
  }
  const secrets: { -readonly [K in SecretName]?: CarSecrets[K] } = {}
  for (const secret of secretNames(car)) secrets[secret] = await kept(secretFile(folder, car, secret))
  await cars.start(settings, secrets)
}

/** What an operator may type, once MILAGRO_PIN_FILE is set. */
function commandsOf(folder: string, servers: Servers): readonly string[] {
  const shown = relative('.', folder)
  const store = `--store ${join(shown, 'operator.json')} --rps ${servers.url('rps')}`
  const fleet = `--url ${servers.url('fleet')} ${store}`
  return [
    `export MILAGRO_PIN_FILE=${join(shown, 'operator.pin')}`,
    `npx milagro fleet list ${fleet}`,
    `npx milagro fleet ban --vehicle DEMO-CAR-2 --reason stolen ${fleet}`,
    `TOKEN=$(npx milagro device login --audience ${servers.url('tracking')} ${store})`,
    `curl -H "Authorization: Bearer $TOKEN" ${servers.url('tracking')}/v1/vehicles`,
    ...(servers.broker === undefined
      ? []
      : [`npx mqtt sub -l mqtt+unix --path ${shownSocket(folder, servers)} -t 'cars/#' -v`]),
  ]
}

/** Below the folder or, where that can't be a socket's, in a folder of its own. */
function shownSocket(folder: string, { brokerSocket }: Servers): string {
  return brokerSocket.startsWith(folder) ? relative('.', brokerSocket) : brokerSocket
}

function openLanding(port: number, folder: string, servers: Servers, cars: Cars): Promise<Landing> {
  return createLanding({
    port,
    pagesFolder: LANDING_PAGES,
    docsFolder: DOCS,
    parties: [
      ...SERVERS.map(name => ({ name, url: servers.url(name), adminUrl: servers.adminUrl(name) })),
      ...(servers.mqtt === undefined
        ? []
        : [{ name: GATEWAY, url: urlOf(servers.mqtt), adminUrl: servers.adminUrl(GATEWAY) }]),
    ],
    cars: () => cars.all.map(({ name, running }) => ({ name, isRunning: running })),
    group: servers.groupId,
    console: servers.url('fleet'),
    operator: BROWSER_OPERATOR,
    codeFile: join(relative('.', folder), BROWSER_CODE),
    commands: [...commandsOf(folder, servers)],
    clock: systemClock,
    fetch,
  })
}

function urlOf({ host, port }: { readonly host: string; readonly port: number }): string {
  return `mqtts://${host}:${port}`
}

/** By the system's own way; a machine without one says so, and everything goes on. */
function openInBrowser(url: string): void {
  const [command, ...args] =
    process.platform === 'darwin'
      ? ['open']
      : process.platform === 'win32'
        ? ['cmd', '/c', 'start', '']
        : ['xdg-open']
  spawn(command as string, [...args, url], { stdio: 'ignore', detached: true })
    .on('error', error => say(`no browser opened (${error.message}): open ${url} yourself`))
    .unref()
}

function announce(landing: Landing, folder: string, servers: Servers, cars: Cars, seconds: number): void {
  const shown = relative('.', folder)
  const pids = [...servers.all, ...cars.all].map(one =>
    one === servers.broker ? `mosquitto ${mosquittoPid(one)}` : `${one.name} ${one.pid}`,
  )
  const mqtt =
    servers.mqtt === undefined
      ? ''
      : `
  gateway    ${urlOf(servers.mqtt)}    where cars publish where they are, by TLS as well; mosquitto is behind it`
  say(`running after ${seconds} s
  overview   ${landing.url}    what is running, and what to try next
  console    ${servers.url('fleet')}    vehicles, drivers, bans, the map: set it up as operator '${BROWSER_OPERATOR}'
             with the code in ${join(shown, BROWSER_CODE)}
  RPS        ${servers.url('rps')}    logins
  tracking   ${servers.url('tracking')}    where every car is, for people; cars come in by TLS without certificates,
             ${servers.trackingTls?.url}${mqtt}
  D-TAs      ${AUTHORITIES.map(name => servers.url(name)).join('  ')}
  group      ${servers.groupId}
  processes  ${pids.join(', ')}
  logs       ${join(shown, 'logs')}/

As the operator at the terminal:
${commandsOf(folder, servers)
  .map(command => `  ${command}`)
  .join('\n')}

Ctrl-C ends everything.`)
}

/** On one machine no clock is another's: a proof is refused so by docs/protocols/login.md, "One pass and replay". */
function whyOf(code: unknown): string {
  if (code !== 'CLOCK' || process.uptime() > RECORD_IS_NEW_FOR) return ''
  return `: a new RPS takes proofs without a nonce only ${DELTA} s after its start; the position waits`
}

/** Until somebody wants an end; a server that ends by itself is a failure, a car is news. */
async function untilEnded(servers: Servers, cars: Cars): Promise<void> {
  const isOver = new Promise<void>(resolve =>
    ending.signal.addEventListener('abort', () => resolve(), { once: true }),
  )
  for (const car of cars.all) {
    const news = (event: ProcessEvent) => {
      if (event.event === 'refused' || event.event === 'driver-left')
        say(`${car.name}: ${event.event} ${event.code}${whyOf(event.code)}`)
      if (event.event === 'peer-connected' && car.name === CALLS)
        say(`${CALLS}: has a channel to ${ANSWERS}, with no server between them`)
      if (event.event === 'ended' && !ending.signal.aborted) say(`${car.name} has ended (${event.how})`)
    }
    // It may have been quicker than this.
    car.events.filter(({ event }) => event === 'peer-connected').forEach(news)
    car.on(news)
  }
  const watch = async (server: ManagedProcess) => {
    const how = await server.ended
    // A Ctrl-C that reaches everybody at once ends servers a moment before this process knows of it.
    await sleep(200)
    if (!ending.signal.aborted) throw new StartError(`${server.name} has ended (${how}): see its log`)
  }
  await Promise.race([isOver, ...servers.all.map(watch)])
}

async function kept(file: string): Promise<string | undefined> {
  return existsSync(file) ? (await readFile(file, 'utf8')).trim() : undefined
}

/** A secret that is made at the first start and kept in a file of mode 0600. */
async function madeOnce(file: string, make: () => string | Promise<string>): Promise<string> {
  const known = await kept(file)
  if (known !== undefined) return known
  const made = await make()
  await writeFileAtomic(file, `${made}\n`)
  return made
}

/** Evenly from 0 to below `limit` (at most 2²⁴): draws that would favour small numbers are thrown away. */
function digits(limit: number): number {
  for (;;) {
    const [a = 0, b = 0, c = 0] = systemRandom(3)
    const drawn = a * 65_536 + b * 256 + c
    if (drawn < 16_777_216 - (16_777_216 % limit)) return drawn % limit
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}
