/** A folder that the setting `dataDir` names: made, or said in one sentence why it isn't, or isn't written. */
import { mkdir, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { StoreError } from '@milagro-ts/store/store-error'
import { ConfigError } from './config.js'

/**
 * Makes it, and those that it is in, for this user alone. As `unusable` says where it can't be made.
 *
 * Level by level: node's recursive `mkdir` says ENOENT for a file system that is read-only, and under `/proc` never ends.
 */
export async function makeFolder(dataDir: string): Promise<void> {
  try {
    await makeLevel(resolve(dataDir))
  } catch (error) {
    throw unusable(dataDir, error)
  }
}

/** Another process may make it at the same time. */
async function makeLevel(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 })
  } catch (error) {
    if (await isFolder(path)) return
    if (codeOf(error) !== 'ENOENT' || dirname(path) === path || (await isFolder(dirname(path)))) throw error
    await makeLevel(dirname(path))
    await makeLevel(path)
  }
}

const isFolder = (path: string) =>
  stat(path).then(
    found => found.isDirectory(),
    () => false,
  )

/** What a file system says, and what that means for the setting. */
const CAUSES: Readonly<Record<string, string>> = {
  EROFS: 'the file system is read-only',
  EACCES: 'this user may not write there',
  EPERM: 'this user may not write there',
  EEXIST: 'it is no folder',
  ENOTDIR: 'it is no folder, or in none',
  ENOENT: 'the file system takes no folder there',
}
const FULL: readonly string[] = ['ENOSPC', 'EDQUOT']

/** ConfigError for what the file system refuses to make or write there; StoreError for a full one; another error as it is. */
export function unusable(dataDir: string, error: unknown): unknown {
  const code = codeOf(error)
  if (code === undefined) return error
  if (FULL.includes(code))
    return new StoreError('unavailable', `setting 'dataDir': no room is left for '${dataDir}' (${code})`, {
      cause: error,
    })
  const cause = CAUSES[code]
  const why = cause === undefined ? code : `${cause} (${code})`
  return new ConfigError(`setting 'dataDir': '${dataDir}' can't be made or written: ${why}`)
}

export const noFolderYet = (dataDir: string): ConfigError =>
  new ConfigError(
    `setting 'dataDir': '${dataDir}' is no data folder yet: make it with --init, or mount the disk that it is on`,
  )

function codeOf(error: unknown): string | undefined {
  const { code } = error as NodeJS.ErrnoException
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined
}
