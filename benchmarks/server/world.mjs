/**
 * What a benchmark of the RPS needs around it: a group of one authority whose secrets are known here, an RPA that knows
 * everybody, and a data folder in which every car has its permit. Everything is on 127.0.0.1.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { Group, signDocument } from '@milagro-ts/api/group'
import { generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { serverCallerCheck } from '@milagro-ts/api/request-auth'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { seal } from '@milagro-ts/api/seal'
import { createApp, mount } from '@milagro-ts/api/serve'
import {
  cosignerKid,
  leavesHash,
  signCosignature,
  signLeaves,
  signState,
  signTree,
} from '@milagro-ts/api/statements'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { encodeName, issueIdCore } from '@milagro-ts/crypto/identity'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { hasPublicKey, PURPOSES, SUITE } from '@milagro-ts/crypto/suite'
import { encodePermit, permitInput, permitPoint, slotAt, targetBytes } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { openKeys } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'

export const PASSPHRASE = 'nobody measures a secret'
export const ISSUER = 'https://rps.example'
export const AUDIENCE = 'https://tracking.example'
const HERE = { host: '127.0.0.1', port: 0 }
const quiet = createLog('benchmark', { level: 'silent' })

/** Car `leaf`, the same in every process. @param {Uint8Array} groupId @param {number} leaf */
export function carOf(groupId, leaf) {
  return issueIdCore({
    groupId,
    attributes: { brand: 'Acme', model: 'Roadster' },
    instance: `VIN${leaf}`,
    issueDate: '2026-01-01',
    enrolmentKeyHash: sha256(utf8(`enrolment key ${leaf}`)),
    salt: sha256(utf8(`salt ${leaf}`)).slice(0, 16),
    leaf,
    generation: 0,
    factors: 0,
  })
}

/** Any request JWT once, as long as nobody sends it twice here. */
const anyJwt = { put: async () => true }

/**
 * The folder of an RPS, and the two servers that it asks. Cars need no row of theirs: whoever has a key may log in.
 *
 * @param {{folder: string, workers: number}} options
 */
export async function makeWorld({ folder, workers }) {
  const dataDir = join(folder, 'rps')
  await mkdir(dataDir, { recursive: true })
  const [raKey, signKey, hpkeKey] = [
    await generateEs256(),
    await generateEs256(),
    await generateHpkeKey(systemRandom),
  ]
  const secrets = new Map(PURPOSES.map(purpose => [purpose, Scalar.random(systemRandom)]))
  const secretOf = (/** @type {import('@milagro-ts/crypto/suite').Purpose} */ purpose) =>
    /** @type {Scalar} */ (secrets.get(purpose))
  /** @type {{group: Group | undefined, url: string, rpaUrl: string}} */
  const known = { group: undefined, url: '', rpaUrl: '' }
  const groupNow = () => /** @type {Group} */ (known.group)
  const server =
    (/** @type {'url' | 'rpaUrl'} */ which) => (/** @type {import('@milagro-ts/api/serve').Meta} */ meta) =>
      serverCallerCheck({
        keyOf: name => groupNow().recipient(name)?.requestKey,
        singleUse: anyJwt,
        clock: systemClock,
        publicUrl: known[which],
      })(meta)

  const authority = createApp({ title: 'authority', log: quiet, metrics: createMetrics('authority') })
  const nobodyBanned = () =>
    /** @type {const} */ ({ suite: SUITE, groupId: toBase64Url(groupNow().groupId), number: 0 })
  const { serverKeys, leaves: cosigned } = dtaRoutes
  mount(
    authority,
    { serverKeys, leaves: cosigned },
    {
      leaves: async () => ({
        index: 1,
        cosignature: await signCosignature(
          { ...nobodyBanned(), leavesHash: toBase64Url(leavesHash(nobodyBanned())) },
          { key: signKey, kid: cosignerKid(1) },
        ),
      }),
      serverKeys: async ({ body, caller }) => {
        const { groupId } = groupNow()
        const recipient = groupNow().recipient(caller.name)
        if (recipient === undefined) throw new Error('no such recipient')
        const ctx = shareContext({
          groupId,
          purpose: body.purpose,
          index: 1,
          shareEpoch: 1,
          identity: encodeName(groupId, { kind: 2, name: recipient.name, generation: 1 }),
          jti: fromBase64Url(body.nonce, 'nonce', 16),
        })
        const W = G2.generator.mulSecret(secretOf(body.purpose)).encode()
        const sealed = await seal(recipient.hpkeKey, ctx, encodeTlv([W]), systemRandom)
        return { index: 1, shareEpoch: 1, sealed: toBase64Url(sealed) }
      },
    },
    { server: server('url') },
  )
  known.url = await authority.listen(HERE)

  const rpa = createApp({ title: 'rpa', log: quiet, metrics: createMetrics('rpa') })
  const { authenticated, state, tree } = rpaRoutes
  mount(
    rpa,
    { authenticated, state, tree },
    {
      authenticated: async () => ({ unknown: [] }),
      tree: async ({ body }) => {
        const iat = Math.floor(systemClock() / 1000)
        const word = {
          ...nobodyBanned(),
          keyEpoch: 1,
          slot: body.slot,
          leavesHash: toBase64Url(leavesHash(nobodyBanned())),
          iat,
          exp: iat + 60,
          jti: toBase64Url(systemRandom(16)),
        }
        return { statement: await signTree(word, { key: raKey, kid: 'ra1' }) }
      },
      state: async () => ({
        state: await signState(
          {
            ...nobodyBanned(),
            iat: Math.floor(systemClock() / 1000),
            banned: [],
            revoked: [],
          },
          { key: raKey, kid: 'ra1' },
        ),
      }),
    },
    { server: server('rpaUrl') },
  )
  known.rpaUrl = await rpa.listen(HERE)

  const config = {
    name: 'rps',
    listen: HERE,
    adminListen: HERE,
    publicUrl: ISSUER,
    dataDir,
    groupFile: join(folder, 'group.json'),
    rpa: { url: known.rpaUrl },
    audiences: [{ name: AUDIENCE, pin: 'never', tlsExporter: 'absent' }],
    workers,
    // All cars have one address here.
    rateLimit: {
      address: { perSecond: 1_000_000, burst: 1_000_000 },
      failedProofs: { perSecond: 1_000_000, burst: 1_000_000 },
    },
    logLevel: 'error',
  }
  const keys = await openKeys({
    config: /** @type {import('@milagro-ts/rps/config').RpsConfig} */ ({ ...config, groupId: '' }),
    passphrase: PASSPHRASE,
    random: systemRandom,
  })
  const now = Math.floor(systemClock() / 1000)
  const slot = { origin: now - (now % 86_400) - 86_400, length: 7 * 86_400 }
  const purposeOf = (/** @type {import('@milagro-ts/crypto/suite').Purpose} */ purpose) => {
    const P = toBase64Url(G1.generator.mulSecret(secretOf(purpose)).encode())
    const pub = hasPublicKey(purpose)
      ? { pub: toBase64Url(G2.generator.mulSecret(secretOf(purpose)).encode()) }
      : {}
    return { epoch: 1, firstSlot: 0, ivk: P, shares: [P], ...pub }
  }
  const unsigned = {
    suite: SUITE,
    v: 1,
    revision: 1,
    n: 1,
    t: 1,
    purposes: Object.fromEntries(PURPOSES.map(purpose => [purpose, purposeOf(purpose)])),
    authorities: [
      {
        index: 1,
        name: 'ta1',
        url: known.url,
        signKey: signKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(hpkeKey.publicKey),
      },
    ],
    ra: { m: 1, keys: [{ kid: 'ra1', key: raKey.publicKey.toBase64Url() }] },
    recipients: [
      {
        name: 'rps',
        kind: 2,
        generation: 1,
        purposes: ['device', 'pin'],
        hpkeKey: toBase64Url(keys.hpkeKey.publicKey),
        requestKey: keys.requestKey.publicKey.toBase64Url(),
      },
    ],
    slot,
    policy: { lead: 0, grace: 300, permits: 'tree' },
    signatures: [],
  }
  const draft = /** @type {import('@milagro-ts/api/group-document').GroupDocument} */ (
    /** @type {unknown} */ (unsigned)
  )
  const document = { ...draft, signatures: [{ index: 1, signature: await signDocument(draft, signKey) }] }
  const group = await Group.verifyFirst(document)
  known.group = group
  await writeFile(config.groupFile, JSON.stringify(document))

  // With nobody banned one permit speaks for the whole fleet: the root of the tree.
  const at = slotAt(slot, now)
  const root = /** @type {const} */ ({ type: 'node', depth: 0, index: 0 })
  const terms = { groupId: group.groupId, permitEpoch: 1, rule: slot }
  const point = permitPoint(permitInput(terms, at, root)).mulSecret(secretOf('permit'))
  const permit = encodePermit(at, root, point.encode())
  const store = await openDatabase({ file: join(dataDir, 'rps.sqlite'), migrations: rpsMigrations })
  const leaves = await signLeaves(nobodyBanned(), { key: raKey, kid: 'ra1' })
  await store.atomic(connection => {
    connection.run('INSERT INTO leaves (id, number, statement) VALUES (1, 0, ?)', [leaves])
    connection.run('INSERT INTO permit (slot, target, permit) VALUES (?, ?, ?)', [
      at,
      targetBytes(root),
      permit,
    ])
  })
  await store.close()
  return {
    config: { ...config, groupId: toBase64Url(group.groupId) },
    groupId: group.groupId,
    deviceSecret: secretOf('device').encode(),
    close: () => Promise.all([authority.close(), rpa.close()]),
  }
}
