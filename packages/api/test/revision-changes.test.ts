import type { GroupDocument } from '@milagro-ts/api/group-document'
import { recipientChanges, revisionChanges } from '@milagro-ts/api/revision-changes'
import { describe, expect, test } from 'vitest'
import { makeGroup, nextRevision } from './group-fixture.js'

type Recipient = GroupDocument['recipients'][number]

const RPS: Recipient = {
  name: 'rps',
  kind: 2,
  generation: 1,
  purposes: ['device', 'pin'],
  requestKey: 'R1',
  hpkeKey: 'H1',
}
const GATEWAY: Recipient = {
  ...RPS,
  name: 'gw.example',
  purposes: ['agree'],
  requestKey: 'R2',
  hpkeKey: 'H2',
}
const changed = (changes: Partial<Recipient>) =>
  recipientChanges([RPS, GATEWAY], [RPS, { ...GATEWAY, ...changes }])

describe('recipients', () => {
  test('added and removed', () => {
    expect(recipientChanges([RPS], [RPS, GATEWAY])).toEqual([
      {
        name: 'gw.example',
        change: 'added',
        says: 'kind 2, generation 1, keys of agree, requestKey R2, hpkeKey H2',
      },
    ])
    expect(recipientChanges([RPS, GATEWAY], [RPS])).toEqual([
      { name: 'gw.example', change: 'removed', says: 'gets no further key' },
    ])
  })

  test.each<[string, Partial<Recipient>, string, string]>([
    [
      'the next generation with other keys',
      { generation: 2, requestKey: 'R3', hpkeKey: 'H3' },
      're-keyed',
      'generation 1 → 2, none of its former keys fits, requestKey R3, hpkeKey H3',
    ],
    [
      'the next generation of the same keys',
      { generation: 2 },
      're-keyed',
      'generation 1 → 2, none of its former keys fits',
    ],
    [
      'another key at the same generation',
      { hpkeKey: 'H3' },
      're-keyed',
      'hpkeKey H3, generation 1 as before, its former keys fit on: raise it where they may be stolen',
    ],
    ['another kind', { kind: 3 }, 'changed', 'kind 2 → 3'],
    ['other purposes', { purposes: ['encrypt', 'agree'] }, 'changed', 'keys of agree → agree and encrypt'],
    ['no purposes', { purposes: [] }, 'changed', 'keys of agree → nothing'],
  ])('%s', (_, changes, change, says) => {
    expect(changed(changes)).toEqual([{ name: 'gw.example', change, says }])
  })

  test('another order is no change', () => {
    expect(recipientChanges([RPS, GATEWAY], [GATEWAY, { ...RPS, purposes: ['pin', 'device'] }])).toEqual([])
  })
})

test('everything that a revision may change without a ceremony has its line', async () => {
  const { group } = await makeGroup()
  const [old] = group.document.ra.keys
  const after = nextRevision(group, next => {
    next.ra = { m: 2, keys: [{ kid: 'ra9', key: 'K9' }] }
    next.recipients = next.recipients.filter(({ name }) => name !== 'tracking')
    next.policy = { lead: 3, grace: 300, permits: 'tree' }
    next.authorities[1]!.url = 'https://ta2.elsewhere'
  })
  expect(revisionChanges(group.document, after)).toEqual([
    `removed RA key ra1 ${old?.key}`,
    'added RA key ra9 K9',
    'RA signatures on a ticket 1 → 2',
    'removed tracking: gets no further key',
    'lead 1 → 3',
    'permits unsaid → tree',
    'address of ta2: https://ta2.elsewhere',
  ])
  expect(revisionChanges(group.document, nextRevision(group))).toEqual([])
})
