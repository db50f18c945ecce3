/** `milagro store`: copies of a server's database, and the steps of its schema. */
import { access, copyFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { takeDataFolder } from '@milagro-ts/api/data-folder'
import { systemClock } from '@milagro-ts/api/system'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { migrations as fleetMigrations } from '@milagro-ts/fleet/schema'
import { distrustRestored } from '@milagro-ts/rps/restore'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { isInUse, type Migration, openDatabase } from '@milagro-ts/store/database'
import { StoreError } from '@milagro-ts/store/store-error'
import { type Command, Option } from 'commander'
import { answers, CommandRefused, type Io, UsageError } from '../io.js'
import type { ServerKind } from '../programs.js'

const MIGRATIONS: Readonly<Record<ServerKind, readonly Migration[]>> = {
  dta: dtaMigrations,
  rps: rpsMigrations,
  fleet: fleetMigrations,
}
interface StoreOptions {
  readonly server: ServerKind
  readonly dataDir: string
}

export function addStore(program: Command, io: Io): void {
  const store = program.command('store').description('a server’s database: copies and schema')
  const verb = (name: string, description: string) =>
    store
      .command(name)
      .description(description)
      .addOption(
        new Option('--server <kind>', 'whose database it is')
          .choices(['dta', 'rps', 'fleet'])
          .makeOptionMandatory(),
      )
      .requiredOption('--data-dir <folder>', 'the server’s data folder')

  answers(
    io,
    verb('backup', 'write a consistent copy, its schema as it is; the server may run meanwhile').argument(
      '<file>',
      'must not exist',
    ),
    async (file: string, options: StoreOptions) => {
      const database = await open(databaseOf(options), options.server, 'as it is')
      await database.backup(file).finally(() => database.close())
      return { json: { backup: file }, text: [`written to ${file}`] }
    },
  )

  answers(
    io,
    verb(
      'restore',
      'put a copy in the place of a database that is gone, damaged or wrong; stop the server first',
    ).argument('<file>', 'as `store backup` wrote it'),
    (file: string, options: StoreOptions) =>
      alone(options, async () => {
        const target = databaseOf(options)
        const former = `${target}.before-restore`
        if (await exists(former))
          throw new CommandRefused(`${former} is there from a restore before: move it away`)
        if (!(await exists(file))) throw new UsageError(`cannot read '${file}'`)
        // Who goes on writing into the former file would forget all of it: a command beside the server doesn't take the folder.
        if ((await exists(target)) && isInUse(target))
          throw new CommandRefused(`${target} is in use: stop the server first`)
        const copy = `${target}.restoring`
        await copyFile(file, copy)
        try {
          // Damage, or another server's database, shows here, while the former one is still in its place.
          const restored = await open(copy, options.server)
          try {
            if (options.server === 'rps') await distrustRestored(restored, systemClock())
          } finally {
            await restored.close()
          }
          await putAside(target, former, options.server)
          await rename(copy, target)
        } finally {
          await Promise.all(['', '-wal', '-shm'].map(suffix => rm(copy + suffix, { force: true })))
        }
        const isKept = await exists(former)
        return {
          json: { restored: target, ...(isKept ? { former } : {}) },
          text: [isKept ? `restored; the former database is ${former}` : 'restored'],
        }
      }),
  )

  answers(
    io,
    verb('migrate', 'apply the schema’s newer steps, as the server’s start would'),
    (options: StoreOptions) =>
      alone(options, async () => {
        await (await open(databaseOf(options), options.server)).close()
        const steps = MIGRATIONS[options.server].length
        return { json: { steps }, text: [`at step ${steps}`] }
      }),
  )
}

/** `work` with the folder as a server has it, so that none is started meanwhile. */
async function alone<Result>({ dataDir }: StoreOptions, work: () => Promise<Result>): Promise<Result> {
  if (!(await exists(dataDir))) throw new UsageError(`there is no ${dataDir}`)
  const lock = takeDataFolder(dataDir)
  return work().finally(() => lock.release())
}

/**
 * Closing folds the write-ahead log into the file that is put aside. One that is damaged, empty, or of a newer version or
 * another program goes as it is, with its log: it's the reason for a restore.
 */
async function putAside(target: string, former: string, server: ServerKind): Promise<void> {
  if (!(await exists(target))) return
  try {
    await (await open(target, server, 'as it is')).close()
  } catch (error) {
    if (!(error instanceof StoreError) || !['damaged', 'newer', 'foreign'].includes(error.reason)) throw error
  }
  for (const suffix of ['-wal', '-shm'])
    if (await exists(target + suffix)) await rename(target + suffix, former + suffix)
  await rename(target, former)
}

function databaseOf({ server, dataDir }: StoreOptions): string {
  return join(dataDir, `${server}.sqlite`)
}

async function open(file: string, server: ServerKind, schema: 'newest' | 'as it is' = 'newest') {
  if (!(await exists(file))) throw new UsageError(`there is no ${file}`)
  if ((await stat(file)).size === 0)
    throw new StoreError('damaged', `database ${file} is empty: restore it from a backup`)
  return openDatabase<unknown>({ file, migrations: MIGRATIONS[server], schema })
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}
