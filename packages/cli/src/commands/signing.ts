/**
 * `milagro sign` and `milagro verify`: a device's own signature with its permit, checked with the pinned group document; of
 * one file, or of many messages in one.
 */
import { readFileSync } from 'node:fs'
import { createClient } from '@milagro-ts/api/call'
import { Group } from '@milagro-ts/api/group'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import {
  decodeSignedLine,
  encodeSignedLine,
  type SignedForm,
  type SignedItem,
  VerifiedMessage,
} from '@milagro-ts/api/signed-message'
import { verifyLeaves } from '@milagro-ts/api/statements'
import { followGroup } from '@milagro-ts/client/group-store'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { IdCore } from '@milagro-ts/crypto/identity'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Command } from 'commander'
import {
  addressOf,
  answers,
  CommandRefused,
  EXIT,
  explain,
  hashOf,
  type Io,
  type Outcome,
  readJsonFile,
  UsageError,
} from '../io.js'
import { openDevice, type SessionOptions, withBundles } from '../session.js'

interface VerifyOptions {
  readonly signature?: string
  readonly lines?: boolean
  readonly group: string
  readonly groupId: string
  readonly context: string
  readonly offline?: boolean
  readonly rps?: string
  readonly leaves?: string
}

const FORMS: readonly SignedForm[] = ['json', 'jws', 'jws-detached']

/** Lines that a signing device has in hand at once. */
const TOGETHER = 64

export function addSigning(program: Command, io: Io, status: { exit: number }): void {
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
        .option('--form <form>', `${FORMS.join(', ')}: how it is written`, 'json')
        .option('--lines', 'each line of the file is a message of its own; for `milagro verify --lines`'),
    ),
    async (
      file: string,
      options: SessionOptions & { context: string; out: string; form: string; lines?: boolean },
    ) => {
      const { context, out } = options
      const form = FORMS.find(known => known === options.form)
      if (form === undefined) throw new UsageError(`--form: ${FORMS.join(', ')}`)
      const device = await openDevice(options, io)
      if (options.lines === true) {
        const messages = linesOf(file).map(line => utf8(line))
        const lines: string[] = []
        for (let from = 0; from < messages.length; from += TOGETHER)
          lines.push(
            ...(await Promise.all(
              messages
                .slice(from, from + TOGETHER)
                .map(async message =>
                  encodeSignedLine({ message, signed: await device.signOffline(message, context, form) }),
                ),
            )),
          )
        await writeFileAtomic(out, lines.map(line => `${line}\n`).join(''), 0o644)
        const { mpinId: idCore } = device
        return {
          json: { idCore, messages: lines.length, out },
          text: [`${lines.length} messages signed by ${idCore}`, `written to ${out}`],
        }
      }
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
      .option('--signature <file>', 'as `milagro sign` wrote it')
      .option(
        '--lines',
        'the file holds many: a JSON object a line, {message, signed}; each is checked, and said which fail',
      )
      .requiredOption('--group <file>', 'the group’s documents, first revision first')
      .requiredOption('--group-id <id>', 'the groupId that is pinned')
      .requiredOption('--context <text>', 'what it must have been signed for')
      .option('--offline', 'ask nobody: the group documents in the file are the newest that there are')
      .option('--rps <url>', 'else: the RPS that newer revisions of the group document are asked of')
      .option('--leaves <file>', 'the newest banned leaves (of a bundle): who is among them is refused'),
    async (file: string, options: VerifyOptions) => {
      if ((options.offline === true) === (options.rps !== undefined))
        throw new UsageError('say --offline, or --rps')
      if ((options.signature === undefined) === (options.lines !== true))
        throw new UsageError('say --signature, or --lines')
      const group = await groupOf(options, io)
      if (options.signature === undefined) {
        const outcome = await verifyLines(file, group, options, io)
        if (!outcome.json.valid) status.exit = EXIT.refused
        return outcome
      }
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

/** All of them in one batch (protocols/signatures.md), with a verdict for each line. */
async function verifyLines(
  file: string,
  group: Group,
  { context, leaves }: VerifyOptions,
  io: Io,
): Promise<Outcome & { readonly json: { readonly valid: boolean } }> {
  const items = linesOf(file).map(line => {
    try {
      return decodeSignedLine(line)
    } catch (error) {
      if (!(error instanceof DecodeError)) throw error
      return error
    }
  })
  const whole = items.filter((item): item is SignedItem => !(item instanceof DecodeError))
  const verdicts = VerifiedMessage.verifyBatch(whole, { group, context, now: io.clock() }, io.random)
  const held = new Map(whole.map((item, place) => [item, verdicts[place]] as const))
  const banned = leaves === undefined ? undefined : await leavesOf(leaves, group)
  const lines = items.map((item, i) => {
    const verdict = item instanceof DecodeError ? item : (held.get(item) as (typeof verdicts)[number])
    const line = i + 1
    if (verdict instanceof Error) {
      const { code, why } = explain(verdict)
      return { line, valid: false, code, why }
    }
    const { idCore, slot } = verdict
    if (banned?.leaves.has(idCore.leaf) === true)
      return {
        line,
        valid: false,
        code: 'BANNED',
        why: `leaf ${idCore.leaf} is banned by state ${banned.number}`,
      }
    return { line, valid: true, idCore: idCore.mpinId, leaf: idCore.leaf, slot }
  })
  const failed = lines.filter(({ valid }) => !valid)
  return {
    json: {
      valid: lines.length > 0 && failed.length === 0,
      messages: lines.length,
      failed: failed.length,
      lines,
      ...(banned === undefined ? {} : { leavesNumber: banned.number }),
    },
    text: [
      ...lines.map(said =>
        said.valid
          ? `line ${said.line}: valid, signed by ${said.idCore} (leaf ${said.leaf}), slot ${said.slot}`
          : `line ${said.line}: ${said.code}: ${said.why}`,
      ),
      `${lines.length - failed.length} of ${lines.length} messages are valid`,
    ],
  }
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
  const { leaves, number } = await leavesOf(file, group)
  for (const { leaf } of who)
    if (leaves.has(leaf)) throw new CommandRefused(`leaf ${leaf} is banned by state ${number}`)
  return number
}

function leavesOf(file: string, group: Group): ReturnType<typeof verifyLeaves> {
  const statement = new TextDecoder().decode(bytesOf(file)).trim()
  return verifyLeaves({ statement, group })
}

/** The lines of a text file; its last one ends, or doesn't. */
function linesOf(path: string): readonly string[] {
  const lines = fromUtf8(bytesOf(path), 'file').split('\n')
  return lines.at(-1) === '' ? lines.slice(0, -1) : lines
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
