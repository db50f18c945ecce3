import { readFile, rename, writeFile } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Folder, milagro, milagroAt } from './world.js'

let folder: Folder
beforeEach(async () => {
  folder = await Folder.make()
})
afterEach(() => folder.close())

type Authority = Awaited<ReturnType<Folder['authority']>>

/** Proposes, lets every operator join, runs; what the last command answered. */
async function agreed(
  operators: readonly Authority[],
  { name, group }: { name: string; group?: string },
  ...command: string[]
) {
  const proposal = folder.file(`${name}-proposal.json`)
  const out = folder.file(`${name}.json`)
  const transcript = folder.file(`${name}.jsonl`)
  const files = ['--proposal', proposal, '--out', out, '--transcript', transcript]
  const of = group === undefined ? [] : ['--group', group]
  const run = ['ceremony', ...command, ...of, ...files]
  expect(await milagro(...run, '--json')).toMatchObject({ exit: 0, json: { proposal } })
  expect(await milagro(...run)).toMatchObject({
    exit: 1,
    err: expect.stringContaining('Where its operator agrees'),
  })
  for (const { config } of operators) {
    const looked = await milagro('ceremony', 'join', proposal, ...of, '--config', config)
    expect(looked).toMatchObject({ exit: 0, out: expect.stringContaining('Nothing is accepted yet') })
    const joined = await milagro('ceremony', 'join', proposal, ...of, '--yes', '--config', config, '--json')
    expect(joined).toMatchObject({ exit: 0, json: { accepted: true } })
  }
  const made = await milagro(...run, '--json')
  return { made, out, transcript }
}

describe('a group', () => {
  test('is founded 2 of 3, refreshed, rotated, handed on to a new member, and one that lost everything recovers', async () => {
    const [ta1, ta2, ta3, ta4] = (await Promise.all(
      ['ta1', 'ta2', 'ta3', 'ta4'].map(name => folder.authority(name)),
    )) as [Authority, Authority, Authority, Authority]
    const plan = await folder.plan([ta1.url, ta2.url, ta3.url], 2)
    const founded = await agreed([ta1, ta2, ta3], { name: 'founded' }, 'run', plan)
    expect(founded.made).toMatchObject({ exit: 0, json: { revision: 1, n: 3, t: 2, shareEpoch: 1 } })
    const { groupId } = founded.made.json

    const refreshed = await agreed([ta1, ta2, ta3], { name: 'refreshed', group: founded.out }, 'refresh')
    expect(refreshed.made).toMatchObject({ exit: 0, json: { groupId, revision: 2, shareEpoch: 2 } })

    const rotated = await agreed(
      [ta1, ta2, ta3],
      { name: 'rotated', group: refreshed.out },
      ...['rotate', '--purpose', 'device', 'pin', '--after', '7'],
    )
    expect(rotated.made).toMatchObject({ exit: 0, json: { groupId, revision: 3, shareEpoch: 3 } })
    const { purposes, policy } = JSON.parse(await readFile(rotated.out, 'utf8')).at(-1)
    expect([purposes.device.epoch, purposes.device.former[0].epoch, purposes.sign.epoch]).toEqual([2, 1, 1])
    const files = ['--group', rotated.out, '--proposal', folder.file('none'), '--out', folder.file('out')]
    for (const wrong of [
      ['--purpose', 'money'],
      ['--after', String(policy.lead)],
      ['--after', 'soon'],
    ])
      expect(await milagro('ceremony', 'rotate', ...files, ...wrong)).toMatchObject({ exit: 2 })

    const addresses = ['--authority', ta2.url, ta3.url, ta4.url]
    const handed = await agreed(
      [ta2, ta3, ta4],
      { name: 'handed', group: rotated.out },
      ...['reshare', ...addresses, '--t', '2', '--dealers', 'ta2', 'ta3'],
    )
    expect(handed.made).toMatchObject({ exit: 0, json: { groupId, revision: 4, shareEpoch: 4 } })

    // ta2's machine is gone; its operator starts another under the same name.
    const reborn = await folder.authority('ta2')
    const recovered = await agreed(
      [ta3, ta4, reborn],
      { name: 'recovered', group: handed.out },
      ...['recover', '--lost', 'ta2', '--authority', reborn.url],
    )
    expect(recovered.made).toMatchObject({
      exit: 0,
      json: { groupId, revision: 5, shareEpoch: 5, n: 3, t: 2 },
    })

    for (const { transcript } of [founded, refreshed, rotated, handed, recovered])
      expect(await milagro('ceremony', 'verify', transcript)).toMatchObject({ exit: 0 })
    expect(await milagro('group', 'verify', recovered.out, '--json')).toMatchObject({
      exit: 0,
      json: { groupId, revision: 5 },
    })
  })

  test('a transcript in which somebody changed something names the line', async () => {
    const [ta1, ta2] = (await Promise.all(['ta1', 'ta2'].map(name => folder.authority(name)))) as [
      Authority,
      Authority,
    ]
    const founded = await agreed(
      [ta1, ta2],
      { name: 'founded' },
      'run',
      await folder.plan([ta1.url, ta2.url]),
    )
    const lines = (await readFile(founded.transcript, 'utf8')).trimEnd().split('\n')
    const verdictOn = async (changed: readonly string[]) => {
      await writeFile(founded.transcript, changed.join('\n'))
      return (await milagro('ceremony', 'verify', founded.transcript)).err
    }
    expect(await verdictOn(lines.with(4, lines[4]?.replace(/.{20}"}$/, 'A"}') as string))).toContain(
      'line 5:',
    )
    expect(await verdictOn(lines.with(5, lines[3] as string))).toContain('line 6:')
    expect(await verdictOn(lines.slice(0, -1))).toContain(`line ${lines.length}: the document is missing`)
    expect(await verdictOn([...lines.slice(0, 2), ...lines.slice(3)])).toContain('ta2, join: has not spoken')
    expect(await verdictOn(['{"proposal":{}}'])).toContain('line 1: proposal: wrong shape')
    expect(await verdictOn([...lines.slice(0, 3), '', ...lines.slice(3)])).toContain(
      'line 4: not a line of a transcript',
    )
    expect(await verdictOn([...lines.slice(0, -1), '{"document":null}'])).toContain(
      `line ${lines.length}: group: must be object`,
    )
    expect(await verdictOn(['nonsense'])).toContain('line 1: not a line of a transcript')
  })
})

test('one that is gone at the end is named in a warning, the document is written, and the same command ends it', async () => {
  const operators = (await Promise.all(['ta1', 'ta2', 'ta3'].map(name => folder.authority(name)))) as [
    Authority,
    Authority,
    Authority,
  ]
  const proposal = folder.file('proposal.json')
  const out = folder.file('group.json')
  const urls = operators.map(({ url }) => url)
  const transcript = folder.file('founding.jsonl')
  const files = ['--proposal', proposal, '--out', out, '--transcript', transcript]
  const run = ['ceremony', 'run', await folder.plan(urls, 2), ...files]
  expect((await milagro(...run)).exit).toBe(0)
  for (const { config } of operators)
    expect((await milagro('ceremony', 'join', proposal, '--yes', '--config', config)).exit).toBe(0)
  const without = (...gone: readonly Authority[]) => ({
    fetch: ((input, init) =>
      gone.some(({ url }) => String(input).startsWith(url)) && String(input).endsWith('/conclude')
        ? Promise.reject(new TypeError('fetch failed'))
        : fetch(input, init)) as typeof fetch,
  })
  const [, ta2, ta3] = operators
  expect(await milagroAt(without(ta2, ta3), ...run)).toMatchObject({
    exit: 3,
    err: expect.stringContaining('ta2, conclude'),
  })
  await expect(readFile(out)).rejects.toThrow('ENOENT')
  const before = await readFile(transcript, 'utf8')
  await writeFile(transcript, before.slice(0, -20))
  const made = await milagroAt(without(ta3), ...run, '--json')
  const rounds = (text: string) => text.split('\n').slice(0, -2)
  expect(rounds(await readFile(transcript, 'utf8'))).toEqual(rounds(before))
  expect(made).toMatchObject({
    exit: 0,
    json: { n: 3, t: 2, unconcluded: ['ta3'] },
    err: expect.stringContaining('warning: not concluded: ta3, conclude'),
  })
  expect((await milagro('group', 'verify', out)).exit).toBe(0)
  expect(await milagro(...run, '--json')).toMatchObject({ exit: 0, json: { unconcluded: [] }, err: '' })

  // A refresh is said again with the file that has its result in it already.
  const refresh = ['ceremony', 'refresh', '--group', out, '--proposal', folder.file('refresh.json')]
  const next = ['--out', folder.file('group-2.json')]
  expect((await milagro(...refresh, ...next)).exit).toBe(0)
  for (const { config } of operators) {
    const join = ['ceremony', 'join', folder.file('refresh.json'), '--group', out, '--yes']
    expect((await milagro(...join, '--config', config)).exit).toBe(0)
  }
  const said = ['--transcript', folder.file('refresh.jsonl')]
  expect(await milagroAt(without(...operators), ...refresh, ...next, ...said)).toMatchObject({ exit: 3 })
  // Its machine is gone altogether: what it has said stands in the transcript.
  const dead = ((input, init) =>
    String(input).startsWith(ta3.url)
      ? Promise.reject(new TypeError('fetch failed'))
      : fetch(input, init)) as typeof fetch
  expect(await milagroAt({ fetch: dead }, ...refresh, ...next)).toMatchObject({ exit: 3 })
  const refreshed = await milagroAt({ fetch: dead }, ...refresh, ...next, ...said, '--json')
  expect((await milagro('ceremony', 'verify', folder.file('refresh.jsonl'))).exit).toBe(0)
  expect(refreshed).toMatchObject({ exit: 0, json: { revision: 2, unconcluded: ['ta3'] } })
  await rename(folder.file('group-2.json'), out)
  const ended = await milagro(...refresh, ...next, '--json')
  expect(ended).toMatchObject({ exit: 0, json: { revision: 2, unconcluded: [] } })
})

test('an operator says no, the coordinator reads why; time is what was chosen', async () => {
  const [ta1, ta2] = (await Promise.all(['ta1', 'ta2'].map(name => folder.authority(name)))) as [
    Authority,
    Authority,
  ]
  const proposal = folder.file('proposal.json')
  const run = ['ceremony', 'run', await folder.plan([ta1.url, ta2.url]), '--proposal', proposal]
  const files = ['--out', folder.file('group.json')]
  expect((await milagro(...run, ...files, '--within', '0')).exit).toBe(2)
  const proposed = await milagro(...run, ...files, '--within', '30')
  expect(proposed).toMatchObject({ exit: 0, out: expect.stringContaining('for 30 minutes after its join') })
  const { group, ...terms } = JSON.parse(await readFile(proposal, 'utf8'))
  expect(terms).toMatchObject({ within: 1800 })
  // Whose word enrols and bans, and who gets server keys, is seen before it is agreed to.
  for (const key of [...group.ra.keys.map(({ key }: { key: string }) => key), group.recipients[0].requestKey])
    expect(proposed.out).toContain(key)
  expect((await milagro('ceremony', 'join', proposal, '--yes', '--config', ta1.config)).exit).toBe(0)
  const no = ['ceremony', 'reject', proposal, '--reason', 'not what we said', '--config', ta2.config]
  expect(await milagro(...no, '--json')).toMatchObject({ exit: 0, json: { rejected: true } })
  expect(await milagro(...run, ...files)).toMatchObject({
    exit: 1,
    err: expect.stringContaining("ta2, join: this authority's operator has said no: not what we said"),
  })
})

test('wrong usage says what is wrong', async () => {
  const files = ['--proposal', folder.file('p.json'), '--out', folder.file('g.json')]
  expect(await milagro('ceremony', 'refresh', '--group', folder.file('none.json'), ...files)).toMatchObject({
    exit: 2,
    err: expect.stringContaining('none.json'),
  })
  expect(await milagro('ceremony', 'verify', folder.file('none.jsonl'))).toMatchObject({ exit: 2 })
  expect(await milagro('ceremony', 'recover', ...files)).toMatchObject({ exit: 2 })
})
