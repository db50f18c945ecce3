/** `milagro dta`: an authority, and its operator's switches on the admin listener. */
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { Group } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Command } from 'commander'
import { type AdminOptions, adminClient } from '../admin-client.js'
import { addressOf, answers, CommandRefused, hashOf, type Io, table, UsageError, unixSeconds } from '../io.js'
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
              [
                group.frozen ? 'frozen' : 'serving',
                ...(group.leavesAt === undefined ? [] : [`until ${time(group.leavesAt)}`]),
              ].join(' '),
            ]),
          ),
          ...answer.groups.flatMap(({ groupId, policy: { keysPerDay, permitsPerDay }, used }) => [
            ...(keysPerDay === undefined ? [] : [`today ${used.keys} of ${keysPerDay} keys in ${groupId}`]),
            ...(permitsPerDay === undefined
              ? []
              : [`today ${used.permits} of ${permitsPerDay} permits in ${groupId}`]),
          ]),
          ...answer.proposals
            .filter(proposal => !proposal.concluded)
            .map(
              proposal =>
                `proposal ${proposal.proposalHash} ${proposal.accepted ? 'accepted' : 'waits for you'}`,
            ),
          ...answer.evidence.map(
            ({ authority, fault, groupId, at }) =>
              `ALARM: the log of ${authority} in ${groupId}: ${fault}, found ${time(at)}`,
          ),
          ...answer.ceremonies
            .filter(({ state }) => state !== 'concluded')
            .map(({ ceremonyHash, kind, state }) => `ceremony ${ceremonyHash} (${kind}) ${state}`),
          ...answer.revisions
            .filter(revision => !revision.accepted)
            .flatMap(({ documentHash, groupId, changes = [] }) => [
              `revision ${documentHash} of ${groupId} waits for you`,
              ...changes.map(change => `  ${change}`),
            ]),
          ...answer.revisions
            .filter(({ signed }) => signed)
            .map(
              ({ documentHash, groupId }) =>
                `revision ${documentHash} of ${groupId} is signed here, and not in force yet`,
            ),
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
          .argument('[what]', 'a groupId; or, with --group, only a recipient of server keys and permits')
          .option('--group <id>', 'groupId'),
      ),
      async (what: string | undefined, options: AdminOptions & { group?: string }) => {
        const group = options.group ?? what
        if (group === undefined) throw new UsageError('which group?')
        const params = { groupId: hashOf(group, options.group === undefined ? 'group' : '--group') }
        const body = options.group === undefined || what === undefined ? {} : { recipient: what }
        const answer = await adminClient(dtaAdminRoutes, options, io)[verb]({ params, body })
        return { json: answer, text: [answer.frozen ? 'frozen' : 'serving'] }
      },
    )
  }

  answers(
    io,
    withAdmin(
      dta
        .command('leave')
        .description(
          'announce a departure: after that time nothing of the group is served, and its shares are destroyed',
        )
        .argument('<group>', 'groupId')
        .requiredOption(
          '--after <time>',
          'a time with Z or an offset, a day ahead at least, for example 2030-01-31T12:00:00Z',
        ),
    ),
    async (group: string, options: AdminOptions & { after: string }) => {
      const leavesAt = unixSeconds(options.after, '--after')
      const params = { groupId: hashOf(group, 'group') }
      const answer = await adminClient(dtaAdminRoutes, options, io).leave({ params, body: { leavesAt } })
      return { json: answer, text: [`leaves ${time(leavesAt)}; until then: milagro dta stay ${group}`] }
    },
  )

  answers(
    io,
    withAdmin(
      dta
        .command('stay')
        .description('take an announced departure back, before its time')
        .argument('<group>', 'groupId'),
    ),
    async (group: string, options: AdminOptions) => {
      const params = { groupId: hashOf(group, 'group') }
      await adminClient(dtaAdminRoutes, options, io).stay({ params, body: {} })
      return { json: { stays: group }, text: ['stays'] }
    },
  )

  answers(
    io,
    withAdmin(
      dta
        .command('policy')
        .description('what this authority’s own rules are, group by group')
        .option('--reload', 'read the policy file again first; one that is wrong changes nothing'),
    ),
    async (options: AdminOptions & { reload?: boolean }) => {
      const api = adminClient(dtaAdminRoutes, options, io)
      if (options.reload === true) await api.reloadPolicy({ body: {} })
      const groups = (await api.status({})).groups.map(({ groupId, policy, used }) => ({
        groupId,
        policy,
        used,
      }))
      return {
        json: { groups },
        text: groups.map(({ groupId, policy }) => `${groupId} ${JSON.stringify(policy)}`),
      }
    },
  )

  answers(
    io,
    dta
      .command('audit')
      .description('read the issuance log from its beginning and check it against its signed head')
      .requiredOption('--url <url>', 'the authority')
      .requiredOption('--group <id>', 'groupId'),
    async (options: { url: string; group: string }) => {
      const client = createClient(dtaRoutes, { baseUrl: addressOf(options.url, '--url'), fetch: io.fetch })
      const params = { groupId: hashOf(options.group, '--group') }
      const { name } = await client.authority({})
      // The document says whose head it must be: its chain begins at the groupId.
      const documents = await revisionsOf(client, params.groupId)
      const group = await Group.verifyChain(documents, fromBase64Url(params.groupId, '--group', 32))
      const authority = group.authorities.find(authority => authority.name === name)
      if (authority === undefined) throw new CommandRefused(`${name} is not in that group`)
      const { groupId } = group
      const found = await checkIssuanceLog(client, { groupId, name, signKey: authority.signKey })
      if (found.fault !== undefined) throw new CommandRefused(found.fault)
      const { size, root } = found.head
      return {
        // Whose it is, is what answers there says: it may be another's log that it shows.
        json: { authority: name, entries: size, root: toBase64Url(root), head: found.head.jws, intact: true },
        text: [`the log of ${name}: ${size} entries, as the signed head says: root ${toBase64Url(root)}`],
      }
    },
  )
}

const time = (seconds: number) => new Date(seconds * 1000).toISOString()

/** The chain of the group's documents, as the authority has it. */
async function revisionsOf(
  client: Pick<Client<typeof dtaRoutes>, 'group'>,
  groupId: string,
): Promise<GroupDocument[]> {
  const { revision: newest } = await client.group({ params: { groupId }, query: {} })
  const documents: GroupDocument[] = []
  for (let revision = 1; revision <= newest; revision++)
    documents.push(await client.group({ params: { groupId }, query: { revision: String(revision) } }))
  return documents
}

/** The flags with which a command finds an admin listener. */
export function withAdmin(command: Command): Command {
  return command
    .option('--config <file>', 'the settings file of the server, for its address and data folder')
    .option('--admin-url <url>', 'address of the admin listener')
    .option('--data-dir <folder>', 'data folder, where the admin token is')
}
