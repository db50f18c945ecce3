/** `milagro group`: making a group of authorities that were asked one by one, and reading group documents. */
import { existsSync } from 'node:fs'
import { createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { checkProposal, fingerprint, Group, proposalHash } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { fetchGroup } from '@milagro-ts/client/group-store'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Command } from 'commander'
import { type AdminOptions, adminClient } from '../admin-client.js'
import { checkPlan, composeProposal } from '../group-plan.js'
import {
  addressOf,
  answers,
  CommandRefused,
  hashOf,
  type Io,
  readJsonFile,
  readTextFile,
  table,
} from '../io.js'
import { withAdmin } from './dta.js'

export function addGroup(program: Command, io: Io): void {
  const group = program.command('group').description('groups of authorities and their documents')

  answers(
    io,
    group
      .command('make')
      .description('write the proposal, if there is none; else found the group that everybody has accepted')
      .argument('<plan>', 'authorities, RA keys, recipients, slots, policy, JSON')
      .requiredOption('--proposal <file>', 'the proposal: written the first time, used the second')
      .requiredOption('--out <file>', 'where the group document goes'),
    async (planFile: string, options: { proposal: string; out: string }) => {
      if (!existsSync(options.proposal)) return propose(io, planFile, options.proposal)
      const proposal = checkProposal(readJsonFile(options.proposal))
      const group = await found(proposal, io.fetch)
      await writeFileAtomic(options.out, `${JSON.stringify(group.document, null, 2)}\n`, 0o644)
      const groupId = toBase64Url(group.groupId)
      return {
        json: { groupId, fingerprint: fingerprint(group.groupId), out: options.out },
        text: [`group ${groupId}`, `fingerprint ${fingerprint(group.groupId)}`, `written to ${options.out}`],
      }
    },
  )

  answers(
    io,
    withAdmin(
      group
        .command('accept')
        .description(
          'as an authority’s operator: take part in the proposal, or sign the revision, of this hash',
        )
        .argument('<hash>', 'as the proposer has told you on another way'),
    ),
    async (hash: string, options: AdminOptions) => {
      const body = { hash: hashOf(hash, 'hash') }
      const answer = await adminClient(dtaAdminRoutes, options, io).accept({ body })
      return { json: answer, text: [`accepted ${answer.accepted}`] }
    },
  )

  answers(
    io,
    withAdmin(
      group
        .command('abandon')
        .description(
          'as an authority’s operator: never sign the revision of this hash, so that others who have may sign another',
        )
        .argument('<hash>', 'of a document that this authority has not signed')
        .requiredOption('--group <id>', 'groupId')
        .requiredOption(
          '--out <file>',
          'where the statement goes: for the operators of those who have signed it',
        ),
    ),
    async (hash: string, options: AdminOptions & { group: string; out: string }) => {
      const { abandonment } = await adminClient(dtaAdminRoutes, options, io).abandonRevision({
        params: { groupId: hashOf(options.group, '--group') },
        body: { documentHash: hashOf(hash, 'hash') },
      })
      await writeFileAtomic(options.out, `${abandonment}\n`, 0o644)
      return {
        json: { abandoned: hash, out: options.out },
        text: [`abandoned ${hash} for good`, `written to ${options.out}`],
      }
    },
  )

  answers(
    io,
    withAdmin(
      group
        .command('release')
        .description(
          'as the operator of an authority that has signed the revision of this hash: sign another in its place',
        )
        .argument('<hash>', 'as dta status shows it')
        .argument('<files...>', 'what `milagro group abandon` wrote at other authorities')
        .requiredOption('--group <id>', 'groupId'),
    ),
    async (hash: string, files: string[], options: AdminOptions & { group: string }) => {
      const answer = await adminClient(dtaAdminRoutes, options, io).releaseRevision({
        params: { groupId: hashOf(options.group, '--group') },
        body: { documentHash: hashOf(hash, 'hash'), abandonments: files.map(readTextFile) },
      })
      return { json: answer, text: [`released ${answer.released}: another may be signed in its place`] }
    },
  )

  answers(
    io,
    group
      .command('fetch')
      .description(
        'the group’s documents, from the first to the one in force, checked: what ceremonies and new servers begin with',
      )
      .requiredOption('--rps <url>', 'address of the authentication server')
      .requiredOption('--group <id>', 'groupId')
      .requiredOption('--out <file>', 'where they go'),
    async (options: { rps: string; group: string; out: string }) => {
      const rps = createClient(rpsRoutes, { baseUrl: addressOf(options.rps, '--rps'), fetch: io.fetch })
      const groupId = hashOf(options.group, '--group')
      const wait = (milliseconds: number) => new Promise<void>(resolve => setTimeout(resolve, milliseconds))
      const { revision, documents } = await fetchGroup({ rps, wait }, fromBase64Url(groupId, '--group', 32))
      await writeFileAtomic(options.out, `${JSON.stringify(documents, null, 2)}\n`, 0o644)
      return {
        json: { groupId, revision, out: options.out },
        text: [`revision ${revision}, written to ${options.out}`],
      }
    },
  )

  answers(
    io,
    group
      .command('verify')
      .description('check every key, proof and signature of a group’s documents, first revision first')
      .argument('<files...>', 'group documents, revision 1, 2, 3 …')
      .option('--group <id>', 'the groupId that it must be'),
    async (files: string[], options: { group?: string }) => {
      const pinned = options.group === undefined ? undefined : hashOf(options.group, '--group')
      const group = await verified(files, pinned)
      return {
        json: { groupId: toBase64Url(group.groupId), revision: group.revision, valid: true },
        text: [
          `valid: group ${toBase64Url(group.groupId)}, revision ${group.revision}`,
          `fingerprint ${fingerprint(group.groupId)}`,
        ],
      }
    },
  )

  answers(
    io,
    group
      .command('show')
      .description('what a group’s documents say, after the same checks')
      .argument('<files...>', 'group documents, revision 1, 2, 3 …'),
    async (files: string[]) => {
      const group = await verified(files, undefined)
      const { length } = group.slotRule
      return {
        json: { groupId: toBase64Url(group.groupId), document: group.document },
        text: [
          `group        ${toBase64Url(group.groupId)}`,
          `fingerprint  ${fingerprint(group.groupId)}`,
          `revision     ${group.revision}, ${group.t} of ${group.n} authorities`,
          `slots        ${length} s, lead ${group.policy.lead}, grace ${group.policy.grace} s`,
          '',
          ...table(
            ['authority', 'name', 'address'],
            group.authorities.map(({ index, name, url }) => [String(index), name, url]),
          ),
          '',
          ...table(
            ['recipient', 'purposes'],
            group.recipients.map(({ name, purposes }) => [name, purposes.join(', ')]),
          ),
          '',
          ...table(
            ['purpose', 'epoch', 'from slot'],
            PURPOSES.map(purpose => {
              const { epoch, firstSlot } = group.keys(purpose)
              return [purpose, String(epoch), String(firstSlot)]
            }),
          ),
        ],
      }
    },
  )
}

async function propose(io: Io, planFile: string, proposalFile: string) {
  const proposal = checkProposal(await composeProposal(checkPlan(readJsonFile(planFile)), io))
  await writeFileAtomic(proposalFile, `${JSON.stringify(proposal, null, 2)}\n`, 0o644)
  const hash = toBase64Url(proposalHash(proposal))
  return {
    json: { proposalHash: hash, proposal: proposalFile },
    text: [
      `proposal ${hash}`,
      `written to ${proposalFile}; nothing is made yet.`,
      'Each authority’s operator compares the names and keys in it, then:',
      `  milagro group accept ${hash} --config <its settings>`,
      'After that, the same command again founds the group.',
    ],
  }
}

/** Runs the founding with the authorities of the proposal. Refused (NOT_APPROVED) while one has not accepted. */
export function found(proposal: GroupProposal, fetch: typeof globalThis.fetch): Promise<Group> {
  const clients = proposal.authorities.map(({ url }) => createClient(dtaRoutes, { baseUrl: url, fetch }))
  return groupMake({ proposal, clients })
}

async function verified(files: readonly string[], pinned: string | undefined): Promise<Group> {
  // One document a file, or several in an array, as ceremonies write them.
  const group = await Group.verifyFile(files.flatMap(readJsonFile))
  if (pinned !== undefined && toBase64Url(group.groupId) !== pinned)
    throw new CommandRefused(`this is group ${toBase64Url(group.groupId)}`)
  return group
}
