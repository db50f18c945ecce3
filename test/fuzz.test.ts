/**
 * Every door for bytes and text from outside has a fuzz target: here, or in packages/crypto/test/decoding.test.ts. A door
 * refuses with an error of the kinds that it promises, or gives what spells the same; anything else (a TypeError, an
 * endless loop, another spelling) is a fault. `npm run fuzz` goes on for longer, from a seed that it prints. What it finds
 * becomes a test next to the code.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { AwaitingJoins, AwaitingOpenings } from '@milagro-ts/api/founding'
import { Group } from '@milagro-ts/api/group'
import { signJws, verifyJws } from '@milagro-ts/api/jws'
import { decodeHpkeKey, Es256PrivateKey, Es256PublicKey, generateEs256 } from '@milagro-ts/api/keys'
import { Peaks } from '@milagro-ts/api/merkle-tree'
import { Refused } from '@milagro-ts/api/problem'
import { RevokedLeaves } from '@milagro-ts/api/revoked-leaves'
import {
  decodeSignedLine,
  encodeSignedLine,
  JWS_ALG,
  signedFields,
  VerifiedMessage,
} from '@milagro-ts/api/signed-message'
import { readEvents } from '@milagro-ts/api/sse'
import { parseStrictJson } from '@milagro-ts/api/strict-json'
import { decodeStanza, decryptFile, encodeStanza, encryptFile } from '@milagro-ts/client/encrypted-file'
import { openMessage, sealMessage } from '@milagro-ts/client/encrypted-message'
import { ClientError } from '@milagro-ts/client/errors'
import { decodeRecords, encodeRecords } from '@milagro-ts/client/record'
import { BlsSecretKey } from '@milagro-ts/crypto/bls'
import { concat, fromHex, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/curve'
import { Polynomial } from '@milagro-ts/crypto/dealing'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { decapsulate } from '@milagro-ts/crypto/ibe'
import { Signature } from '@milagro-ts/crypto/ibs'
import { encodeName, encryptPoint } from '@milagro-ts/crypto/identity'
import { BN254CX } from '@milagro-ts/crypto/legacy/curve'
import { G1 as LegacyG1, G2 as LegacyG2 } from '@milagro-ts/crypto/legacy/points'
import { Scalar as LegacyScalar } from '@milagro-ts/crypto/legacy/scalar'
import { LoginClaim } from '@milagro-ts/crypto/mpin'
import { decodeNodes, decodePoints, encodeNodes, NodeShares } from '@milagro-ts/crypto/node-shares'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { KeyShare } from '@milagro-ts/crypto/share-proof'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { Permit, PermitClaim } from '@milagro-ts/crypto/time-permit'
import { LocalShares } from '@milagro-ts/dta/master-shares'
import { CsvError, readVehicles } from '@milagro-ts/fleet/csv'
import { openSealed, sealBytes } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import { pskIdentitiesOf } from '@milagro-ts/tls/client-hello'
import { describe, expect, test } from 'vitest'
import { makeGroup } from '../packages/api/test/group-fixture.js'
import { dice, LONGER, mutate } from '../packages/crypto/test/fuzz.js'
import {
  car,
  digestOf,
  groupId,
  loginWithPin,
  SLOT,
  scalarOf,
  seeded,
} from '../packages/crypto/test/world.js'
import { ROOT } from '../scripts/prepare.mjs'

type ErrorClass = abstract new (...args: never[]) => Error
interface Target {
  readonly good: readonly Uint8Array[]
  /** What the door made, spelled again; undefined where it has no spelling. */
  readonly again: (bytes: Uint8Array) => Uint8Array | undefined | Promise<Uint8Array | undefined>
  readonly refuses?: readonly ErrorClass[]
  readonly cases?: number
  /** What it makes isn't spelled as it came: JSON, where blanks count for nothing. */
  readonly isForgiving?: true
  /** These reach the equations, and hold in none. */
  readonly isRefused?: true
}

const latin1 = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')
const json = (value: unknown) => utf8(JSON.stringify(value))
/** Text that is JSON, or the door is not reached. */
const parsed = (bytes: Uint8Array): unknown => {
  try {
    return JSON.parse(latin1(bytes))
  } catch {
    throw new DecodeError('json', 'none')
  }
}
const read = (file: string) => new Uint8Array(readFileSync(ROOT + file))

const point = G1.generator.mulPublic(scalarOf('a point'))
const permit = Permit.of(SLOT, { type: 'node', depth: 9, index: 3 }, point)
const signature = Signature.of(point, G1.generator)
const secrets = Object.fromEntries(PURPOSES.map(purpose => [purpose, scalarOf(purpose)])) as Record<
  (typeof PURPOSES)[number],
  ReturnType<typeof scalarOf>
>
const signing = await generateEs256()
const token = await signJws('mpin-fuzz', { a: 1 }, signing, 'kid')
const joins = AwaitingJoins.of(1, digestOf('blind'), secrets, token)
const origin = digestOf('origin')
const { document, group } = await makeGroup({ n: 2, t: 2 })
const fields = signedFields(
  { groupId: group.groupId, idCore: car, slot: 0, context: 'fuzz', signEpoch: 1 },
  signature,
  permit,
)
const nodes = [
  { depth: 0, index: 0 },
  { depth: 32, index: 7 },
]
const stanza = {
  groupId,
  epoch: 1,
  tag: Uint8Array.of(1, 2, 3, 4),
  encapsulation: seeded('encapsulation')(160),
  sealedKey: seeded('sealed')(32),
}
const streamOf = (bytes: Uint8Array) => new Blob([bytes.slice()]).stream() as ReadableStream<Uint8Array>
const bytesOf = async (stream: ReadableStream<Uint8Array>) =>
  new Uint8Array(await new Response(stream).arrayBuffer())
/** To a name whose key is He(name): the master secret is 1. */
const messageTerms = {
  name: encodeName(groupId, { kind: 4, name: 'fuzz.example', generation: 0 }),
  Ppub: G2.generator,
}
const message = await sealMessage(messageTerms, utf8('a message'), seeded('message'))
/** σ and M of the file below. */
const M = seeded('M')(32)
const plaintext = seeded('file')(70_000)
const file = await bytesOf(
  await encryptFile(streamOf(plaintext), {
    to: [car],
    group: {
      groupId,
      slotRule: { origin: 0, length: 3600 },
      keysAt: () => ({ epoch: 1, pub: G2.generator }),
    },
    now: 7_200_000,
    random: () => M.slice(),
  }),
)
const opener = {
  groupId,
  encryptionName: () => encodeName(groupId, { kind: 1, idCore: car }),
  decapsulate: async () => M.slice(),
}
const jwsHead = (change: object = {}) =>
  toBase64Url(
    json({
      alg: JWS_ALG,
      typ: 'mpin-signed',
      kid: car.mpinId,
      groupId: toBase64Url(group.groupId),
      slot: 0,
      context: 'fuzz',
      permit: toBase64Url(permit.encode()),
      ...change,
    }),
  )

const targets: Readonly<Record<string, Target>> = {
  'crypto/ibs Signature.decode': {
    good: [signature.encode()],
    again: bytes => Signature.decode(bytes).encode(),
  },
  'crypto/bls BlsSecretKey.decode': {
    good: [scalarOf('a key').encode(), Scalar.fromBigInt(ORDER - 1n).encode()],
    again: bytes => BlsSecretKey.decode(bytes).encode(),
  },
  'crypto/legacy/points G1.decode': {
    good: [LegacyG1.generator(BN254CX).encode()],
    again: bytes => LegacyG1.decode(BN254CX, bytes).encode(),
    cases: 200,
  },
  'crypto/legacy/points G2.decode': {
    good: [LegacyG2.generator(BN254CX).encode()],
    again: bytes => LegacyG2.decode(BN254CX, bytes).encode(),
    cases: 100,
  },
  'crypto/legacy/scalar Scalar.decode': {
    good: [
      LegacyScalar.decode(
        BN254CX,
        Uint8Array.from({ length: 32 }, (_, i) => (i < 16 ? 0 : i)),
      ).encode(),
    ],
    again: bytes => LegacyScalar.decode(BN254CX, bytes).encode(),
  },
  'crypto/share-proof KeyShare.decodeG2': {
    good: [KeyShare.of(G2.generator, scalarOf('κ'), scalarOf('z')).encode()],
    again: bytes => KeyShare.decodeG2(bytes).encode(),
    cases: 200,
  },
  'crypto/time-permit PermitClaim.decode': {
    good: [permit.encode()],
    again: bytes => PermitClaim.decode(bytes).bytes,
  },
  'crypto/mpin LoginClaim.decode': {
    good: [loginWithPin().encode()],
    again: bytes => void LoginClaim.decode(bytes),
  },
  'crypto/mpin LoginClaim.fromJson': {
    good: [json(loginWithPin().toJson())],
    again: bytes => void LoginClaim.fromJson(parsed(bytes)),
  },
  'api/revoked-leaves RevokedLeaves.decode': {
    good: [RevokedLeaves.of([9, 5, 2 ** 32 - 1].map(leaf => ({ leaf, slot: 328 }))).encode()],
    again: bytes => RevokedLeaves.decode(bytes).encode(),
  },
  'crypto/permit-tree BannedLeaves.decode': {
    good: [BannedLeaves.of([1, 5, 9, 2 ** 32 - 1]).encode()],
    again: bytes => BannedLeaves.decode(bytes).encode(),
  },
  'crypto/static-agreement PskIdentity.decode': {
    good: [
      utf8(`m1.${toBase64Url(concat(car.bytes, new Uint8Array(4), point.encode()))}`),
      utf8(`s1.${car.mpinId}`),
    ],
    again: bytes => {
      const { kind, idCore, slot, R } = PskIdentity.decode(latin1(bytes))
      const number = new Uint8Array(4)
      new DataView(number.buffer).setUint32(0, slot ?? 0)
      return utf8(
        `${kind}.${toBase64Url(kind === 's1' ? idCore.bytes : concat(idCore.bytes, number, R as Uint8Array))}`,
      )
    },
  },
  'crypto/dealing Polynomial.decode': {
    good: [concat(scalarOf('1').encode(), scalarOf('2').encode())],
    again: bytes => Polynomial.decode(bytes).encode(),
  },
  'crypto/node-shares NodeShares.decode': {
    good: [NodeShares.of([point, G1.generator], scalarOf('κ'), scalarOf('z')).encode()],
    again: bytes => NodeShares.decode(bytes).encode(),
  },
  'crypto/node-shares decodeNodes': {
    good: [encodeNodes(nodes)],
    again: bytes => encodeNodes(decodeNodes(bytes)),
  },
  'crypto/node-shares decodePoints': {
    good: [concat(point.encode(), G1.generator.encode())],
    again: bytes => concat(...decodePoints(bytes, 'points').map(one => one.encode())),
  },
  'api/keys Es256PublicKey.decode': {
    good: [signing.publicKey.encode()],
    again: bytes => Es256PublicKey.decode(bytes).encode(),
  },
  'api/keys Es256PublicKey.fromBase64Url': {
    good: [utf8(signing.publicKey.toBase64Url())],
    again: bytes => utf8(Es256PublicKey.fromBase64Url(latin1(bytes)).toBase64Url()),
  },
  'api/keys Es256PublicKey.fromJwk': {
    good: [json(signing.publicKey.toJwk())],
    again: bytes => void Es256PublicKey.fromJwk((parsed(bytes) ?? {}) as object),
  },
  'api/keys Es256PrivateKey.fromJwk': {
    good: [json(signing.toJwk())],
    again: async bytes => void (await Es256PrivateKey.fromJwk((parsed(bytes) ?? {}) as never)),
    cases: 200,
  },
  'api/keys decodeHpkeKey': {
    good: [utf8(toBase64Url(digestOf('hpke')))],
    again: bytes => utf8(toBase64Url(decodeHpkeKey(latin1(bytes)))),
  },
  'api/founding AwaitingJoins.decode': {
    good: [joins.encode()],
    again: bytes => AwaitingJoins.decode(bytes).encode(),
    isForgiving: true,
  },
  'api/founding AwaitingOpenings.decode': {
    good: [
      json({
        ...(JSON.parse(latin1(joins.encode())) as object),
        blind: undefined,
        join: undefined,
        joins: [token],
        opening: token,
      }),
    ],
    again: bytes => AwaitingOpenings.decode(bytes).encode(),
    isForgiving: true,
  },
  'api/merkle-tree Peaks.decode': {
    good: [concat(digestOf('1'), digestOf('2'))],
    again: bytes => Peaks.decode(5, bytes).encode(),
    refuses: [RangeError],
  },
  'api/strict-json parseStrictJson': {
    good: [utf8('{"a":[1,true,null,"é"],"b":{"c":-1.5e3}}')],
    again: bytes => void parseStrictJson(bytes),
    refuses: [Refused],
    cases: 4000,
  },
  'api/jws verifyJws': {
    good: [utf8(token)],
    again: async bytes => {
      const verified = await verifyJws('mpin-fuzz', latin1(bytes), signing.publicKey)
      // Two forms of one ECDSA signature are none of ours: what is signed is the same.
      if (verified !== null) expect(latin1(verified.bytes)).toBe('{"a":1}')
      return undefined
    },
    cases: 300,
  },
  'api/sse readEvents': {
    good: [utf8('id: 1\nevent: ban\ndata: {"a":1}\ndata: 2\n\n: heartbeat\n\ndata: x\r\n\r\n')],
    again: async bytes => {
      for await (const event of readEvents(streamOf(bytes)))
        if (event !== null) expect(typeof event.data).toBe('string')
      return undefined
    },
    refuses: [RangeError],
  },
  'api/group Group.verifyFile': {
    good: [json(document), json([document])],
    again: async bytes => {
      const read = await Group.verifyFile(parsed(bytes))
      // Signatures are no part of the document's hash, and another one may verify.
      expect(toHex(read.groupId)).toBe(toHex(group.groupId))
      return undefined
    },
    refuses: [DecodeError, Refused],
    cases: 150,
  },
  'api/signed-message VerifiedMessage.verify': {
    good: [
      utf8(`${jwsHead()}.${toBase64Url(utf8('m'))}.${toBase64Url(signature.encode())}`),
      utf8(`${jwsHead()}..${toBase64Url(signature.encode())}`),
      json(fields),
    ],
    again: bytes => {
      const text = latin1(bytes)
      const signed = text.startsWith('{') ? parsed(bytes) : text
      const now = group.slotRule.origin * 1000
      // None of these was signed.
      VerifiedMessage.verify({ message: utf8('m'), signed, group, context: 'fuzz', now })
      throw new Error('a signature that nobody made')
    },
    refuses: [DecodeError, Refused],
    cases: 600,
    isRefused: true,
  },
  'api/signed-message decodeSignedLine': {
    good: [
      utf8(encodeSignedLine({ message: utf8('m'), signed: fields })),
      utf8('{"message":"","signed":"eyJ.."}'),
    ],
    again: bytes => {
      const { message, signed } = decodeSignedLine(latin1(bytes))
      return utf8(encodeSignedLine({ message, signed: signed as typeof fields }))
    },
    isForgiving: true,
  },
  'client/encrypted-file decodeStanza': {
    good: [stanza, { ...stanza, slot: 7 }].map(one =>
      json({ args: encodeStanza(one).args, body: toHex(encodeStanza(one).body) }),
    ),
    again: bytes => {
      const { args, body } = (parsed(bytes) ?? {}) as { args?: unknown; body?: unknown }
      // age gives an array of strings and bytes.
      if (!Array.isArray(args) || args.some(arg => typeof arg !== 'string') || typeof body !== 'string')
        return undefined
      const read = decodeStanza({ args, body: fromHex(body) })
      if (read !== null) expect(encodeStanza(read).args).toEqual(args)
      return undefined
    },
  },
  'client/encrypted-file decryptFile': {
    good: [file],
    again: async bytes => {
      expect(latin1(await bytesOf(await decryptFile(streamOf(bytes), opener)))).toBe(latin1(plaintext))
      return bytes
    },
    refuses: [DecodeError, ClientError],
    cases: 400,
  },
  'client/encrypted-message openMessage': {
    good: [message],
    again: async bytes => {
      const opened = await openMessage(bytes, async encapsulation =>
        decapsulate(messageTerms, encryptPoint(messageTerms.name), encapsulation),
      )
      if (opened === null) throw new DecodeError('message', 'changed')
      expect(latin1(opened)).toBe('a message')
      return bytes
    },
    cases: 400,
  },
  'client/record decodeRecords': {
    good: [
      utf8(
        encodeRecords([
          {
            groupId,
            instance: 'VIN-1',
            revisions: [document],
            device: {
              idCore: car,
              attributes: { brand: 'Fiat' },
              key: point,
              unlocker: null,
              keyHash: digestOf('hash'),
              codeId: null,
              keyEpoch: 1,
              agree: null,
              sign: null,
              encrypt: { key: point, unlocker: 'tpm2', keyHash: digestOf('other'), epoch: 1 },
              ahead: { from: 1, to: 2, delta: point },
              slotKeys: [
                { key: G2.generator, unlocker: null, keyHash: digestOf('third'), slot: 7, epoch: 1 },
              ],
              fileKeys: [{ key: point, unlocker: null, keyHash: digestOf('fourth'), slot: 7, epoch: 1 }],
            },
            users: [],
            pending: [],
            permit,
            nextPermit: null,
            leavesNumber: 3,
          },
        ]),
      ),
    ],
    again: bytes => {
      const text = latin1(bytes)
      return void encodeRecords(decodeRecords(text))
    },
    refuses: [ClientError],
    cases: 500,
  },
  'dta/master-shares LocalShares.decode': {
    good: [LocalShares.ofFounding(secrets).encode(origin)],
    // The plaintext is overwritten.
    again: bytes => LocalShares.decode(bytes.slice(), origin).encode(origin),
    refuses: [DecodeError, StoreError],
  },
  'fleet/csv readVehicles': {
    good: [utf8('instance,brand,model\nVIN-1,Fiat,"Panda ""4x4"""\r\nVIN-2,VW,Golf\n')],
    again: bytes => void readVehicles([latin1(bytes)]),
    refuses: [CsvError],
    cases: 2000,
  },
  'store/sealed-file openSealed': {
    good: [sealBytes('a passphrase', utf8('a secret'), seeded('sealed file'))],
    again: bytes => {
      // A planted cost is stretched before it is refused, for up to seconds: that door has its own test.
      const planted = bytes.length > 18 && latin1(bytes.slice(16, 19)) !== '\x0f\x08\x01'
      if (!planted) expect(latin1(openSealed('a passphrase', bytes))).toBe('a secret')
      return undefined
    },
    refuses: [StoreError],
    cases: 20,
  },
  'tls/client-hello pskIdentitiesOf': {
    good: [fromHex((JSON.parse(latin1(read('vectors/tls-handshake.json'))) as { client: string }).client)],
    again: bytes => {
      const identities = pskIdentitiesOf(bytes)
      if (identities !== 'more') for (const identity of identities) expect(typeof identity).toBe('string')
      return undefined
    },
    cases: 2000,
  },
}

/** Doors whose targets stand in the crypto package's own test, which calls them by name. */
const DECODING = 'packages/crypto/test/decoding.test.ts'

/** Exported functions `decode…` and `parse…`, and static `decode…`, `fromJson`, `fromBase64Url`, `fromJwk` of exported classes. */
function doors(): string[] {
  const found: string[] = []
  for (const name of readdirSync(`${ROOT}packages`))
    for (const path of readdirSync(`${ROOT}packages/${name}/src`, { recursive: true, encoding: 'utf8' })) {
      if (!path.endsWith('.ts') || path.includes('-wasm')) continue
      let owner = ''
      for (const line of readFileSync(`${ROOT}packages/${name}/src/${path}`, 'utf8').split('\n')) {
        owner = /^export class (\w+)/.exec(line)?.[1] ?? (line === '}' ? '' : owner)
        const free = /^export (?:async )?(?:function|const) ((?:decode|parse)[A-Z]\w*)/.exec(line)?.[1]
        const owned = /^ {2}static (?:async )?(decode\w*|fromJson|fromBase64Url|fromJwk)\(/.exec(line)?.[1]
        const door = free ?? (owned !== undefined && owner !== '' ? `${owner}.${owned}` : undefined)
        if (door !== undefined) found.push(`${name}/${path.slice(0, -3)} ${door}`)
      }
    }
  return found
}

test('every decode has a target', () => {
  const own = readFileSync(ROOT + DECODING, 'utf8')
  const found = doors()
  expect(found.length).toBeGreaterThan(35)
  const isOwn = (door: string) => !door.includes('/legacy/') && own.includes(`${door.split(' ')[1]}(`)
  expect(found.filter(door => !(door in targets) && !isOwn(door))).toEqual([])
})

describe.each(Object.entries(targets))(
  '%s',
  (name, { good, again, refuses = [DecodeError], cases = 800, isForgiving, isRefused }) => {
    const outcome = async (bytes: Uint8Array): Promise<Uint8Array | null | undefined> => {
      try {
        return await again(bytes)
      } catch (error) {
        if (refuses.some(kind => error instanceof kind)) return null
        throw error
      }
    }

    test(isRefused ? 'refuses what holds in no equation' : 'takes what is good', async () => {
      for (const bytes of good) {
        const result = await outcome(bytes)
        expect(result === null).toBe(isRefused === true)
        if (result != null && isForgiving !== true) expect(toHex(result)).toBe(toHex(bytes))
      }
    })

    test(`${LONGER * cases} mutations, and noise`, async () => {
      const roll = dice(`fuzz ${name}`)
      const noise = Array.from({ length: 20 }, (_, i) => seeded(`noise ${i}`)(i * 5))
      const changed = (): Uint8Array => {
        let bytes = good[roll(good.length)] as Uint8Array
        for (let times = 1 + roll(2); times > 0; times--) bytes = mutate(bytes, roll)
        return bytes
      }
      for (let i = 0; i < LONGER * cases + noise.length; i++) {
        const bytes = noise[i] ?? changed()
        const given = bytes.slice()
        const result = await outcome(bytes)
        if (result != null && isForgiving !== true) expect(toHex(result)).toBe(toHex(given))
        expect(Buffer.from(bytes).equals(given)).toBe(true)
      }
    })
  },
)
