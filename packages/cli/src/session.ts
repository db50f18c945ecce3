/**
 * A token store on the command line: where it is, its PIN, and logging in with it. PINs and codes come from
 * `MILAGRO_PIN`, `MILAGRO_NEW_PIN`, `MILAGRO_CODE` (or a file that `…_FILE` names), else they are asked for on a
 * terminal; never from an argument, which every user of the machine can read.
 */
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { isCancel, password } from '@clack/prompts'
import { readSecret } from '@milagro-ts/api/config'
import { connectBound } from '@milagro-ts/client/bound-fetch'
import { Device } from '@milagro-ts/client/device'
import { ClientError } from '@milagro-ts/client/errors'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { fileUnlocker } from '@milagro-ts/client/file-unlocker'
import type { BoundConnection, DeviceOptions } from '@milagro-ts/client/ports'
import { OWN_PIN } from '@milagro-ts/client/record'
import type { Unlocker } from '@milagro-ts/client/unlocker'
import type { Command } from 'commander'
import { addressOf, type Io, UsageError } from './io.js'

export interface SessionOptions {
  readonly store: string
  readonly identity?: string
  readonly unlocker?: string
  readonly rps?: string
  readonly user?: string
  readonly slowDevice?: string
  readonly bundles?: string
}

/** The flags with which a command finds a token store and its RPS. */
export function withSession(command: Command): Command {
  return withPlace(command.requiredOption('--store <file>', 'the token store'))
}

/** The same for a command that can do without one. */
export function withSessionIfAny(command: Command): Command {
  return withPlace(command.option('--store <file>', 'the token store'))
}

function withPlace(command: Command): Command {
  return command
    .option(
      '--identity <name>',
      'where the store holds several: M-Pin ID or instance of the one that is meant',
    )
    .option('--unlocker <file>', 'key file without which the store opens nothing; outside of its folder')
    .option('--rps <url>', 'address of the RPS (or MILAGRO_RPS_URL)')
}

/** For commands that want a permit. */
export function withBundles(command: Command): Command {
  return withSession(command).option(
    '--bundles <url>',
    'where the group’s permit bundles are, on any server or cache: asked before the RPS is',
  )
}

function rpsOf(options: SessionOptions, io: Io): string {
  const rps = options.rps ?? io.env.MILAGRO_RPS_URL
  if (rps === undefined) throw new UsageError('say --rps, or set MILAGRO_RPS_URL')
  return addressOf(rps, '--rps')
}

export function deviceOptions(options: SessionOptions, io: Io): DeviceOptions {
  return {
    rps: rpsOf(options, io),
    store: fileTokenStore(options.store),
    ...(options.identity === undefined ? {} : { identity: options.identity }),
    ...(options.unlocker === undefined ? {} : { unlocker: unlockerOf(options.unlocker, options.store, io) }),
    ...(options.bundles === undefined
      ? {}
      : {
          bundles: addressOf(options.bundles, '--bundles'),
          onCacheFault: ({ message }) => io.err(`${message}; the RPS is asked instead\n`),
        }),
    fetch: io.fetch,
    clock: io.clock,
    random: io.random,
    ...(options.slowDevice === undefined
      ? {}
      : { pinCost: { iterations: iterationsOf(options.slowDevice), slowDevice: true as const } }),
  }
}

/** Opens connections to the RPS that a login is bound to. UsageError where TLS doesn't end there. */
export function boundTo(options: SessionOptions, io: Io): () => Promise<BoundConnection> {
  const rps = rpsOf(options, io)
  if (!rps.startsWith('https:')) throw new UsageError('--bound takes an RPS whose address is https')
  return () => connectBound(rps)
}

function unlockerOf(file: string, store: string, { random }: Io): Unlocker {
  try {
    return fileUnlocker({ file, dataFolder: dirname(store), random })
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new UsageError(`--unlocker: ${error.message}`)
  }
}

/** NOT_ENROLLED, with the token store's name: it may be the wrong one. */
export function nobodyIn(store: string, error = new ClientError('NOT_ENROLLED')): ClientError {
  const why = existsSync(store)
    ? `${store}: ${error.message.slice('NOT_ENROLLED: '.length)}`
    : `there is no token store '${store}'; milagro device enroll makes one`
  return new ClientError('NOT_ENROLLED', why)
}

/** ClientError NOT_ENROLLED names the token store. */
export async function openDevice(options: SessionOptions, io: Io): Promise<Device> {
  try {
    return await Device.open(deviceOptions(options, io))
  } catch (error) {
    if (!(error instanceof ClientError) || error.code !== 'NOT_ENROLLED') throw error
    throw nobodyIn(options.store, error)
  }
}

/** An access token for `audience`: by the device alone, with its own PIN, or with a user's. */
export async function logIn(options: SessionOptions, audience: string, io: Io): Promise<string> {
  const device = await openDevice(options, io)
  const { accessToken } = await device.login({ audience, ...(await whoProves(device, options.user, io)) })
  return accessToken
}

/** The user and the PIN that a proof takes; nothing for a device that has no PIN and no user named. */
export async function whoProves(
  device: Device,
  user: string | undefined,
  io: Io,
): Promise<{ user?: string; pin?: string }> {
  if (user !== undefined) return { user, pin: await secret('PIN', `PIN of ${user}`, io) }
  const hasOwn = (await device.users()).some(({ name }) => name === OWN_PIN)
  return hasOwn ? { pin: await secret('PIN', 'PIN', io) } : {}
}

/** `MILAGRO_<name>` or its file; else asked for, with nothing shown. UsageError where nobody can be asked. */
export async function secret(name: 'PIN' | 'NEW_PIN' | 'CODE', what: string, io: Io): Promise<string> {
  const variable = `MILAGRO_${name}`
  if (io.env[variable] !== undefined || io.env[`${variable}_FILE`] !== undefined)
    return readSecret(variable, io.env)
  if (!io.isTerminal) throw new UsageError(`${what}: set ${variable}_FILE (or ${variable})`)
  const typed = await password({ message: what })
  if (isCancel(typed) || typed === undefined || typed === '') throw new UsageError(`${what} is missing`)
  return typed
}

/** For a PIN that is being chosen: typed twice where it is typed. */
export async function chosenPin(name: 'PIN' | 'NEW_PIN', io: Io): Promise<string> {
  const pin = await secret(name, 'new PIN', io)
  const isTyped = io.env[`MILAGRO_${name}`] === undefined && io.env[`MILAGRO_${name}_FILE`] === undefined
  if (isTyped && (await secret(name, 'the same PIN again', io)) !== pin)
    throw new UsageError('the PINs differ')
  return pin
}

function iterationsOf(text: string): number {
  if (!/^[1-9][0-9]{0,8}$/.test(text)) throw new UsageError('--slow-device wants a number of iterations')
  return Number(text)
}
