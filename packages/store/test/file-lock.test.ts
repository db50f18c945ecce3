/** One process at a time, and no dead one holds anybody up. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { FileLock, withFileLock } from '@milagro-ts/store/file-lock'
import { StoreError } from '@milagro-ts/store/store-error'
import { afterEach, beforeEach, expect, test } from 'vitest'

const SCRIPT = fileURLToPath(new URL('./hold-lock.mjs', import.meta.url))

let folder: string
const children: ChildProcess[] = []
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-lock-'))
})
afterEach(async () => {
  await Promise.all(children.splice(0).map(ended))
  await rm(folder, { recursive: true })
})
const file = () => join(folder, 'store.lock')

/** A process that holds the lock. */
async function holder(): Promise<ChildProcess> {
  const child = spawn(process.execPath, [SCRIPT, file()], { stdio: ['ignore', 'pipe', 'inherit'] })
  children.push(child)
  await Promise.race([
    once(child.stdout as NonNullable<typeof child.stdout>, 'data'),
    once(child, 'close').then(([code]) => Promise.reject(new Error(`it ended with ${code}`))),
  ])
  return child
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'close')
}

test('of many that ask at once each has it alone, and all have it', async () => {
  let inside = 0
  const seen = await Promise.all(
    Array.from({ length: 10 }, () =>
      withFileLock(file(), () => {
        inside++
        const alone = inside === 1
        inside--
        return alone
      }),
    ),
  )
  expect(seen).toEqual(Array(10).fill(true))
})

test('what the work throws passes through, and the lock is free', async () => {
  const work = () => {
    throw new RangeError('mine')
  }
  await expect(withFileLock(file(), work)).rejects.toThrow(RangeError)
  expect(await withFileLock(file(), () => 'free', { patience: 0 })).toBe('free')
  expect(existsSync(`${file()}.holder`)).toBe(false)
  expect((await stat(file())).mode & 0o777).toBe(0o600)
})

test('a process that does not let go is named when patience ends, and the waiting does not block', async () => {
  const child = await holder()
  let ticks = 0
  const timer = setInterval(() => ticks++, 10)
  const waiting = withFileLock(file(), () => 'mine', { patience: 300 })
  await expect(waiting).rejects.toMatchObject({
    reason: 'locked',
    message: expect.stringMatching(new RegExp(`store\\.lock is held by process ${child.pid} since 2`)),
  } satisfies Partial<StoreError>)
  clearInterval(timer)
  expect(ticks).toBeGreaterThan(1)
})

test('a holder that is killed leaves nothing stale: whoever waits has it at once', async () => {
  const child = await holder()
  const waiting = withFileLock(file(), () => 'mine', { patience: 60_000 })
  await ended(child)
  expect(await waiting).toBe('mine')
  expect(existsSync(`${file()}.holder`)).toBe(false)
})

test('one that is taken is held, whatever else of this process asks for it, until it is released', async () => {
  const lock = FileLock.take(file())
  const taking = `import { FileLock } from '@milagro-ts/store/file-lock'; FileLock.take(process.argv[1])`
  const elsewhere = async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', taking, file()], { stdio: 'ignore' })
    children.push(child)
    return (await once(child, 'close'))[0]
  }
  const ours = { reason: 'locked', message: expect.stringContaining(`held by process ${process.pid} since`) }
  expect(() => FileLock.take(file())).toThrow(expect.objectContaining(ours))
  await expect(withFileLock(file(), () => 0, { patience: 0 })).rejects.toMatchObject(ours)
  expect(await elsewhere()).toBe(1)
  lock.release()
  lock.release()
  expect(existsSync(`${file()}.holder`)).toBe(false)
  expect(await elsewhere()).toBe(0)
  FileLock.take(file()).release()
})

test('a name that was left half-written is no name', async () => {
  const child = await holder()
  for (const text of ['', '{"pid":', '{"pid":"x","since":1}', '7']) {
    await writeFile(`${file()}.holder`, text)
    await expect(withFileLock(file(), () => 0, { patience: 0 })).rejects.toThrow('another process')
  }
  await rm(`${file()}.holder`)
  await expect(withFileLock(file(), () => 0, { patience: 0 })).rejects.toThrow('another process')
  expect(child.exitCode).toBeNull()
})

test('a lock file that cannot be made is no lock', async () => {
  await mkdir(file())
  await expect(withFileLock(file(), () => 0)).rejects.toMatchObject({ reason: 'unavailable' })
  const missing = join(folder, 'none', 'store.lock')
  await expect(withFileLock(missing, () => 0)).rejects.toBeInstanceOf(StoreError)
  const damaged = join(folder, 'damaged.lock')
  await writeFile(damaged, 'this is no database at all, but long enough to look like one'.repeat(20))
  await chmod(damaged, 0o600)
  await expect(withFileLock(damaged, () => 0)).rejects.toMatchObject({ reason: 'unavailable' })
})
