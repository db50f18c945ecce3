/** `milagro encrypt` and `milagro decrypt`: files for devices, by their M-Pin IDs and the pinned group document. */
import { randomUUID } from 'node:crypto'
import { open, rename, rm } from 'node:fs/promises'
import { decryptFile, encryptFile } from '@milagro-ts/client/encrypted-file'
import type { Command } from 'commander'
import { type Io, mpinIdOf } from '../io.js'
import { Progress } from '../progress.js'
import { openDevice, type SessionOptions, withSession } from '../session.js'
import { checkLeaves, pinnedGroup } from './signing.js'

interface EncryptOptions {
  readonly to: readonly string[]
  readonly group: string
  readonly groupId: string
  readonly leaves?: string
  readonly out?: string
}

export function addEncryption(program: Command, io: Io): void {
  program
    .command('encrypt')
    .description('encrypt standard input for devices, by their M-Pin IDs; nobody is asked')
    .requiredOption('--to <mpin-id...>', 'for whom: M-Pin IDs, as fleet and `milagro device list` have them')
    .requiredOption('--group <file>', 'the group’s documents, first revision first')
    .requiredOption('--group-id <id>', 'the groupId that is pinned')
    .option(
      '--leaves <file>',
      'the newest banned leaves (of a bundle): for who is among them nothing is made',
    )
    .option('--out <file>', 'where it goes, when it is whole; standard output unless said')
    .action(async (options: EncryptOptions) => {
      const to = options.to.map(text => mpinIdOf(text, '--to'))
      const group = await pinnedGroup(options)
      if (options.leaves !== undefined) await checkLeaves(options.leaves, group, to)
      const terms = { to, group, now: io.clock(), random: io.random }
      await pour(io, options.out, source => encryptFile(source, terms))
    })

  withSession(
    program
      .command('decrypt')
      .description('decrypt standard input with the device’s own key')
      .option('--out <file>', 'where it goes, when it is whole; standard output unless said'),
  ).action(async (options: SessionOptions & { out?: string }) => {
    const device = await openDevice(options, io)
    await pour(io, options.out, source => decryptFile(source, device))
  })
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
