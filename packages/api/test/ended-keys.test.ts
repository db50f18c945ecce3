/** Since when a revoked device's keys are worth nothing, by the key epochs of a group. */
import { keysEndedBefore } from '@milagro-ts/api/ended-keys'
import type { Group } from '@milagro-ts/api/group'
import { describe, expect, test } from 'vitest'

type Rotated = 'device' | 'agree' | 'sign'

/** First slots of each purpose's key epochs, the first in slot 0; each rotation is a revision. */
function groupOf(rotations: Readonly<Record<Rotated, readonly number[]>>) {
  const names = ['device', 'agree', 'sign'] as const
  const epochs = (name: Rotated) =>
    [0, ...rotations[name]].map((firstSlot, i) => ({ epoch: i + 1, firstSlot }))
  const most = Math.max(...names.map(name => epochs(name).length))
  const documents = Array.from({ length: most }, (_, i) => ({
    purposes: Object.fromEntries(names.map(name => [name, epochs(name)[i] ?? epochs(name).at(-1)])),
  }))
  const epochAt = (name: Rotated, slot: number) =>
    epochs(name).findLast(({ firstSlot }) => firstSlot <= slot)?.epoch ?? null
  return { documents, epochAt } as unknown as Pick<Group, 'epochAt' | 'documents'>
}

describe('revoked before', () => {
  const all = (...firstSlots: number[]) =>
    groupOf({ device: firstSlots, agree: firstSlots, sign: firstSlots })
  // Nobody was revoked before the group's first slot.
  test.each([
    ['no rotation', all(), 50, 0],
    ['one that has not begun', all(100), 99, 0],
    ['one: its key may have been there ahead', all(100), 100, 0],
    ['two, of which the second has not begun', all(100, 200), 199, 0],
    ['two: the begin of the first', all(100, 200), 200, 100],
    ['three: the begin of the second', all(100, 200, 300), 301, 200],
    ['a purpose that is never rotated', groupOf({ device: [100, 200], agree: [100, 200], sign: [] }), 250, 0],
    [
      'purposes rotated apart: the earliest',
      groupOf({ device: [100, 200], agree: [150], sign: [120] }),
      250,
      100,
    ],
    ['the group has not begun', { ...all(), epochAt: () => null }, 5, 0],
  ])('%s', (_, group, slot, before) => {
    expect(keysEndedBefore(group, slot)).toBe(before)
  })
})
