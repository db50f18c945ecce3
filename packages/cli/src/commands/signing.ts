/** `milagro sign` and `milagro verify`: a device's own signature with its permit, checked with the pinned group document. */
import { readFileSync } from 'node:fs'
import { createClient } from '@milagro-ts/api/call'
import { Group } from '@milagro-ts/api/group'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { VerifiedMessage } from '@milagro-ts/api/signed-message'
import { verifyLeaves } from '@milagro-ts/api/statements'
import { followGroup } from '@milagro-ts/client/group-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Command } from 'commander'
import { addressOf, answers, CommandRefused, hashOf, type Io, readJsonFile, UsageError } from '../io.js'
import { openDevice, type SessionOptions, withBundles } from '../session.js'

interface VerifyOptions {
  readonly signature: string
  readonly group: string
  readonly groupId: string
  readonly context: string
  readonly offline?: boolean
  readonly rps?: string
  readonly leaves?: string
}

export function addSigning(program: Command, io: Io): void {
  answers(
    io,
    withBundles(
      program
        .command('sign')
        .description(
          'sign a file with the device’s own key and this slot’s permit, for whoever has the group document',
        )
        .argument('<file>')
        .requiredOption('--context <text>', 'what it is for; whoever verifies says the same')
        .requiredOption('--out <file>', 'where the signature goes, JSON'),
    ),
    async (file: string, options: SessionOptions & { context: string; out: string }) => {
      const signed = await (await openDevice(options, io)).signOffline(bytesOf(file), options.context)
      await writeFileAtomic(options.out, `${JSON.stringify(signed)}\n`, 0o644)
      const { idCore, slot } = signed
      return {
        json: { idCore, slot, out: options.out },
        text: [`signed by ${idCore}, slot ${slot}`, `written to ${options.out}`],
      }
    },
  )

  answers(
    io,
    program
      .command('verify')
      .description(
        'check a signed file: who signed it, in this slot, and wasn’t banned when its permits were made',
      )
      .argument('<file>')
      .requiredOption('--signature <file>', 'as `milagro sign` wrote it')
      .requiredOption('--group <file>', 'the group’s documents, first revision first')
      .requiredOption('--group-id <id>', 'the groupId that is pinned')
      .requiredOption('--context <text>', 'what it must have been signed for')
      .option('--offline', 'ask nobody: the group documents in the file are the newest that there are')
      .option('--rps <url>', 'else: the RPS that newer revisions of the group document are asked of')
      .option('--leaves <file>', 'the newest banned leaves (of a bundle): who is among them is refused'),
    async (file: string, options: VerifyOptions) => {
      if ((options.offline === true) === (options.rps !== undefined))
        throw new UsageError('say --offline, or --rps')
      const group = await groupOf(options, io)
      const verified = VerifiedMessage.verify({
        message: bytesOf(file),
        signed: readJsonFile(options.signature),
        group,
        context: options.context,
        now: io.clock(),
      })
      const { idCore, slot } = verified
      const number =
        options.leaves === undefined ? undefined : await checkLeaves(options.leaves, group, verified)
      return {
        json: {
          valid: true,
          idCore: idCore.mpinId,
          leaf: idCore.leaf,
          slot,
          ...(number === undefined ? {} : { leavesNumber: number }),
        },
        text: [`valid: signed by ${idCore.mpinId} (leaf ${idCore.leaf}), slot ${slot}`],
      }
    },
  )
}

async function groupOf({ group: file, groupId, rps }: VerifyOptions, io: Io): Promise<Group> {
  const pinned = hashOf(groupId, '--group-id')
  const group = await Group.verifyFile(readJsonFile(file))
  if (toBase64Url(group.groupId) !== pinned)
    throw new CommandRefused(`this is group ${toBase64Url(group.groupId)}`)
  if (rps === undefined) return group
  const client = createClient(rpsRoutes, { baseUrl: addressOf(rps, '--rps'), fetch: io.fetch })
  return followGroup({ rps: client, wait: () => Promise.resolve() }, group)
}

/** The number of the state that doesn't ban the leaf. */
async function checkLeaves(file: string, group: Group, { idCore }: VerifiedMessage): Promise<number> {
  const statement = new TextDecoder().decode(bytesOf(file)).trim()
  const { leaves, number } = await verifyLeaves({ statement, group })
  if (leaves.has(idCore.leaf)) throw new CommandRefused(`leaf ${idCore.leaf} is banned by state ${number}`)
  return number
}

function bytesOf(path: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(path))
  } catch (error) {
    throw new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}
