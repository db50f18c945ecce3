/** What each operator's route does, in terms of the register, the enrolments, the bans and the keys. */
import { Refused } from '@milagro-ts/api/problem'
import type { Handlers } from '@milagro-ts/api/serve'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Store } from '@milagro-ts/store/database'
import { auditTrail } from './audit.js'
import type { Ban, Bans, BanTarget } from './bans.js'
import { CsvError, readVehicles } from './csv.js'
import type { Enrolments } from './enrolments.js'
import type { fleetRoutes } from './fleet-routes.js'
import type { GroupInForce } from './group-in-force.js'
import type { Hooks } from './hooks.js'
import type { NextRevision } from './next-revision.js'
import type { Operator, Operators } from './operators.js'
import type { Outbox } from './outbox.js'
import type { Reconciliation } from './reconciliation.js'
import type { Register } from './register.js'
import type { RpsView } from './rps-view.js'
import type { FleetSchema } from './schema.js'
import type { Templates, TextPattern } from './templates.js'
import { checkAttributes, checkDriver, checkReadable, DEFAULT_FACTORS, OPERATOR_PREFIX } from './vehicle.js'

const PAGE = 100
const LARGEST_PAGE = 1000

export interface HandlerPorts {
  readonly store: Store<FleetSchema>
  readonly register: Register
  readonly enrolments: Enrolments
  readonly templates: Templates
  readonly bans: Bans
  readonly operators: Operators
  readonly nextRevision: NextRevision
  readonly reconciliation: Reconciliation
  readonly outbox: Outbox
  readonly hooks: Hooks
  readonly group: GroupInForce
  readonly rpsView: RpsView
}

export type FleetHandlers = Handlers<typeof fleetRoutes, undefined, Operator>

export function fleetHandlers(ports: HandlerPorts): FleetHandlers {
  const {
    store,
    register,
    enrolments,
    templates,
    bans,
    operators,
    nextRevision,
    reconciliation,
    outbox,
    hooks,
    group,
    rpsView,
  } = ports
  return {
    listVehicles: async ({ query }) => ({
      vehicles: await register.list({
        kind: 'vehicle',
        instance: query.instance,
        state: query.state,
        ...pageOf(query),
      }),
    }),
    vehicle: ({ params }) => register.one('vehicle', Number(params.id)),
    addVehicle: ({ body, caller }) => {
      if (body.instance.startsWith(OPERATOR_PREFIX))
        throw new Refused('MALFORMED', { field: 'instance', detail: 'operators are invited' })
      const { instance, attributes, factors = DEFAULT_FACTORS, withCode = true } = body
      checkReadable('instance', instance)
      checkAttributes(attributes)
      const device = { kind: 'vehicle' as const, instance, attributes, factors, ownPin: false }
      return register.add(device, { withCode }, caller.actor)
    },
    importVehicles: async ({ body, caller }) => ({
      vehicles: await register.import(rowsOf(body.csv), caller.actor),
    }),
    vehicleCode: ({ params, caller }) => register.deviceCode('vehicle', Number(params.id), caller.actor),
    nextGeneration: ({ params, caller }) =>
      register.nextGeneration('vehicle', Number(params.id), caller.actor),
    revoke: async ({ params, caller }) => {
      await register.revoke('vehicle', Number(params.id), caller.actor)
      await outbox.told()
      return {}
    },
    unlock: async ({ params, caller }) => {
      const account = { id: Number(params.id), driver: Number(params.driver) }
      const event = await register.unlock('vehicle', account, caller.actor)
      await outbox.told()
      return { event }
    },
    assignDriver: ({ params, body, caller }) => {
      if ('attributes' in body) checkDriver(body.attributes)
      return register.assignDriver(Number(params.id), body, caller.actor)
    },
    driverCode: ({ params, caller }) =>
      register.driverCode(Number(params.id), Number(params.driver), 'first', caller.actor),
    resetPin: ({ params, caller }) =>
      register.driverCode(Number(params.id), Number(params.driver), 'reset', caller.actor),
    listDrivers: async ({ query }) => ({ drivers: await register.drivers(pageOf(query)) }),
    addDriver: async ({ body, caller }) => {
      checkDriver(body.attributes)
      return { id: await register.addDriver(body.attributes, caller.actor) }
    },
    listApprovals: async () => ({ approvals: await enrolments.pending() }),
    approve: async ({ params, body, caller }) => {
      await enrolments.approve(Number(params.id), body, caller.actor)
      return {}
    },
    refuse: async ({ params, caller }) => {
      await enrolments.refuse(Number(params.id), caller.actor)
      return {}
    },
    listTemplates: async ({ query }) => ({
      templates: (await templates.list(pageOf(query))).map(template => ({
        ...template,
        instance: wirePattern(template.instance),
        attributes: Object.fromEntries(
          Object.entries(template.attributes).map(([name, pattern]) => [name, wirePattern(pattern)]),
        ),
      })),
    }),
    addTemplate: async ({ body, caller }) => {
      const { vehicles = 'new', factors = DEFAULT_FACTORS, ...rest } = body
      const { id, code } = await templates.add({ ...rest, vehicles, factors }, caller.actor)
      return { id, code: { code, expiresAt: body.expiresAt } }
    },
    templateCode: ({ params, caller }) => templates.newCode(Number(params.id), caller.actor),
    endTemplate: async ({ params, caller }) => {
      await templates.end(Number(params.id), caller.actor)
      return {}
    },
    listBans: async () => {
      const kinds = await kindsOf(store)
      return { bans: (await bans.list()).map(ban => banEntry(ban, kinds)) }
    },
    ban: async ({ body, caller }) => {
      checkReadable('reason', body.reason)
      const target = await targetOf(body)
      const ban = await bans.add(target, body, caller.actor)
      await outbox.told()
      return banEntry(ban, new Set('operator' in body ? [body.operator] : []))
    },
    unban: async ({ params, caller }) => {
      await bans.lift(Number(params.id), caller.actor)
      await outbox.told()
      return {}
    },
    listOperators: async ({ query }) => ({
      operators: await register.list({ kind: 'operator', ...pageOf(query) }),
    }),
    inviteOperator: ({ body, caller }) => operators.invite(body.name, caller.actor),
    operatorCode: async ({ params, caller }) => {
      const id = Number(params.id)
      const { state } = await register.one('operator', id)
      return state === 'enrolled'
        ? register.nextGeneration('operator', id, caller.actor)
        : register.deviceCode('operator', id, caller.actor)
    },
    revokeOperator: async ({ params, caller }) => {
      await register.revoke('operator', Number(params.id), caller.actor)
      await outbox.told()
      return {}
    },
    unlockOperator: async ({ params, caller }) => {
      const event = await register.unlock('operator', { id: Number(params.id) }, caller.actor)
      await outbox.told()
      return { event }
    },
    rotateKey: ({ caller }) => nextRevision.rotateKey(caller.actor),
    finishKey: ({ caller }) => nextRevision.finishKey(caller.actor),
    abandonKey: async ({ caller, body }) => {
      await nextRevision.abandon('key', caller.actor, body.abandonments ?? [])
      return {}
    },
    listRecipients: async () => {
      await group.refresh()
      const { revision, recipients } = group.current.document
      const underWay = await nextRevision.underWay()
      return { revision, recipients, ...(underWay === undefined ? {} : { underWay }) }
    },
    changeRecipients: ({ caller, body }) => nextRevision.changeRecipients(body, caller.actor),
    finishRecipients: ({ caller }) => nextRevision.finishRecipients(caller.actor),
    abandonRecipients: async ({ caller, body }) => {
      await nextRevision.abandon('recipients', caller.actor, body.abandonments ?? [])
      return {}
    },
    listDeliveries: async ({ query }) => ({ deliveries: await hooks.list(pageOf(query)) }),
    retryDelivery: async ({ params, caller }) => {
      await hooks.retry(Number(params.id), caller.actor)
      return {}
    },
    reconcile: () => reconciliation.run(),
    acknowledge: async ({ body, caller }) => {
      await reconciliation.acknowledge(body.findings, body.reason, caller.actor)
      return {}
    },
    audit: async ({ query }) => ({
      entries: await auditTrail(store.db, {
        before: query.before === undefined ? undefined : Number(query.before),
        limit: limitOf(query),
      }),
    }),
    status: async ({ caller }) => {
      const { lastEvent, waiting, trouble } = await outbox.status()
      const counts = await countsOf(store)
      return {
        operator: caller.name,
        groupId: toBase64Url(group.current.groupId),
        revision: group.current.revision,
        raKeys: [...group.current.raKeys.keys.keys()],
        ...counts,
        pending: await enrolments.pendingCount(),
        bans: (await bans.list()).length,
        events: { last: lastEvent, waiting, ...(trouble === undefined ? {} : { trouble }) },
        hooks: { ...(await hooks.status()) },
        authorities: await rpsView.authorities(),
        logs: await reconciliation.summary(),
      }
    },
  }

  /** Refused NOT_FOUND unless there is such a vehicle, operator or driver. */
  async function targetOf(
    body: { vehicle: number } | { operator: number } | { driver: number },
  ): Promise<BanTarget> {
    if ('driver' in body) {
      await register.driver(body.driver)
      return { driver: body.driver }
    }
    const [kind, id] =
      'vehicle' in body ? (['vehicle', body.vehicle] as const) : (['operator', body.operator] as const)
    await register.one(kind, id)
    return { device: id }
  }
}

function wirePattern(pattern: TextPattern) {
  return 'oneOf' in pattern ? { oneOf: [...pattern.oneOf] } : pattern
}

function rowsOf(csv: string) {
  try {
    return readVehicles([csv])
  } catch (error) {
    if (!(error instanceof CsvError)) throw error
    throw new Refused('MALFORMED', { field: 'csv', detail: error.message })
  }
}

function banEntry(ban: Ban, operators: ReadonlySet<number>) {
  const { target, id, reason, since, expiresAt, madeBy } = ban
  return {
    id,
    ...('driver' in target
      ? { driver: target.driver }
      : operators.has(target.device)
        ? { operator: target.device }
        : { vehicle: target.device }),
    reason,
    since,
    ...(expiresAt === undefined ? {} : { expiresAt }),
    madeBy,
  }
}

function pageOf(query: { after?: string | undefined; limit?: string | undefined }) {
  return { after: query.after === undefined ? undefined : Number(query.after), limit: limitOf(query) }
}

function limitOf({ limit }: { limit?: string | undefined }): number {
  return limit === undefined ? PAGE : Math.min(Math.max(Number(limit), 1), LARGEST_PAGE)
}

/** The ids of operators' devices. */
async function kindsOf({ db }: Store<FleetSchema>): Promise<ReadonlySet<number>> {
  const rows = await db.selectFrom('device').select('id').where('kind', '=', 'operator').execute()
  return new Set(rows.map(({ id }) => id))
}

async function countsOf({ db }: Store<FleetSchema>) {
  const { vehicles } = await db
    .selectFrom('device')
    .select(({ fn }) => fn.countAll<number>().as('vehicles'))
    .where('kind', '=', 'vehicle')
    .executeTakeFirstOrThrow()
  const { enrolled } = await db
    .selectFrom('identity')
    .innerJoin('device', 'device.id', 'identity.device_id')
    .select(({ fn }) => fn.countAll<number>().as('enrolled'))
    .where('device.kind', '=', 'vehicle')
    .where('identity.revoked_at', 'is', null)
    .executeTakeFirstOrThrow()
  const { drivers } = await db
    .selectFrom('driver')
    .select(({ fn }) => fn.countAll<number>().as('drivers'))
    .executeTakeFirstOrThrow()
  return { vehicles, enrolled, drivers }
}
