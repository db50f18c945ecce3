/** Ports for servers that a test starts by a number, where the system's own numbers can't come in between. */
import { freePorts } from '@milagro-ts/car-tracking/processes'

export async function freePort(): Promise<number> {
  const [port] = await freePorts(1)
  return port as number
}

/** The last search of this process: two at once would take each other's ports, and neither find a run. */
let last: Promise<unknown> = Promise.resolve()

/** A port from which on all of these distances are free. RangeError where the process' ports have no such run. */
export function freeBase(offsets: readonly number[], ports = freePorts): Promise<number> {
  const search = last.then(() => findBase(Math.max(...offsets) + 1, ports))
  last = search.catch(() => undefined)
  return search
}

/** Ports come in turn, so that after two rounds each run has been seen. */
const MOST_PORTS = 2 * 127

async function findBase(width: number, ports: typeof freePorts): Promise<number> {
  let run: number[] = []
  for (let looked = 0; looked < MOST_PORTS; looked++) {
    const [port] = (await ports(1)) as [number]
    run = port === (run.at(-1) ?? port) + 1 ? [...run, port] : [port]
    if (run.length === width) return run[0] as number
  }
  throw new RangeError(`no ${width} free ports in a row`)
}
