/** `milagro device`: a device's (or an operator's) identity in a token store. */
import { readFileSync } from 'node:fs'
import { fingerprint } from '@milagro-ts/api/group'
import { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Command } from 'commander'
import { attributesOf } from '../attributes.js'
import { answers, CommandRefused, hashOf, type Io, UsageError } from '../io.js'
import {
  boundTo,
  chosenPin,
  deviceOptions,
  nobodyIn,
  openDevice,
  type SessionOptions,
  secret,
  whoProves,
  withBundles,
  withSession,
} from '../session.js'

export function addDevice(program: Command, io: Io): void {
  const device = program.command('device').description('an identity in a token store: a car’s, an operator’s')

  answers(
    io,
    withSession(
      device
        .command('enroll')
        .description('enrol by code (MILAGRO_CODE), or by six words that a person compares; may be repeated')
        .option('--instance <name>', 'VIN, or what the RA knows the device by')
        .option('--attribute <name=value...>', 'what the device, or the person, is known by')
        .option('--words', 'without a code: show six words, and wait for whoever approves')
        .option('--group <id>', 'groupId, where there is no code that names it')
        .option('--with-pin', 'choose a PIN for the device itself (MILAGRO_PIN)')
        .option('--user <name>', 'enrol this person on the device that is enrolled; takes a PIN')
        .option('--patience <seconds>', 'how long to wait for an approval', '900')
        .option('--slow-device <iterations>', 'fewer PBKDF2 iterations, for a device that can’t do more'),
    ),
    async (options: EnrolOptions) => {
      const code = options.words ? undefined : await secret('CODE', 'enrolment code', io)
      const common = {
        ...(code === undefined ? {} : { code }),
        attributes: attributesOf(options.attribute ?? []),
        patience: secondsOf(options.patience),
        onWords: (words: string) => io.err(`compare: ${words}\n`),
      }
      if (options.user !== undefined) {
        const enrolled = await openDevice(options, io)
        const pin = await chosenPin('PIN', io)
        const user = await enrolled.enrolUser({ ...common, name: options.user, pin })
        return { json: { idCore: enrolled.mpinId, user }, text: [`enrolled ${user}`] }
      }
      if (options.instance === undefined) throw new UsageError('say --instance')
      const made = await Device.enrol({
        ...deviceOptions(options, io),
        ...common,
        instance: options.instance,
        ...(options.group === undefined ? {} : { groupId: hashOf(options.group, '--group') }),
        ...(options.withPin ? { pin: await chosenPin('PIN', io) } : {}),
      })
      return { json: { idCore: made.mpinId }, text: [`enrolled ${made.mpinId}`] }
    },
  )

  answers(
    io,
    withSession(
      device
        .command('login')
        .description('prove the device, and the PIN where there is one; prints the access token')
        .requiredOption('--audience <origin>', 'the service that it is for')
        .option('--user <name>', 'with this person’s PIN')
        .option('--bound', 'for an audience that wants logins bound to their TLS connection'),
    ),
    async (options: SessionOptions & { audience: string; bound?: true }) => {
      const binding = options.bound === undefined ? {} : { over: boundTo(options, io) }
      const opened = await openDevice(options, io)
      const { audience } = options
      const { accessToken, expiresIn, authenticated } = await opened.login({
        audience,
        ...(await whoProves(opened, options.user, io)),
        ...binding,
      })
      return { json: { accessToken, expiresIn, authenticated }, text: [accessToken] }
    },
  )

  answers(
    io,
    withBundles(
      device
        .command('permit')
        .description('the time permit of the current slot, verified')
        .option('--next', 'of the slot after it, ahead of time'),
    ),
    async (options: SessionOptions & { next?: boolean }) => {
      const opened = await openDevice(options, io)
      const permit = options.next ? await opened.nextPermit() : await opened.permit()
      if (permit === null) throw new CommandRefused('nobody has made the next slot’s permit yet')
      const text = toBase64Url(permit.permit.encode())
      return { json: { permit: text, slot: permit.slot }, text: [text] }
    },
  )

  answers(
    io,
    withSession(
      device
        .command('prepare-files')
        .description(
          'fetch the keys of files for this slot and the next, as far as they are given out; until they end `milagro decrypt` asks nobody',
        ),
    ),
    async (options: SessionOptions) => {
      const opened = await openDevice(options, io)
      const slots = await opened.prepareFiles()
      return {
        json: { idCore: opened.mpinId, slots },
        text: [`${opened.mpinId} opens files for ${slots.map(slot => `slot ${slot}`).join(' and ')}`],
      }
    },
  )

  answers(
    io,
    withSession(
      device
        .command('sign')
        .description('sign a file for a service; prints the RPS’ receipt')
        .argument('<file>')
        .requiredOption('--audience <origin>', 'the service that it is for')
        .option('--user <name>', 'with this person’s PIN'),
    ),
    async (file: string, options: SessionOptions & { audience: string }) => {
      const opened = await openDevice(options, io)
      const receipt = await opened.sign({
        audience: options.audience,
        payload: readBytes(file),
        ...(await whoProves(opened, options.user, io)),
      })
      return { json: { receipt }, text: [receipt] }
    },
  )

  answers(
    io,
    withSession(
      device
        .command('change-pin')
        .description('a new PIN (MILAGRO_NEW_PIN) for the old one (MILAGRO_PIN)')
        .option('--user <name>', 'this person’s; the device’s own unless said')
        .option('--slow-device <iterations>', 'fewer PBKDF2 iterations, for a device that can’t do more'),
    ),
    async (options: SessionOptions) => {
      const opened = await openDevice(options, io)
      await opened.changePin({
        ...(options.user === undefined ? {} : { user: options.user }),
        oldPin: await secret('PIN', 'old PIN', io),
        newPin: await chosenPin('NEW_PIN', io),
      })
      return {
        json: { changed: true },
        text: ['changed; the old PIN goes with the first login by the new one'],
      }
    },
  )

  answers(
    io,
    device
      .command('list')
      .description('who is in the token store; asks nobody and wants no secret')
      .requiredOption('--store <file>', 'the token store'),
    async ({ store }: { store: string }) => {
      const identities = await Device.list(fileTokenStore(store))
      if (identities.length === 0) throw nobodyIn(store)
      return {
        json: {
          identities: identities.map(({ mpinId, unlocker, users, ...identity }) => ({
            ...identity,
            idCore: mpinId ?? null,
            unlocker: unlocker ?? null,
            users: users.map(({ name, userCore, pinGen }) => ({ name, userCore, pinGen })),
          })),
        },
        text: identities.flatMap(({ groupId, instance, mpinId, unlocker, users }) => [
          `${instance} ${mpinId ?? '(not enrolled yet)'}`,
          `  group ${fingerprint(fromBase64Url(groupId, 'groupId', 32))}${unlocker === undefined ? '' : `, unlocked by ${unlocker}`}`,
          ...users.map(({ name, pinGen }) => `  ${name === '' ? '(own PIN)' : name}, PIN ${pinGen}`),
        ]),
      }
    },
  )
}

interface EnrolOptions extends SessionOptions {
  readonly instance?: string
  readonly attribute?: readonly string[]
  readonly words?: boolean
  readonly group?: string
  readonly withPin?: boolean
  readonly patience: string
}

function secondsOf(text: string): number {
  if (!/^[0-9]{1,6}$/.test(text)) throw new UsageError('--patience wants seconds')
  return Number(text)
}

function readBytes(path: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(path))
  } catch (error) {
    throw new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}
