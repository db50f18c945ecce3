/**
 * A broker that knows nothing of the group: mosquitto on the loopback, behind `milagro tls gateway`. Its user name is the M-Pin ID
 * of the car that has come in, so that its own rules say who writes where. They hold for who comes by the gateway: mosquitto
 * believes whoever reaches it, and on the loopback that is everybody on this machine, who may write under any car's name.
 * A broker that others rely on is reached by its gateway alone (docs/operations/gateway.md).
 */
import { accessSync, constants } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
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

/** Who comes by the gateway writes under its own name; who comes from this machine listens, and has whatever name it says. */
const RULES = 'topic read cars/#\n\npattern write cars/%u/#\n'

/**
 * Writes its settings, in `<folder>/mosquitto/`, and says how it is started: on the loopback. Ready once mosquitto runs.
 * @param folder of the whole example.
 */
export async function brokerProcess(folder: string, program: string, port: number): Promise<ProcessOptions> {
  const data = join(folder, 'mosquitto')
  await mkdir(data, { recursive: true, mode: 0o700 })
  const acl = join(data, 'acl')
  const config = join(data, 'mosquitto.conf')
  await writeFileAtomic(acl, RULES)
  const settings = [
    `listener ${port} 127.0.0.1`,
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
