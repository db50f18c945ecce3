/**
 * A gate without a network: a car signs a message, and whoever has the message, its signature file and the pinned group
 * document knows that it is this car's, of this slot, and that the car wasn't banned when its permit was made
 * (`milagro verify --offline`). In the next slot the same file is refused.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { run } from '@milagro-ts/cli/program'
import type { Device } from '@milagro-ts/client/device'
import { utf8 } from '@milagro-ts/crypto/bytes'
import type { Servers } from './servers.js'

const CONTEXT = 'gate of the car park'

interface Scene {
  readonly folder: string
  readonly servers: Pick<Servers, 'group' | 'groupId'>
  readonly probe: Device
  readonly untilSlot: (slot: number) => Promise<void>
}

interface Verdict {
  readonly exit: number
  readonly valid?: true
  readonly code?: string
  readonly idCore?: string
  readonly slot?: number
}

export async function signedOffline(story: Scene): Promise<Readonly<Record<string, unknown>>> {
  const gate = join(story.folder, 'gate')
  await mkdir(gate)
  const file = (name: string) => join(gate, name)
  const message = JSON.stringify({ plate: 'PROBE', enters: true })
  await writeFile(file('group.json'), JSON.stringify(story.servers.group.documents))
  await writeFile(file('message.json'), message)
  await writeFile(file('other.json'), message.replace('true', 'false'))

  let asked = 0
  const noNetwork: typeof fetch = () => {
    asked++
    return Promise.reject(new TypeError('the gate has no network'))
  }
  const verify = async (name: string, signature: string): Promise<Verdict> => {
    let out = ''
    const bytes = {
      input: () => new ReadableStream<Uint8Array>({ start: controller => controller.close() }),
      close: () => {},
      inputSize: 0,
      output: async () => {},
      isWatched: false,
    }
    const io = { err: () => {}, env: {}, clock: systemClock, random: systemRandom, isTerminal: false, bytes }
    const exit = await run(
      [
        ...[
          'verify',
          file(name),
          '--signature',
          file(signature),
          '--context',
          CONTEXT,
          '--offline',
          '--json',
        ],
        ...['--group', file('group.json'), '--group-id', story.servers.groupId],
      ],
      {
        ...io,
        out: text => {
          out += text
        },
        fetch: noNetwork,
      },
    )
    const { valid, code, idCore, slot } = JSON.parse(out)
    return { exit, valid, code, idCore, slot }
  }
  const sign = async (signature: string) => {
    const signed = await story.probe.signOffline(utf8(message), CONTEXT)
    await writeFile(file(signature), JSON.stringify(signed))
    return signed.slot
  }

  // The slot may end between signing and verifying: then it is signed again, at the begin of one.
  let slot = await sign('message.sig')
  let valid = await verify('message.json', 'message.sig')
  if (valid.exit !== 0) {
    await story.untilSlot(slot + 1)
    slot = await sign('message.sig')
    valid = await verify('message.json', 'message.sig')
  }
  if (valid.exit !== 0 || valid.idCore !== story.probe.mpinId)
    throw new Error(`a message signed in slot ${slot} is refused: ${valid.code}`)
  const other = await verify('other.json', 'message.sig')
  if (other.code !== 'WRONG_PROOF') throw new Error(`another message passes: ${other.code}`)

  await story.untilSlot(slot + 1)
  const yesterdays = await verify('message.json', 'message.sig')
  if (yesterdays.code !== 'EXPIRED')
    throw new Error(`a signature of slot ${slot} still counts: ${yesterdays.code}`)
  const today = await sign('today.sig')
  const renamed = JSON.stringify({ ...JSON.parse(await readFile(file('message.sig'), 'utf8')), slot: today })
  await writeFile(file('renamed.sig'), renamed)
  const underTodaysSlot = await verify('message.json', 'renamed.sig')
  if (underTodaysSlot.code !== 'WRONG_PERMIT')
    throw new Error(`yesterday’s permit under today’s slot: ${underTodaysSlot.code}`)
  if (asked > 0) throw new Error('the gate asked somebody')
  return { idCore: valid.idCore, slot, valid: valid.valid, other, yesterdays, underTodaysSlot, asked }
}
