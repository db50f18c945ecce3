/** What fleet sees of an authority: revisions to sign and to take, and an issuance log with its heads. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Group, type GroupAuthority, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { entryHashes, type IssuanceEntry, LogHead } from '@milagro-ts/api/issuance-log'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { consistencyProof, type NodeAt, nodeHash, treeRoot } from '@milagro-ts/api/merkle-tree'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { verifyRevisionStatement } from '@milagro-ts/api/statements'
import { be32, toBase64Url } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'

export class FakeAuthority {
  readonly #server: Server
  signKey!: Es256PrivateKey
  group!: Group
  /** Whether its operator has accepted what comes next. */
  accepts = false
  /** A revision that its operator hasn't accepted, whatever comes next. */
  refuses: number | undefined
  up = true
  /** The document that it signed, by revision number: it signs no other, as an honest authority. */
  readonly #signed = new Map<number, string>()
  /** Whether a signed revision reaches it. */
  reachable = true
  log: IssuanceEntry[] = []
  /** Unix seconds of its heads. */
  now = 1_770_000_000
  leavesAt: number | undefined
  /** What happens before it answers a page. */
  onPage = () => {}
  /** What becomes of its proofs on the way. */
  onProof = (proof: Uint8Array[]) => proof
  /** Heads of others' logs that it hands on. */
  seen: { authority: string; head: string }[] = []

  constructor() {
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        const refused = error instanceof Refused ? error : new Refused('INTERNAL')
        answer(response, refused.status, refused.toProblem())
      })
    })
  }
  static async listen(): Promise<FakeAuthority> {
    const authority = new FakeAuthority()
    await new Promise<void>(resolve => authority.#server.listen(0, '127.0.0.1', resolve))
    return authority
  }
  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }
  close(): Promise<unknown> {
    this.#server.closeAllConnections()
    return new Promise(resolve => this.#server.close(resolve))
  }

  /** Forgets what it has signed. */
  release(): void {
    this.#signed.clear()
  }

  /** As an honest authority would log it. */
  issue(
    idCore: Uint8Array,
    ticketHash = sha256(be32(this.log.length)),
    what: Pick<IssuanceEntry, 'purpose' | 'kind'> = { purpose: 'device' },
  ): void {
    const { groupId } = this.group
    const before = this.log.at(-1)
    const previous = before === undefined ? groupId : entryHashes(groupId, before).hash
    this.log.push({
      number: this.log.length + 1,
      at: this.now,
      ...what,
      ticketHash: toBase64Url(ticketHash),
      idCoreHash: toBase64Url(sha256(idCore)),
      previous: toBase64Url(previous),
    })
  }

  /** What it signs of a log: its own unless said. */
  head(log = this.log): Promise<string> {
    const { name } = this.group.authorities.find(({ signKey }) =>
      signKey.equals(this.signKey.publicKey),
    ) as GroupAuthority
    const { groupId } = this.group
    const head = { size: log.length, root: treeRoot(log.length, this.#nodes(log)), at: this.now }
    return LogHead.sign({ groupId, name }, { ...head, leavesAt: this.leavesAt }, this.signKey)
  }

  #nodes(log: readonly IssuanceEntry[]): NodeAt {
    const { groupId } = this.group
    const nodeAt: NodeAt = (level, position) =>
      level === 0
        ? entryHashes(groupId, log[position] as IssuanceEntry).leaf
        : nodeHash(nodeAt(level - 1, 2 * position), nodeAt(level - 1, 2 * position + 1))
    return nodeAt
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!this.up) {
      request.socket.destroy()
      return
    }
    let text = ''
    for await (const chunk of request) text += String(chunk)
    const { pathname, searchParams } = new URL(request.url ?? '', this.url)
    const moved = pathname.replace(`/v1/groups/${toBase64Url(this.group.groupId)}`, '')
    const refuse = (code: Code) => {
      throw new Refused(code)
    }
    switch (`${request.method} ${moved}`) {
      case 'GET ':
        return answer(response, 200, this.group.document)
      case 'POST /revisions': {
        const { document, statement } = JSON.parse(text) as { document: GroupDocument; statement: string }
        await verifyRevisionStatement({ statement, group: this.group, document })
        if (!this.accepts) refuse('NOT_APPROVED')
        const hash = toBase64Url(await this.group.checkNext(document))
        const before = this.#signed.get(document.revision)
        if (before !== undefined && before !== hash) refuse('CONFLICT')
        const isOwn = this.group.authorities.some(({ signKey }) => signKey.equals(this.signKey.publicKey))
        if (isOwn) this.#signed.set(document.revision, hash)
        return answer(response, 200, { index: 1, signature: await signDocument(document, this.signKey) })
      }
      case 'POST /revisions/conclude': {
        if (!this.reachable) {
          request.socket.destroy()
          return
        }
        const { document } = JSON.parse(text) as { document: GroupDocument }
        if (!this.accepts || document.revision === this.refuses) refuse('NOT_APPROVED')
        this.group = await this.group.verifyNext(document)
        return answer(response, 200, { revision: this.group.revision })
      }
      case 'GET /log': {
        this.onPage()
        const from = Number(searchParams.get('from') ?? 1)
        return answer(response, 200, { entries: this.log.slice(from - 1, from + 1) })
      }
      case 'GET /log/head':
        return answer(response, 200, { head: await this.head(), seen: this.seen })
      case 'GET /log/consistency': {
        const [before, after] = ['before', 'after'].map(name => Number(searchParams.get(name))) as [
          number,
          number,
        ]
        if (after > this.log.length) refuse('NOT_FOUND')
        const proof = consistencyProof(before, after, this.#nodes(this.log))
        return answer(response, 200, { proof: this.onProof(proof).map(toBase64Url) })
      }
      default:
        return refuse('NOT_FOUND')
    }
  }
}

function answer(response: ServerResponse, status: number, value: unknown): void {
  const type = `application/${status === 200 ? 'json' : 'problem+json'}`
  response.writeHead(status, { 'content-type': type }).end(JSON.stringify(value))
}
