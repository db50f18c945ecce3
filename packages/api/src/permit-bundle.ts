/**
 * All permits of one slot as files, for any HTTP server or cache.
 *
 *   <slot>.json              {manifest, cosignatures}        replaced when a ban has made another cover: cache it briefly
 *   <leavesHash>.leaves      mpin-leaves+jwt                 named by what is in it: never another
 *   <hash>.permits           depth u8 ‖ be32 index ‖ point (48) for up to 4 096 nodes, in the order of their leaves
 *
 * Whoever serves them is not trusted. A permit proves itself; that none is missing and none is of another slot, the
 * manifest says, which the publisher has signed and whose parts are named by their hashes; the banned leaves are signed
 * by the RA and by t authorities, and their number is one that the reader has not seen a higher one of.
 */
import { concat, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { leavesBelow, type NodeList, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { SUITE } from '@milagro-ts/crypto/suite'
import { encodePermit, type PermitTarget, targetBytes } from '@milagro-ts/crypto/time-permit'
import type { Group } from './group.js'
import { Refused } from './problem.js'
import { Jws, Strict } from './schemas.js'
import {
  type BundlePayload,
  type LeavesState,
  type Signer,
  signBundle,
  verifyBundle,
  verifyCosignatures,
  verifyLeaves,
} from './statements.js'
import Type, { Compile } from './typebox.js'

/** Nodes of one part. */
export const PART = 4_096
const ENTRY = 53
/** Bytes of a whole part. */
export const PART_BYTES = PART * ENTRY

const Head = Compile(
  Strict({
    manifest: Jws(8_388_608),
    cosignatures: Type.Array(
      Strict({ index: Type.Integer({ minimum: 1, maximum: 255 }), cosignature: Jws() }),
      { maxItems: 255 },
    ),
  }),
)

/** The bytes of a file by its name, from wherever it lies. */
export type Read = (name: string) => Promise<Uint8Array>

export interface Cosigned {
  readonly index: number
  readonly cosignature: string
}

/** Writes a bundle, its head last. `pointOf` gives the 48 bytes of a node's permit. */
export async function writeBundle({
  group,
  slot,
  state,
  cosignatures,
  pointOf,
  signer,
  now,
  write,
}: {
  group: Group
  slot: number
  state: LeavesState
  cosignatures: readonly Cosigned[]
  pointOf: (node: TreeNode) => Promise<Uint8Array>
  signer: Signer
  /** Unix milliseconds. */
  now: number
  write: (name: string, bytes: Uint8Array) => Promise<void>
}): Promise<BundlePayload> {
  const cover = state.leaves.cover()
  const parts: { hash: string; first: number }[] = []
  for (let from = 0; from < cover.length; from += PART) {
    const nodes = cover.slice(from, from + PART)
    const entries: Uint8Array[] = []
    for (const node of nodes) entries.push(entryOf(node, await pointOf(node)))
    const bytes = concat(...entries)
    const hash = toBase64Url(sha256(bytes))
    await write(`${hash}.permits`, bytes)
    parts.push({ hash, first: leavesBelow(nodes[0] as TreeNode).first })
  }
  const leavesHash = toBase64Url(state.hash)
  await write(`${leavesHash}.leaves`, utf8(state.statement))
  const payload: BundlePayload = {
    suite: SUITE,
    groupId: toBase64Url(group.groupId),
    slot,
    number: state.number,
    leavesHash,
    nodes: cover.length,
    parts,
    iat: Math.floor(now / 1000),
  }
  const head = { manifest: await signBundle(payload, signer), cosignatures: [...cosignatures] }
  await write(`${slot}.json`, utf8(JSON.stringify(head)))
  return payload
}

const entryOf = (node: TreeNode, point: Uint8Array): Uint8Array =>
  concat(targetBytes({ type: 'node', ...node }).subarray(1), point)

/** A bundle whose head and leaves have passed every check; permits are looked up in it, still to be verified. */
export class PermitBundle {
  readonly state: LeavesState
  readonly slot: number
  readonly cover: NodeList
  readonly #parts: BundlePayload['parts']
  readonly #read: Read

  private constructor(payload: BundlePayload, state: LeavesState, cover: NodeList, read: Read) {
    this.slot = payload.slot
    this.state = state
    this.cover = cover
    this.#parts = payload.parts
    this.#read = read
  }

  /**
   * Refused NOT_APPROVED (a signature, or a bundle of another slot or group), EXPIRED (a state older than `least`);
   * DecodeError for what is no bundle.
   * @param least The highest number of a state that the reader has seen.
   */
  static async open({
    group,
    slot,
    least,
    read,
  }: {
    group: Group
    slot: number
    least: number
    read: Read
  }): Promise<PermitBundle> {
    const head = parsed(await read(`${slot}.json`))
    const payload = await verifyBundle({ manifest: head.manifest, group })
    if (payload.slot !== slot) throw new Refused('NOT_APPROVED', { detail: 'a bundle of another slot' })
    if (payload.number < least) throw new Refused('EXPIRED', { detail: 'an older revocation state' })
    const statement = fromUtf8(await read(`${payload.leavesHash}.leaves`), 'leaves')
    const state = await verifyLeaves({ statement, group })
    if (state.number !== payload.number || toBase64Url(state.hash) !== payload.leavesHash)
      throw new Refused('NOT_APPROVED', { detail: 'other leaves than the manifest speaks of' })
    await verifyCosignatures({ cosignatures: head.cosignatures, group, state })
    const cover = state.leaves.cover()
    if (cover.length !== payload.nodes || Math.ceil(cover.length / PART) !== payload.parts.length)
      throw new DecodeError('bundle.nodes', 'not the cover of these leaves')
    return new PermitBundle(payload, state, cover, read)
  }

  /** The permit (a TLV) that covers the leaf, not verified yet. Refused BANNED; DecodeError for a changed part. */
  async permitOf(leaf: number): Promise<Uint8Array> {
    const node = this.state.leaves.nodeOf(leaf)
    if (node === null) throw new Refused('BANNED')
    const { first } = leavesBelow(node)
    const place = this.#parts.findLastIndex(part => part.first <= first)
    const found = (await this.part(place)).find(
      entry => entry.node.depth === node.depth && entry.node.index === node.index,
    )
    if (found === undefined) throw new DecodeError('bundle.part', 'a node of the cover is missing')
    return found.permit
  }

  get parts(): number {
    return this.#parts.length
  }

  /** The permits of one part, every node of it the one that the cover has there. DecodeError. */
  async part(place: number): Promise<readonly { readonly node: TreeNode; readonly permit: Uint8Array }[]> {
    const named = this.#parts[place]
    if (named === undefined) throw new DecodeError('bundle.part', 'no such part')
    const bytes = await this.#read(`${named.hash}.permits`)
    if (toBase64Url(sha256(bytes)) !== named.hash)
      throw new DecodeError('bundle.part', 'not what its hash says')
    const nodes = this.cover.slice(place * PART, (place + 1) * PART)
    if (bytes.length !== ENTRY * nodes.length)
      throw new DecodeError('bundle.part', 'another length than its nodes')
    return nodes.map((node, i) => {
      const entry = bytes.slice(ENTRY * i, ENTRY * (i + 1))
      const target: PermitTarget = { type: 'node', ...node }
      const expected = targetBytes(target).subarray(1)
      if (!expected.every((byte, at) => byte === entry[at]))
        throw new DecodeError('bundle.part', 'another node than the cover has there')
      return { node, permit: encodePermit(this.slot, target, entry.subarray(5)) }
    })
  }
}

function parsed(bytes: Uint8Array): { manifest: string; cosignatures: Cosigned[] } {
  let value: unknown
  try {
    value = JSON.parse(fromUtf8(bytes, 'bundle'))
  } catch {
    throw new DecodeError('bundle', 'not JSON')
  }
  if (!Head.Check(value)) throw new DecodeError('bundle', 'wrong shape')
  return value
}

/** The 48 bytes of a permit's TLV. */
export const pointOfPermit = (permit: Uint8Array): Uint8Array => permit.slice(-48)
