/**
 * `milagro sign` and `milagro verify`: a device's own signature with its permit, checked with the pinned group document; of
 * one file, or of many messages in one.
 */
import { createReadStream, readFileSync } from 'node:fs'
import { createClient } from '@milagro-ts/api/call'
import { Group } from '@milagro-ts/api/group'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import {
  decodeSignedLine,
  encodeSignedLine,
  type SignedForm,
  type SignedItem,
  type VerificationTerms,
  VerifiedMessage,
} from '@milagro-ts/api/signed-message'
import { verifyLeaves } from '@milagro-ts/api/statements'
import { followGroup } from '@milagro-ts/client/group-store'
import { concat, fromBase64Url, fromUtf8, toBase64Url } from '@milagro-ts/crypto/bytes'
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
  readJsonFile,
  UsageError,
  unixSeconds,
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
  readonly at?: string
  readonly json?: boolean
}

const FORMS: readonly SignedForm[] = ['json', 'jws', 'jws-detached']

/** Bytes of a message that is a line. Signed, in base64url and again inside a JWS, it is a line of MOST_SIGNED_LINE at most. */
const MOST_LINE = 1 << 20
const MOST_SIGNED_LINE = 3 << 20
/** Lines that a signing device has in hand at once. */
const TOGETHER = 64
/** Lines, and bytes of them, that are checked in one: as many as one product takes (crypto/ibs.ts). */
const CHECKED_TOGETHER = { lines: 1_024, bytes: 8 << 20 }

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
        let messages = 0
        const sign = async (message: Uint8Array) =>
          `${encodeSignedLine({ message, signed: await device.signOffline(message, context, form) })}\n`
        async function* signed(): AsyncGenerator<string> {
          for await (const lines of together(linesOf(file, MOST_LINE), TOGETHER)) {
            const read = lines.map((line, i) => messageOf(line, messages + i + 1))
            yield (await Promise.all(read.map(sign))).join('')
            messages += lines.length
          }
        }
        await writeFileAtomic(out, signed(), 0o644)
        const { mpinId: idCore } = device
        return {
          json: { idCore, messages, out },
          text: [`${messages} messages signed by ${idCore}`, `written to ${out}`],
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
      .option('--leaves <file>', 'the newest banned leaves (of a bundle): who is among them is refused')
      .option(
        '--at <time>',
        'as of then and not of now, a time with Z or an offset, for example 2030-01-31T12:00:00Z: when it came, by somebody’s word whom you believe',
      ),
    async (file: string, options: VerifyOptions) => {
      if ((options.offline === true) === (options.rps !== undefined))
        throw new UsageError('say --offline, or --rps')
      if ((options.signature === undefined) === (options.lines !== true))
        throw new UsageError('say --signature, or --lines')
      const now = options.at === undefined ? io.clock() : unixSeconds(options.at, '--at') * 1000
      const group = await groupOf(options, io)
      if (options.signature === undefined) {
        status.exit = await verifyLines(file, { group, context: options.context, now }, options, io)
        return null
      }
      const verified = VerifiedMessage.verify({
        message: bytesOf(file),
        signed: signatureOf(options.signature),
        group,
        context: options.context,
        now,
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

type LineVerdict = Judged & { readonly line: number }
interface Judged {
  readonly valid: boolean
  readonly [more: string]: unknown
}

/**
 * In batches (protocols/signatures.md), with a verdict for each line, which is said as it is known: neither the file nor the
 * answer is ever whole in memory. The exit code: `done` if all of them hold, and there is one. What keeps it from reading on
 * ends the answer in JSON that it has begun.
 */
async function verifyLines(
  file: string,
  terms: VerificationTerms,
  { leaves, json }: VerifyOptions,
  io: Io,
): Promise<number> {
  const banned = leaves === undefined ? undefined : await leavesOf(leaves, terms.group)
  let messages = 0
  let failed = 0
  try {
    for await (const lines of together(
      linesOf(file, MOST_SIGNED_LINE),
      CHECKED_TOGETHER.lines,
      CHECKED_TOGETHER.bytes,
    )) {
      const verdicts = verdictsOn(lines, terms, banned, io).map(
        (verdict, i): LineVerdict => ({ line: messages + i + 1, ...verdict }),
      )
      if (json === true)
        io.out(
          `${messages === 0 ? '{"lines":[' : ','}${verdicts.map(verdict => JSON.stringify(verdict)).join(',')}`,
        )
      else io.out(verdicts.map(said => `${textOf(said)}\n`).join(''))
      messages += lines.length
      failed += verdicts.filter(({ valid }) => !valid).length
    }
  } catch (error) {
    if (json !== true || messages === 0) throw error
    const { exit, code, why } = explain(error)
    io.out(`],${JSON.stringify({ ok: false, valid: false, messages, failed, code, why }).slice(1)}\n`)
    return exit
  }
  const valid = messages > 0 && failed === 0
  if (json === true) {
    const sum = { valid, messages, failed, ...(banned === undefined ? {} : { leavesNumber: banned.number }) }
    io.out(`${messages === 0 ? '{"lines":[' : ''}],${JSON.stringify(sum).slice(1)}\n`)
  } else io.out(`${messages - failed} of ${messages} messages are valid\n`)
  return valid ? EXIT.done : EXIT.refused
}

function verdictsOn(
  lines: readonly Line[],
  terms: VerificationTerms,
  banned: Awaited<ReturnType<typeof leavesOf>> | undefined,
  io: Io,
): Judged[] {
  const items = lines.map(line => {
    try {
      return decodeSignedLine(textIn(line, MOST_SIGNED_LINE))
    } catch (error) {
      if (!(error instanceof DecodeError)) throw error
      return error
    }
  })
  const whole = items.filter((item): item is SignedItem => !(item instanceof DecodeError))
  const verdicts = VerifiedMessage.verifyBatch(whole, terms, io.random)
  const held = new Map(whole.map((item, place) => [item, verdicts[place]] as const))
  return items.map(item => {
    const verdict = item instanceof DecodeError ? item : (held.get(item) as (typeof verdicts)[number])
    if (verdict instanceof Error) {
      const { code, why } = explain(verdict)
      return { valid: false, code, why }
    }
    const { idCore, slot } = verdict
    const { mpinId, leaf } = idCore
    if (banned?.leaves.has(leaf) === true)
      return { valid: false, code: 'BANNED', why: `leaf ${leaf} is banned by state ${banned.number}` }
    return { valid: true, idCore: mpinId, leaf, slot }
  })
}

function textOf({ line, valid, idCore, leaf, slot, code, why }: LineVerdict): string {
  return valid
    ? `line ${line}: valid, signed by ${idCore} (leaf ${leaf}), slot ${slot}`
    : `line ${line}: ${code}: ${why}`
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

/** A line's bytes; null for one that is longer than the limit. */
type Line = Uint8Array | null

/** The lines of a text file, in turn; its last one ends, or doesn't. What is too long is read past and not kept. */
async function* linesOf(path: string, most: number): AsyncGenerator<Line> {
  let parts: Uint8Array[] = []
  let length = 0
  const add = (bytes: Uint8Array) => {
    length += bytes.length
    if (length <= most) parts.push(bytes)
    else parts = []
  }
  const take = (): Line => {
    const line = length <= most ? concat(...parts) : null
    parts = []
    length = 0
    return line
  }
  for await (const chunk of chunksOf(path)) {
    let from = 0
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      add(chunk.subarray(from, end))
      yield take()
      from = end + 1
    }
    if (from < chunk.length) add(chunk.subarray(from))
  }
  if (length > 0) yield take()
}
const NEWLINE = 10

async function* chunksOf(path: string): AsyncGenerator<Uint8Array> {
  try {
    yield* createReadStream(path) as AsyncIterable<Uint8Array>
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** Several at a time: so many lines, and no more once they are so many bytes. */
async function* together(
  lines: AsyncIterable<Line>,
  most: number,
  mostBytes = Number.POSITIVE_INFINITY,
): AsyncGenerator<readonly Line[]> {
  let some: Line[] = []
  let bytes = 0
  for await (const line of lines) {
    some.push(line)
    bytes += line?.length ?? 0
    if (some.length < most && bytes < mostBytes) continue
    yield some
    some = []
    bytes = 0
  }
  if (some.length > 0) yield some
}

/** DecodeError for a line that is too long, or no text. */
function textIn(line: Line, most: number): string {
  if (line === null) throw new DecodeError('line', `longer than ${most} bytes`)
  return fromUtf8(line, 'line')
}

/** A line that is to be signed. CommandRefused, which names it, for one that is too long or no text. */
function messageOf(line: Line, number: number): Uint8Array {
  try {
    textIn(line, MOST_LINE)
    return line as Uint8Array
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new CommandRefused(`line ${number}: ${error.why}; nothing is written`)
  }
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
    throw unreadable(path, error)
  }
}

const unreadable = (path: string, error: unknown) =>
  new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
