/** The group document as settings name it: a file, `groupFile`, and what pins it, `groupId`. */
import { readFile } from 'node:fs/promises'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { ConfigError } from './config.js'
import { Group, type KeyCheck } from './group.js'
import { Refused } from './problem.js'

/** The revisions in a file that holds the first one, or an array from the first on; none is checked. ConfigError. */
export async function readGroupFile(path: string): Promise<readonly unknown[]> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw wrong(`cannot read '${path}' (${error.code ?? 'error'})`)
  })
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) ? value : [value]
  } catch {
    throw wrong(`'${path}' is not JSON`)
  }
}

/** The pinned group out of its file. ConfigError for settings that are missing, and for what isn't this group's. */
export async function pinnedGroup(
  { groupFile, groupId }: { readonly groupFile?: string | undefined; readonly groupId?: string | undefined },
  keyCheck: KeyCheck,
): Promise<Group> {
  if (groupFile === undefined || groupId === undefined)
    throw new ConfigError("settings 'groupFile' and 'groupId' are missing")
  const revisions = await readGroupFile(groupFile)
  try {
    return await Group.verifyChain(revisions, fromBase64Url(groupId, 'groupId', 32), keyCheck)
  } catch (error) {
    if (!(error instanceof Refused) && !(error instanceof DecodeError)) throw error
    throw wrong(`'${groupFile}': ${error.message}`)
  }
}

const wrong = (why: string) => new ConfigError(`setting 'groupFile': ${why}`)
