/**
 * The group document in force, as the RPS has it: looked at once a minute, and whenever something fails that a later revision may
 * put right.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import type { Timers } from '@milagro-ts/api/system'
import { followGroup, type GroupSource } from '@milagro-ts/client/group-store'

/** Milliseconds between two looks for a newer revision. */
const FOLLOW = 60_000

export interface FollowedGroupPorts {
  /** Asked for revisions. */
  readonly rps: GroupSource['rps']
  readonly timers: Timers
  readonly log: Log
}

export class FollowedGroup {
  readonly #ports: FollowedGroupPorts
  readonly #waits = new Set<() => void>()
  #group: Group
  #isClosed = false
  readonly #endLooking: () => void

  /** @param pinned The group as it is known: what comes after it is verified by it. */
  constructor(pinned: Group, ports: FollowedGroupPorts) {
    this.#group = pinned
    this.#ports = ports
    this.#endLooking = ports.timers.every(FOLLOW, () => {
      this.follow().catch((error: unknown) =>
        ports.log.warn({ err: error }, 'no look at the group document; tried again'),
      )
    })
  }

  get current(): Group {
    return this.#group
  }

  /** The newest revision there is. Unreachable, Refused; ClientError WRONG_GROUP for what doesn't follow from the pinned one. */
  async follow(): Promise<Group> {
    const wait = (milliseconds: number) => this.#wait(milliseconds)
    const newest = await followGroup({ rps: this.#ports.rps, wait }, this.#group)
    // Another look may have got further meanwhile.
    if (newest.revision > this.#group.revision) this.#group = newest
    return this.#group
  }

  /** What `attempt` gives by the group as it is known, or by a later revision where there is one. Rejects as the last attempt did. */
  async orByNewer<T>(attempt: () => Promise<T>): Promise<T> {
    const known = this.#group
    try {
      return await attempt()
    } catch (error) {
      await this.follow().catch(() => known)
      if (this.#group === known) throw error
      return attempt()
    }
  }

  /** No look begins any more, and none waits for an RPS that doesn't answer. */
  close(): void {
    this.#isClosed = true
    this.#endLooking()
    for (const end of this.#waits) end()
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise(resolve => {
      if (this.#isClosed) return resolve()
      const end = () => {
        endTimer()
        this.#waits.delete(end)
        resolve()
      }
      const endTimer = this.#ports.timers.after(milliseconds, end)
      this.#waits.add(end)
    })
  }
}
