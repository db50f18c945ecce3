/** A rotation of a running group's keys, and the time that it takes to begin. */
import { createClient } from '@milagro-ts/api/call'
import { type CeremonyProposal, ceremonyHash } from '@milagro-ts/api/ceremony'
import { ceremonyRun } from '@milagro-ts/api/ceremony-run'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, type Group } from '@milagro-ts/api/group'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { PURPOSES, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { expect } from 'vitest'
import type { Calendar } from './calendar.js'
import type { RunningServers } from './running-servers.js'

/** All authorities deal new keys, which serve from the third slot from now on; the RPS knows it. The next revision. */
export async function rotateKeys(servers: RunningServers, group: Group, now: number): Promise<Group> {
  const proposal: CeremonyProposal = {
    suite: SUITE,
    v: 1,
    kind: 'rotate',
    groupId: servers.groupId,
    previous: toBase64Url(documentHash(group.document)),
    purposes: [...PURPOSES],
    firstSlot: slotAt(group.slotRule, now / 1000) + 3,
    nonce: toBase64Url(systemRandom(32)),
  }
  const hash = toBase64Url(ceremonyHash(proposal))
  for (const { admin } of servers.authorities) await admin.accept({ body: { hash } })
  const clients = new Map(
    group.authorities.map(({ name, url }) => [
      name,
      createClient(dtaRoutes, { baseUrl: url, timeout: 60_000 }),
    ]),
  )
  const next = (await ceremonyRun({ proposal, revisions: group.documents, clients })).group
  await createClient(rpsRoutes, { baseUrl: servers.rpsUrl }).publishRevision({
    body: { document: next.document },
  })
  return next
}

/** `slots` pass, and everybody has done what it does every so often. */
export async function passSlots(servers: RunningServers, calendar: Calendar, slots: number): Promise<void> {
  calendar.pass(slots)
  // The operator's login wants fleet to have the RPS' revision, and the RPS the authorities' keys.
  await expect
    .poll(() => servers.act().then(() => 'in', String), { timeout: 30_000, interval: 200 })
    .toBe('in')
}
