/**
 * `milagro ceremony`: making, refreshing, handing on and rotating the secrets of a group whose authorities are run by different
 * people. Whoever coordinates holds no secret; every operator looks at the proposal and says yes on his own machine.
 */
import { appendFileSync, existsSync, readFileSync, truncateSync } from 'node:fs'
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { Ceremony, CeremonyFault, type CeremonyProposal, ceremonyHash } from '@milagro-ts/api/ceremony'
import { type CeremonyProgress, ceremonyRun, verifyTranscript } from '@milagro-ts/api/ceremony-run'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, fingerprint, Group } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { Refused } from '@milagro-ts/api/problem'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Command } from 'commander'
import { type AdminOptions, adminClient } from '../admin-client.js'
import {
  foundingProposal,
  recoverProposal,
  refreshProposal,
  reshareProposal,
  rotateProposal,
} from '../ceremony-plan.js'
import {
  addressOf,
  answers,
  CommandRefused,
  type Io,
  type Outcome,
  readJsonFile,
  table,
  UsageError,
} from '../io.js'
import { withAdmin } from './dta.js'

interface RunOptions {
  readonly proposal: string
  readonly out: string
  readonly transcript?: string
  readonly rps?: string
  readonly within?: string
  readonly json?: boolean
}
interface ChangeOptions extends RunOptions {
  readonly group: string
}

export function addCeremony(program: Command, io: Io): void {
  const ceremony = program
    .command('ceremony')
    .description('secrets that nobody holds: founding, refreshing, handing on and rotating a group, t of n')

  answers(
    io,
    withRun(
      ceremony
        .command('run')
        .description(
          'found a group: write the proposal, if there is none; else run what everybody has accepted',
        )
        .argument('<plan>', 'authorities, t, RA keys, recipients, slots, policy, JSON'),
    ),
    (planFile: string, options: RunOptions) =>
      proposeOrRun(io, options, undefined, () => foundingProposal(readJsonFile(planFile), io)),
  )

  answers(
    io,
    withRun(
      withGroup(
        ceremony
          .command('refresh')
          .description(
            'the same members and the same keys, with new shares; what was stolen before is worthless',
          ),
      ),
    ),
    async (options: ChangeOptions) => {
      const group = await readGroup(options.group)
      return proposeOrRun(io, options, group, async () => refreshProposal(group, io))
    },
  )

  answers(
    io,
    withRun(
      withGroup(
        ceremony
          .command('reshare')
          .description('hand the same keys on: other members, another t; no device notices')
          .requiredOption(
            '--authority <url...>',
            'addresses of the new members, in the order of their indices',
          )
          .requiredOption('--t <number>', 'how many of them make a key')
          .option('--dealers <names...>', 'members of the present group who deal; all of them unless said'),
      ),
    ),
    async (options: ChangeOptions & { authority: string[]; t: string; dealers?: string[] }) => {
      const group = await readGroup(options.group)
      const urls = options.authority.map(url => addressOf(url, '--authority'))
      const t = Number(options.t)
      if (!Number.isInteger(t) || t < 1) throw new UsageError(`--t: '${options.t}' is not a number from 1 on`)
      return proposeOrRun(io, options, group, () =>
        reshareProposal(group, { urls, t, dealers: options.dealers }, io),
      )
    },
  )

  answers(
    io,
    withRun(
      withGroup(
        ceremony
          .command('recover')
          .description('give a member that has lost its share a new one; the others deal')
          .requiredOption('--lost <name>', 'the member')
          .option('--authority <url>', 'where it is now; where it was unless said'),
      ),
    ),
    async (options: ChangeOptions & { lost: string; authority?: string }) => {
      const group = await readGroup(options.group)
      const url = options.authority === undefined ? undefined : addressOf(options.authority, '--authority')
      return proposeOrRun(io, options, group, () => recoverProposal(group, { lost: options.lost, url }, io))
    },
  )

  answers(
    io,
    withRun(
      withGroup(
        ceremony
          .command('rotate')
          .description(
            'new keys for the same members: a next key epoch, to which devices go over at a login and keep their PINs',
          )
          .option('--purpose <names...>', `which keys; all of them unless said: ${PURPOSES.join(', ')}`)
          .option('--after <slots>', 'slots from now on until the new keys serve; lead + 2 unless said'),
      ),
    ),
    async (options: ChangeOptions & { purpose?: string[]; after?: string }) => {
      const group = await readGroup(options.group)
      const after = options.after === undefined ? undefined : Number(options.after)
      if (after !== undefined && !(Number.isInteger(after) && after > group.policy.lead))
        throw new UsageError(
          `--after: '${options.after}' is not a number above ${group.policy.lead}, the lead`,
        )
      return proposeOrRun(io, options, group, async () =>
        rotateProposal(group, { purposes: options.purpose, after }, io),
      )
    },
  )

  answers(
    io,
    withAdmin(
      ceremony
        .command('join')
        .description('as an authority’s operator: look at a proposal and, with --yes, take part in it')
        .argument('<proposal>', 'the file, as the coordinator has sent it')
        .option('--group <file>', 'the group’s documents, for a refresh or a reshare')
        .option('--yes', 'names, fingerprints and t are what we agreed on another way'),
    ),
    async (file: string, options: AdminOptions & { group?: string; yes?: boolean }) => {
      const group = options.group === undefined ? undefined : await readGroup(options.group)
      const proposal = readJsonFile(file) as CeremonyProposal
      const shown = describe(Ceremony.read(proposal, group))
      const hash = toBase64Url(ceremonyHash(proposal))
      if (options.yes !== true) {
        return {
          json: { ceremonyHash: hash, accepted: false },
          text: [
            ...shown,
            '',
            'Nothing is accepted yet. Compare the fingerprints with the members, then say --yes.',
          ],
        }
      }
      await adminClient(dtaAdminRoutes, options, io).accept({ body: { hash } })
      return { json: { ceremonyHash: hash, accepted: true }, text: [...shown, '', `accepted ${hash}`] }
    },
  )

  answers(
    io,
    withAdmin(
      ceremony
        .command('reject')
        .description(
          'as an authority’s operator: say no to a proposal; what was begun is given up, unless it is signed',
        )
        .argument('<proposal>', 'the file, as the coordinator has sent it')
        .requiredOption('--reason <text>', 'which the coordinator is told'),
    ),
    async (file: string, options: AdminOptions & { reason: string }) => {
      const hash = toBase64Url(ceremonyHash(readJsonFile(file) as CeremonyProposal))
      await adminClient(dtaAdminRoutes, options, io).reject({ body: { hash, reason: options.reason } })
      return { json: { ceremonyHash: hash, rejected: true }, text: [`rejected ${hash}`] }
    },
  )

  answers(
    io,
    ceremony
      .command('verify')
      .description(
        'replay a transcript: every signature, commitment, proof and complaint; names the first wrong line',
      )
      .argument('<transcript>', 'as the coordinator has written it'),
    async (file: string) => {
      const verdict = await verifyTranscript(readLines(file))
      if (!verdict.valid) throw new CommandRefused(`${file}, line ${verdict.line}: ${verdict.why}`)
      const { group } = verdict
      const groupId = toBase64Url(group.groupId)
      return {
        json: { valid: true, groupId, revision: group.revision, n: group.n, t: group.t },
        text: [`valid: group ${groupId}, revision ${group.revision}, ${group.t} of ${group.n} authorities`],
      }
    },
  )
}

function withRun(command: Command): Command {
  return command
    .requiredOption('--proposal <file>', 'written the first time, run the second')
    .requiredOption('--out <file>', 'where the group’s documents go')
    .option('--transcript <file>', 'where everything that is said goes, line by line')
    .option('--rps <url>', 'tell this RPS of the new document')
    .option(
      '--within <minutes>',
      'written into the proposal: how long each authority takes part after its join; a day unless said',
    )
}

function withGroup(command: Command): Command {
  return command.requiredOption('--group <file>', 'the group’s documents, first revision first')
}

async function proposeOrRun(
  io: Io,
  options: RunOptions,
  group: Group | undefined,
  propose: () => Promise<CeremonyProposal>,
): Promise<Outcome> {
  if (existsSync(options.proposal)) return runCeremony(io, options, group)
  const proposal = { ...(await propose()), ...withinOf(options) }
  const ceremony = Ceremony.read(proposal, group)
  await writeFileAtomic(options.proposal, `${JSON.stringify(proposal, null, 2)}\n`, 0o644)
  const hash = toBase64Url(ceremony.hash)
  return {
    json: { ceremonyHash: hash, proposal: options.proposal },
    text: [
      ...describe(ceremony),
      '',
      `written to ${options.proposal}; nothing is made yet.`,
      'Each of these authorities’ operators compares names, fingerprints and t with the others, then says:',
      `  milagro ceremony join ${options.proposal}${group === undefined ? '' : ' --group <file>'} --yes --config <its settings>`,
      'After that, the same command again runs the ceremony.',
    ],
  }
}

function withinOf({ within }: RunOptions): { within?: number } {
  if (within === undefined) return {}
  const minutes = Number(within)
  if (!Number.isInteger(minutes) || minutes < 1 || minutes > 10_080)
    throw new UsageError(`--within: '${within}' is no number of minutes from 1 to 10080, a week`)
  return { within: 60 * minutes }
}

async function runCeremony(io: Io, options: RunOptions, inForce: Group | undefined): Promise<Outcome> {
  const proposal = readJsonFile(options.proposal) as CeremonyProposal
  const group = inForce && (await asProposed(proposal, inForce))
  const ceremony = Ceremony.read(proposal, group)
  const clients = new Map(
    [...addressesOf(proposal, ceremony)].map(([name, url]) => [
      name,
      createClient(dtaRoutes, { baseUrl: url, fetch: io.fetch, timeout: 120_000 }),
    ]),
  )
  const transcript = options.transcript === undefined ? undefined : await openTranscript(options.transcript)
  const progress = options.json === true ? () => {} : progressOf(io, ceremony)
  const result = await ceremonyRun({
    proposal,
    clients,
    ...(group && { revisions: group.documents }),
    ...(transcript && { written: transcript.written, onTranscript: transcript.add }),
    onProgress: progress,
  }).catch((error: unknown) => explained(error, options))
  const made = result.group
  const documents = made.documents.length === 1 ? made.document : made.documents
  await writeFileAtomic(options.out, `${JSON.stringify(documents, null, 2)}\n`, 0o644)
  if (options.rps !== undefined) {
    const rps = createClient(rpsRoutes, { baseUrl: addressOf(options.rps, '--rps'), fetch: io.fetch })
    await rps.publishRevision({ body: { document: made.document } })
  }
  const groupId = toBase64Url(made.groupId)
  const { n, t, revision, shareEpoch } = made
  const { unconcluded } = result
  for (const { why } of unconcluded) io.err(`warning: not concluded: ${why}\n`)
  if (unconcluded.length > 0)
    io.err(
      `warning: the new document is in force without ${unconcluded.map(({ name }) => name).join(', ')}. The same command again concludes there too, once back; for what is lost: milagro ceremony recover\n`,
    )
  return {
    json: {
      groupId,
      fingerprint: fingerprint(made.groupId),
      revision,
      n,
      t,
      shareEpoch,
      out: options.out,
      unconcluded: unconcluded.map(({ name }) => name),
    },
    text: [
      `group ${groupId}, revision ${revision}: ${t} of ${n} authorities, share epoch ${shareEpoch}`,
      `fingerprint ${fingerprint(made.groupId)}`,
      `written to ${options.out}`,
    ],
  }
}

/** The group as of the revision that the proposal starts from: said again, a command may find its own result in the file. */
async function asProposed(proposal: CeremonyProposal, group: Group): Promise<Group> {
  if (proposal.kind === 'found') return group
  const { documents, groupId } = group
  const last = documents.findIndex(document => toBase64Url(documentHash(document)) === proposal.previous)
  return last === -1 || last === documents.length - 1
    ? group
    : Group.verifyChain(documents.slice(0, last + 1), groupId)
}

/** Who takes part, with whose keys, for people to compare. */
function describe({ proposal, hash, participants, members, t, secrets, lifetime }: Ceremony): string[] {
  const kinds = {
    found: 'found a group',
    refresh: 'refresh a group',
    reshare: 'hand a group on',
    rotate: 'rotate a group’s keys',
  }
  return [
    `ceremony ${toBase64Url(hash)}: ${kinds[proposal.kind]}, ${t} of ${members.length} authorities make a key`,
    ...(proposal.kind === 'found' ? [] : [`group ${proposal.groupId}`]),
    `each authority takes part for ${lifetime / 60_000} minutes after its join`,
    ...(proposal.kind === 'rotate'
      ? [
          `new keys from slot ${proposal.firstSlot} on: ${secrets.map(({ purpose, epoch }) => `${purpose} (key epoch ${epoch})`).join(', ')}`,
        ]
      : []),
    ...table(
      ['authority', 'fingerprint of its key', 'deals', 'holds a share'],
      participants.map(({ name, signKey, dealer, member }) => [
        name,
        fingerprint(sha256(signKey.encode())),
        dealer === undefined ? 'no' : `as ${dealer}`,
        member === undefined ? 'no' : `as ${member}`,
      ]),
    ),
    ...(proposal.kind === 'found' ? describeTerms(proposal.group) : []),
  ]
}

/** What a founding settles beside its members: whose word enrols and bans, who gets server keys. */
function describeTerms({ ra, recipients, slot, policy }: GroupProposal): string[] {
  return [
    ...table(
      [`RA, ${ra.m} of ${ra.keys.length} sign a ticket`, 'its key'],
      ra.keys.map(({ kid, key }) => [kid, key]),
    ),
    ...table(
      ['server', 'gets keys of', 'its request key', 'its HPKE key'],
      recipients.map(({ name, purposes, requestKey, hpkeKey }) => [
        name,
        purposes.join(', '),
        requestKey,
        hpkeKey,
      ]),
    ),
    `slots of ${slot.length} s, permits up to ${policy.lead} ahead, ${policy.grace} s grace`,
  ]
}

/** New members where the proposal says, the others where the group in force does. */
function addressesOf(proposal: CeremonyProposal, { group }: Ceremony): ReadonlyMap<string, string> {
  const former = group?.document.authorities ?? []
  const listed =
    proposal.kind === 'found'
      ? proposal.group.authorities
      : proposal.kind === 'reshare'
        ? proposal.authorities
        : []
  return new Map([...former, ...listed].map(({ name, url }) => [name, url]))
}

/**
 * A run again says the same again, from the first line on: what stands there already stays, so that whatever breaks off
 * now, nothing that was said is lost. From the first other line on it is written anew.
 */
async function openTranscript(file: string) {
  // A line without its end was cut off.
  const written = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : []
  const textOf = (lines: readonly string[]) => lines.map(line => `${line}\n`).join('')
  await writeFileAtomic(file, textOf(written), 0o644)
  let place = 0
  let isOther = false
  const add = (line: string) => {
    if (!isOther && written[place] === line) {
      place++
      return
    }
    if (!isOther && place < written.length)
      truncateSync(file, Buffer.byteLength(textOf(written.slice(0, place))))
    isOther = true
    appendFileSync(file, textOf([line]))
  }
  return { written, add }
}

/** One line for each move, when everybody has made it. */
function progressOf(io: Io, ceremony: Ceremony): (progress: CeremonyProgress) => void {
  const done = new Map<CeremonyProgress['move'], string[]>()
  return ({ move, name }) => {
    if (move === 'ledger') return
    const names = [...(done.get(move) ?? []), name]
    done.set(move, names)
    const all =
      move === 'sign'
        ? ceremony.dealers
        : move === 'conclude'
          ? ceremony.participants
          : ceremony.speakers(move)
    if (names.length === all.length) io.err(`${move.padEnd(8)} ${names.join(', ')}\n`)
  }
}

/** The same error, with what to do next. */
function explained(error: unknown, { proposal, transcript }: RunOptions): never {
  if (error instanceof Unreachable)
    throw new Unreachable(`${error.message}. The same command again goes on from here`, { cause: error })
  if (!(error instanceof Refused)) throw error
  const next =
    error instanceof CeremonyFault || error.code === 'WRONG_SHARE'
      ? `Nothing has changed. Propose again without whoever is named${transcript === undefined ? '' : `; ${transcript} is the evidence`}`
      : ({
          NOT_APPROVED: `Where its operator agrees: milagro ceremony join ${proposal} --yes --config <its settings>`,
          EXPIRED: 'Nothing has changed. Make a new proposal (another --proposal file)',
          CONFLICT: 'This ceremony ends here. Make a new proposal (another --proposal file)',
        }[error.code as 'NOT_APPROVED' | 'EXPIRED' | 'CONFLICT'] ??
        'The same command again goes on from here')
  throw new Refused(error.code, { detail: `${error.detail ?? error.code}. ${next}` })
}

function readGroup(file: string): Promise<Group> {
  return Group.verifyFile(readJsonFile(file))
}

function readLines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').replace(/\n$/, '').split('\n')
  } catch (error) {
    throw new UsageError(`cannot read '${file}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}
