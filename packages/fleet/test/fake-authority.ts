/** What fleet sees of an authority: revisions to sign and to take, and an issuance log. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Group, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { verifyRevisionStatement } from '@milagro-ts/api/statements'
import { be32, be64, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { encodeTlv } from '@milagro-ts/crypto/tlv'

export interface LogEntry {
  readonly number: number
  readonly at: number
  readonly purpose: 'device'
  readonly ticketHash: string
  readonly idCoreHash: string
  readonly previous: string
}

export class FakeAuthority {
  readonly #server: Server
  signKey!: Es256PrivateKey
  group!: Group
  /** Whether its operator has accepted what comes next. */
  accepts = false
  up = true
  /** The document that it signed, by revision number: it signs no other, as an honest authority. */
  readonly #signed = new Map<number, string>()
  /** Whether a signed revision reaches it. */
  reachable = true
  log: LogEntry[] = []

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

  /** As an honest authority would log it. */
  issue(idCore: Uint8Array): void {
    const before = this.log.at(-1)
    const previous = before === undefined ? this.group.groupId : entryHash(this.group.groupId, before)
    this.log.push({
      number: this.log.length + 1,
      at: 1_770_000_000,
      purpose: 'device',
      ticketHash: toBase64Url(sha256(be32(this.log.length))),
      idCoreHash: toBase64Url(sha256(idCore)),
      previous: toBase64Url(previous),
    })
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
        if (!this.accepts) refuse('NOT_APPROVED')
        const { document } = JSON.parse(text) as { document: GroupDocument }
        this.group = await this.group.verifyNext(document)
        return answer(response, 200, { revision: this.group.revision })
      }
      case 'GET /log': {
        const from = Number(searchParams.get('from') ?? 1)
        return answer(response, 200, { entries: this.log.slice(from - 1, from + 1) })
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

function entryHash(groupId: Uint8Array, { number, at, purpose, ticketHash, idCoreHash, previous }: LogEntry) {
  const hash = (text: string) => fromBase64Url(text, 'hash', 32)
  return sha256(
    encodeTlv([
      groupId,
      be32(number),
      be64(at),
      utf8(purpose),
      hash(ticketHash),
      hash(idCoreHash),
      hash(previous),
    ]),
  )
}
