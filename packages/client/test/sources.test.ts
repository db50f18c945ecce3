/** What the sources promise as a whole: browsers can have all but four files, and nothing tells a secret. */
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { decodeEnrolmentCode } from '@milagro-ts/crypto/enrolment'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CAR, JO, TRACKING, VIN, World } from './world.js'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.close())

test('only the adapters of files and sockets know Node', async () => {
  const files = await readdir(here('../src'))
  const texts = await Promise.all(
    files.map(async file => [file, await readFile(here(`../src/${file}`), 'utf8')]),
  )
  const knowing = texts.filter(([, text]) =>
    /from 'node:|@milagro-ts\/store|@milagro-ts\/api\/channel-binding|\b(process|Buffer)\./.test(text ?? ''),
  )
  expect(knowing.map(([file]) => file)).toEqual([
    'agent-fetch.ts',
    'bound-fetch.ts',
    'file-token-store.ts',
    'file-unlocker.ts',
  ])
})

test('no error says a PIN, a code or a key', async () => {
  const errors: unknown[] = []
  const store = memoryTokenStore()
  const code = world.code()
  const claim = { ...world.ports, store, attributes: CAR, instance: VIN }
  const noted = (work: Promise<unknown>) => work.catch(error => errors.push(error))
  world.lies.set(1, 'share').set(2, 'nonsense')
  await noted(Device.enrol({ ...claim, code }))
  world.lies.clear()
  world.tamperRegistration = fields => ({ ...fields, instance: 'other' })
  await noted(Device.enrol({ ...claim, code: world.code() }))
  world.tamperRegistration = fields => fields
  const car = await Device.enrol({ ...claim, code })
  await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '271828' })
  await noted(car.login({ audience: TRACKING, user: 'Jo', pin: '314159' }))
  await noted(car.login({ audience: 'nobody', user: 'Jo', pin: '271828' }))
  world.lost.push('/v1/logins')
  await noted(car.login({ audience: TRACKING, user: 'Jo', pin: '271828' }))
  await noted(car.changePin({ user: 'Jo', oldPin: '314159', newPin: '161803' }))
  await noted(Device.enrol({ ...claim, code: `${code}x` }))
  expect(errors).toHaveLength(7)

  const { secret } = decodeEnrolmentCode(code)
  const [{ device, users }] = JSON.parse((await store.read()) as string).identities
  const secrets = [
    code,
    toHex(secret),
    toBase64Url(secret),
    device.key,
    users[0].token.token,
    '271828',
    '314159',
    '161803',
  ]
  const told = errors.map(error => everythingOf(error)).join('\n')
  for (const value of secrets) expect(told).not.toContain(value)
})

/** Message, stack, own fields and causes: what a careless log would print. */
function everythingOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const fields = JSON.stringify(Object.fromEntries(Object.entries(error)))
  return [error.message, error.stack, fields, everythingOf(error.cause)].join('\n')
}

test('the example runs as it stands, and again', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'milagro-example-'))
  const env = {
    ...process.env,
    RPS: world.url,
    SERVICE: TRACKING,
    CAR_CODE: world.code(),
    DRIVER_CODE: world.code(JO),
  }
  // The world's clock stands still at a day of its own; the example has the machine's.
  const before = world.now
  world.now = Date.now()
  try {
    const run = () =>
      promisify(execFile)(process.execPath, [here('../examples/login.mjs')], { cwd: folder, env })
    const first = await run()
    expect(first.stdout.trim().split('.')).toHaveLength(3)
    expect(first.stderr).toBe('')
    const second = await run()
    expect(second.stdout.trim().split('.')).toHaveLength(3)
    expect(await readdir(join(folder, 'car'))).toContain('device.json')
  } finally {
    world.now = before
    await rm(folder, { recursive: true })
  }
})
