/** Ports for servers that a test starts by a number, where the system's own numbers can't come in between. */
import { freePorts } from '@milagro-ts/car-tracking/processes'

export async function freePort(): Promise<number> {
  const [port] = await freePorts(1)
  return port as number
}

/** A port from which on all of these distances are free. */
export async function freeBase(offsets: readonly number[]): Promise<number> {
  const width = Math.max(...offsets) + 1
  for (let tries = 0; tries < 100; tries++) {
    const ports = await freePorts(width)
    const base = ports[0] as number
    const isRun = ports.every((port, i) => port === base + i)
    if (isRun) return base
  }
  throw new RangeError(`no ${width} free ports in a row`)
}
