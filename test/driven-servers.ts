/**
 * Every server, set up so that each of its routes can be asked well, and so badly in every way: what a route is asked
 * with where the schemas alone can't say it, who asks, and what is stored.
 */

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  Ceremony,
  type CeremonyProposal,
  type CeremonyRounds,
  ceremonyHash,
  checkCeremony,
  ROUNDS,
} from '@milagro-ts/api/ceremony'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { checkOpenings, composeFirstRevision } from '@milagro-ts/api/founding'
import { documentHash, proposalHash, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { keyRotationPayload } from '@milagro-ts/api/key-rotation'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { pinChangePayload, userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { registerRoutes } from '@milagro-ts/api/register-routes'
import { signRequest } from '@milagro-ts/api/request-auth'
import type { Route } from '@milagro-ts/api/route'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { type SlotKeyRequest, signSlotKeyRequest } from '@milagro-ts/api/slot-key-request'
import { cosignerKid, signAbandonment, signLeaves, signRevisionStatement } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { trackingRoutes } from '@milagro-ts/car-tracking/tracking-routes'
import { toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { authorizationHeader, MODE } from '@milagro-ts/crypto/mpin'
import { encodeNodes } from '@milagro-ts/crypto/node-shares'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Clock } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { SUITE } from '@milagro-ts/crypto/suite'
import type { Permit } from '@milagro-ts/crypto/time-permit'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import type { Connection } from '@milagro-ts/store/database'
import { CAR, OPERATOR, OTHER_CAR, TrackingWorld } from '../examples/car-tracking/test/tracking-world.js'
import {
  badRequestJwts,
  type DrivenServer,
  type Fields,
  type MoreBad,
  type RequestJwtLie,
  rowsOf,
  type Sent,
} from '../packages/api/test/bad-input.js'
import * as dta from '../packages/dta/test/world.js'
import { FakeAuthority } from '../packages/fleet/test/fake-authority.js'
import { World as FleetWorld, GOLF } from '../packages/fleet/test/fleet-world.js'
import { OWN, World as RpsWorld, TRACKING, tokenKeys, until } from '../packages/rps/test/world.js'

export interface Driven {
  readonly server: DrivenServer
  /** Of the admin listener, where the world has one. */
  readonly health?: string
  close(): Promise<void>
}

/** As many requests as the run makes, from one address. */
const UNLIMITED = { perSecond: 1_000_000, burst: 1_000_000 }

const base64Url = (bytes: Uint8Array) => toBase64Url(bytes)
const points = {
  g1: base64Url(G1.generator.encode()),
  g2: base64Url(G2.generator.encode()),
  scalar: base64Url(Scalar.fromNumber(7).encode()),
}

/** Signs requests of a server, well or with a lie. `base` is the address by which the called server knows itself. */
function requestSigning(
  base: string,
  caller: { name: string; key: Es256PrivateKey },
  clock: Clock,
  other: Es256PrivateKey,
) {
  const HOUR = 3_600_000
  const sign = (
    { method, path, body }: { method: string; path: string; body: Uint8Array },
    lie?: RequestJwtLie,
  ): Promise<string> =>
    signRequest(
      { method, url: base + path, body },
      {
        name: lie === 'nobody' ? 'nobody' : caller.name,
        key: lie === 'another key' ? other : caller.key,
        clock: () => clock() + (lie === 'an hour ago' ? -HOUR : lie === 'in an hour' ? HOUR : 0),
        random: systemRandom,
      },
    )
  return {
    bad: (sent: Sent) => badRequestJwts(sent, sign),
    /** An address that no client could sign is sent with a signature for another one. */
    good: ({ method, path, body = new Uint8Array() }: Sent) =>
      sign({ method, path: URL.canParse(base + path) ? path : '/', body }),
  }
}

/** The public and the admin listener of an authority of its own group. */
export async function drivenDta(): Promise<Driven[]> {
  // The next key epoch is announced: there are two for a delta to lie between.
  const world = await dta.rotated(await dta.foundWorld({ n: 1 }), { purposes: ['device', 'pin'] })
  const before = world.authorities[0] as dta.Running
  const policyFile = join(before.config.dataDir, 'policy.json')
  await writeFile(policyFile, '{"groups": {}}')
  const config = { ...before.config, policyFile, rateLimit: { address: UNLIMITED, group: UNLIMITED } }
  const running = await dta.restart({ ...before, config }, world)
  world.authorities[0] = running
  const { groupId, clock } = world
  const other = await generateEs256()
  const car = await dta.makeCar(world)
  const signing = requestSigning(
    running.url,
    { name: 'rps', key: world.rps.requestKey },
    () => clock.now,
    other,
  )
  const stored = () => rowsOf(running.store)

  // A second founding, a move further with each of its routes.
  const proposal = { ...world.proposal, nonce: toBase64Url(systemRandom(32)) }
  const hash = toBase64Url(proposalHash(proposal))
  const params = { proposalHash: hash }
  await running.admin.accept({ body: { hash } })
  const joined = async () => [(await running.client.joinFounding({ params, body: { proposal } })).join]
  const opened = async () => [
    (await running.client.openFounding({ params, body: { joins: await joined() } })).opening,
  ]
  const founded = async (): Promise<GroupDocument> => {
    const openings = await opened()
    const { signature } = await running.client.signFounding({ params, body: { openings } })
    const { openings: checked } = await checkOpenings(proposal, await joined(), openings)
    return { ...(await composeFirstRevision(proposal, checked)), signatures: [{ index: 1, signature }] }
  }
  // A ceremony that founds a third group, a round further with each of its routes; and one that hands this one on to
  // itself, as far as the ledger.
  const ceremonyOf = async (proposed: CeremonyProposal) => {
    const hash = toBase64Url(ceremonyHash(proposed))
    await running.admin.accept({ body: { hash } })
    const at = { ceremonyHash: hash }
    const body = { proposal: proposed }
    const rounds = async (over: number): Promise<CeremonyRounds> => {
      const made: CeremonyRounds = []
      for (const round of ROUNDS.slice(0, over)) {
        const { message } =
          round === 'join'
            ? await running.client.joinCeremony({ params: at, body })
            : await running.client.ceremonyRound({ params: { ...at, round }, body: { rounds: made } })
        made.push([message])
      }
      return made
    }
    return { at, body, rounds }
  }
  await running.client.shares({
    params: { groupId },
    body: { ticket: await dta.ticketFor(world, car), purpose: 'device' },
  })
  const founding = await ceremonyOf({
    suite: SUITE,
    v: 1,
    kind: 'found',
    group: { ...world.proposal, nonce: toBase64Url(systemRandom(32)) },
  })
  const handing = await ceremonyOf({
    suite: SUITE,
    v: 1,
    kind: 'reshare',
    groupId,
    previous: toBase64Url(documentHash(world.group.document)),
    dealers: [1],
    n: 1,
    t: 1,
    authorities: world.proposal.authorities,
    nonce: toBase64Url(systemRandom(32)),
  })
  const ledgerPage = async () => {
    await handing.rounds(5)
    return (await running.client.readCeremonyLedger({ params: handing.at, query: {} })).page
  }
  const foundedInCeremony = async (): Promise<GroupDocument> => {
    const rounds = await founding.rounds(6)
    const signature = await running.client.signCeremony({ params: founding.at, body: { rounds } })
    return {
      ...(await checkCeremony(Ceremony.read(founding.body.proposal), rounds)),
      signatures: [signature],
    }
  }
  const revision: GroupDocument = {
    ...structuredClone(world.group.document),
    revision: world.group.revision + 1,
    previous: toBase64Url(documentHash(world.group.document)),
    groupId,
    policy: { lead: 2, grace: 300 },
    signatures: [],
  }
  const revisionHash = toBase64Url(documentHash(revision))
  await running.admin.accept({ body: { hash: revisionHash } })
  const statement = (key: Es256PrivateKey, documentHash = revisionHash) =>
    signRevisionStatement(
      { suite: SUITE, groupId, revision: revision.revision, documentHash, iat: Math.floor(clock.now / 1000) },
      { key, kid: 'ra1' },
    )
  const seconds = Math.floor(clock.now / 1000)
  const stranger = { key: other, kid: 'ra1' }
  const ticketed = async (...given: Parameters<typeof dta.ticketFor>): Promise<Fields> => ({
    body: { ticket: await dta.ticketFor(...given), purpose: 'device' },
  })
  const stated = async (...given: Parameters<typeof dta.statementFor>): Promise<Fields> => ({
    body: { statement: await dta.statementFor(...given) },
  })
  const otherGroup = toBase64Url(new Uint8Array(32).fill(7))
  const ra1 = { key: world.ra, kid: 'ra1' }
  const leavesBy = (signer: typeof ra1, leaves = [7], group = groupId) =>
    signLeaves({ ...dta.leavesPayload(world, leaves, 1), groupId: group }, signer)
  const treeBy = async (changes: Parameters<typeof dta.treeFor>[3] = {}, signer = ra1) => ({
    statement: await dta.treeFor(world, [7], 1, changes, signer),
  })
  const nodes = toBase64Url(encodeNodes([{ depth: 32, index: 6 }]))
  // Its key of `sign` is of the first key epoch, which is in force.
  const signKey = await dta.collectKey(world, car, 'sign')
  const permits = [await dta.permitFor(world, car), await dta.permitFor(world, car, dta.MIDDAY_SLOT + 1)]
  const slotKeyBody = ({ slot = dta.MIDDAY_SLOT, permit = 0, idCore = car.idCore } = {}): SlotKeyRequest =>
    signSlotKeyRequest(
      { groupId: world.group.groupId, idCore, slot, signEpoch: 1 },
      { hpkeKey: car.enrolmentKey.publicKey, jti: systemRandom(16) },
      { signKey, permit: permits[permit] as Permit, random: systemRandom },
    )
  const shown = { params: { groupId }, body: { leaves: await leavesBy(ra1) } }
  await dta.clientOf(world, running, world.rps).leaves(shown)

  const server: DrivenServer = {
    name: 'Trust authority',
    tables: { dta: dtaRoutes },
    url: running.url,
    http: running.dta.app.server,
    stored,
    supply: {
      ...points,
      known: groupId,
      idCore: car.idCore.mpinId,
      x25519: world.proposal.authorities[0]!.hpkeKey,
    },
    authorize: async (route, sent) => (route.caller === 'server' ? signing.good(sent) : undefined),
    badCredentials: async (_route, sent) => signing.bad(sent),
    known: {
      'dta/authority': { fields: () => ({}) },
      'dta/joinFounding': { fields: () => ({ params, body: { proposal } }) },
      'dta/openFounding': { fields: async () => ({ params, body: { joins: await joined() } }) },
      'dta/signFounding': { fields: async () => ({ params, body: { openings: await opened() } }) },
      'dta/concludeFounding': { fields: async () => ({ params, body: { document: await founded() } }) },
      'dta/joinCeremony': { fields: () => ({ params: founding.at, body: founding.body }) },
      'dta/ceremonyRound': {
        fields: async () => ({
          params: { ...founding.at, round: 'commit' },
          body: { rounds: await founding.rounds(1) },
        }),
        unknown: async () => [
          { what: 'a round out of turn', fields: { body: { rounds: await founding.rounds(2) } } },
          { what: 'messages of another ceremony', fields: { body: { rounds: await handing.rounds(1) } } },
        ],
      },
      'dta/signCeremony': {
        fields: async () => ({ params: founding.at, body: { rounds: await founding.rounds(6) } }),
        unknown: async () => [
          { what: 'results are missing', fields: { body: { rounds: await founding.rounds(5) } } },
        ],
      },
      'dta/concludeCeremony': {
        fields: async () => ({ params: founding.at, body: { document: await foundedInCeremony() } }),
      },
      'dta/readCeremonyLedger': {
        fields: async () => {
          await ledgerPage()
          return { params: handing.at }
        },
      },
      'dta/adoptCeremonyLedger': {
        fields: async () => ({ params: handing.at, body: { page: await ledgerPage() } }),
      },
      'dta/group': { fields: () => ({ params: { groupId } }) },
      'dta/shares': {
        fields: async () => ({ params: { groupId }, ...(await ticketed(world, car)) }),
        unknown: async () => [
          {
            what: 'a ticket that has run out',
            fields: await ticketed(world, car, { iat: seconds - 7200, exp: seconds - 1 }),
          },
          { what: 'a ticket by somebody else', fields: await ticketed(world, car, {}, stranger) },
          { what: 'a ticket of another group', fields: await ticketed(world, car, { groupId: otherGroup }) },
          {
            what: 'a ticket for another purpose',
            fields: await ticketed(world, car, { purposes: ['sign'] }),
          },
          {
            what: 'a ticket of another epoch',
            fields: await ticketed(world, car, { keyEpochs: { device: 2 } }),
          },
        ],
      },
      'dta/serverKeys': {
        fields: () => ({
          params: { groupId },
          body: { purpose: 'device', keyEpoch: 1, nonce: toBase64Url(new Uint8Array(16)) },
        }),
        unknown: async () => [
          {
            what: 'a purpose that this recipient has not',
            fields: {
              body: {
                purpose: 'agree',
                keyEpoch: 1,
                slot: dta.MIDDAY_SLOT,
                nonce: toBase64Url(new Uint8Array(16)),
              },
            },
          },
          {
            what: 'a slot with a purpose that has none',
            fields: {
              body: {
                purpose: 'device',
                keyEpoch: 1,
                slot: dta.MIDDAY_SLOT,
                nonce: toBase64Url(new Uint8Array(16)),
              },
            },
          },
        ],
      },
      'dta/permits': {
        fields: async () => ({ params: { groupId }, ...(await stated(world, car)) }),
        unknown: async () => [
          {
            what: 'a statement that has run out',
            fields: await stated(world, car, { iat: seconds - 120, exp: seconds - 60 }),
          },
          { what: 'a statement by somebody else', fields: await stated(world, car, {}, stranger) },
          { what: 'a statement of another group', fields: await stated(world, car, { groupId: otherGroup }) },
          {
            what: 'a slot that is far away',
            fields: await stated(world, car, { slot: dta.MIDDAY_SLOT + 100 }),
          },
          { what: 'a slot that is over', fields: await stated(world, car, { slot: dta.MIDDAY_SLOT - 100 }) },
        ],
      },
      'dta/slotKeys': {
        fields: () => ({ params: { groupId }, body: slotKeyBody() }),
        unknown: async () => [
          {
            what: 'signed by somebody else',
            fields: { body: slotKeyBody({ idCore: (await dta.makeCar(world)).idCore }) },
          },
          {
            what: 'another key than was signed',
            fields: { body: { ...slotKeyBody(), hpkeKey: world.proposal.authorities[0]!.hpkeKey } },
          },
          { what: 'the permit of another slot', fields: { body: slotKeyBody({ permit: 1 }) } },
          {
            what: 'another purpose than was signed',
            fields: { body: { ...slotKeyBody(), purpose: 'encrypt' } },
          },
          { what: 'a slot that is over', fields: { body: slotKeyBody({ slot: dta.MIDDAY_SLOT - 1 }) } },
          {
            what: 'a slot that is far away',
            fields: { body: slotKeyBody({ slot: dta.MIDDAY_SLOT + 100 }) },
          },
        ],
      },
      'dta/deltas': {
        fields: async () => ({
          params: { groupId },
          body: {
            statement: await dta.statementFor(world, car),
            hpkeKey: toBase64Url(car.enrolmentKey.publicKey),
            device: { from: 1, to: 2 },
            pin: { from: 1, to: 2 },
            userCore: toBase64Url(new Uint8Array(32).fill(9)),
            pinGen: 1,
          },
        }),
        unknown: async () => [
          { what: 'back to a former epoch', fields: { body: { device: { from: 2, to: 1 } } } },
          { what: 'an epoch that never was', fields: { body: { device: { from: 1, to: 9 } } } },
          {
            what: 'a statement by somebody else',
            fields: { body: { statement: await dta.statementFor(world, car, {}, stranger) } },
          },
          {
            what: 'a statement that has run out',
            fields: {
              body: {
                statement: await dta.statementFor(world, car, { iat: seconds - 120, exp: seconds - 60 }),
              },
            },
          },
        ],
      },
      'dta/leaves': {
        fields: async () => ({ params: { groupId }, body: { leaves: await leavesBy(ra1) } }),
        unknown: async () => [
          { what: 'leaves signed by somebody else', fields: { body: { leaves: await leavesBy(stranger) } } },
          {
            what: 'other leaves under the same number',
            fields: { body: { leaves: await leavesBy(ra1, [7, 8]) } },
          },
          {
            what: 'leaves of another group',
            fields: { body: { leaves: await leavesBy(ra1, [7], otherGroup) } },
          },
        ],
      },
      'dta/nodePermits': {
        fields: async () => ({ params: { groupId }, body: { ...(await treeBy()), nodes } }),
        unknown: async () => [
          {
            what: 'a statement by somebody else',
            fields: { body: { ...(await treeBy({}, stranger)), nodes } },
          },
          {
            what: 'a statement that has run out',
            fields: { body: { ...(await treeBy({ iat: seconds - 120, exp: seconds - 60 })), nodes } },
          },
          {
            what: 'a slot that is far away',
            fields: { body: { ...(await treeBy({ slot: dta.MIDDAY_SLOT + 100 })), nodes } },
          },
          {
            what: 'a node above a banned leaf',
            fields: {
              body: { ...(await treeBy()), nodes: toBase64Url(encodeNodes([{ depth: 0, index: 0 }])) },
            },
          },
        ],
      },
      'dta/proposeRevision': {
        fields: async () => ({
          params: { groupId },
          body: { document: revision, statement: await statement(world.ra) },
        }),
        unknown: async () => [
          {
            what: 'a statement by somebody else',
            fields: { body: { document: revision, statement: await statement(other) } },
          },
          {
            what: 'a statement on another document',
            fields: { body: { document: revision, statement: await statement(world.ra, otherGroup) } },
          },
        ],
      },
      'dta/concludeRevision': {
        fields: async () => {
          const body = { document: revision, statement: await statement(world.ra) }
          const signature = await running.client.proposeRevision({ params: { groupId }, body })
          return { params: { groupId }, body: { document: { ...revision, signatures: [signature] } } }
        },
        unknown: async () => [
          {
            what: 'a signature by somebody else',
            fields: {
              body: {
                document: {
                  ...revision,
                  signatures: [{ index: 1, signature: await signDocument(revision, other) }],
                },
              },
            },
          },
        ],
      },
      'dta/log': { fields: () => ({ params: { groupId }, query: { from: '1' } }) },
      'dta/logHead': { fields: () => ({ params: { groupId } }) },
      'dta/logConsistency': { fields: () => ({ params: { groupId }, query: { before: '0', after: '0' } }) },
      'dta/logInclusion': { fields: () => ({ params: { groupId }, query: { number: '1', size: '1' } }) },
    },
  }

  const departure = { leavesAt: Math.floor(clock.now / 1000) + 172_800 }
  let latestSigned = ''
  /** A document that the authority has signed as the next revision, and that nobody has abandoned. */
  const signedHere = async (): Promise<string> => {
    const hash = systemRandom(32)
    const [group] = (await running.admin.status({})).groups
    const number = (group?.revision ?? 0) + 1
    await running.store.atomic(connection => {
      connection.run('DELETE FROM signed_revision WHERE number = ?', [number])
      connection.run(
        'INSERT INTO signed_revision (group_id, number, document_hash, signature) VALUES (?, ?, ?, ?)',
        [world.group.groupId, number, hash, 'given'],
      )
    })
    latestSigned = toBase64Url(hash)
    return latestSigned
  }
  /** Its own word, though it has signed: the group has no other authority. */
  const abandonment = async (documentHash: string, key?: Es256PrivateKey): Promise<string> => {
    const [group] = (await running.admin.status({})).groups
    const payload = { suite: SUITE, groupId, revision: (group?.revision ?? 0) + 1, documentHash } as const
    const { dataDir, name } = running.config
    const signKey = key ?? (await authorityKeys.read({ dataDir, name, passphrase: dta.PASSPHRASE })).signKey
    return signAbandonment(payload, { key: signKey, kid: cosignerKid(1) })
  }
  const { port } = running.dta.admin.server.address() as { port: number }
  const adminUrl = `http://127.0.0.1:${port}`
  const admin: DrivenServer = {
    name: 'Trust authority, admin listener',
    tables: { 'dta-admin': dtaAdminRoutes },
    url: adminUrl,
    http: running.dta.admin.server,
    stored,
    supply: { known: groupId },
    authorize: async () => `Bearer ${running.dta.adminToken}`,
    badCredentials: async () => [
      ['another token', `Bearer ${toBase64Url(new Uint8Array(32))}`],
      ['the token with more behind it', `Bearer ${running.dta.adminToken}A`],
      ['the token without its last character', `Bearer ${running.dta.adminToken.slice(0, -1)}`],
      ['the token under another scheme', `MPIN ${running.dta.adminToken}`],
    ],
    known: {
      'dta-admin/status': { fields: () => ({}) },
      'dta-admin/accept': { fields: () => ({ body: { hash: otherGroup } }) },
      'dta-admin/reject': { fields: () => ({ body: { hash: otherGroup, reason: 'not agreed on' } }) },
      'dta-admin/abandonRevision': {
        fields: () => ({ params: { groupId }, body: { documentHash: otherGroup } }),
        unknown: async () => [
          { what: 'a document that is signed here', fields: { body: { documentHash: await signedHere() } } },
        ],
      },
      'dta-admin/releaseRevision': {
        fields: async () => {
          const documentHash = await signedHere()
          return {
            params: { groupId },
            body: { documentHash, abandonments: [await abandonment(documentHash)] },
          }
        },
        unknown: async () => {
          const documentHash = latestSigned
          return [
            { what: 'one that too few have abandoned', fields: { body: { documentHash, abandonments: [] } } },
            {
              what: 'an abandonment by somebody else',
              fields: { body: { documentHash, abandonments: [await abandonment(documentHash, other)] } },
            },
            {
              what: 'an abandonment of another document',
              fields: { body: { documentHash, abandonments: [await abandonment(otherGroup)] } },
            },
          ]
        },
      },
      'dta-admin/freeze': { fields: () => ({ params: { groupId }, body: { recipient: 'rps' } }) },
      'dta-admin/unfreeze': { fields: () => ({ params: { groupId }, body: { recipient: 'rps' } }) },
      'dta-admin/leave': { fields: () => ({ params: { groupId }, body: departure }) },
      'dta-admin/stay': {
        fields: async () => {
          await running.admin.leave({ params: { groupId }, body: departure })
          return { params: { groupId }, body: {} }
        },
      },
      'dta-admin/reloadPolicy': { fields: () => ({ body: {} }) },
    },
  }
  const health = `${adminUrl}/health/live`
  return [
    { server, health, close: async () => undefined },
    { server: admin, health, close: () => world.close() },
  ]
}

/** The authentication server, between three authorities and an RPA that the test plays. */
export async function drivenRps(): Promise<Driven[]> {
  const world = await RpsWorld.make()
  // The next key epoch of what devices hold is announced: there is one to go over to.
  await world.rotate({ firstSlot: world.slot + 1000, rotated: ['device', 'pin'] })
  await writeFile(join(world.folder, 'group.json'), JSON.stringify(world.group.documents))
  const rps = await world.startRps({
    store: ':memory:',
    config: { rateLimit: { address: UNLIMITED, failedProofs: UNLIMITED } },
  })
  // The record of one-pass messages has just begun; before it none is taken.
  world.clock.now += 120_000
  const other = await generateEs256()
  const [car, nobody] = [world.makeCar(), world.makeCar({ isRegistered: false })]
  const driver = world.makeDriver(car)
  const permit = world.permitOf(car.idCore)
  const hpkeKey = world.tracking.hpkeKey.publicKey
  const attributes = { driverName: 'Ada' }
  const payload = utf8('a position')
  world.rpa.verify = async body => {
    const user = body.kind === 'device' ? undefined : { driver, pinGen: body.kind === 'pin' ? 2 : 1 }
    return world.approval(car, Buffer.from(body.hpkeKey, 'base64url'), user)
  }
  const signing = requestSigning(
    OWN,
    { name: 'tracking', key: world.tracking.requestKey },
    () => world.clock.now,
    other,
  )
  const json = (...given: Parameters<RpsWorld['prove']>) => world.prove(...given).toJson()
  const { accessToken } = await world.login(rps, car, { audience: OWN })
  const elsewhere = await world.login(rps, car, { audience: TRACKING })
  const [jwk] = (await rps.client.jwks({})).keys
  const forged =
    [...(await tokenKeys(rps)).keys()][0] === jwk?.kid
      ? accessToken.replace(/\.[^.]*$/, `.${'A'.repeat(86)}`)
      : ''
  const loginBad = async (audience: string): Promise<[string, ReturnType<typeof json>][]> => {
    const used = await rps.client.nonce({ body: {} })
    await rps.client.login({ body: { login: json(car, { nonce: used.nonce }) as never } })
    const old = await rps.client.nonce({ body: {} })
    world.clock.now += 31_000
    const of = (
      what: string,
      more: Parameters<RpsWorld['prove']>[1],
      who = car,
    ): [string, ReturnType<typeof json>] => [what, json(who, { audience, ...more })]
    return [
      of('a nonce that nobody has made', { nonce: toBase64Url(new Uint8Array(32)) }),
      of('a nonce that was used', { nonce: used.nonce }),
      of('a nonce that is too old', { nonce: old.nonce }),
      of('a time of long ago', { clientTime: world.seconds - 3_600 }),
      of('a time to come', { clientTime: world.seconds + 3_600 }),
      of('a slot that is over', { slot: world.slot - 2 }),
      of('a slot to come', { slot: world.slot + 1 }),
      of('another key epoch', { deviceEpoch: 2 }),
      of('the key of somebody else', { deviceKey: nobody.D_dev }),
      of('another audience', { audience: 'https://nobody.example' }),
    ]
  }
  const asLogin = async (audience: string): Promise<MoreBad[]> =>
    (await loginBad(audience)).map(([what, login]) => ({ what, fields: { body: { login } } }))
  const userBody = (message: ReturnType<typeof json>) => ({
    kind: 'user',
    attributes,
    hpkeKey: toBase64Url(hpkeKey),
    nonce: toBase64Url(new Uint8Array(32).fill(2)),
    vouch: message,
  })
  const vouch = (who = car, more: Parameters<RpsWorld['prove']>[1] = {}) =>
    json(who, { mode: MODE.sign, audience: OWN, payload: userEnrolmentPayload(attributes, hpkeKey), ...more })

  const server: DrivenServer = {
    name: 'Authentication server',
    tables: { rps: rpsRoutes },
    url: rps.url,
    http: rps.rps.app.server,
    stored: async () => {
      // A new revision has the RPS ask the RPA for a state that the keys in it have signed.
      const isCurrent = (connection: Connection) => {
        const [state] = connection.all('SELECT state_revision AS revision FROM revocation')
        const [document] = connection.all('SELECT max(number) AS revision FROM group_revision')
        return state?.revision === document?.revision
      }
      await until(() => rps.store.atomic(isCurrent))
      return rowsOf(rps.store)
    },
    supply: {
      ...points,
      idCore: car.idCore.mpinId,
      permit: toBase64Url(permit.encode()),
      x25519: toBase64Url(hpkeKey),
    },
    authorize: async (route, sent) =>
      route.caller === 'server'
        ? signing.good(sent)
        : route.caller === 'identity'
          ? `Bearer ${accessToken}`
          : undefined,
    badCredentials: async (route, sent) =>
      route.caller === 'server'
        ? signing.bad(sent)
        : [
            ['a token for another audience', `Bearer ${elsewhere.accessToken}`],
            ['a token with another signature', `Bearer ${forged}`],
            ['a proof for another audience', authorizationHeader(world.prove(car, { audience: TRACKING }))],
            [
              'a proof with the key of somebody else',
              authorizationHeader(world.prove(car, { audience: OWN, deviceKey: nobody.D_dev })),
            ],
            [
              'a proof of long ago',
              authorizationHeader(world.prove(car, { audience: OWN, clientTime: world.seconds - 600 })),
            ],
          ],
    known: {
      'rps/group': { fields: () => ({ query: { revision: '1' } }) },
      'rps/publishRevision': {
        fields: async () => ({
          body: { document: await world.nextRevision({ policy: { lead: 2, grace: 300 } }) },
        }),
        unknown: async () => [
          {
            what: 'with too few signatures',
            fields: { body: { document: await world.nextRevision({ policy: { lead: 2, grace: 300 } }, 1) } },
          },
        ],
      },
      'rps/time': { fields: () => ({ query: { nonce: toBase64Url(new Uint8Array(32)) } }) },
      'rps/jwks': { fields: () => ({}) },
      'rps/register': {
        fields: () => ({
          body: {
            kind: 'device',
            attributes: { brand: 'Trabant' },
            instance: 'VIN-1',
            hpkeKey: toBase64Url(world.fleet.hpkeKey.publicKey),
            nonce: toBase64Url(new Uint8Array(32)),
          },
        }),
        unknown: async () => [
          {
            what: 'vouched by a wrong key',
            fields: { body: userBody(vouch(car, { deviceKey: nobody.D_dev })) },
          },
          {
            what: 'vouched for long ago',
            fields: { body: userBody(vouch(car, { clientTime: world.seconds - 3_600 })) },
          },
          { what: 'vouched for something else', fields: { body: userBody(vouch(car, { payload })) } },
          {
            what: 'a code without its proof',
            fields: { body: { ...userBody(vouch()), codeId: toBase64Url(new Uint8Array(16)) } },
          },
        ],
      },
      'rps/relayShare': {
        fields: async () => ({
          params: { index: '1' },
          body: { ticket: (await world.approval(car, hpkeKey)).ticket, purpose: 'device' },
        }),
      },
      'rps/relaySlotKey': {
        fields: () => ({ params: { index: '1' }, body: world.slotKeyRequest(car) }),
        unknown: async () => [
          {
            what: 'signed by somebody else',
            fields: { params: { index: '1' }, body: world.slotKeyRequest(car, { signer: nobody.idCore }) },
          },
          {
            what: 'a slot that is far away',
            fields: { params: { index: '1' }, body: world.slotKeyRequest(car, { slot: world.slot + 100 }) },
          },
        ],
      },
      'rps/nonce': { fields: () => ({ body: {} }) },
      'rps/permit': {
        fields: () => ({ body: { login: json(car, { audience: OWN }) } }),
        unknown: () => asLogin(OWN),
      },
      'rps/login': {
        fields: () => ({ body: { login: json(car, { audience: TRACKING, driver, permit }), authOtt: true } }),
        unknown: async () => [
          ...(await asLogin(TRACKING)),
          {
            what: 'the permit of another slot',
            fields: {
              body: {
                login: json(car, {
                  nonce: (await rps.client.nonce({ body: {} })).nonce,
                  permit: world.permitOf(car.idCore, world.slot - 1),
                }),
              },
            },
          },
        ],
      },
      'rps/redeemOtt': {
        fields: async () => ({
          body: { authOtt: (await world.login(rps, car, { audience: TRACKING, authOtt: true })).authOtt },
        }),
      },
      'rps/verifyOnePass': {
        fields: () => ({
          body: { message: toBase64Url(world.prove(car, { audience: TRACKING, driver, permit }).encode()) },
        }),
        unknown: async () => [
          {
            what: 'of long ago',
            fields: {
              body: { message: toBase64Url(world.prove(car, { clientTime: world.seconds - 600 }).encode()) },
            },
          },
          {
            what: 'for another service',
            fields: { body: { message: toBase64Url(world.prove(car, { audience: OWN }).encode()) } },
          },
        ],
      },
      'rps/sign': {
        fields: () => ({
          body: { message: json(car, { mode: MODE.sign, payload, driver }), payload: toBase64Url(payload) },
        }),
        unknown: async () => [
          {
            what: 'another payload',
            fields: {
              body: {
                message: json(car, { mode: MODE.sign, payload }),
                payload: toBase64Url(utf8('another')),
              },
            },
          },
          {
            what: 'the key of somebody else',
            fields: {
              body: {
                message: json(car, { mode: MODE.sign, payload, deviceKey: nobody.D_dev }),
                payload: toBase64Url(payload),
              },
            },
          },
        ],
      },
      'rps/changePin': {
        fields: () => ({
          body: {
            message: json(car, {
              mode: MODE.sign,
              audience: OWN,
              payload: pinChangePayload(hpkeKey),
              driver,
            }),
            hpkeKey: toBase64Url(hpkeKey),
          },
        }),
        unknown: async () => [
          {
            what: 'without the old PIN',
            fields: {
              body: {
                message: json(car, { mode: MODE.sign, audience: OWN, payload: pinChangePayload(hpkeKey) }),
                hpkeKey: toBase64Url(hpkeKey),
              },
            },
          },
        ],
      },
      'rps/rotateKey': {
        fields: () => {
          const device = { from: 1, to: 2 }
          const payload = keyRotationPayload({ hpkeKey, device, pin: device })
          return {
            body: {
              message: json(car, { mode: MODE.sign, audience: OWN, payload, driver }),
              hpkeKey: toBase64Url(hpkeKey),
              device,
              pin: device,
              without: [3],
            },
          }
        },
        unknown: async () => {
          const device = { from: 1, to: 2 }
          const rotation = { hpkeKey, device, pin: device }
          const message = json(car, {
            mode: MODE.sign,
            audience: OWN,
            payload: keyRotationPayload(rotation),
          })
          return [
            { what: 'without the PIN', fields: { body: { message } } },
            { what: 'an epoch that never was', fields: { body: { device: { from: 1, to: 9 } } } },
            {
              what: 'without more authorities than the group can spare',
              fields: { body: { without: [1, 2] } },
            },
          ]
        },
      },
      'rps/whoami': { fields: () => ({}) },
      'rps/identity': {
        fields: () => ({ params: { idCore: car.idCore.mpinId }, query: { slot: String(world.slot) } }),
        unknown: async () => [{ what: 'nobody', fields: { params: { idCore: nobody.idCore.mpinId } } }],
      },
      'rps/events': { fields: () => ({}) },
      'rps/pushEvent': {
        fields: async () => ({ body: { event: await world.event('ban', nobody.idCore, { number: 1 }) } }),
        unknown: async () => [
          {
            what: 'by somebody else',
            fields: { body: { event: await world.event('ban', car.idCore, { number: 1, key: other }) } },
          },
        ],
      },
    },
  }
  return [{ server, health: `${rps.adminUrl}/health/live`, close: () => world.close() }]
}

/** Fleet: the RPS' callbacks and the operators' API on one listener. */
export async function drivenFleet(): Promise<Driven[]> {
  const authority = await FakeAuthority.listen()
  const world = await FleetWorld.start({}, [authority.url])
  authority.group = world.group
  authority.signKey = world.members.authorities[0]!.signKey
  const other = await generateEs256()
  const { api } = world
  const car = await world.car('VIN-KNOWN')
  const driver = await world.driverOn(car)
  const signing = requestSigning(
    world.config.publicUrl,
    { name: 'rps', key: world.members.rps.signKey },
    world.time.clock,
    other,
  )
  const brokers = requestSigning(
    world.config.publicUrl,
    { name: 'broker', key: world.broker },
    world.time.clock,
    other,
  )
  const signingOf = ({ path }: Route) => (path === registerRoutes.devices.path ? brokers : signing)
  let count = 0
  const next = (what: string) => `${what}-${++count}`
  const registered = async () =>
    (await api.addVehicle({ body: { instance: next('VIN'), attributes: GOLF } })).id
  const enrolled = () => world.car(next('VIN'))
  const operator = async () => {
    const name = next('op').toLowerCase()
    const { id, code } = await api.inviteOperator({ body: { name } })
    return { id, name, idCore: (await world.enrolOperator(name, code.code)).idCore }
  }
  const waiting = async () => {
    const instance = next('WORDS')
    const { body, words } = await world.registration({ instance })
    await world.asRps().verify({ body })
    const { approvals } = await api.listApprovals({})
    return { id: String(approvals.find(one => one.instance === instance)!.id), words }
  }
  const byId = async (id: number | Promise<number>): Promise<Fields> => ({
    params: { id: String(await id) },
    body: {},
  })
  const onVehicle = (vehicle: { id: number }, driverId: number): Fields => ({
    params: { id: String(vehicle.id), driver: String(driverId) },
    body: {},
  })
  const assigned = async () => {
    const { driver: id } = await api.assignDriver({
      params: { id: String(car.id) },
      body: { attributes: { driverName: next('Driver') } },
    })
    return id
  }
  const template = () => ({
    name: next('template'),
    instance: { prefix: 'WVW' },
    attributes: { brand: { equals: 'Volkswagen' } },
    count: 5,
    expiresAt: world.seconds + 86_400,
  })
  const recipientsBut = async (): Promise<Fields> => {
    const { revision, recipients } = await api.listRecipients({})
    const gateway = { ...recipients[0], name: 'gw.example', purposes: ['agree'], ...(await serviceKeysOf()) }
    return { body: { revision, recipients: [...recipients, gateway] } }
  }
  const serviceKeysOf = async () => ({
    requestKey: (await generateEs256()).publicKey.toBase64Url(),
    hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
  })
  const isQuiet = async () => (await api.status({})).events.waiting === 0
  const aud = world.config.publicUrl
  const iat = world.seconds
  const admin = await world.operatorToken()
  const adminIdCore = JSON.parse(Buffer.from(admin.split('.')[1]!, 'base64url').toString()).sub as string
  const revoked = await operator()
  await api.revokeOperator({ params: { id: String(revoked.id) }, body: {} })

  const server: DrivenServer = {
    name: 'Fleet: the RPA’s callbacks and the operators’ routes',
    tables: { rpa: rpaRoutes, register: registerRoutes, fleet: fleetRoutes },
    url: world.url,
    http: world.fleet.app.server,
    stored: async () => {
      // What was decided before is still on its way to the RPS, and marked when it has arrived.
      while (!(await isQuiet())) await new Promise(resolve => setImmediate(resolve))
      return rowsOf(world.store)
    },
    supply: {
      known: String(car.id),
      idCore: car.device.idCore,
      x25519: world.members.proposal.recipients[0]!.hpkeKey,
    },
    authorize: async (route, sent) =>
      route.caller === 'server'
        ? signingOf(route).good(sent)
        : route.caller === 'operator'
          ? admin
          : undefined,
    badCredentials: async (route, sent) =>
      route.caller === 'server'
        ? signingOf(route).bad(sent)
        : [
            [
              'a token for another audience',
              `Bearer ${await world.rps.token({ sub: adminIdCore, aud: 'https://other.example', iat })}`,
            ],
            [
              'a token of another issuer',
              `Bearer ${await world.rps.token({ sub: adminIdCore, aud, iat, iss: 'https://other.example' })}`,
            ],
            [
              'a token that has run out',
              `Bearer ${await world.rps.token({ sub: adminIdCore, aud, iat: iat - 3_600 })}`,
            ],
            [
              'a token without the PIN',
              `Bearer ${await world.rps.token({ sub: adminIdCore, aud, iat, amr: ['device'] })}`,
            ],
            ['a vehicle’s token', `Bearer ${await world.rps.token({ sub: car.device.idCore, aud, iat })}`],
            [
              'a revoked operator’s token',
              `Bearer ${await world.rps.token({ sub: revoked.idCore, aud, iat })}`,
            ],
            ['a token with another signature', admin.replace(/\.[^.]*$/, `.${'A'.repeat(86)}`)],
          ],
    known: {
      'rpa/verify': {
        fields: async () => {
          const instance = next('VIN')
          const { code } = await api.addVehicle({ body: { instance, attributes: GOLF } })
          return { body: (await world.registration({ instance, code: code!.code })).body }
        },
      },
      'rpa/permit': { fields: () => ({ body: { idCore: car.device.idCore, slot: world.slot } }) },
      'rpa/authenticated': {
        fields: () => ({
          body: {
            notices: [
              {
                id: toBase64Url(systemRandom(16)),
                at: world.seconds,
                event: 'login',
                idCore: car.device.idCore,
                amr: ['device'],
                audience: 'https://a.example',
                slot: world.slot,
              },
            ],
          },
        }),
      },
      'rpa/tree': { fields: () => ({ body: { slot: world.slot, number: 1 } }) },
      'rpa/state': { fields: () => ({}) },
      'register/devices': { fields: () => ({ query: { after: car.device.idCore } }) },
      'fleet/listVehicles': { fields: () => ({ query: {} }) },
      'fleet/vehicle': { fields: () => ({ params: { id: String(car.id) } }) },
      'fleet/addVehicle': { fields: () => ({ body: { instance: next('VIN'), attributes: GOLF } }) },
      'fleet/importVehicles': { fields: () => ({ body: { csv: `vin,brand\n${next('VIN')},Trabant\n` } }) },
      'fleet/vehicleCode': { fields: () => byId(registered()) },
      'fleet/nextGeneration': { fields: async () => byId((await enrolled()).id) },
      'fleet/revoke': { fields: async () => byId((await enrolled()).id) },
      'fleet/unlock': { fields: () => onVehicle(car, driver.id) },
      'fleet/assignDriver': {
        fields: () => ({
          params: { id: String(car.id) },
          body: { attributes: { driverName: next('Driver') } },
        }),
      },
      'fleet/driverCode': { fields: async () => onVehicle(car, await assigned()) },
      'fleet/resetPin': { fields: () => onVehicle(car, driver.id) },
      'fleet/listTemplates': { fields: () => ({ query: {} }) },
      'fleet/addTemplate': { fields: () => ({ body: template() }) },
      'fleet/templateCode': { fields: async () => byId((await api.addTemplate({ body: template() })).id) },
      'fleet/endTemplate': { fields: async () => byId((await api.addTemplate({ body: template() })).id) },
      'fleet/listDrivers': { fields: () => ({ query: {} }) },
      'fleet/addDriver': { fields: () => ({ body: { attributes: { driverName: next('Driver') } } }) },
      'fleet/listApprovals': { fields: () => ({}) },
      'fleet/approve': {
        fields: async () => {
          const { id, words } = await waiting()
          return { params: { id }, body: { words } }
        },
        unknown: async () => [{ what: 'other words', fields: { body: { words: (await waiting()).words } } }],
      },
      'fleet/refuse': { fields: async () => ({ params: { id: (await waiting()).id }, body: {} }) },
      'fleet/listBans': { fields: () => ({}) },
      'fleet/ban': {
        fields: async () => ({ body: { vehicle: (await enrolled()).id, reason: 'stolen' } }),
        unknown: async () => [
          { what: 'a driver whom nobody knows', fields: { body: { driver: 4_000_000, reason: 'x' } } },
          { what: 'an operator whom nobody knows', fields: { body: { operator: 4_000_000, reason: 'x' } } },
          { what: 'a vehicle as an operator', fields: { body: { operator: car.id, reason: 'x' } } },
        ],
      },
      'fleet/unban': {
        fields: async () => {
          const ban = await api.ban({ body: { vehicle: (await enrolled()).id, reason: 'stolen' } })
          return { params: { id: String(ban.id) } }
        },
      },
      'fleet/listOperators': { fields: () => ({ query: {} }) },
      'fleet/inviteOperator': { fields: () => ({ body: { name: next('op').toLowerCase() } }) },
      'fleet/operatorCode': { fields: async () => byId((await operator()).id) },
      'fleet/revokeOperator': { fields: async () => byId((await operator()).id) },
      'fleet/unlockOperator': { fields: async () => byId((await operator()).id) },
      'fleet/rotateKey': { fields: () => ({ body: {} }) },
      'fleet/finishKey': { fields: () => ({ body: {} }) },
      'fleet/abandonKey': { fields: () => ({ body: {} }) },
      'fleet/listRecipients': { fields: () => ({}) },
      'fleet/changeRecipients': { fields: recipientsBut },
      'fleet/finishRecipients': { fields: () => ({ body: {} }) },
      'fleet/abandonRecipients': { fields: () => ({ body: {} }) },
      'fleet/reconcile': { fields: () => ({}) },
      'fleet/acknowledge': {
        fields: async () => {
          authority.issue(systemRandom(39))
          const { authorities } = await api.reconcile({})
          const finding = authorities[0]?.unknown.at(-1)?.finding as string
          return { body: { findings: [finding], reason: 'known' } }
        },
        unknown: async () => [
          {
            what: 'a finding that isn’t there',
            fields: { body: { findings: ['5c1e09d27a4b8f6033b1c7e2'], reason: 'known' } },
          },
        ],
      },
      'fleet/audit': { fields: () => ({ query: {} }) },
      'fleet/status': { fields: () => ({}) },
    },
  }
  return [
    {
      server,
      health: `${world.adminUrl}/health/live`,
      close: async () => {
        await world.stop()
        await authority.close()
      },
    },
  ]
}

/** The tracking server, with a car that has reported and an operator who reads. */
export async function drivenTracking(): Promise<Driven[]> {
  const world = await TrackingWorld.make()
  await world.follow()
  const url = await world.url()
  const [first, end] = world.batch(CAR, world.start(CAR), world.positions(2))
  const car = `Bearer ${await world.token(CAR)}`
  const operator = `Bearer ${await world.token(OPERATOR, { amr: ['device', 'pin'] })}`
  await world.send(first, car, await world.receipt(CAR, first))
  const [second] = world.batch(CAR, end, world.positions(2, world.clock.now - 1_000))
  const bodyOf = (batch: typeof second, receipt: string) => ({
    number: batch.number,
    previous: toBase64Url(batch.previous),
    positions: batch.positions,
    head: toBase64Url(batch.head),
    receipt,
  })
  const body = async (more: Parameters<typeof world.receipt>[2] = {}, who = CAR) =>
    bodyOf(second, await world.receipt(who, second, more))
  const { receipt: _, ...unsigned } = bodyOf(second, '')
  const signedBody = (signed = world.signed(CAR, second)) => ({ ...unsigned, signed })
  const who = (route: Route) => (route.caller === 'operator' ? OPERATOR : CAR)

  const server: DrivenServer = {
    name: 'Tracking server (examples/car-tracking)',
    tables: { tracking: trackingRoutes },
    url,
    http: world.server.app.server,
    stored: async () => {
      const vehicles = await world.store.vehicles()
      const batches = await Promise.all(vehicles.map(({ idCore }) => world.store.batches(idCore, 1, 1_000)))
      return [...vehicles, ...batches.flat()].map(row => JSON.stringify(row))
    },
    supply: { idCore: CAR.mpinId },
    authorize: async ({ caller }) => (caller === 'operator' ? operator : car),
    badCredentials: async route => [
      ['a token by somebody else', `Bearer ${await world.token(who(route), { by: 'stranger' })}`],
      [
        'a token for another service',
        `Bearer ${await world.token(who(route), { aud: 'http://other.test' })}`,
      ],
      ['a token of another issuer', `Bearer ${await world.token(who(route), { iss: 'http://other.test' })}`],
      ['a token that has run out', `Bearer ${await world.token(who(route), { lifetime: 0 })}`],
      ['a receipt for a token', `Bearer ${await world.receipt(who(route), first)}`],
      ['a proof that the RPS refuses', 'MPIN BBBB'],
      ...(route.caller === 'operator' ? [['a vehicle’s token', car] as const] : []),
    ],
    known: {
      'tracking/append': {
        fields: async () => ({ body: await body() }),
        unknown: async () => [
          { what: 'another car’s receipt', fields: { body: await body({}, OTHER_CAR) } },
          { what: 'neither receipt nor signature', fields: { body: unsigned } },
          { what: 'both of them', fields: { body: { ...(await body()), ...signedBody() } } },
          {
            what: 'another car’s signature',
            fields: { body: signedBody(world.signed(OTHER_CAR, second)) },
          },
          {
            what: 'a signature for another purpose',
            fields: { body: signedBody(world.signed(CAR, second, { context: 'another' })) },
          },
          {
            what: 'a signature of a slot of long ago',
            fields: { body: signedBody(world.signed(CAR, second, { slot: 1 })) },
          },
          {
            what: 'a signature with another car’s permit',
            fields: { body: signedBody(world.signed(CAR, second, { permitOf: OTHER_CAR })) },
          },
          { what: 'a receipt by somebody else', fields: { body: await body({ by: 'stranger' }) } },
          {
            what: 'a receipt for another service',
            fields: { body: await body({ aud: 'http://other.test' }) },
          },
          {
            what: 'a batch of long ago',
            fields: { body: { ...(await body()), positions: world.positions(2, 1) } },
          },
          {
            what: 'a batch to come',
            fields: {
              body: { ...(await body()), positions: world.positions(2, world.clock.now + 3_600_000) },
            },
          },
        ],
      },
      'tracking/end': { fields: () => ({}) },
      'tracking/vehicles': { fields: () => ({}) },
      'tracking/track': {
        fields: () => ({ params: { idCore: CAR.mpinId }, query: { from: '1' } }),
        unknown: async () => [
          { what: 'a car without a track', fields: { params: { idCore: OTHER_CAR.mpinId } } },
        ],
      },
      'tracking/stream': { fields: () => ({}) },
    },
  }
  return [{ server, close: () => world.close() }]
}
