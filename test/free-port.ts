/** Ports for servers that a test starts by a number, where the system's own numbers can't come in between. */
import { freePorts, isFree } from '@milagro-ts/car-tracking/processes'

export async function freePort(): Promise<number> {
  const [port] = await freePorts(1)
  return port as number
}

/** A port from which on all of these distances are free. */
export async function freeBase(offsets: readonly number[]): Promise<number> {
  for (;;) {
    const base = await freePort()
    const free = await Promise.all(offsets.map(offset => isFree(base + offset)))
    if (free.every(Boolean)) return base
  }
}
