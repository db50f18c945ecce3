/** `milagro dta`: an authority, and its operator's switches on the admin listener. */
import { createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Command } from 'commander'
import { type AdminOptions, adminClient } from '../admin-client.js'
import { addressOf, answers, CommandRefused, hashOf, type Io, table } from '../io.js'
import { checkIssuanceLog } from '../issuance-log.js'
import { addServerVerbs } from './server-verbs.js'

export function addDta(program: Command, io: Io, status: { exit: number }): void {
  const dta = program.command('dta').description('a distributed trust authority (D-TA)')
  addServerVerbs(dta, 'dta', status)

  answers(
    io,
    withAdmin(dta.command('status').description('groups served, proposals and revisions that wait, alarms')),
    async (options: AdminOptions) => {
      const answer = await adminClient(dtaAdminRoutes, options, io).status({})
      return {
        json: answer,
        text: [
          `authority ${answer.name}`,
          ...table(
            ['group', 'revision', 'issued', 'alarms', 'state'],
            answer.groups.map(group => [
              group.groupId,
              String(group.revision),
              String(group.issued),
              String(group.alarms),
              group.frozen ? 'frozen' : 'serving',
            ]),
          ),
          ...answer.proposals
            .filter(proposal => !proposal.concluded)
            .map(
              proposal =>
                `proposal ${proposal.proposalHash} ${proposal.accepted ? 'accepted' : 'waits for you'}`,
            ),
          ...answer.ceremonies
            .filter(({ state }) => state !== 'concluded')
            .map(({ ceremonyHash, kind, state }) => `ceremony ${ceremonyHash} (${kind}) ${state}`),
          ...answer.revisions
            .filter(revision => !revision.accepted)
            .map(revision => `revision ${revision.documentHash} of ${revision.groupId} waits for you`),
        ],
      }
    },
  )

  for (const verb of ['freeze', 'unfreeze'] as const) {
    answers(
      io,
      withAdmin(
        dta
          .command(verb)
          .description(verb === 'freeze' ? 'issue nothing more, at once' : 'issue again')
          .argument('[recipient]', 'only to this recipient of server keys and permits')
          .requiredOption('--group <id>', 'groupId'),
      ),
      async (recipient: string | undefined, options: AdminOptions & { group: string }) => {
        const params = { groupId: hashOf(options.group, '--group') }
        const body = recipient === undefined ? {} : { recipient }
        const answer = await adminClient(dtaAdminRoutes, options, io)[verb]({ params, body })
        return { json: answer, text: [answer.frozen ? 'frozen' : 'serving'] }
      },
    )
  }

  answers(
    io,
    dta
      .command('audit')
      .description('read the issuance log from its beginning and check its hash chain')
      .requiredOption('--url <url>', 'the authority')
      .requiredOption('--group <id>', 'groupId'),
    async (options: { url: string; group: string }) => {
      const client = createClient(dtaRoutes, { baseUrl: addressOf(options.url, '--url'), fetch: io.fetch })
      const found = await checkIssuanceLog(client, hashOf(options.group, '--group'))
      if (found.brokenAt !== undefined)
        throw new CommandRefused(`the log is broken at entry ${found.brokenAt}`)
      return {
        json: { entries: found.entries.length, intact: true },
        text: [`${found.entries.length} entries, the chain is intact`],
      }
    },
  )
}

/** The flags with which a command finds an admin listener. */
export function withAdmin(command: Command): Command {
  return command
    .option('--config <file>', 'the settings file of the server, for its address and data folder')
    .option('--admin-url <url>', 'address of the admin listener')
    .option('--data-dir <folder>', 'data folder, where the admin token is')
}
