/**
 * A writer of a PSK file as a process (psk-file.ts, api/process.ts): settings, keys, health and metrics; SIGHUP reads the
 * settings and the register again. With `once` it writes the file and ends.
 */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import type { Readiness } from '@milagro-ts/api/admin'
import { createClient } from '@milagro-ts/api/call'
import { ConfigError, type Environment, environmentOfOthers, readSecret } from '@milagro-ts/api/config'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group, GroupRecipient } from '@milagro-ts/api/group'
import { createLog, type Log } from '@milagro-ts/api/log'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { runProcess, say } from '@milagro-ts/api/process'
import { registerRoutes } from '@milagro-ts/api/register-routes'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { ServiceKeys } from '@milagro-ts/api/service-keys'
import { systemClock, systemRandom, systemTimers, type Timers } from '@milagro-ts/api/system'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { encodeName, IdCore } from '@milagro-ts/crypto/identity'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G2 } from '@milagro-ts/crypto/points'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { AgreeStaticKey } from '@milagro-ts/crypto/static-agreement'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { Guard } from '@milagro-ts/rpa/guard'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { openAdmin } from './admin-listener.js'
import { FollowedGroup } from './followed-group.js'
import { loadPskFileConfig, PSK_FILE_RELOADABLE, type PskFileConfig } from './gateway-config.js'
import { PskFile } from './psk-file.js'
import { askRecipientKey, mayPass, NotNamed, unreachable } from './recipient-shares.js'
import { ReloadableSettings } from './reloadable-settings.js'
import { makeService, readService } from './service-folder.js'

/** Milliseconds for one call to an authority. */
const TIMEOUT = 5_000
/** Milliseconds that `once` takes at most, and between its looks. */
const ONCE = 30_000
const PAUSE = 50
/** Milliseconds that the reload command has: bans wait for it. */
const RELOAD = 10_000

export interface PskFileFlags {
  readonly config?: string | undefined
  readonly init?: boolean | undefined
  readonly once?: boolean | undefined
}

/** Never rejects. */
export function runPskFile(flags: PskFileFlags, env: Environment): Promise<void> {
  return runProcess('tls psk-file', async () => {
    const settings = new ReloadableSettings(
      () => loadPskFileConfig({ file: flags.config, env }),
      PSK_FILE_RELOADABLE,
    )
    const config = settings.current
    const { name } = config
    const passphrase = readSecret('MILAGRO_PSK_FILE_PASSPHRASE', env)
    if (flags.init === true) {
      say({ event: 'initialised', ...(await makeService(config, passphrase)) })
      return null
    }
    const log = createLog(name, { level: config.logLevel ?? 'info' })
    const metrics = createMetrics('milagro_psk_file')
    const ports = { clock: systemClock, random: systemRandom, timers: systemTimers }
    const { requestKey, hpkeKey, group } = await readService(config, passphrase)
    const writer = await openPskFile({
      settings: () => settings.current,
      keys: { requestKey, hpkeKey },
      group,
      log,
      metrics,
      ...ports,
      fetch,
      env,
    })
    if (flags.once !== true) {
      const title = 'PSK file: administration'
      const ready = async () => writer.readiness
      const admin = await openAdmin(config.adminListen, { title, log, metrics, ready }).catch(
        async (error: unknown) => {
          await writer.close()
          throw error
        },
      )
      return {
        urls: { file: config.file, ...admin.urls },
        async reload() {
          if (settings.reload(log)) writer.lookAnew()
        },
        async close() {
          await writer.close()
          await admin.close()
        },
      }
    }
    await written(writer, ports).finally(() => writer.close())
    say({ event: 'written', file: config.file, lines: writer.lines })
    return null
  })
}

/**
 * Waits until the file is written, and the broker told. Rejects with what asking again won't change, at once; after half a minute with what there
 * is, Unreachable where a server is needed that doesn't answer.
 */
export async function written(
  writer: Pick<PskFileWriter, 'named' | 'readiness' | 'troubles'>,
  { clock, timers }: { readonly clock: Clock; readonly timers: Timers },
): Promise<void> {
  const end = clock() + ONCE
  // First: whom the group doesn't name the RPS doesn't know either, and says less.
  await writer.named().catch((error: unknown) => {
    if (error instanceof NotNamed) throw new ConfigError(`setting 'name': ${error.log}`)
  })
  while (!writer.readiness.ok) {
    const { troubles } = writer
    const final = troubles.find(trouble => !mayPass(trouble))
    if (final !== undefined) throw final
    if (clock() >= end)
      throw unreachable(troubles[0]) ?? new Error('the PSK file was not written: see the log above')
    await new Promise<void>(resolve => void timers.after(PAUSE, resolve))
  }
}

export interface PskFileOptions {
  /** As of now; what wants a restart is looked at once. */
  readonly settings: () => PskFileConfig
  readonly keys: ServiceKeys
  /** The pinned group; later revisions come from the RPS. */
  readonly group: Group
  readonly log: Log
  readonly metrics: Metrics
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly fetch: typeof fetch
  /** The reload command gets what of it isn't ours. */
  readonly env: Environment
}

export interface PskFileWriter {
  /** NotNamed, where the group names no such static server; Unreachable and others, where only the RPS can say, and doesn't. */
  named(): Promise<unknown>
  /** Reads the register again, now: it may be another one. */
  lookAnew(): void
  /** Whether the file holds a line for each device that may come in and no other, and the broker knows; or why not. */
  readonly readiness: Readiness
  /** Why it isn't, as far as something has failed: of ban events, register, key, file and broker. */
  readonly troubles: readonly unknown[]
  /** Identities in the file. */
  readonly lines: number
  close(): Promise<void>
}

/** Writes from here on. Rejects when the file that is there can't be read. */
export async function openPskFile(options: PskFileOptions): Promise<PskFileWriter> {
  const { settings, keys, log, metrics, clock, random, timers, fetch, env } = options
  const { name, file, rps } = settings()
  const { requestKey, hpkeKey } = keys
  const guard = new Guard({
    rpsUrl: rps.url,
    audience: name,
    name,
    requestKey,
    group: options.group,
    random,
    clock,
    timers,
    fetch,
    log,
    changed: () => writer.look(),
  })
  const authorize = requestSigner({ name, key: requestKey, clock, random })
  // It serves nobody meanwhile: a pairing may take its own thread.
  const pool = CryptoPool.start({ workers: 0, random, clock, timers })
  const followed = new FollowedGroup(options.group, { rps: guard.rps, timers, log })
  const group = () => followed.current
  const named = namedIn(name, { group, follow: () => followed.follow() })
  const asked = staticKey(name, {
    group,
    named,
    ask: (B, epoch) =>
      askRecipientKey(
        { group: group(), purpose: 'agree', epoch, name: B },
        {
          hpkeKey,
          pool,
          random,
          timers,
          authority: ({ url }) =>
            createClient(dtaRoutes, { baseUrl: url, timeout: TIMEOUT, authorize, fetch }),
        },
      ),
    clock,
  })
  // The group as it is known may be of before this server's keys.
  const key = () => followed.orByNewer(asked)
  const writer = new PskFile({
    key,
    devices: () => devicesOf(settings(), { authorize, fetch }),
    bans: guard.follower,
    read: () => readOr(file, ''),
    write: text => writeFileAtomic(file, text, 0o600),
    reload: () => tellBroker(settings(), { timers, log, metrics, env }),
    every: () => (settings().everySeconds ?? 10) * 1000,
    clock,
    timers,
    log,
    metrics,
  })
  const close = async () => {
    followed.close()
    await guard.stop()
    await writer.stop()
    await pool.close()
  }
  guard.start()
  await writer.start().catch(async (error: unknown) => {
    await close()
    throw error
  })
  return {
    named,
    lookAnew: () => writer.lookAnew(),
    get readiness() {
      return writer.readiness
    },
    get troubles() {
      const { trouble } = guard.follower
      return [...writer.troubles, ...(trouble === undefined ? [] : [trouble])]
    },
    get lines() {
      return writer.lines
    },
    close,
  }
}

/** The static server of that name in the group in force. NotNamed; as `follow` rejects. */
function namedIn(
  name: string,
  { group, follow }: { readonly group: () => Group; readonly follow: () => Promise<Group> },
): () => Promise<GroupRecipient> {
  const found = (known: Group) => {
    const recipient = known.recipient(name)
    return recipient?.kind === 3 && recipient.purposes.includes('agree') ? recipient : undefined
  }
  return async () => {
    // A later revision than the one that is pinned may name it.
    const known = found(group())
    if (known !== undefined) return known
    const refused = new NotNamed(`static server ${name}`)
    const newest = await follow().catch((failed: unknown) => {
      throw mayPass(failed) ? failed : refused
    })
    const recipient = found(newest)
    if (recipient === undefined) throw refused
    return recipient
  }
}

interface StaticKeyPorts {
  readonly group: () => Group
  readonly named: () => Promise<GroupRecipient>
  readonly ask: (B: Uint8Array, epoch: number) => Promise<Uint8Array>
  readonly clock: Clock
}

/** The static key of the current key epoch, asked for once. NotNamed where the group names no static server. */
function staticKey(
  name: string,
  { group, named, ask, clock }: StaticKeyPorts,
): () => Promise<AgreeStaticKey> {
  let held: AgreeStaticKey | undefined
  return async () => {
    const recipient = await named()
    const { groupId, slotRule } = group()
    const keys = group().keysAt('agree', slotAt(slotRule, Math.floor(clock() / 1000)))
    if (keys === null) throw new Refused('RETRY_LATER', { log: 'the group has not begun' })
    const { epoch, ivk } = keys
    const party = { kind: 3, name, generation: recipient.generation } as const
    if (held?.owner.epoch === epoch && held.owner.party.generation === party.generation) return held
    const S = await ask(encodeName(groupId, party), epoch)
    const verified = AgreeStaticKey.verify({ groupId, party, epoch }, ivk, G2.decode(S, 'S'))
    S.fill(0)
    if (verified === null)
      throw new Refused('RETRY_LATER', {
        log: 'the shares of the static key don’t make the key of this name',
      })
    held = verified
    return verified
  }
}

type Authorize = ReturnType<typeof requestSigner>

/** From fleet, page by page, or from a file. */
async function devicesOf(
  { fleetUrl, devicesFile }: PskFileConfig,
  { authorize, fetch }: { readonly authorize: Authorize; readonly fetch: typeof globalThis.fetch },
): Promise<IdCore[]> {
  if (devicesFile !== undefined) {
    const text = await readFile(devicesFile, 'utf8').catch((error: NodeJS.ErrnoException) => {
      throw new ConfigError(`setting 'devicesFile': cannot read '${devicesFile}' (${error.code ?? 'error'})`)
    })
    return text.split('\n').flatMap((line, i) => {
      const said = line.trim()
      return said === '' || said.startsWith('#') ? [] : [listed(said, `'${devicesFile}' line ${i + 1}`)]
    })
  }
  const fleet = createClient(registerRoutes, {
    baseUrl: fleetUrl as string,
    timeout: TIMEOUT,
    authorize,
    fetch,
  })
  const found: IdCore[] = []
  for (let more = true; more; ) {
    const after = found.at(-1)?.mpinId
    const page = await fleet.devices({ query: after === undefined ? {} : { after } })
    found.push(...page.devices.map(mpinId => IdCore.fromBase64Url(mpinId)))
    more = page.more && page.devices.length > 0
  }
  return found
}

/** ConfigError names the place. */
function listed(text: string, place: string): IdCore {
  try {
    return IdCore.fromBase64Url(text)
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new ConfigError(`setting 'devicesFile': ${place} is no M-Pin ID`)
  }
}

type ReloadPorts = Pick<PskFileOptions, 'timers' | 'log' | 'metrics' | 'env'>

/** SIGHUP to the process that the pid file names, or a command. Rejects when neither took it, or not in time. */
async function tellBroker(
  { reload: { pidFile, command } = {} }: PskFileConfig,
  ports: ReloadPorts,
): Promise<void> {
  if (pidFile !== undefined) {
    const wrong = (why: string) => new ConfigError(`setting 'reload.pidFile': ${why}`)
    const text = await readFile(pidFile, 'utf8').catch((error: NodeJS.ErrnoException) => {
      throw wrong(`cannot read '${pidFile}' (${error.code ?? 'error'})`)
    })
    if (!/^[1-9][0-9]{0,9}$/.test(text.trim())) throw wrong('it holds no process id')
    try {
      process.kill(Number(text.trim()), 'SIGHUP')
    } catch (error) {
      throw wrong(
        `process ${text.trim()} can't be told (${(error as NodeJS.ErrnoException).code ?? 'error'})`,
      )
    }
  }
  if (command !== undefined) await run(command, ports)
  if (pidFile !== undefined || command !== undefined) ports.metrics.count('reloads')
}

/** Rejects when it ends otherwise than with 0, or not in time: then it is killed. */
function run(
  [program = '', ...args]: readonly string[],
  { timers, log, metrics, env }: ReloadPorts,
): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'ignore', env: environmentOfOthers(env) })
    const endWaiting = timers.after(RELOAD, () => {
      metrics.count('reloads_timed_out')
      log.error({ program, seconds: RELOAD / 1000 }, 'the reload command did not end in time: it is killed')
      child.kill('SIGKILL')
      reject(new Error('the reload command did not end in time'))
    })
    child.once('error', error => {
      endWaiting()
      reject(error)
    })
    child.once('exit', status => {
      endWaiting()
      if (status === 0) resolve()
      else reject(new Error(`the reload command ended with ${status}`))
    })
  })
}

async function readOr(file: string, otherwise: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return otherwise
    throw error
  }
}
