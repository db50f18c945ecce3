/**
 * A broker that knows nothing of the group: mosquitto at a Unix domain socket, behind `milagro tls gateway`. Its user name is the
 * M-Pin ID of the car that has come in, so that its own rules say who writes where. mosquitto believes whoever reaches it; so it has
 * no port, and its socket is in a folder that nobody but this user (and root) may enter. A program of this very user gets past the
 * gateway: in use, gateway and broker are users of their own (docs/operations/gateway.md).
 */
import { accessSync, constants } from 'node:fs'
import { chmod, mkdir, mkdtemp, readFile, rm, rmdir } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { basename, delimiter, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { isSocketPathTooLong } from '@milagro-ts/tls/service-address'
import type { ManagedProcess, ProcessOptions } from './processes.js'

/** Its name among the processes. */
export const BROKER = 'broker'
/** Debian has servers where an ordinary user's PATH doesn't look. */
const FOLDERS = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']

/** The program; undefined where it isn't installed. */
export function mosquittoFile(folders: readonly string[] = FOLDERS): string | undefined {
  return folders
    .map(folder => join(folder, 'mosquitto'))
    .find(file => {
      try {
        accessSync(file, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

/** Where mosquitto listens. */
export interface BrokerSocket {
  readonly path: string
  /** Once the broker has ended: nothing is left of a folder that was made for the socket alone. */
  remove(): Promise<void>
}

/**
 * In `<folder>/mosquitto/`, mode 0700; where no socket can have that path, in a new folder for temporary files, of the same mode.
 * mosquitto gives the socket itself 0770, and takes the place of one that a killed mosquitto has left behind. Error where one listens
 * there still: a new one would take its place, and lose it again when the former ends.
 * @param folder of the whole example.
 */
export async function brokerSocket(folder: string): Promise<BrokerSocket> {
  const inUse = await brokerInUse(folder)
  if (inUse !== undefined) throw new Error(inUse)
  await removeOwnFolder(folder)
  const data = await dataFolder(folder)
  const path = join(data, SOCKET)
  if (isFit(path)) return { path, remove: async () => {} }
  const own = await mkdtemp(join(tmpdir(), OWN))
  await writeFileAtomic(noteIn(folder), own)
  const remove = () => removeOwnFolder(folder)
  if (isFit(join(own, SOCKET))) return { path: join(own, SOCKET), remove }
  await remove()
  throw new Error(
    `mosquitto's socket finds no place: the names of ${data} and ${tmpdir()} are too long, or have a space`,
  )
}

/** Where a mosquitto of an earlier start still listens, in a sentence; undefined: nowhere. */
export async function brokerInUse(folder: string): Promise<string | undefined> {
  const own = await ownFolder(folder)
  const places = [join(folder, 'mosquitto'), ...(own === undefined ? [] : [own])]
  for (const path of places.map(place => join(place, SOCKET)))
    if (isFit(path) && (await isListening(path)))
      return `${path} is in use: end the mosquitto that listens there first`
  return undefined
}

/** Removes the folder that was made for the socket alone, also of a start that was killed. */
export async function removeOwnFolder(folder: string): Promise<void> {
  const own = await ownFolder(folder)
  if (own === undefined) return
  // Whoever clears temporary files may have been here before; what else is in it isn't ours.
  await rm(join(own, SOCKET), { force: true }).catch(() => undefined)
  await rmdir(own).catch(() => undefined)
  await rm(noteIn(folder), { force: true })
}

const SOCKET = 'socket'
/** How the name of a folder begins that was made for the socket alone. */
const OWN = 'milagro-broker-'
const noteIn = (folder: string) => join(folder, 'mosquitto', 'socket-folder')

async function ownFolder(folder: string): Promise<string | undefined> {
  const own = await readFile(noteIn(folder), 'utf8').catch(() => '')
  return isAbsolute(own) && basename(own).startsWith(OWN) ? own : undefined
}

/** mosquitto 2.0 reads a path as far as its first space. */
function isFit(path: string): boolean {
  return !isSocketPathTooLong(path) && !/\s/.test(path)
}

/** One that refuses for another reason than that nobody is there, such as a full queue, is somebody's. */
function isListening(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', ({ code = '' }: NodeJS.ErrnoException) =>
      resolve(!['ENOENT', 'ECONNREFUSED'].includes(code)),
    )
  })
}

async function dataFolder(folder: string): Promise<string> {
  const data = join(folder, 'mosquitto')
  await mkdir(data, { recursive: true, mode: 0o700 })
  await chmod(data, 0o700)
  return data
}

/** Who comes by the gateway writes under its own name; this user's programs listen, and have whatever name they say. */
const RULES = 'topic read cars/#\n\npattern write cars/%u/#\n'

/**
 * Writes its settings, in `<folder>/mosquitto/`, and says how it is started. Ready once mosquitto runs.
 * @param folder of the whole example.
 */
export async function brokerProcess(
  folder: string,
  program: string,
  { path }: BrokerSocket,
): Promise<ProcessOptions> {
  const data = await dataFolder(folder)
  const acl = join(data, 'acl')
  const config = join(data, 'mosquitto.conf')
  await writeFileAtomic(acl, RULES)
  const settings = [
    // Port 0: none.
    `listener 0 ${path}`,
    'allow_anonymous true',
    `acl_file ${acl}`,
    `user ${userInfo().username}`,
  ]
  await writeFileAtomic(config, `${settings.join('\n')}\n`)
  return {
    name: BROKER,
    file: fileURLToPath(new URL('../dist/broker-main.js', import.meta.url)),
    args: ['--program', program, '--config', config],
    logFile: join(folder, 'logs', `${BROKER}.log`),
  }
}

/** Of mosquitto itself, whose parent the managed process is; undefined: it never ran. */
export function mosquittoPid(broker: ManagedProcess): number | undefined {
  return broker.events.find(({ event }) => event === 'ready')?.pid as number | undefined
}

/** Ends both, also where the managed process was killed and could not end mosquitto. */
export async function endBroker(broker: ManagedProcess): Promise<void> {
  await broker.end()
  const pid = mosquittoPid(broker)
  if ((await broker.ended) !== 'SIGKILL' || pid === undefined) return
  try {
    process.kill(pid)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
