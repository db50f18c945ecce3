import { readFile } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Folder, milagro } from './world.js'

let folder: Folder
beforeEach(async () => {
  folder = await Folder.make()
})
afterEach(() => folder.close())

describe('a group of two authorities', () => {
  test('is proposed, accepted by each operator, founded, verified; issuing can be frozen', async () => {
    const authorities = [await folder.authority('ta1'), await folder.authority('ta2')]
    const plan = await folder.plan(authorities.map(({ url }) => url))
    const make = ['group', 'make', plan, '--proposal', folder.file('p.json'), '--out', folder.file('g.json')]

    const proposed = await milagro(...make, '--json')
    expect(proposed.exit).toBe(0)
    const hash = proposed.json.proposalHash as string

    const early = await milagro(...make, '--json')
    expect(early).toMatchObject({ exit: 1, json: { ok: false, code: 'NOT_APPROVED' } })

    for (const { config } of authorities) {
      expect((await milagro('group', 'accept', hash, '--config', config, '--json')).json).toEqual({
        accepted: hash,
      })
    }
    const made = await milagro(...make, '--json')
    expect(made.exit).toBe(0)
    const groupId = made.json.groupId as string

    expect(
      await milagro('group', 'verify', folder.file('g.json'), '--group', groupId, '--json'),
    ).toMatchObject({
      exit: 0,
      json: { groupId, revision: 1, valid: true },
    })
    const shown = await milagro('group', 'show', folder.file('g.json'))
    expect(shown.out).toContain(groupId)
    expect(shown.out).toContain('ta2')

    const [first] = authorities
    const frozen = await milagro('dta', 'freeze', '--group', groupId, '--config', first!.config)
    expect(frozen).toMatchObject({ exit: 0, out: 'frozen\n' })
    const status = await milagro('dta', 'status', '--config', first!.config, '--json')
    expect(status.json).toMatchObject({
      name: 'ta1',
      groups: [{ groupId, frozen: true, issued: 0, alarms: 0 }],
    })
    expect((await milagro('dta', 'unfreeze', '--group', groupId, '--config', first!.config)).out).toBe(
      'serving\n',
    )
    const audit = await milagro('dta', 'audit', '--url', first!.url, '--group', groupId, '--json')
    expect(audit.json).toMatchObject({ authority: 'ta1', entries: 0, intact: true })
  })

  test('one changed character in its document is refused', async () => {
    const authorities = [await folder.authority('ta1'), await folder.authority('ta2')]
    const plan = await folder.plan(authorities.map(({ url }) => url))
    const make = ['group', 'make', plan, '--proposal', folder.file('p.json'), '--out', folder.file('g.json')]
    const { json } = await milagro(...make, '--json')
    for (const { config } of authorities) {
      await milagro('group', 'accept', json.proposalHash as string, '--config', config)
    }
    await milagro(...make)
    const document = await readFile(folder.file('g.json'), 'utf8')
    const changed = await folder.write('changed.json', document.replace('"grace": 300', '"grace": 301'))
    expect(await milagro('group', 'verify', changed)).toMatchObject({ exit: 1, out: '' })
    const another = await milagro('group', 'verify', folder.file('g.json'), '--group', 'A'.repeat(43))
    expect(another.exit).toBe(1)
    expect(another.err).toContain('this is group')
  })
})
