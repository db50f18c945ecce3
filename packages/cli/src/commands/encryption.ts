/** `milagro encrypt` and `milagro decrypt`: files for devices and public names, by the pinned group document. */
import { randomUUID } from 'node:crypto'
import { open, rename, rm } from 'node:fs/promises'
import type { Group } from '@milagro-ts/api/group'
import { decryptFile, encryptFile } from '@milagro-ts/client/encrypted-file'
import { publicName } from '@milagro-ts/client/file-recipient'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore, type Name } from '@milagro-ts/crypto/identity'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import type { Command } from 'commander'
import { type Io, UsageError, unixSeconds } from '../io.js'
import { Progress } from '../progress.js'
import { openDevice, type SessionOptions, withSessionIfAny } from '../session.js'
import { checkLeaves, pinnedGroup } from './signing.js'

interface EncryptOptions {
  readonly to: readonly string[]
  readonly slot?: string
  readonly group: string
  readonly groupId: string
  readonly leaves?: string
  readonly out?: string
}

export function addEncryption(program: Command, io: Io): void {
  program
    .command('encrypt')
    .description('encrypt standard input for devices and public names; nobody is asked')
    .requiredOption(
      '--to <name...>',
      'for whom: M-Pin IDs, as fleet and `milagro device list` have them; names of recipients of files in the group document',
    )
    .option(
      '--slot <slot>',
      'by keys that end with a slot: its number, or a time in it with Z or an offset; who has no key by then never opens it',
    )
    .requiredOption('--group <file>', 'the group’s documents, first revision first')
    .requiredOption('--group-id <id>', 'the groupId that is pinned')
    .option(
      '--leaves <file>',
      'the newest banned leaves (of a bundle): for who is among them nothing is made',
    )
    .option('--out <file>', 'where it goes, when it is whole; standard output unless said')
    .action(async (options: EncryptOptions) => {
      const group = await pinnedGroup(options)
      const slot = options.slot === undefined ? undefined : slotOf(options.slot, group)
      const to = options.to.map(text => recipientOf(text, slot, group))
      const devices = to.flatMap(party => (party.kind === 1 ? [party.idCore] : []))
      if (options.leaves !== undefined) await checkLeaves(options.leaves, group, devices)
      const terms = { to, group, now: io.clock(), random: io.random }
      await pour(io, options.out, source => encryptFile(source, terms))
    })

  withSessionIfAny(
    program
      .command('decrypt')
      .description(
        'decrypt standard input with the device’s own key, or with a service’s for its public name',
      )
      .option(
        '--service <file>',
        'settings of a service, JSON: its keys open what is for its name (docs/protocols/encryption.md)',
      )
      .option(
        '--init',
        'with --service: make its folder with the long-term keys, print their public parts, and end',
      )
      .option('--out <file>', 'where it goes, when it is whole; standard output unless said'),
  ).action(async (options: DecryptOptions) => {
    const { store, service, init, out } = options
    if ((store === undefined) === (service === undefined)) throw new UsageError('say --store, or --service')
    if (service === undefined) {
      if (init === true) throw new UsageError('--init goes with --service')
      const device = await openDevice({ ...options, store: store as string }, io)
      return pour(io, out, source => decryptFile(source, device))
    }
    const { makeServiceFolder, openServiceFolder } = await import('@milagro-ts/tls/public-name-folder')
    if (init === true) {
      io.out(`${JSON.stringify(await makeServiceFolder(service, io))}\n`)
      return
    }
    const opener = await openServiceFolder(service, io)
    await pour(io, out, source => decryptFile(source, opener))
  })
}

type DecryptOptions = Omit<SessionOptions, 'store'> & {
  readonly store?: string
  readonly service?: string
  readonly init?: boolean
  readonly out?: string
}

/** Every chunk is written as it comes. To a file it is under its name only when all of it was authentic. */
async function pour(
  io: Io,
  out: string | undefined,
  through: (source: ReadableStream<Uint8Array>) => Promise<ReadableStream<Uint8Array>>,
): Promise<void> {
  const { input, close, inputSize, output, isWatched } = io.bytes
  const progress = isWatched ? new Progress(io.err, io.clock, inputSize) : undefined
  const counted = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      progress?.add(chunk.length)
      controller.enqueue(chunk)
    },
  })
  try {
    const stream = await through(input().pipeThrough(counted))
    if (out === undefined) await eachOf(stream, output)
    else await toFile(out, stream)
  } finally {
    close()
    progress?.end()
  }
}

async function eachOf(
  stream: ReadableStream<Uint8Array>,
  take: (bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const reader = stream.getReader()
  for (let read = await reader.read(); !read.done; read = await reader.read()) await take(read.value)
}

/** Beside its place first, readable by the user alone: what was cut short never has the name. */
async function toFile(path: string, stream: ReadableStream<Uint8Array>): Promise<void> {
  const unfinished = `${path}.${randomUUID()}.part`
  try {
    const file = await open(unfinished, 'wx', 0o600)
    try {
      await eachOf(stream, async bytes => {
        await file.writeFile(bytes)
      })
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(unfinished, path)
  } catch (error) {
    await rm(unfinished, { force: true })
    throw error
  }
}

/** An M-Pin ID, or the name of a recipient of the group document; both is none. */
function recipientOf(
  text: string,
  slot: number | undefined,
  group: Group,
): Extract<Name, { readonly kind: 1 | 4 }> {
  const idCore = idCoreOf(text)
  const ofSlot = slot === undefined ? {} : { slot }
  const isName = group.recipient(text) !== undefined
  if (idCore !== null && isName) throw new UsageError(`--to: '${text}' is an M-Pin ID and a name`)
  if (idCore !== null) return { kind: 1, idCore, ...ofSlot }
  if (!isName)
    throw new UsageError(
      `--to: '${text}' is no M-Pin ID (52 characters of base64url) and no name in the group document`,
    )
  return publicName(group, text, slot)
}

function idCoreOf(text: string): IdCore | null {
  try {
    return IdCore.fromBase64Url(text)
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    return null
  }
}

function slotOf(text: string, { slotRule }: Group): number {
  if (/^(0|[1-9][0-9]{0,9})$/.test(text)) return Number(text)
  const seconds = unixSeconds(text, '--slot')
  if (seconds < slotRule.origin) throw new UsageError(`--slot: '${text}' is before the group’s first slot`)
  return slotAt(slotRule, seconds)
}
