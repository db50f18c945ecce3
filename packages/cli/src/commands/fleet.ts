/** `milagro fleet`: an operator's hand on the register, over fleet's API, logged in by M-Pin. */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type Client, createClient } from '@milagro-ts/api/call'
import { Recipients } from '@milagro-ts/api/group-document'
import { Refused } from '@milagro-ts/api/problem'
import { recipientChanges } from '@milagro-ts/api/revision-changes'
import type { Answer } from '@milagro-ts/api/route'
import { Compile, type Static } from '@milagro-ts/api/typebox'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Command } from 'commander'
import { attributesOf } from '../attributes.js'
import {
  addressOf,
  answers,
  CommandRefused,
  type Io,
  type Outcome,
  readJsonFile,
  readTextFile,
  table,
  UsageError,
  unixSeconds,
} from '../io.js'
import { become } from '../programs.js'
import { logIn, type SessionOptions, withSession } from '../session.js'
import { addServerVerbs } from './server-verbs.js'

type Fleet = Client<typeof fleetRoutes>
interface FleetOptions extends SessionOptions {
  readonly url: string
}

export function addFleet(program: Command, io: Io, status: { exit: number }): void {
  const fleet = program.command('fleet').description('the register of vehicles, drivers and operators')
  addServerVerbs(fleet, 'fleet', status)
  fleet
    .command('operator-code')
    .description(
      'at fleet’s own machine: a code for an operator, for the day when none can log in, and the whole command that enrols by it (`enrol`)',
    )
    .argument('<name>', 'of an operator, present or new')
    .requiredOption('--config <file>', 'settings, JSON')
    .option('--json', 'answer with one JSON object (the program always does)')
    .action(async (name: string, { config }: { config: string }) => {
      status.exit = await become('fleet', ['--config', config, '--operator-code', name])
    })

  /** A verb that an operator uses: its work gets the API, logged in. */
  const verb = <Args extends unknown[], Options extends object = object>(
    line: string,
    description: string,
    work: (api: Fleet, ...args: [...Args, FleetOptions & Options]) => Promise<Outcome>,
  ): Command => {
    const [name, ...words] = line.split(' ')
    const command = fleet.command(name as string).description(description)
    for (const word of words) command.argument(word)
    withSession(command).requiredOption('--url <url>', 'address of fleet')
    return answers(io, command, async (...given: [...Args, FleetOptions & Options]) => {
      const options = given.at(-1) as FleetOptions
      return work(await open(options, io), ...given)
    })
  }

  verb<[string | undefined], { state?: string }>(
    'list [what]',
    'vehicles (unless said), drivers, operators, approvals, bans or deliveries (notices not taken)',
    async (api, what, { state }) => list(api, what ?? 'vehicles', state),
  ).option('--state <state>', 'vehicles: registered, invited, enrolled or revoked')

  verb<
    [string, string],
    AttributeOptions & { factors?: string; code: boolean; vehicle?: string; onlyCode?: boolean }
  >(
    'add <what> <name>',
    'register a vehicle (its VIN), a driver on a vehicle (driverName), or an operator; prints the enrolment code',
    async (api, what, name, options) => {
      if (options.onlyCode === true && !options.code) throw new UsageError('--only-code needs a code')
      const outcome = await add(api, what, name, options)
      return options.onlyCode === true ? { ...outcome, text: [String(outcome.json.code)] } : outcome
    },
  )
    .option('--only-code', 'print nothing but the code, for a shell variable')
    .option('--attribute <name=value...>', 'what the vehicle, or the person, is known by')
    .option('--vehicle <vin>', 'for a driver: on which vehicle')
    .option('--factors <n>', 'for a vehicle: 0 device alone, 1 device and PIN, 2 PIN where a service asks')
    .option('--no-code', 'for a vehicle: it enrols by the six words')

  verb<[string], { out?: string }>(
    'import <csv>',
    'register every vehicle of a CSV file (vin, attributes …), or none of them',
    async (api, file, { out }) => {
      const text = readText(file)
      // Once they are registered it's too late: codes that find no place are lost, and each would have to be sent again.
      if (out !== undefined) assertWritable(out)
      const { vehicles } = await api.importVehicles({ body: { csv: text } }).catch((error: unknown) => {
        if (!(error instanceof Refused) || error.code !== 'TOO_LARGE') throw error
        throw new CommandRefused(`'${file}' is too large for one import (${error.detail}): split it`)
      })
      const csv = [`vin,code`, ...vehicles.map(({ instance, code }) => `${quoted(instance)},${code}`)]
      if (out !== undefined) await writeFileAtomic(out, `${csv.join('\n')}\n`, 0o600)
      return {
        json: out === undefined ? { vehicles } : { vehicles: vehicles.length, out },
        text: out === undefined ? csv : [`${vehicles.length} vehicles, their codes are in ${out}`],
      }
    },
  ).option('--out <file>', 'write the codes there (mode 0600) instead of printing them')

  verb<[string], { words?: string; refuse?: boolean; nextGeneration?: boolean }>(
    'approve <id>',
    'approve a registration whose six words are the same on device and console',
    async (api, id, { words, refuse, nextGeneration }) => {
      const params = { id: numeral(id, 'id') }
      if (refuse) {
        await api.refuse({ params, body: {} })
        return { json: { refused: Number(id) }, text: [`refused ${id}`] }
      }
      if (words === undefined) throw new UsageError('say --words with the six words that the device shows')
      await api.approve({ params, body: { words, ...(nextGeneration ? { nextGeneration } : {}) } })
      return { json: { approved: Number(id) }, text: [`approved ${id}`] }
    },
  )
    .option('--words <words>', 'the six words that the device shows')
    .option('--next-generation', 'the vehicle is enrolled: end that identity and make the next')
    .option('--refuse', 'refuse it instead')

  verb<[string | undefined], ResendOptions>(
    'resend [vin]',
    'a new enrolment code; the one sent before is worth nothing any more',
    async (api, vin, options) => {
      const code = await resend(api, vin, options)
      return { json: code, text: codeText(code) }
    },
  )
    .option('--driver <id>', 'for this driver on the vehicle')
    .option('--next-generation', 'the vehicle is enrolled: for its next identity, which ends the present one')
    .option('--reset-pin', 'with --driver: for the next PIN of a driver who forgot it')
    .option('--operator <id>', 'for this operator instead')
    .option('--template <id>', 'for this template instead')

  verb<[string, string | undefined], TemplateOptions>(
    'template <verb> [name]',
    'templates that approve devices by themselves: add <name>, list, or end <id>',
    async (api, what, name, options) => template(api, what, name, options),
  )
    .option('--instance <pattern>', 'which VINs: a text, a prefix* or one|other')
    .option('--attribute <name=pattern...>', 'exactly these attributes, each a text, a prefix* or one|other')
    .option('--count <n>', 'how many devices it may approve')
    .option(
      '--until <time>',
      'ends by itself then: a time with Z or an offset, for example 2030-01-31T12:00:00Z',
    )
    .option('--factors <n>', '0 device alone, 1 device and PIN, 2 PIN where a service asks')
    .option('--registered', 'only vehicles that were added with --no-code')

  verb<[], { vehicle?: string; driver?: string; operator?: string; reason: string; until?: string }>(
    'ban',
    'ban a vehicle, a driver or an operator: refused everywhere at once',
    async (api, options) => {
      const terms = {
        reason: options.reason,
        ...(options.until === undefined ? {} : { expiresAt: unixSeconds(options.until, '--until') }),
      }
      const ban = await api.ban({ body: { ...(await banTarget(api, options)), ...terms } })
      return { json: ban, text: [`ban ${ban.id}`] }
    },
  )
    .option('--vehicle <vin>', 'this vehicle')
    .option('--driver <id>', 'on every vehicle')
    .option('--operator <id>', 'this operator')
    .requiredOption('--reason <text>', 'for the register; nobody else is told')
    .option(
      '--until <time>',
      'ends by itself then: a time with Z or an offset, for example 2030-01-31T12:00:00Z',
    )

  verb<[string]>('unban <ban>', 'lift a ban', async (api, ban) => {
    await api.unban({ params: { id: numeral(ban, 'ban') } })
    return { json: { lifted: Number(ban) }, text: [`lifted ${ban}`] }
  })

  verb<[string | undefined], { driver?: string; operator?: string }>(
    'unlock [vin]',
    'forget the wrong PINs in a row of a driver on a vehicle, or of an operator',
    async (api, vin, { driver, operator }) => {
      const answer =
        operator === undefined
          ? await api.unlock({
              params: { id: await vehicleId(api, needed(vin, 'vin')), driver: numeral(driver, 'driver') },
              body: {},
            })
          : await api.unlockOperator({ params: { id: numeral(operator, 'operator') }, body: {} })
      return { json: answer, text: ['unlocked'] }
    },
  )
    .option('--driver <id>', 'which driver on the vehicle')
    .option('--operator <id>', 'this operator instead')

  verb<[string | undefined], { operator?: string }>(
    'revoke [vin]',
    'end the identity of a vehicle, or of an operator, now and for good',
    async (api, vin, { operator }) => {
      if (operator === undefined) {
        await api.revoke({ params: { id: await vehicleId(api, needed(vin, 'vin')) }, body: {} })
      } else await api.revokeOperator({ params: { id: numeral(operator, 'operator') }, body: {} })
      return { json: { revoked: operator ?? vin }, text: [`revoked ${operator ?? vin}`] }
    },
  ).option('--operator <id>', 'this operator instead')

  verb<[], { finish?: boolean; abandon?: boolean; abandonments?: string[] }>(
    'rotate-key',
    'make the next ticket key; once the authorities’ operators have accepted its revision: --finish',
    async (api, { finish, abandon, abandonments: files }) => {
      if (abandon) {
        await api.abandonKey({ body: files === undefined ? {} : { abandonments: files.map(readTextFile) } })
        return { json: { state: 'abandoned' }, text: ['abandoned'] }
      }
      const view = await (finish ? api.finishKey({ body: {} }) : api.rotateKey({ body: {} }))
      if (finish) assertSigned(view, `${view.newKid} is not in use`)
      return { json: view, text: [`${view.oldKid} → ${view.newKid}: ${view.state}`, ...progress(view)] }
    },
  )
    .option('--finish', 'collect the signatures and take the key into use')
    .option('--abandon', 'drop the change')
    .option('--abandonments <files...>', 'with --abandon: what `milagro group abandon` wrote at authorities')

  verb<[], RecipientsOptions>(
    'recipients',
    'the servers that the group names; change them, and once the authorities’ operators have accepted the revision: --finish',
    (api, options) => recipients(api, options, io),
  )
    .option('--set <file>', 'propose this list, as a plan has it')
    .option(
      '--add <files...>',
      'propose the list with these: each file a recipient, or a list; one of a name that is there takes its place',
    )
    .option('--remove <names...>', 'propose the list without these')
    .option('--finish', 'collect the signatures and take the recipients into force')
    .option('--abandon', 'drop the change')
    .option('--abandonments <files...>', 'with --abandon: what `milagro group abandon` wrote at authorities')

  verb<[]>('status', 'counts, keys, trust authorities, and events that wait', async api => {
    const answer = await api.status({})
    return {
      json: answer,
      text: [
        `group      ${answer.groupId}, revision ${answer.revision}`,
        `vehicles   ${answer.vehicles}, ${answer.enrolled} enrolled, ${answer.drivers} drivers`,
        `waiting    ${answer.pending} for approval, ${answer.events.waiting} events for the RPS`,
        `hooks      ${answer.hooks.waiting} notices wait, ${answer.hooks.dead} were given up`,
        `bans       ${answer.bans}`,
        `RA keys    ${answer.raKeys.join(', ')}`,
        ...authorityLines(answer.authorities),
        ...answer.logs.alarms.map(alarm => `ALARM      ${alarm}`),
        ...answer.logs.unread.map(name => `unread     the log of ${name}`),
        ...answer.logs.leaving.map(
          ({ name, leavesAt }) => `leaving    ${name}, at ${new Date(leavesAt * 1000).toISOString()}`,
        ),
        ...[answer.events.trouble, answer.hooks.trouble]
          .filter(trouble => trouble !== undefined)
          .map(trouble => `trouble    ${trouble}`),
      ],
    }
  })

  verb<[string]>('retry <delivery>', 'try a notice of a login that was given up again', async (api, id) => {
    await api.retryDelivery({ params: { id: numeral(id, 'delivery') }, body: {} })
    return { json: { retried: Number(id) }, text: [`tried again ${id}`] }
  })

  verb<[], { log?: boolean }>(
    'audit',
    'reconcile the authorities’ issuance logs with the register: keys without a vehicle or ticket, logs that lack one or change',
    async (api, { log }) => (log ? auditLog(api) : reconcile(api)),
  ).option('--log', 'who did what, newest first, instead')

  verb<[string[]], { reason: string }>(
    'acknowledge <finding...>',
    'say that findings of `audit` are known, and why they are no alarm any more',
    async (api, findings, { reason }) => {
      await api.acknowledge({ body: { findings, reason } })
      return { json: { acknowledged: findings }, text: findings.map(finding => `acknowledged ${finding}`) }
    },
  ).requiredOption('--reason <text>', 'what happened; it stands beside the finding')
}

interface RecipientsOptions {
  readonly set?: string
  readonly add?: string[]
  readonly remove?: string[]
  readonly finish?: boolean
  readonly abandon?: boolean
  readonly abandonments?: string[]
}

async function recipients(
  api: Fleet,
  { set, add, remove, finish, abandon, abandonments: files }: RecipientsOptions,
  io: Io,
): Promise<Outcome> {
  const isOther = add !== undefined || remove !== undefined
  if ([set !== undefined, isOther, finish, abandon].filter(Boolean).length > 1)
    throw new UsageError('say one of --set, --add with --remove, --finish and --abandon')
  if (abandon) {
    await api.abandonRecipients({
      body: files === undefined ? {} : { abandonments: files.map(readTextFile) },
    })
    return { json: { state: 'abandoned' }, text: ['abandoned'] }
  }
  if (finish) {
    const view = await api.finishRecipients({ body: {} })
    assertSigned(view, `revision ${view.revision} is not in force`)
    return recipientsText(view)
  }
  const inForce = await api.listRecipients({})
  if (set === undefined && !isOther)
    return {
      json: inForce,
      text: [
        ...(inForce.underWay === undefined ? [] : [underWayText(inForce.underWay)]),
        `revision ${inForce.revision}`,
        ...table(
          ['recipient', 'kind', 'generation', 'keys of'],
          inForce.recipients.map(({ name, kind, generation, purposes }) => [
            name,
            String(kind),
            String(generation),
            purposes.join(', '),
          ]),
        ),
      ],
    }
  const list =
    set === undefined ? changedList(inForce.recipients, add ?? [], remove ?? []) : recipientsOf(set)
  for (const { name, change, says } of recipientChanges(inForce.recipients, list))
    io.err(`${change} ${name}: ${says}\n`)
  return recipientsText(
    await api.changeRecipients({ body: { revision: inForce.revision, recipients: list } }),
  )
}

/** CommandRefused for a name to be removed that isn't there. */
function changedList(
  inForce: RecipientList,
  files: readonly string[],
  names: readonly string[],
): RecipientList {
  const unknown = names.find(name => inForce.every(one => one.name !== name))
  if (unknown !== undefined) throw new CommandRefused(`the group names no ${unknown}`)
  const kept = inForce.filter(({ name }) => !names.includes(name))
  const more = files.flatMap(recipientsOf)
  const replaced = kept.map(one => more.find(({ name }) => name === one.name) ?? one)
  return [...replaced, ...more.filter(({ name }) => kept.every(one => one.name !== name))]
}

function underWayText({ subject, says, state, revision, documentHash }: UnderWay): string {
  const what = subject === 'key' ? `new RA key ${says}` : says
  return `under way  revision ${revision} ${documentHash}: ${what}, ${state}`
}

function recipientsText(view: Answer<typeof fleetRoutes.changeRecipients>): Outcome {
  const names = view.changes.map(({ name, change }) => `${name} ${change}`)
  return { json: view, text: [`${names.join(', ')}: ${view.state}`, ...progress(view)] }
}

type RecipientList = Static<typeof Recipients>
type UnderWay = NonNullable<Answer<typeof fleetRoutes.listRecipients>['underWay']>

/** A list, or one recipient. UsageError names the first thing that is wrong. */
function recipientsOf(file: string): RecipientList {
  const read = readJsonFile(file)
  const value = Array.isArray(read) ? read : [read]
  if (recipientLists.Check(value)) return value
  const [first] = recipientLists.Errors(value)
  const where = (first?.instancePath ?? '').replaceAll('/', '.')
  throw new UsageError(`'${file}'${where}: ${first?.message ?? 'wrong shape'}`)
}
const recipientLists = Compile(Recipients)

type Progress = Pick<
  Answer<typeof fleetRoutes.rotateKey>,
  'state' | 'revision' | 'documentHash' | 'needed' | 'authorities'
>

/** How far a next revision has come, for people. */
function progress({ revision, documentHash, needed, authorities }: Progress): string[] {
  return [
    `revision ${revision} ${documentHash}, ${needed} signatures needed`,
    ...table(
      ['authority', 'signed', 'delivered', 'trouble'],
      authorities.map(({ name, signed, delivered, trouble }) => [
        name,
        yes(signed),
        yes(delivered),
        trouble ?? '',
      ]),
    ),
  ]
}

/** CommandRefused, which begins with `what`, while signatures are missing. */
function assertSigned({ state, needed, authorities }: Progress, what: string): void {
  if (state !== 'open') return
  const missing = authorities.filter(({ signed }) => !signed)
  const why = missing.map(({ name, trouble }) => `${name} (${trouble ?? 'not signed'})`)
  throw new CommandRefused(`${what}: ${needed} must sign, ${why.join(', ')} has not`)
}

interface ResendOptions {
  readonly driver?: string
  readonly nextGeneration?: boolean
  readonly resetPin?: boolean
  readonly operator?: string
  readonly template?: string
}

async function resend(
  api: Fleet,
  vin: string | undefined,
  { driver, nextGeneration, resetPin, operator, template }: ResendOptions,
) {
  if ([vin, operator, template].filter(one => one !== undefined).length !== 1)
    throw new UsageError('say a VIN, --operator or --template')
  if (operator !== undefined)
    return api.operatorCode({ params: { id: numeral(operator, 'operator') }, body: {} })
  if (template !== undefined)
    return api.templateCode({ params: { id: numeral(template, 'template') }, body: {} })
  const id = await vehicleId(api, needed(vin, 'vin'))
  if (driver !== undefined) {
    const params = { id, driver: numeral(driver, 'driver') }
    return resetPin ? api.resetPin({ params, body: {} }) : api.driverCode({ params, body: {} })
  }
  if (resetPin) throw new UsageError('say --driver: whose PIN')
  return nextGeneration
    ? api.nextGeneration({ params: { id }, body: {} })
    : api.vehicleCode({ params: { id }, body: {} })
}

interface TemplateOptions extends AttributeOptions {
  readonly instance?: string
  readonly count?: string
  readonly until?: string
  readonly factors?: string
  readonly registered?: boolean
}

async function template(
  api: Fleet,
  what: string,
  name: string | undefined,
  options: TemplateOptions,
): Promise<Outcome> {
  switch (what) {
    case 'add': {
      const { instance, attribute, count, until, factors, registered } = options
      const pairs = Object.entries(attributesOf(attribute ?? []))
      const { id, code } = await api.addTemplate({
        body: {
          name: needed(name, 'name'),
          instance: patternOf(needed(instance, '--instance')),
          attributes: Object.fromEntries(pairs.map(([key, text]) => [key, patternOf(text)])),
          count: Number(numeral(count, '--count')),
          expiresAt: unixSeconds(needed(until, '--until'), '--until'),
          ...(factors === undefined ? {} : { factors: factorsOf(factors) }),
          ...(registered ? { vehicles: 'registered' as const } : {}),
        },
      })
      return { json: { id, ...code }, text: [`template ${id}`, ...codeText(code)] }
    }
    case 'end': {
      await api.endTemplate({ params: { id: numeral(name, 'template') }, body: {} })
      return { json: { ended: Number(name) }, text: [`ended ${name}`] }
    }
    case 'list': {
      const templates = await pages(after => api.listTemplates({ query: after }), 'templates')
      return {
        json: { templates },
        text: table(
          ['id', 'name', 'state', 'approved', 'until', 'vehicles', 'attributes'],
          templates.map(one => [
            String(one.id),
            one.name,
            one.state,
            `${one.approved}/${one.count}`,
            new Date(one.expiresAt * 1000).toISOString(),
            `${patternText(one.instance)} (${one.vehicles})`,
            Object.entries(one.attributes)
              .map(([key, pattern]) => `${key}=${patternText(pattern)}`)
              .join(' '),
          ]),
        ),
      }
    }
    default:
      throw new UsageError(`there is no '${what}' of templates: add, list, end`)
  }
}

type Pattern = { equals: string } | { prefix: string } | { oneOf: string[] }

/** `Golf` exactly, `GT*` by its beginning, `Golf|Polo` one of them. */
function patternOf(text: string): Pattern {
  if (text.includes('|')) return { oneOf: text.split('|') }
  return text.endsWith('*') ? { prefix: text.slice(0, -1) } : { equals: text }
}

function patternText(pattern: Pattern): string {
  if ('equals' in pattern) return pattern.equals
  return 'prefix' in pattern ? `${pattern.prefix}*` : pattern.oneOf.join('|')
}

interface AttributeOptions {
  readonly attribute?: readonly string[]
}

async function open(options: FleetOptions, io: Io): Promise<Fleet> {
  const url = addressOf(options.url, '--url')
  const token = await logIn(options, url, io)
  return createClient(fleetRoutes, {
    baseUrl: url,
    fetch: io.fetch,
    authorize: async () => `Bearer ${token}`,
  })
}

async function list(api: Fleet, what: string, state: string | undefined): Promise<Outcome> {
  switch (what) {
    case 'vehicles': {
      const query = state === undefined ? {} : { state: state as 'enrolled' }
      const vehicles = await pages(after => api.listVehicles({ query: { ...query, ...after } }), 'vehicles')
      return {
        json: { vehicles },
        text: table(
          ['id', 'vin', 'state', 'ban', 'attributes'],
          vehicles.map(({ id, instance, state, ban, attributes }) => [
            String(id),
            instance,
            state,
            ban?.reason ?? '',
            words(attributes),
          ]),
        ),
      }
    }
    case 'drivers': {
      const drivers = await pages(after => api.listDrivers({ query: after }), 'drivers')
      return {
        json: { drivers },
        text: table(
          ['id', 'ban', 'attributes'],
          drivers.map(({ id, ban, attributes }) => [String(id), ban?.reason ?? '', words(attributes)]),
        ),
      }
    }
    case 'operators': {
      const operators = await pages(after => api.listOperators({ query: after }), 'operators')
      return {
        json: { operators },
        text: table(
          ['id', 'name', 'state', 'ban'],
          operators.map(({ id, instance, state, ban }) => [String(id), instance, state, ban?.reason ?? '']),
        ),
      }
    }
    case 'approvals': {
      const { approvals } = await api.listApprovals({})
      return {
        json: { approvals },
        text: table(
          ['id', 'kind', 'words', 'vehicle', 'attributes'],
          approvals.map(({ id, kind, words: six, instance, attributes }) => [
            String(id),
            kind,
            six,
            instance,
            words(attributes),
          ]),
        ),
      }
    }
    case 'bans': {
      const { bans } = await api.listBans({})
      return {
        json: { bans },
        text: table(
          ['id', 'vehicle', 'driver', 'operator', 'reason'],
          bans.map(({ id, vehicle, driver, operator, reason }) => [
            String(id),
            String(vehicle ?? ''),
            String(driver ?? ''),
            String(operator ?? ''),
            reason,
          ]),
        ),
      }
    }
    case 'deliveries': {
      const deliveries = await pages(after => api.listDeliveries({ query: after }), 'deliveries')
      return {
        json: { deliveries },
        text: table(
          ['id', 'target', 'state', 'attempts', 'trouble'],
          deliveries.map(({ id, target, state, attempts, trouble }) => [
            String(id),
            target,
            state,
            String(attempts),
            trouble ?? '',
          ]),
        ),
      }
    }
    default:
      throw new UsageError(
        `there are no '${what}' to list: vehicles, drivers, operators, approvals, bans, deliveries`,
      )
  }
}

async function add(
  api: Fleet,
  what: string,
  name: string,
  options: AttributeOptions & { factors?: string; code: boolean; vehicle?: string },
): Promise<Outcome> {
  const attributes = attributesOf(options.attribute ?? [])
  switch (what) {
    case 'vehicle': {
      const factors = options.factors === undefined ? {} : { factors: factorsOf(options.factors) }
      const body = { instance: name, attributes, withCode: options.code, ...factors }
      const { id, code } = await api.addVehicle({ body })
      return {
        json: { id, ...code },
        text: [`vehicle ${id}`, ...(code === undefined ? ['enrols by the six words'] : codeText(code))],
      }
    }
    case 'driver': {
      if (options.vehicle === undefined) throw new UsageError('say --vehicle: on which vehicle')
      const { driver, code } = await api.assignDriver({
        params: { id: await vehicleId(api, options.vehicle) },
        body: { attributes: { driverName: name, ...attributes } },
      })
      return { json: { driver, ...code }, text: [`driver ${driver}`, ...codeText(code)] }
    }
    case 'operator': {
      const { id, code } = await api.inviteOperator({ body: { name } })
      return { json: { id, ...code }, text: [`operator ${id}`, ...codeText(code)] }
    }
    default:
      throw new UsageError(`can't add a '${what}': vehicle, driver, operator`)
  }
}

async function banTarget(
  api: Fleet,
  { vehicle, driver, operator }: { vehicle?: string; driver?: string; operator?: string },
) {
  const said = [vehicle, driver, operator].filter(one => one !== undefined)
  if (said.length !== 1) throw new UsageError('say one of --vehicle, --driver and --operator')
  if (vehicle !== undefined) return { vehicle: Number(await vehicleId(api, vehicle)) }
  if (driver !== undefined) return { driver: Number(numeral(driver, 'driver')) }
  return { operator: Number(numeral(operator, 'operator')) }
}

async function reconcile(api: Fleet): Promise<Outcome> {
  const { authorities, lacking } = await api.reconcile({})
  const unread = authorities.flatMap(({ name, trouble }) =>
    trouble === undefined ? [] : [`the log of ${name} can't be read: ${trouble}`],
  )
  const found = [
    ...authorities.flatMap(({ name, faults, unknown }) => [
      ...faults.map(fault => ({ ...fault, says: `the log of ${name} is ${fault.fault}: ${fault.detail}` })),
      ...unknown.map(key => ({
        ...key,
        says: `${name} entry ${key.number}: ${key.why === 'no-vehicle' ? 'no vehicle' : 'no ticket'} for identity ${key.idCoreHash}`,
      })),
    ]),
    ...lacking.map(key => ({
      ...key,
      says: `no entry for ${key.instance} in the log of ${key.missing.join(' or ')}`,
    })),
  ]
  const open = found.filter(({ acknowledged }) => acknowledged === undefined)
  if (unread.length + open.length > 0)
    throw new CommandRefused(
      [...unread, ...open.map(({ says, finding }) => `${says} (finding ${finding})`)].join('; '),
    )
  return {
    json: { authorities, lacking },
    text: [
      ...table(
        ['authority', 'entries', 'leaves'],
        authorities.map(({ name, entries, leavesAt }) => [
          name,
          String(entries),
          leavesAt === undefined ? '' : new Date(leavesAt * 1000).toISOString(),
        ]),
      ),
      ...found.flatMap(({ says, finding, acknowledged }) =>
        acknowledged === undefined
          ? []
          : [
              `${says} (finding ${finding})`,
              `  acknowledged by ${acknowledged.by}, ${new Date(acknowledged.at * 1000).toISOString()}: ${acknowledged.reason}`,
            ],
      ),
      found.length === 0 ? 'every key has its vehicle' : 'nothing that nobody knows of',
    ],
  }
}

async function auditLog(api: Fleet): Promise<Outcome> {
  const { entries } = await api.audit({ query: {} })
  return {
    json: { entries },
    text: table(
      ['time', 'who', 'what', 'whom', 'outcome'],
      entries.map(({ at, actor, action, subject, outcome }) => [
        new Date(at * 1000).toISOString(),
        actor,
        action,
        subject,
        outcome,
      ]),
    ),
  }
}

/** Every page of a list; pages are asked for by the last id of the one before. */
async function pages<K extends string, T extends { readonly id: number }>(
  ask: (after: { after?: string }) => Promise<Readonly<Record<K, readonly T[]>>>,
  name: K,
): Promise<T[]> {
  const all: T[] = []
  for (;;) {
    const last = all.at(-1)
    const page = (await ask(last === undefined ? {} : { after: String(last.id) }))[name]
    if (page.length === 0) return all
    all.push(...page)
  }
}

/** The number of the vehicle with this VIN. Refused NOT_FOUND when there is none. */
async function vehicleId(api: Fleet, vin: string): Promise<string> {
  const { vehicles } = await api.listVehicles({ query: { instance: vin } })
  const [found] = vehicles
  if (found === undefined) throw new Refused('NOT_FOUND', { detail: `no vehicle ${vin}` })
  return String(found.id)
}

function factorsOf(text: string): 0 | 1 | 2 {
  if (text === '0' || text === '1' || text === '2') return Number(text) as 0 | 1 | 2
  throw new UsageError('--factors is 0, 1 or 2')
}

function numeral(text: string | undefined, name: string): string {
  if (text === undefined || !/^[1-9][0-9]{0,9}$/.test(text))
    throw new UsageError(`${name}: a number is wanted`)
  return text
}

function needed(text: string | undefined, name: string): string {
  if (text === undefined) throw new UsageError(`${name} is missing`)
  return text
}

function authorityLines(seen: Answer<typeof fleetRoutes.status>['authorities']): string[] {
  if ('trouble' in seen) return [`trouble    ${seen.trouble}`]
  const { live, needed, authorities } = seen
  const margin = live < needed ? 'ALARM: too few' : live < authorities.length ? 'margin shrinks' : 'all well'
  return [
    `trusted    ${live} of ${authorities.length} authorities answer, ${needed} needed: ${margin}`,
    ...authorities
      .filter(({ trouble, wrongShares }) => trouble !== undefined || wrongShares > 0)
      .map(({ name, trouble, code, answeredAt, wrongShares, quarantinedUntil, requestHash, answerHash }) =>
        [
          `           ${name}: ${code ?? trouble ?? 'answers'}`,
          ...(answeredAt === undefined ? [] : [`last answer ${new Date(answeredAt * 1000).toISOString()}`]),
          ...(wrongShares === 0 ? [] : [`${wrongShares} wrong shares`]),
          ...(quarantinedUntil === undefined
            ? []
            : [`left out until ${new Date(quarantinedUntil * 1000).toISOString()}`]),
          ...(requestHash === undefined ? [] : [`request ${requestHash}`]),
          ...(answerHash === undefined ? [] : [`answer ${answerHash}`]),
        ].join(', '),
      ),
  ]
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}

/** UsageError where no file can be written at `path`. Leaves what is there as it is. */
function assertWritable(path: string): void {
  const probe = `${path}.${process.pid}.tmp`
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw new UsageError(`'${path}' is a folder`)
    writeFileSync(probe, '', { flag: 'wx', mode: 0o600 })
    rmSync(probe)
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`cannot write '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}

function codeText({ code, expiresAt }: { code: string; expiresAt: number }): string[] {
  return [code, `good until ${new Date(expiresAt * 1000).toISOString()}`]
}

const words = (attributes: Readonly<Record<string, string>>) =>
  Object.entries(attributes)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ')
const yes = (value: boolean) => (value ? 'yes' : 'no')
/** RFC 4180 */
const quoted = (cell: string) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)
