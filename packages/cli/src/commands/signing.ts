/** `milagro sign` and `milagro verify`: a device's own signature with its permit, checked with the pinned group document. */
import { readFileSync } from 'node:fs'
import { createClient } from '@milagro-ts/api/call'
import { Group } from '@milagro-ts/api/group'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { type SignedForm, VerifiedMessage } from '@milagro-ts/api/signed-message'
import { verifyLeaves } from '@milagro-ts/api/statements'
import { followGroup } from '@milagro-ts/client/group-store'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { IdCore } from '@milagro-ts/crypto/identity'
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

const FORMS: readonly SignedForm[] = ['json', 'jws', 'jws-detached']

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
        .requiredOption('--out <file>', 'where the signature goes')
        .option('--form <form>', `${FORMS.join(', ')}: how it is written`, 'json'),
    ),
    async (file: string, options: SessionOptions & { context: string; out: string; form: string }) => {
      const { context, out } = options
      const form = FORMS.find(known => known === options.form)
      if (form === undefined) throw new UsageError(`--form: ${FORMS.join(', ')}`)
      const device = await openDevice(options, io)
      const signed = await device.signOffline(bytesOf(file), context, form)
      await writeFileAtomic(out, `${typeof signed === 'string' ? signed : JSON.stringify(signed)}\n`, 0o644)
      const { mpinId: idCore } = device
      const { slot } = typeof signed === 'string' ? headerOf(signed) : signed
      return {
        json: { idCore, slot, out },
        text: [`signed by ${idCore}, slot ${slot}`, `written to ${out}`],
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
        signed: signatureOf(options.signature),
        group,
        context: options.context,
        now: io.clock(),
      })
      const { idCore, slot } = verified
      const number =
        options.leaves === undefined ? undefined : await checkLeaves(options.leaves, group, [idCore])
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

async function groupOf({ rps, ...file }: VerifyOptions, io: Io): Promise<Group> {
  const group = await pinnedGroup(file)
  if (rps === undefined) return group
  const client = createClient(rpsRoutes, { baseUrl: addressOf(rps, '--rps'), fetch: io.fetch })
  return followGroup({ rps: client, wait: () => Promise.resolve() }, group)
}

/** The group of the file, if it is the pinned one. */
export async function pinnedGroup({
  group: file,
  groupId,
}: {
  group: string
  groupId: string
}): Promise<Group> {
  const pinned = hashOf(groupId, '--group-id')
  const group = await Group.verifyFile(readJsonFile(file))
  if (toBase64Url(group.groupId) !== pinned)
    throw new CommandRefused(`this is group ${toBase64Url(group.groupId)}`)
  return group
}

/** The number of the state that bans nobody of `who`. */
export async function checkLeaves(file: string, group: Group, who: readonly IdCore[]): Promise<number> {
  const statement = new TextDecoder().decode(bytesOf(file)).trim()
  const { leaves, number } = await verifyLeaves({ statement, group })
  for (const { leaf } of who)
    if (leaves.has(leaf)) throw new CommandRefused(`leaf ${leaf} is banned by state ${number}`)
  return number
}

/** Of a JWS that was made here. */
const headerOf = (jws: string): { slot: number } =>
  JSON.parse(new TextDecoder().decode(fromBase64Url(jws.split('.')[0] ?? '', 'jws.header')))

/** A compact JWS begins with `eyJ`, which no JSON does. */
function signatureOf(path: string): unknown {
  const text = new TextDecoder().decode(bytesOf(path)).trim()
  return text.startsWith('eyJ') ? text : readJsonFile(path)
}

function bytesOf(path: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(path))
  } catch (error) {
    throw new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}
