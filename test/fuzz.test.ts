/**
 * Every door for bytes and text from outside has a fuzz target: here, or in packages/crypto/test/decoding.test.ts. A door
 * refuses with an error of the kinds that it promises, or gives what spells the same; anything else (a TypeError, an
 * endless loop, another spelling) is a fault. `npm run fuzz` goes on for longer, from a seed that it prints. What it finds
 * becomes a test next to the code.
 */
import { createCipheriv, scryptSync } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ceremony, ROUNDS, type Round, readMessage } from '@milagro-ts/api/ceremony'
import { readLedgerPage, signLedgerPage } from '@milagro-ts/api/ceremony-ledger'
import { verifyTranscript } from '@milagro-ts/api/ceremony-run'
import { ConfigError } from '@milagro-ts/api/config'
import { AwaitingJoins, AwaitingOpenings } from '@milagro-ts/api/founding'
import { documentHash, Group } from '@milagro-ts/api/group'
import { readGroupFile } from '@milagro-ts/api/group-file'
import { signJws, verifyJws } from '@milagro-ts/api/jws'
import type { KeyFile, KeyFolder } from '@milagro-ts/api/key-file'
import {
  decodeHpkeKey,
  Es256PrivateKey,
  Es256PublicKey,
  generateEs256,
  HpkeKeyPair,
} from '@milagro-ts/api/keys'
import { Peaks } from '@milagro-ts/api/merkle-tree'
import { PermitBundle, pointOfPermit, writeBundle } from '@milagro-ts/api/permit-bundle'
import { Refused } from '@milagro-ts/api/problem'
import { RevokedLeaves } from '@milagro-ts/api/revoked-leaves'
import { open, seal } from '@milagro-ts/api/seal'
import { serviceKeys } from '@milagro-ts/api/service-keys'
import {
  decodeSignedLine,
  encodeSignedLine,
  JWS_ALG,
  signedFields,
  VerifiedMessage,
} from '@milagro-ts/api/signed-message'
import { readEvents } from '@milagro-ts/api/sse'
import { cosignerKid, signCosignature, signLeaves, verifyLeaves } from '@milagro-ts/api/statements'
import { parseStrictJson } from '@milagro-ts/api/strict-json'
import { systemTimers } from '@milagro-ts/api/system'
import { decodeStanza, decryptFile, encodeStanza, encryptFile } from '@milagro-ts/client/encrypted-file'
import { openMessage, openUnder, sealMessage, sealUnder } from '@milagro-ts/client/encrypted-message'
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
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { decodeNodes, decodePoints, encodeNodes, NodeShares } from '@milagro-ts/crypto/node-shares'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { KeyShare } from '@milagro-ts/crypto/share-proof'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { PURPOSES, SUITE } from '@milagro-ts/crypto/suite'
import { Permit, PermitClaim, targetBytes } from '@milagro-ts/crypto/time-permit'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import { LedgerMark } from '@milagro-ts/dta/ledger-mark'
import { LocalShares } from '@milagro-ts/dta/master-shares'
import { Policy } from '@milagro-ts/dta/policy'
import { RecordSeal } from '@milagro-ts/dta/record-seal'
import { SealedVault } from '@milagro-ts/dta/share-vault'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { CsvError, readVehicles } from '@milagro-ts/fleet/csv'
import { fleetKeys } from '@milagro-ts/fleet/fleet-keys'
import { LeafCeiling } from '@milagro-ts/fleet/leaf-ceiling'
import { RowSeal } from '@milagro-ts/fleet/sealed-rows'
import { rpsKeys } from '@milagro-ts/rps/rps-keys'
import { type ServerKeyPorts, ServerKeys } from '@milagro-ts/rps/server-keys'
import { openDatabase } from '@milagro-ts/store/database'
import { openSealed, sealBytes } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import { ClientHelloReader, pskIdentitiesOf } from '@milagro-ts/tls/client-hello'
import { readConnect } from '@milagro-ts/tls/mqtt-connect'
import { readProxyHeader } from '@milagro-ts/tls/proxy-protocol'
import { afterAll, describe, expect, test } from 'vitest'
import { payloadOf, say } from '../packages/api/test/ceremony-byzantine.js'
import {
  foundByCeremony,
  refreshProposal,
  runRounds,
  signed,
  TestParticipant,
} from '../packages/api/test/ceremony-members.js'
import type { Party } from '../packages/api/test/founding-members.js'
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
const { document, group, members, secrets: masters } = await makeGroup({ n: 2, t: 2 })
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

/** A folder for the doors that open files. */
const folder = mkdtempSync(join(tmpdir(), 'milagro-fuzz-'))
afterAll(() => rmSync(folder, { recursive: true }))
const PASSPHRASE = 'words that open it'
/** As sealed-file.ts has it, at a cost of next to nothing, so that what is inside can be another a thousand times. */
function cheaplySealed(plaintext: Uint8Array): Uint8Array {
  const [salt, nonce] = [seeded('salt')(16), seeded('nonce')(12)]
  const header = concat(utf8('milagro-sealed-1'), Uint8Array.of(1, 1, 1), salt, nonce)
  const key = scryptSync(PASSPHRASE, salt, 32, { N: 2, r: 1, p: 1 })
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(header)
  return concat(header, cipher.update(plaintext), cipher.final(), cipher.getAuthTag())
}
/** A planted cost is stretched before it is refused, for up to seconds: that door has its own test. */
const isPlanted = (bytes: Uint8Array, cost: string) =>
  bytes.length > 18 && latin1(bytes.slice(16, 19)) !== cost

/** `keys.sealed` of one kind of server, with other contents under the right passphrase. */
function keyFile<S extends ConstructorParameters<typeof KeyFile>[0]>(
  name: string,
  file: KeyFile<S>,
  keys: object,
): Target {
  const at: KeyFolder = { dataDir: join(folder, name), name, passphrase: PASSPHRASE }
  mkdirSync(at.dataDir)
  const hpkeSecret = toBase64Url(digestOf('hpke secret'))
  return {
    good: [json({ suite: SUITE, v: 1, name, ...keys, hpkeSecret })],
    again: async bytes => {
      writeFileSync(join(at.dataDir, 'keys.sealed'), cheaplySealed(bytes))
      return void (await file.read(at))
    },
    refuses: [StoreError],
    cases: 200,
  }
}
/** A file in the clear. */
const inFile = (name: string, bytes: Uint8Array): string => {
  writeFileSync(join(folder, name), bytes)
  return join(folder, name)
}

/** A slot's permits as files, with one leaf banned. */
const bundle = new Map<string, Uint8Array>()
const state = await verifyLeaves({
  statement: await signLeaves(
    {
      ...{ suite: SUITE, groupId: toBase64Url(group.groupId), number: 3 },
      leaves: toBase64Url(BannedLeaves.of([7]).encode()),
    },
    { key: members.ra[0] as Es256PrivateKey, kid: 'ra1' },
  ),
  group,
})
const manifest = await writeBundle({
  ...{ group, slot: SLOT, state, now: 0 },
  cosignatures: await Promise.all(
    members.authorities.map(async ({ signKey }, i) => ({
      index: i + 1,
      cosignature: await signCosignature(
        {
          ...{ suite: SUITE, groupId: toBase64Url(group.groupId), number: 3 },
          leavesHash: toBase64Url(state.hash),
        },
        { key: signKey, kid: cosignerKid(i + 1) },
      ),
    })),
  ),
  pointOf: async () => point.encode(),
  signer: { key: members.rps.signKey, kid: 'rps' },
  write: async (name, bytes) => void bundle.set(name, bytes),
})
const HEAD = `${SLOT}.json`
const LEAVES = `${manifest.leavesHash}.leaves`
const PERMITS = `${manifest.parts[0]?.hash}.permits`
const fileOf = (name: string) => bundle.get(name) as Uint8Array
/** The bundle with another file in the place of one. */
const bundleWith = (changed: string, bytes: Uint8Array) =>
  PermitBundle.open({
    ...{ group, slot: SLOT, least: 3 },
    read: async name => (name === changed ? bytes : fileOf(name)),
  })

/** Founded by a ceremony, and refreshed. */
const founded = await foundByCeremony({ n: 2, t: 2 })
const { ceremony: founding } = founded.participants[0] as TestParticipant
const refresh = Ceremony.read(refreshProposal(founded.group), founded.group)
const refreshing = founded.participants.map(
  ({ party, shares }) => new TestParticipant(party, refresh, { current: shares }),
)
const refreshRounds = await runRounds(refreshing)
const refreshed = await signed(refreshing, refreshRounds)
const transcript = (before: object[], rounds: readonly (readonly string[])[], document: object) =>
  utf8(
    [
      ...before,
      ...rounds.flatMap((said, r) => said.map(message => ({ round: ROUNDS[r], message }))),
      { document },
    ]
      .map(line => JSON.stringify(line))
      .join('\n'),
  )
const speaker = founded.parties[0] as Party
const page = await signLedgerPage(founding, {
  ...{ name: speaker.name, key: speaker.signKey, after: undefined },
  lines: [{ identityHash: toBase64Url(digestOf('i')), enrolmentKeyHash: toBase64Url(digestOf('e')) }],
})

const vault = new SealedVault({
  store: await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations }),
  passphrase: PASSPHRASE,
  hpkeSecret: digestOf('hpke secret'),
  random: seeded('vault'),
})
const kept = LocalShares.ofFounding(secrets)
const record = await vault.keep(kept, { groupId, origin })
const recordSeal = RecordSeal.of(digestOf('hpke secret'), 'ceremony-record')
const rowSeal = new RowSeal(digestOf('data key'), seeded('row'))

const serverKeyFolder = join(folder, 'server-keys')
mkdirSync(serverKeyFolder)
const serverKeyPorts = {
  ...{ name: 'rps', dataDir: serverKeyFolder, passphrase: PASSPHRASE, random: seeded('server keys') },
  pool: CryptoPool.start({ workers: 0, random: seeded('pool'), clock: () => 0, timers: systemTimers }),
} as Partial<ServerKeyPorts> as ServerKeyPorts
const box = await HpkeKeyPair.fromSecret(digestOf('box'))

const targets: Readonly<Record<string, Target>> = {
  'api/permit-bundle PermitBundle.open': {
    good: [fileOf(HEAD)],
    again: async bytes => {
      const { state, cover } = await bundleWith(HEAD, bytes)
      expect([state.number, cover.length]).toEqual([3, 32])
      return undefined
    },
    refuses: [DecodeError, Refused],
    cases: 300,
  },
  'api/permit-bundle PermitBundle.open: its leaves': {
    good: [fileOf(LEAVES)],
    again: async bytes => utf8((await bundleWith(LEAVES, bytes)).state.statement),
    refuses: [DecodeError, Refused],
    cases: 100,
  },
  'api/permit-bundle PermitBundle.part': {
    good: [fileOf(PERMITS)],
    again: async bytes => {
      const permits = await (await bundleWith(PERMITS, bytes)).part(0)
      return concat(
        ...permits.flatMap(({ node, permit }) => [
          targetBytes({ type: 'node', ...node }).subarray(1),
          pointOfPermit(permit),
        ]),
      )
    },
    cases: 100,
  },
  'api/ceremony-run verifyTranscript': {
    good: [
      transcript([{ proposal: founded.proposal }], founded.rounds, founded.group.document),
      transcript(
        [{ proposal: refresh.proposal }, { revision: founded.group.document }],
        refreshRounds,
        refreshed,
      ),
    ],
    again: async bytes => {
      const lines = new TextDecoder().decode(bytes).split('\n')
      const verdict = await verifyTranscript(lines)
      if (!verdict.valid) {
        expect(verdict.line >= 1 && verdict.line <= lines.length + 1).toBe(true)
        throw new DecodeError('transcript', verdict.why)
      }
      const made = toHex(documentHash(verdict.group.document))
      expect([founded.group.document, refreshed].map(known => toHex(documentHash(known)))).toContain(made)
      return undefined
    },
    cases: 50,
  },
  'api/ceremony readMessage': {
    // As it was said; and what its speaker may sign instead.
    good: [
      ...founded.rounds.map(([message]) => utf8(message as string)),
      ...founded.rounds.map(([message]) => json(payloadOf(message as string))),
    ],
    again: async bytes => {
      const text = latin1(bytes)
      const read = async (round: Round) => {
        const message = text.startsWith('{') ? await say(speaker, round, parsed(bytes) as object) : text
        const { who, payload } = await readMessage(founding, round, message)
        expect([who, payload.name]).toEqual([speaker.name, speaker.name])
      }
      const outcomes = await Promise.allSettled(ROUNDS.map(read))
      // Of one round, or of none.
      const refusals = outcomes.flatMap(one => (one.status === 'rejected' ? [one.reason as unknown] : []))
      const other = refusals.find(why => !(why instanceof Refused || why instanceof DecodeError))
      if (other !== undefined) throw other
      expect(refusals.length).toBeGreaterThanOrEqual(ROUNDS.length - 1)
      if (refusals.length === ROUNDS.length) throw refusals[0]
      return undefined
    },
    refuses: [Refused, DecodeError],
    cases: 300,
  },
  'api/ceremony-ledger readLedgerPage': {
    good: [utf8(page)],
    again: async bytes => {
      expect((await readLedgerPage(founding, latin1(bytes))).lines).toHaveLength(1)
      return undefined
    },
    refuses: [Refused, DecodeError],
    cases: 200,
  },
  'api/seal open': {
    good: [await seal(box.publicKey, utf8('info'), utf8('a share'), seeded('seal'))],
    again: async bytes => {
      const opened = await open(box, utf8('info'), bytes)
      if (opened === null) throw new DecodeError('sealed', 'changed')
      expect(latin1(opened)).toBe('a share')
      return bytes
    },
    cases: 100,
  },
  'api/group-file readGroupFile': {
    good: [json(document), json([document])],
    again: async bytes => void (await readGroupFile(inFile('group.json', bytes))),
    refuses: [ConfigError],
    cases: 200,
  },
  'api/key-file KeyFile.read': keyFile('ta1', authorityKeys, { signKey: signing.toJwk() }),
  'api/key-file KeyFile.read: an RPS': keyFile('rps', rpsKeys, {
    ...{ requestKey: signing.toJwk(), tokenKey: signing.toJwk() },
  }),
  'api/key-file KeyFile.read: a service': keyFile('broker', serviceKeys, { requestKey: signing.toJwk() }),
  'api/key-file KeyFile.read: a fleet': keyFile('fleet', fleetKeys, {
    ...{ dataKey: toBase64Url(digestOf('data key')), requestKey: signing.toJwk() },
  }),
  'rps/server-keys ServerKeys.open': {
    good: [
      json({
        ...{ suite: SUITE, v: 1, groupId: toBase64Url(group.groupId) },
        keys: (['device', 'pin'] as const).map(purpose => ({
          ...{ purpose, epoch: 1, key: toBase64Url(G2.generator.mulSecret(masters[purpose]).encode()) },
        })),
      }),
    ],
    again: async bytes => {
      writeFileSync(join(serverKeyFolder, 'server-keys.sealed'), cheaplySealed(bytes))
      return void (await ServerKeys.open(serverKeyPorts, group))
    },
    refuses: [StoreError],
    cases: 200,
  },
  'dta/share-vault SealedVault.open': {
    good: [record, cheaplySealed(kept.encode(origin))],
    again: async bytes => {
      if (vault.isOutdated(bytes) && isPlanted(bytes, '\x01\x01\x01')) return undefined
      const opened = await vault.open(bytes, { groupId, origin })
      expect(toHex(opened.encode(origin))).toBe(toHex(kept.encode(origin)))
      return bytes
    },
    refuses: [StoreError],
  },
  'dta/record-seal RecordSeal.open': {
    good: [recordSeal.seal(utf8('a record'), origin, seeded('record'))],
    again: bytes => {
      expect(latin1(recordSeal.open(bytes, origin))).toBe('a record')
      return bytes
    },
    refuses: [StoreError],
  },
  'dta/ledger-mark LedgerMark.open': {
    good: [utf8(`{"${toBase64Url(groupId)}":7}\n`)],
    again: async bytes => {
      inFile('issued.json', bytes)
      const mark = await LedgerMark.open(folder)
      for (const id of mark.groupIds) expect(Number.isSafeInteger(mark.of(id))).toBe(true)
      return undefined
    },
    refuses: [StoreError],
    cases: 300,
  },
  'dta/policy Policy.open': {
    good: [
      utf8(
        '{"groups":{"*":{"keysPerDay":10,"zone":"Europe/Berlin","hours":[{"days":["mon"],"from":"07:00","to":"19:00"}]}}}',
      ),
    ],
    again: bytes => void Policy.open(inFile('policy.json', bytes)),
    refuses: [ConfigError],
    cases: 300,
  },
  'fleet/leaf-ceiling LeafCeiling.open': {
    good: [utf8('1024\n')],
    again: bytes => {
      inFile('leaf-ceiling', bytes)
      return void LeafCeiling.open(folder)
    },
    refuses: [StoreError],
    cases: 300,
  },
  'fleet/sealed-rows RowSeal.open': {
    good: [rowSeal.seal('a row', utf8('a secret'))],
    again: bytes => {
      expect(latin1(rowSeal.open('a row', bytes))).toBe('a secret')
      return bytes
    },
    refuses: [StoreError],
  },
  'client/encrypted-message openUnder': {
    good: [await sealUnder(digestOf('key'), utf8('for'), utf8('a message'))],
    again: async bytes => {
      const opened = await openUnder(digestOf('key'), utf8('for'), bytes)
      if (opened === null) throw new DecodeError('message', 'changed')
      expect(latin1(opened)).toBe('a message')
      return bytes
    },
    cases: 200,
  },
  'tls/mqtt-connect readConnect': {
    good: [
      fromHex(`101100044d5154540402003c0005${toHex(utf8('car-1'))}`),
      fromHex(`101700044d5154540502003c05110000000a0005${toHex(utf8('car-1'))}`),
    ],
    again: bytes => {
      const found = readConnect(bytes)
      if (found !== 'more') expect(found.size).toBeLessThanOrEqual(bytes.length)
      return undefined
    },
    cases: 2000,
  },
  'tls/proxy-protocol readProxyHeader': {
    good: [
      fromHex('0d0a0d0a000d0a515549540a2111000cc6336407cb007101123401bb'),
      fromHex('0d0a0d0a000d0a515549540a20000000'),
      fromHex(
        '0d0a0d0a000d0a515549540a2121002a20010db8000000000000000000000007000000000000000000ffffffcb007101123401bb040003010203',
      ),
    ],
    again: bytes => {
      const found = readProxyHeader(Buffer.from(bytes))
      if (found === 'more') return undefined
      expect(found.size).toBeLessThanOrEqual(bytes.length)
      const { remoteAddress, localAddress } = found.ends ?? {}
      for (const one of [remoteAddress, localAddress]) if (one !== undefined) expect(isIP(one)).not.toBe(0)
      return undefined
    },
    cases: 2000,
  },
  'tls/client-hello ClientHelloReader.read': {
    good: [fromHex((JSON.parse(latin1(read('vectors/tls-handshake.json'))) as { client: string }).client)],
    again: bytes => {
      const reader = new ClientHelloReader()
      const half = bytes.length >> 1
      if (reader.read(bytes.slice(0, half)) === 'more') reader.read(bytes.slice(half))
      return undefined
    },
    cases: 500,
  },
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
    good: [sealBytes('words that open it', utf8('a secret'), seeded('sealed file'))],
    again: bytes => {
      if (!isPlanted(bytes, '\x0f\x08\x01'))
        expect(latin1(openSealed('words that open it', bytes))).toBe('a secret')
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

/**
 * Doors by their names that take no bytes or text from outside, or hand them to one that has a target; each with why. A new
 * `open…` or `read…` gets a target, or stands here.
 */
const NO_TARGET: Readonly<Record<string, string>> = {
  'api/call readAtMost': 'a limit; what was read is parsed elsewhere',
  'api/call readRefusal': 'JSON by its schema: the client’s test',
  'api/ceremony Ceremony.read': 'a value; verifyTranscript hands it proposals that were changed',
  'api/config readSecret': 'the operator’s environment',
  'api/data-folder openDataFolder': 'a database',
  'api/founding AwaitingJoins.open': 'a move of the founding',
  'api/founding AwaitingOpenings.openAgain': 'a move of the founding',
  'api/openapi openApi': 'writes',
  'api/process readFlags': 'the operator’s command line',
  'api/sealed-json readSealedJson': 'openSealed; what is in it goes to KeyFile.read and ServerKeys.open',
  'api/service-keys readServiceKeys': 'KeyFile.read',
  'cli/io readJsonFile': 'JSON.parse of a file that the user names',
  'cli/io readTextFile': 'a file that the user names, as it is',
  'cli/session openDevice': 'decodeRecords',
  'client/device Device.open': 'decodeRecords',
  'client/record Records.read': 'decodeRecords',
  'crypto/bytes readInteger': 'part of every decode',
  'dta/ceremonies Ceremonies.readLedger': 'writes a page',
  'dta/config readPassphrase': 'the operator’s environment',
  'dta/founding Foundings.open': 'a move of the founding',
  'dta/issuance-log readIssuance': 'rows of the database',
  'dta/server openKeys': 'KeyFile.read',
  'fleet/config readPassphrase': 'the operator’s environment',
  'fleet/fleet-keys readRaKeys': 'RowSeal.open',
  'fleet/group-in-force GroupInForce.open': 'readGroupFile, Group.verifyFile',
  'fleet/server openFleetKeys': 'KeyFile.read',
  'rpa/protect openGuard': 'settings of the operator',
  'rps/config readPassphrase': 'the operator’s environment',
  'rps/group-documents GroupDocuments.open': 'readGroupFile, Group.verifyFile',
  'rps/issuing Issuing.open': 'KeyFile.read, GroupDocuments.open',
  'rps/server openKeys': 'KeyFile.read',
  'rps/tree-permits TreePermits.open': 'a statement out of the database, which verifyJws reads',
  'store/database openDatabase': 'SQLite’s own file',
  'store/sealed-file readSealedFile': 'openSealed',
  'store/single-use openSingleUse': 'a database',
  'tls/admin-listener openAdmin': 'settings of the operator',
  'tls/psk-file-process openPskFile': 'settings of the operator, KeyFile.read',
  'tls/public-name-folder openServiceFolder': 'settings of the operator, KeyFile.read',
  'tls/service openTlsService': 'settings of the operator, KeyFile.read',
  'tls/service-folder readService': 'readServiceKeys; readGroupFile, Group.verifyFile',
}

/**
 * Exported functions `decode…`, `parse…`, `open…`, `read…` and `verifyTranscript`; of exported classes static `decode…`,
 * `fromJson`, `fromBase64Url`, `fromJwk`, and any method `open…` or `read…`.
 */
function doors(): string[] {
  const found: string[] = []
  for (const name of readdirSync(`${ROOT}packages`))
    for (const path of readdirSync(`${ROOT}packages/${name}/src`, { recursive: true, encoding: 'utf8' })) {
      if (!path.endsWith('.ts') || path.includes('-wasm')) continue
      for (const door of doorsIn(readFileSync(`${ROOT}packages/${name}/src/${path}`, 'utf8')))
        found.push(`${name}/${path.slice(0, -3)} ${door}`)
    }
  return found
}

const FREE =
  /^export (?:async )?(?:function|const) ((?:decode|parse)[A-Z]\w*|(?:open|read)(?:[A-Z]\w*)?|verifyTranscript)\b/
const OWNED =
  /^ {2}(?:static (?:async )?(decode\w*|fromJson|fromBase64Url|fromJwk)|(?:static )?(?:async )?((?:open|read)(?:[A-Z]\w*)?))(?:<[^>]*>)?\(/

function doorsIn(source: string): string[] {
  let owner = ''
  return source.split('\n').flatMap(line => {
    owner = /^export (?:abstract )?class (\w+)/.exec(line)?.[1] ?? (line === '}' ? '' : owner)
    const free = FREE.exec(line)?.[1]
    const [, made, method] = OWNED.exec(line) ?? []
    const owned = made ?? method
    const door = free ?? (owned !== undefined && owner !== '' ? `${owner}.${owned}` : undefined)
    return door === undefined ? [] : [door]
  })
}

test('every decode has a target', () => {
  const own = readFileSync(ROOT + DECODING, 'utf8')
  const found = doors()
  expect(found.length).toBeGreaterThan(90)
  const isOwn = (door: string) => !door.includes('/legacy/') && own.includes(`${door.split(' ')[1]}(`)
  expect(found.filter(door => !(door in targets) && !(door in NO_TARGET) && !isOwn(door))).toEqual([])
  expect(Object.keys(NO_TARGET).filter(door => !found.includes(door) || door in targets)).toEqual([])
})

test('a door is seen however it is written', () => {
  const lines = [
    'export async function openThing(bytes: Uint8Array) {}',
    'export const readThing = () => {}',
    'export async function verifyTranscript(lines: string[]) {}',
    'function readInside() {}',
    'export class Thing {',
    '  static async open(bytes: Uint8Array) {}',
    '  async readPart<T>(bytes: Uint8Array) {}',
    '  opened() {}',
    '}',
    'export function decodeThing(text: string) {}',
  ]
  expect(doorsIn(lines.join('\n'))).toEqual([
    ...['openThing', 'readThing', 'verifyTranscript', 'Thing.open', 'Thing.readPart', 'decodeThing'],
  ])
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
