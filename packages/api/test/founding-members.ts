/** Authorities that live in the test's process, and what they found a group from. */
import {
  type AwaitingJoins,
  AwaitingOpenings,
  type FoundingClient,
  foundingJoin,
} from '@milagro-ts/api/founding'
import { documentHash, type Group, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument, GroupProposal } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { fixedRandom } from './fixed-random.js'

export interface Party {
  readonly name: string
  readonly signKey: Es256PrivateKey
  readonly hpkeKey: string
}
export interface Members {
  readonly proposal: GroupProposal
  readonly authorities: readonly Party[]
  readonly rps: Party
  readonly tracking: Party
  readonly ra: readonly Es256PrivateKey[]
}

export async function party(name: string): Promise<Party> {
  const { publicKey } = await generateHpkeKey(fixedRandom(`hpke ${name}`))
  return { name, signKey: await generateEs256(), hpkeKey: toBase64Url(publicKey) }
}

export async function makeMembers({
  n = 3,
  m = 1,
  k = 1,
}: {
  n?: number
  m?: number
  k?: number
} = {}): Promise<Members> {
  const authorities = await Promise.all(Array.from({ length: n }, (_, i) => party(`ta${i + 1}`)))
  const [rps, tracking] = await Promise.all([party('rps'), party('tracking')])
  const ra = await Promise.all(Array.from({ length: k }, generateEs256))
  const recipient = (
    { name, signKey, hpkeKey }: Party,
    purposes: GroupProposal['recipients'][number]['purposes'],
  ) => ({
    name,
    kind: 2,
    generation: 1,
    purposes,
    hpkeKey,
    requestKey: signKey.publicKey.toBase64Url(),
  })
  const proposal: GroupProposal = {
    suite: 'BLS12381-SHA256-V1',
    v: 1,
    n,
    t: n,
    authorities: authorities.map(({ name, signKey, hpkeKey }, i) => ({
      index: i + 1,
      name,
      url: `http://127.0.0.1:${4001 + i}`,
      signKey: signKey.publicKey.toBase64Url(),
      hpkeKey,
    })),
    ra: { m, keys: ra.map((key, i) => ({ kid: `ra${i + 1}`, key: key.publicKey.toBase64Url() })) },
    recipients: [recipient(rps, ['device', 'pin']), recipient(tracking, ['agree'])],
    slot: { origin: 1_767_225_600, length: 86_400 },
    policy: { lead: 1, grace: 300 },
    firstSlot: 0,
    nonce: toBase64Url(fixedRandom('proposal')(32)),
  }
  return { proposal, authorities, rps, tracking, ra }
}

/** A D-TA's part in a founding, without its server: states go through their codecs, as through a store. */
export class MemberAuthority implements FoundingClient {
  readonly #proposal: GroupProposal
  readonly #index: number
  readonly #key: Es256PrivateKey
  #joined: AwaitingJoins | undefined
  #opened: Uint8Array | undefined
  #document: GroupDocument | undefined
  concluded: GroupDocument | undefined

  constructor({ proposal, authorities }: Members, index: number) {
    this.#proposal = proposal
    this.#index = index
    this.#key = (authorities[index - 1] as Party).signKey
  }

  async joinFounding() {
    const [proposal, index, key] = [this.#proposal, this.#index, this.#key]
    this.#joined ??= await foundingJoin({ proposal, index, key, random: fixedRandom(`founding ${index}`) })
    return { join: this.#joined.join }
  }

  async openFounding({ body: { joins } }: { body: { joins: readonly string[] } }) {
    const [proposal, key] = [this.#proposal, this.#key]
    if (this.#opened !== undefined)
      return { opening: await AwaitingOpenings.decode(this.#opened).openAgain({ proposal, joins }) }
    const random = fixedRandom(`possession ${this.#index}`)
    const opened = await (this.#joined as AwaitingJoins).open({ proposal, joins, key, random })
    this.#opened = opened.encode()
    return { opening: opened.opening }
  }

  async signFounding({ body: { openings } }: { body: { openings: readonly string[] } }) {
    const state = AwaitingOpenings.decode(this.#opened as Uint8Array)
    const { document } = await state.compose({ proposal: this.#proposal, openings })
    this.#document = document
    return {
      groupId: toBase64Url(documentHash(document)),
      signature: await signDocument(document, this.#key),
    }
  }

  async concludeFounding({ body: { document } }: { body: { document: GroupDocument } }) {
    this.concluded = document
    return { groupId: toBase64Url(documentHash(this.#document as GroupDocument)) }
  }

  /** s_j of every purpose, once composed. */
  async shares(group: Group, openings: readonly string[]) {
    const state = AwaitingOpenings.decode(this.#opened as Uint8Array)
    const { document, shares } = await state.compose({ proposal: this.#proposal, openings })
    if (toBase64Url(documentHash(document)) !== toBase64Url(group.groupId)) throw new Error('another group')
    return shares
  }
}
