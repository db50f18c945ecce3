/**
 * An authority that lies: it answers for a real one at that one's address, and gives shares of another secret, well
 * sealed and with a proof that holds for that other secret. `node dist/liar-main.js --port 1 --target http://real`.
 * Part of `--check`.
 */
import { parseArgs } from 'node:util'
import { seal } from '@milagro-ts/api/seal'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { encodeName, IdCore, type KeyIdentity, keyIdentityPoint, NO_USER } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { authorityIssue, shareContext } from '@milagro-ts/crypto/share-proof'
import { forward } from './forwarding.js'

interface ShareRequest {
  readonly ticket: readonly string[]
  readonly purpose: 'device' | 'pin' | 'sign' | 'agree'
}
interface ShareAnswer {
  readonly index: number
  readonly shareEpoch: number
  readonly sealed: string
}
interface Ticket {
  readonly groupId: string
  readonly idCore: string
  readonly userCore?: string
  readonly pinGen?: number
  readonly hpkeKey: string
  readonly jti: string
}

const { values } = parseArgs({ options: { port: { type: 'string' }, target: { type: 'string' } } })
const anotherSecret = Scalar.random(systemRandom)
const url = await forward({
  port: Number(values.port),
  target: values.target ?? '',
  onAnswer: async (request, answer) => {
    if (answer.status !== 200 || !request.url.endsWith('/shares')) return answer
    const genuine = JSON.parse(answer.body.toString()) as ShareAnswer
    const lie = await falseShare(JSON.parse(request.body.toString()) as ShareRequest, genuine)
    return { ...answer, body: Buffer.from(JSON.stringify({ ...genuine, sealed: lie })) }
  },
})
process.stdout.write(`${JSON.stringify({ event: 'ready', url, pid: process.pid })}\n`)

async function falseShare(
  { ticket, purpose }: ShareRequest,
  { index, shareEpoch }: ShareAnswer,
): Promise<string> {
  const [, payload = ''] = (ticket[0] ?? '').split('.')
  const said = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Ticket
  const groupId = fromBase64Url(said.groupId, 'groupId', 32)
  const idCore = IdCore.fromBase64Url(said.idCore)
  const userCore = said.userCore === undefined ? NO_USER : fromBase64Url(said.userCore, 'userCore', 32)
  const account = { userCore, pinGen: said.pinGen ?? 0 }
  const identity: KeyIdentity =
    purpose === 'agree'
      ? { purpose, name: encodeName(groupId, { kind: 1, idCore }) }
      : purpose === 'pin'
        ? { purpose, idCore, ...account }
        : { purpose, idCore }
  const ctx = shareContext({
    groupId,
    purpose,
    index,
    shareEpoch,
    identity: 'name' in identity ? identity.name : idCore.bytes,
    ...(purpose === 'pin' ? account : {}),
    jti: fromBase64Url(said.jti, 'jti', 16),
  })
  const A = keyIdentityPoint(groupId, identity)
  const share = authorityIssue(
    { ctx, commitment: G1.generator.mulSecret(anotherSecret), A },
    anotherSecret,
    systemRandom,
  )
  return toBase64Url(
    await seal(fromBase64Url(said.hpkeKey, 'hpkeKey', 32), ctx, share.encode(), systemRandom),
  )
}
