// A device's client for M-Pin, written from the protocol pages alone (docs/protocols/*.md; comments name the page).
//   node stranger.mjs <rps url> <enrolment code> '{"attributes":{…},"instance":"…","audience":"…"}'
//   node stranger.mjs --self-check        recomputes the worked values of the pages
import crypto from 'node:crypto'
import fs from 'node:fs'
import { bls12_381 } from '@noble/curves/bls12-381.js'

const { G1, G2, fields: { Fr, Fp12 } } = bls12_381
const P1 = G1.Point.BASE, Q = G2.Point.BASE, q = Fr.ORDER
const SUITE = 'BLS12381-SHA256-V1'

class Refusal extends Error {}
const need = (condition, why) => { if (!condition) throw new Refusal(why) }
const say = (event, seen) => console.log(JSON.stringify({ event, ...seen }))
const now = () => Math.floor(Date.now() / 1000)

// ── encoding.md: integers, text, base64url, JSON, TLV ──
const cat = (...parts) => Buffer.concat(parts.map(part => typeof part == 'string' ? Buffer.from(part) : part))
const uint = size => value => Buffer.from(BigInt(value).toString(16).padStart(2 * size, '0'), 'hex')
const u8 = uint(1), be16 = uint(2), be32 = uint(4), be64 = uint(8), scalarBytes = uint(32)
const integer = bytes => BigInt('0x' + bytes.toString('hex'))
const given = (encode, value) => value === undefined ? undefined : encode(value)
const sha256 = (...parts) => crypto.createHash('sha256').update(cat(...parts)).digest()
const hmac = (key, ...parts) => crypto.createHmac('sha256', key).update(cat(...parts)).digest()
const b64u = bytes => Buffer.from(bytes).toString('base64url')
const bytesOf = (text, size) => {
  const bytes = Buffer.from(`${text}`, 'base64url')
  need(b64u(bytes) === text && (size ?? bytes.length) === bytes.length, `not ${size ?? ''} bytes: ${text}`)
  return bytes
}
/** TLV{…}: tags count from 1; an undefined or empty entry is left out and its number stays taken */
const tlv = (...entries) => cat(...entries.flatMap((entry, i) => {
  const value = typeof entry == 'string' ? Buffer.from(entry.normalize('NFC')) : entry
  return value?.length ? [u8(i + 1), be32(value.length), value] : []
}))
const readTlv = (bytes, tags) => {
  const entries = []
  for (let at = 0, last = 0; at < bytes.length;) {
    need(bytes.length >= at + 5, 'TLV cut off')
    const tag = bytes[at], end = at + 5 + bytes.readUInt32BE(at + 1)
    need(tag > last && tag <= tags && end > at + 5 && end <= bytes.length, `TLV refused at byte ${at}`)
    entries[last = tag] = bytes.subarray(at + 5, end)
    at = end
  }
  return entries
}
/** JSON without keys that stand twice */
const parseJson = text => {
  const open = []
  let string
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:]/g)) {
    if ('{['.includes(token)) open.push(new Set())
    else if ('}]'.includes(token)) open.pop()
    else if (token != ':') string = JSON.parse(token)
    else need(open.at(-1) && !open.at(-1).has(string) && open.at(-1).add(string), `JSON key ${string} twice`)
  }
  return JSON.parse(text)
}
/** Every listed field stands (plain answers: http.md) */
const has = (what, value, fields) => {
  const missing = fields.split(' ').filter(field => value?.[field] === undefined)
  need(!missing.length, `${what}: ${missing} missing`)
  return value
}
/** … and no other (documents and signed statements) */
const exactly = (what, value, fields) => {
  const unknown = Object.keys(has(what, value, fields)).filter(field => !fields.split(' ').includes(field))
  need(!unknown.length, `${what}: ${unknown} unknown`)
  return value
}
/** RFC 8785 */
const jcs = value => Array.isArray(value) ? `[${value.map(jcs)}]`
  : value && typeof value == 'object'
    ? `{${Object.keys(value).sort().map(key => `${JSON.stringify(key)}:${jcs(value[key])}`)}}`
    : JSON.stringify(value)

// ── encoding.md: points, scalars, hashes, HPKE ──
const decode = (group, size) => bytes => {
  need(bytes.length === size, 'point of a wrong length')
  const point = group.Point.fromBytes(bytes)
  point.assertValidity()                                     // on the curve, in the subgroup
  need(!point.is0() && raw(point).equals(bytes), 'point refused')
  return point
}
const g1 = decode(G1, 48), g2 = decode(G2, 96)
const raw = point => Buffer.from(point.toBytes())
const mod = x => ((x % q) + q) % q
const scalar = bytes => {
  need(bytes.length === 32 && integer(bytes) < q, 'scalar refused')
  return integer(bytes)
}
/** e(A, B) = e(C, D) */
const paired = (A, B, C, D) =>
  Fp12.eql(bls12_381.pairingBatch([{ g1: A, g2: B }, { g1: C.negate(), g2: D }]), Fp12.ONE)
const H1 = (purpose, message) => G1.Point.fromAffine(G1.hashToCurve(message,
  { DST: `MILAGRO-TS-V1-${purpose}-with-BLS12381G1_XMD:SHA-256_SSWU_RO_` }).toAffine())
/** RFC 9380 hash_to_field: one element mod q from 48 bytes of expand_message_xmd */
const Hq = (label, message) => {
  const dst = cat('MILAGRO-TS-V1-', label), suffix = cat(dst, u8(dst.length))
  const b0 = sha256(Buffer.alloc(64), message, be16(48), u8(0), suffix)
  const b1 = sha256(b0, u8(1), suffix), b2 = sha256(b0.map((byte, i) => byte ^ b1[i]), u8(2), suffix)
  return mod(integer(cat(b1, b2).subarray(0, 48)))
}
/** RFC 9180 base mode: DHKEM(X25519, HKDF-SHA256) 0x20, HKDF-SHA256 0x1, AES-256-GCM 0x2 */
const KEM = cat('KEM', be16(0x20)), HPKE = cat('HPKE', be16(0x20), be16(1), be16(2))
const extract = (suite, salt, label, ikm) => hmac(salt, 'HPKE-v1', suite, label, ikm)
const expand = (suite, prk, label, info, size) =>            // up to 32 bytes: one block of HKDF-Expand
  hmac(prk, be16(size), 'HPKE-v1', suite, label, info, u8(1)).subarray(0, size)
const hpkeOpen = (key, sealed, info) => {
  need(sealed.length > 48, 'seal too short')
  const enc = sealed.subarray(0, 32)
  const jwk = { kty: 'OKP', crv: 'X25519', x: b64u(enc) }
  const publicKey = crypto.createPublicKey({ key: jwk, format: 'jwk' })
  const dh = crypto.diffieHellman({ privateKey: key.private, publicKey })
  const shared = expand(KEM, extract(KEM, '', 'eae_prk', dh), 'shared_secret', cat(enc, key.public), 32)
  const context = cat(u8(0), extract(HPKE, '', 'psk_id_hash', ''), extract(HPKE, '', 'info_hash', info))
  const secret = extract(HPKE, shared, 'secret', '')
  const gcm = crypto.createDecipheriv('aes-256-gcm', expand(HPKE, secret, 'key', context, 32),
    expand(HPKE, secret, 'base_nonce', context, 12))
  gcm.setAuthTag(sealed.subarray(-16))
  return cat(gcm.update(sealed.subarray(32, -16)), gcm.final())
}

// ── encoding.md, statements.md: ES256 and JWS ──
/** A P-256 key from base64url of its 33 compressed bytes */
const p256 = key => {
  const point = crypto.ECDH.convertKey(bytesOf(key, 33), 'prime256v1', undefined, undefined, 'uncompressed')
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map(b64u)
  return crypto.createPublicKey({ key: { kty: 'EC', crv: 'P-256', x, y }, format: 'jwk' })
}
const es256 = (key, message, signature) =>
  crypto.verify('sha256', message, { key, dsaEncoding: 'ieee-p1363' }, bytesOf(signature, 64))
const readJws = (jws, typ, keyOf) => {
  const parts = jws.split('.')
  need(parts.length === 3, 'not a compact JWS')
  const [header, payload] = parts.slice(0, 2).map(part => parseJson(bytesOf(part).toString()))
  exactly('JWS header', header, 'alg typ kid')
  need(header.alg === 'ES256' && header.typ === typ, `${header.alg} ${header.typ} instead of ES256 ${typ}`)
  const key = keyOf(header.kid)
  need(key && es256(key, cat(parts[0], '.', parts[1]), parts[2]), `${typ} by ${header.kid}: signature`)
  return { kid: header.kid, payload }
}

// ── group.md ──
const documentHash = ({ signatures, ...document }) => sha256(jcs(document))
/** λ_j = Π m/(m − j) over the indices taken, and Σ λ_j·P_j (key-shares.md) */
const lambda = (j, indices) => indices.filter(m => m !== j).map(BigInt)
  .reduce((product, m) => Fr.mul(product, Fr.div(m, mod(m - BigInt(j)))), 1n)
const combine = shares => shares.map(({ index, point }) =>
  point.multiply(lambda(index, shares.map(share => share.index)))).reduce((sum, point) => sum.add(point))

/** Σ λ_j·C_j = IVK, e(IVK, Q) = e(P1, pub) */
const checkPurposes = ({ n, purposes }) => {
  exactly('purposes', purposes, 'device pin permit agree sign encrypt')
  for (const [name, purpose] of Object.entries(purposes)) {
    const withPub = ['permit', 'sign', 'encrypt'].includes(name)
    exactly(name, purpose, `epoch firstSlot ivk shares${withPub ? ' pub' : ''}`)
    const ivk = g1(bytesOf(purpose.ivk))
    const C = purpose.shares.map((c, i) => ({ index: i + 1, point: g1(bytesOf(c)) }))
    need(C.length === n && combine(C).equals(ivk), `${name}: the n shares do not combine to the IVK`)
    need(!withPub || paired(ivk, Q, P1, g2(bytesOf(purpose.pub))), `${name}: pub does not fit the IVK`)
  }
}
const FIELDS = 'suite v revision n t purposes authorities ra recipients slot policy signatures'
const checkRevision = (document, groupId, former) => {
  exactly('group document', document, former ? `${FIELDS} groupId previous` : FIELDS)
  const { n, t, authorities, ra, recipients, slot, signatures } = document
  need(document.suite === SUITE && document.v === 1, 'unknown suite or version')
  need(Number.isInteger(n) && Number.isInteger(t) && t <= n && 2 * t > n, 'n and t are wrong')
  checkPurposes(document)
  authorities.forEach(authority => exactly('authority', authority, 'index name url signKey hpkeKey'))
  need(authorities.length === n && authorities.every((a, i) => a.index === i + 1), 'authorities are not 1…n')
  exactly('ra', ra, 'm keys').keys.forEach(key => exactly('RA key', key, 'kid key'))
  recipients.forEach(r => exactly('recipient', r, 'name kind generation purposes hpkeKey requestKey'))
  exactly('slot', slot, 'origin length')
  const { permits = 'identity', ...policy } = document.policy
  exactly('policy', policy, 'lead grace')
  need(permits === 'identity' || permits === 'tree', 'policy: permits')
  signatures.forEach(signature => exactly('signature', signature, 'index signature'))
  const unique = (list, ...fields) => fields.forEach(field =>
    need(new Set(list.map(x => x[field])).size === list.length, `a ${field} stands twice`))
  unique(authorities, 'name', 'url', 'signKey', 'hpkeKey')
  unique(recipients, 'name', 'requestKey')
  unique(ra.keys, 'kid', 'key')
  unique(signatures, 'index')
  need(ra.m >= 1 && ra.m <= ra.keys.length, 'ra.m is wrong')
  need(recipients.filter(r => r.purposes.includes('pin')).length === 1, 'pin has not exactly one recipient')

  const hash = documentHash(document), signed = tlv('group-document', hash)
  for (const { index, signature } of signatures) {
    const signer = (former ?? document).authorities.find(a => a.index === index)
    need(signer && es256(p256(signer.signKey), signed, signature), `signature ${index} is wrong`)
  }
  need(signatures.length >= (former?.t ?? n), 'too few signatures')
  if (!former) return need(document.revision === 1 && hash.equals(groupId), 'not the group of the code')
  need(document.revision === former.revision + 1 && document.groupId === b64u(groupId)
    && document.previous === b64u(documentHash(former)), 'revision does not follow its predecessor')
  need(jcs(slot) === jcs(former.slot), 'the slot changed')
}
/** The newest document, through every revision from the first */
const loadGroup = async (rps, groupId) => {
  const newest = await http('GET', `${rps}/v1/group`)
  let former
  for (let number = 1; number <= newest.revision; number++) {
    const document = number === newest.revision ? newest
      : await http('GET', `${rps}/v1/group?revision=${number}`)
    checkRevision(document, groupId, former)
    former = document
  }
  return former
}

// ── enrolment.md, identity.md: code, registration, idCore, ticket ──
const readCode = code => {
  const letters = [...code.toUpperCase().replace(/[\s-]/g, '')]
  const fives = letters.map(letter => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter))
  need(fives.length === 80 && !fives.includes(-1), 'not an enrolment code')
  const bytes = uint(50)(fives.reduce((sum, five) => sum * 32n + BigInt(five), 0n))
  const secret = bytes.subarray(0, 16), groupId = bytes.subarray(16, 48)
  need(sha256(secret, groupId).subarray(0, 2).equals(bytes.subarray(48)), 'the checksum of the code is wrong')
  return { secret, groupId, codeId: sha256('MILAGRO-TS-V1-CODE-ID', secret).subarray(0, 16) }
}
const attributesTlv = attributes => tlv(...Object.entries(attributes)
  .map(entry => entry.map(text => Buffer.from(text.normalize('NFC'))))
  .sort(([a], [b]) => Buffer.compare(a, b)).map(entry => tlv(...entry)))
const macInput = (groupId, attributes, instance, hpkeKey, nonce) =>
  tlv(groupId, attributesTlv(attributes), instance, hpkeKey, nonce)
const idCoreInput = (groupId, attributes, instance, issueDate, keyHash, salt) =>
  tlv(groupId, attributesTlv(attributes), instance, issueDate, keyHash, salt)
const idCoreOf = (leaf, generation, factors, input) =>
  cat(be32(leaf), be16(generation), u8(factors), sha256(input))

const register = async (rps, { secret, groupId, codeId }, key, { attributes, instance }) => {
  const nonce = crypto.randomBytes(32)
  const mac = hmac(secret, macInput(groupId, attributes, instance, key.public, nonce))
  const body = { kind: 'device', attributes, instance, hpkeKey: b64u(key.public), nonce: b64u(nonce),
    codeId: b64u(codeId), mac: b64u(mac) }
  for (let asked = 0; asked < 300; asked++) {                // the same bytes may be sent again
    const answer = await http('POST', `${rps}/v1/registrations`, body)
    if (answer.state === 'approved')
      return has('approval', answer, 'idCore leaf generation factors issueDate salt ticket')
    need(answer.state === 'pending', `registration ${answer.state}`)
    if (asked === 0) say('pending')
    await new Promise(done => setTimeout(done, 2000))
  }
  throw new Refusal('still pending after ten minutes')
}
/** m signatures of different RA keys over equal payloads, which name what was asked for */
const checkTicket = (tickets, document, groupId, idCore, key) => {
  const keyOf = kid => given(p256, document.ra.keys.find(k => k.kid === kid)?.key)
  const read = tickets.map(jws => readJws(jws, 'mpin-ticket+jwt', keyOf)), kids = read.map(r => r.kid)
  need(new Set(kids).size === kids.length && kids.length >= document.ra.m, 'ticket: too few RA keys')
  need(read.every(r => jcs(r.payload) === jcs(read[0].payload)), 'ticket: payloads differ')
  const ticket = exactly('ticket', read[0].payload,
    'suite groupId keyEpochs idCore purposes hpkeKey hpkeKeyHash iat exp jti')
  need(ticket.suite === SUITE && ticket.groupId === b64u(groupId) && ticket.idCore === b64u(idCore)
    && ticket.hpkeKey === b64u(key.public) && ticket.hpkeKeyHash === b64u(sha256(key.public))
    && ticket.purposes.includes('device') && ticket.exp > now() && ticket.iat <= now() + 60,
    `ticket is not ours: ${jcs(ticket)}`)
  for (const purpose of ticket.purposes)                      // this client collects its device key alone
    need(ticket.keyEpochs[purpose] === document.purposes[purpose].epoch, 'ticket: key epoch')
  return { ...ticket, kids }
}

// ── key-shares.md ──
const shareContext = (groupId, purpose, j, epoch, identity, jti) =>
  tlv(groupId, purpose, u8(j), be32(epoch), identity, undefined, undefined, jti)
/** Chaum–Pedersen: log_P1 C = log_A d */
const proofHolds = (ctx, C, A, d, kappa, z) => {
  const [T1, T2] = [[P1, C], [A, d]].map(([X, Y]) => X.multiplyUnsafe(z).add(Y.multiplyUnsafe(kappa)))
  return Hq('DLEQ', tlv(ctx, ...[P1, C, A, d, T1, T2].map(raw))) === kappa
}
const fetchShare = async (rps, document, groupId, idCore, key, A, tickets, jti, { index, url }) => {
  const body = { ticket: tickets, purpose: 'device' }
  let way = 'direct'
  const answer = await http('POST', `${url}/v1/groups/${b64u(groupId)}/shares`, body).catch(error => {
    way = `relay, for ${error.message}`
    return http('POST', `${rps}/v1/authorities/${index}/shares`, body)
  })
  has('share', answer, 'index shareEpoch sealed')
  need(answer.index === index, `authority ${index} answers as ${answer.index}`)
  const ctx = shareContext(groupId, 'device', index, answer.shareEpoch, idCore, bytesOf(jti, 16))
  const [, d, kappa, z] = readTlv(hpkeOpen(key, bytesOf(answer.sealed), ctx), 3)
  const point = g1(d), C = g1(bytesOf(document.purposes.device.shares[index - 1]))
  need(proofHolds(ctx, C, A, point, scalar(kappa), scalar(z)), `authority ${index}: the proof does not hold`)
  say('share', { authority: index, way, shareEpoch: answer.shareEpoch, proof: true })
  return { index, point }
}

// ── login.md; `m` holds a message's fields under their JSON names ──
const challengeTlv = (groupId, m) => tlv(SUITE, groupId, u8(m.mode), m.audience, be32(m.deviceEpoch),
  m.idCore, m.userCore, u8(m.pinGen === undefined ? 1 : 3), be32(m.slot), m.uDev, m.uPin, m.t, m.nonce,
  given(be64, m.clientTime), undefined, m.payloadHash, given(be32, m.pinGen), given(be32, m.pinEpoch))
const messageTlv = m => tlv(u8(m.mode), m.audience, be32(m.deviceEpoch), be32(m.slot), m.nonce,
  given(be64, m.clientTime), m.idCore, m.userCore, m.permit, m.uDev, m.vDev, m.uPin, m.t, m.vPin, m.z,
  m.payloadHash, given(be32, m.pinGen), given(be32, m.pinEpoch), SUITE)
const messageJson = m => Object.fromEntries(Object.entries({ suite: SUITE, ...m })
  .map(([name, value]) => [name, Buffer.isBuffer(value) ? b64u(value) : value]))
const hedged = (role, random, key, fixed) => Hq('NONCE', tlv(u8(role), random, key, fixed))
/** U = x·A, c = Hq(CHAL; c's tuple), V = −(x + c)·D */
const prove = ({ groupId, A, D }, m, x) => {
  const uDev = raw(A.multiply(x)), c = Hq('CHAL', challengeTlv(groupId, { ...m, uDev }))
  return { ...m, uDev, vDev: raw(D.multiply(mod(x + c)).negate()) }
}
const proveDevice = (device, fields) => {
  const m = { ...fields, idCore: device.idCore }
  return prove(device, m, hedged(1, crypto.randomBytes(32), raw(device.D), challengeTlv(device.groupId, m)))
}
const withNonce = async (rps, audience) => {
  const { nonce, slot, deviceEpoch } = has('nonce', await http('POST', `${rps}/v1/nonces`, {}),
    'nonce slot deviceEpoch')
  return { mode: 0, audience, deviceEpoch, slot, nonce: bytesOf(nonce, 32) }
}

// ── time-permit.md ──
/** What a permit is for: a node of the tree of leaves (0), or an idCore (1) */
const forIdentity = idCore => [u8(1), undefined, undefined, idCore]
const forNode = (depth, index) => [u8(0), u8(depth), be32(index), undefined]
const htInput = (groupId, epoch, { origin, length }, slot, what) => tlv(groupId, be32(epoch),
  be64(origin + slot * length), be32(length), ...what)
const permitTlv = (slot, what, point) => tlv(be32(slot), ...what, point)
const checkPermit = (document, groupId, idCore, slot, wire) => {
  const [, , type, depth, , , point] = readTlv(wire, 6), { epoch, pub } = document.purposes.permit
  const bits = type[0] === 0 ? depth[0] : 0, leaf = idCore.readUInt32BE(0)
  const what = type[0] === 0 ? forNode(bits, Math.floor(leaf / 2 ** (32 - bits))) : forIdentity(idCore)
  need(bits <= 32 && permitTlv(slot, what, point).equals(wire), 'permit: for another slot, leaf or identity')
  const HT = H1('PERMIT', htInput(groupId, epoch, document.slot, slot, what))
  need(paired(g1(point), Q, HT, g2(bytesOf(pub))), 'permit: the pairing does not hold')
}

// ── http.md; the run: enrolment.md, key-shares.md, login.md, time-permit.md ──
const http = async (method, url, body, authorization) => {
  const headers = { ...body && { 'content-type': 'application/json' }, ...authorization && { authorization } }
  const answer = await fetch(url, { method, headers, redirect: 'error', signal: AbortSignal.timeout(20000),
    body: body && JSON.stringify(body) }).catch(error => {
    throw new Refusal(`${method} ${url}: ${error.cause?.code ?? error.cause?.message ?? error.message}`)
  })
  const text = await answer.text()
  need(answer.ok, `${method} ${url}: ${answer.status} ${text.slice(0, 300)}`)  // http.md: problem+json
  return parseJson(text)
}
const run = async (rps, code, { attributes, instance, audience }) => {
  const pinned = readCode(code), { groupId } = pinned, document = await loadGroup(rps, groupId)
  say('group', { groupId: b64u(groupId), revision: document.revision, n: document.n, t: document.t,
    signatures: document.signatures.length, slot: document.slot, policy: document.policy })

  const { publicKey, privateKey } = crypto.generateKeyPairSync('x25519')
  const key = { private: privateKey, public: bytesOf(publicKey.export({ format: 'jwk' }).x, 32) }
  const answer = await register(rps, pinned, key, { attributes, instance })
  const { leaf, generation, factors } = answer
  const input = idCoreInput(groupId, attributes, instance, answer.issueDate, sha256(key.public),
    bytesOf(answer.salt, 16))
  const idCore = idCoreOf(leaf, generation, factors, input)
  need(b64u(idCore) === answer.idCore, 'idCore is not what this device computes')
  say('approved', { idCore: b64u(idCore), leaf, generation, factors })
  need(factors !== 1, 'this client has no PIN, and factors 1 always wants one')
  const ticket = checkTicket(answer.ticket, document, groupId, idCore, key)
  say('ticket', { kids: ticket.kids, keyEpochs: ticket.keyEpochs, seconds: ticket.exp - ticket.iat })

  const A = H1('DEVICE', tlv(groupId, idCore))
  const asked = await Promise.allSettled(document.authorities.map(authority =>
    fetchShare(rps, document, groupId, idCore, key, A, answer.ticket, ticket.jti, authority)))
  asked.filter(share => share.reason).forEach(({ reason }) => say('no share', { why: reason.message }))
  const shares = asked.flatMap(share => share.value ?? [])
  need(shares.length >= document.t, 'too few shares')         // group.md: any t of them; all where t = n
  const device = { groupId, idCore, A, D: combine(shares) }
  delete key.private                                         // nobody opens these shares again
  say('key', { shares: shares.length })

  const jwks = has('jwks', await http('GET', `${rps}/v1/jwks`), 'keys')
  const tokenKey = kid => given(jwk => crypto.createPublicKey({ key: jwk, format: 'jwk' }),
    jwks.keys.find(k => k.kid === kid))
  const readOurs = (jws, typ, fields, m) => {
    const { payload } = readJws(jws, typ, tokenKey)
    exactly(typ, payload, `iss aud sub amr slot iat ${fields}`)
    need(payload.iss === rps && payload.aud === m.audience && payload.sub === b64u(idCore)
      && jcs(payload.amr) === '["device"]' && payload.slot === m.slot, `${typ} is not ours: ${jcs(payload)}`)
    return payload
  }

  const first = proveDevice(device, await withNonce(rps, audience))
  const login = has('login answer', await http('POST', `${rps}/v1/logins`, { login: messageJson(first) }),
    'accessToken expiresIn authenticated')
  const token = readOurs(login.accessToken, 'at+jwt', 'exp jti', first)
  say('login', { mode: 'nonce', expiresIn: login.expiresIn, authenticated: login.authenticated, token })

  const slot = Math.floor((now() - document.slot.origin) / document.slot.length)
  const deviceEpoch = document.purposes.device.epoch
  const once = proveDevice(device, { mode: 1, audience: rps, deviceEpoch, slot, clientTime: now() })
  // login.md "One pass and replay": a server that began less than a minute ago takes nonces only.
  const who = await http('GET', `${rps}/v1/whoami`, undefined, `MPIN ${b64u(messageTlv(once))}`).catch(error => {
    if (error.message.includes('"CLOCK"')) return undefined
    throw error
  })
  if (who === undefined) say('whoami', { mode: 'time', refused: 'CLOCK' })
  else {
    has('whoami', who, 'idCore amr slot audience')
    need(who.idCore === b64u(idCore) && who.audience === rps && who.slot === slot, 'whoami names somebody else')
    say('whoami', { mode: 'time', ...who })
  }

  const payload = Buffer.from('a stranger was here'), payloadHash = sha256(payload)
  const signing = proveDevice(device, { ...await withNonce(rps, audience), mode: 2, payloadHash })
  const { receipt } = has('signature answer', await http('POST', `${rps}/v1/signatures`,
    { message: messageJson(signing), payload: b64u(payload) }), 'receipt')
  const received = readOurs(receipt, 'mpin-receipt+jwt', 'payloadHash', signing)
  need(received.payloadHash === b64u(payloadHash), 'the receipt is for another payload')
  say('receipt', { payloadHash: received.payloadHash, iat: received.iat })

  const asking = proveDevice(device, await withNonce(rps, rps))
  const permit = await http('POST', `${rps}/v1/permits`, { login: messageJson(asking) })
  has('permit answer', permit, 'permit slot endsAt')
  checkPermit(document, groupId, idCore, permit.slot, bytesOf(permit.permit))
  say('permit', { slot: permit.slot, endsAt: permit.endsAt, pairing: true })
}

// ── the worked values of the pages, and the example document ──
/** Every value that can be computed out of the others; the rest are inputs */
const recompute = (v, example) => {
  const bytes = name => Buffer.from(v[name], 'hex'), point = name => g1(bytes(name))
  const [groupId, idCore, userCore] = ['groupId', 'idCore', 'userCore'].map(name => bytes(`identity.${name}`))
  const attributes = { model: 'Roadster', brand: 'Acme', größe: 'XL', variant: 'S' }
  const code = readCode(v['enrolment.code']), hash = bytes('hash.message')
  const instance = v['identity.instance'], keyHash = bytes('identity.enrolmentKeyHash')
  const pinGen = Number(v['identity.pinGen']), A = H1('DEVICE', tlv(groupId, idCore))
  const aPin = user => H1('PIN', tlv(groupId, idCore, user, be32(pinGen))), A_pin = aPin(userCore)
  const hpkePk = bytes('enrolment.hpkePk'), nonce = bytes('enrolment.deviceNonce')
  const wordsInput = tlv(groupId, hpkePk, attributesTlv(attributes), nonce)

  // key-shares.md: the first share out of its seal, its proof, the combination; group.md: possession
  const jwk = { kty: 'OKP', crv: 'X25519', d: b64u(bytes('shares.keys.device.hpkeSk')), x: b64u(hpkePk) }
  const key = { public: hpkePk, private: crypto.createPrivateKey({ key: jwk, format: 'jwk' }) }
  const ctx = bytes('shares.keys.device.shares.0.ctx'), C1 = point('shares.masters.device.C_j.0')
  const [, d1, kappa, z] = readTlv(hpkeOpen(key, bytes('shares.keys.device.shares.0.hpke.sealed'), ctx), 3)
  need(proofHolds(ctx, C1, A, g1(d1), scalar(kappa), scalar(z)), 'the proof of the example\'s share')
  const d2 = point('shares.keys.device.shares.1.d_j')
  const D = combine([{ index: 1, point: g1(d1) }, { index: 2, point: d2 }])
  const [a, k] = ['a', 'k'].map(name => scalar(bytes(`shares.possessionProof.${name}`)))
  const possession = Hq('POP', tlv(bytes('shares.possessionProof.session'), 'device', be32(2),
    ...[a, k].map(n => raw(P1.multiply(n)))))

  // login.md: the messages' plain fields are read back, everything else is made again
  const plain = name => {
    const [, mode, audience, deviceEpoch, slot, nonce, clientTime, , , permit] = readTlv(bytes(name), 19)
    return { mode: integer(mode), audience: `${audience}`, deviceEpoch: integer(deviceEpoch),
      slot: integer(slot), nonce, clientTime: given(integer, clientTime), idCore, permit }
  }
  const draw = (name, role, key, m) => hedged(role, bytes(name), raw(key), challengeTlv(groupId, m))
  const device = { groupId, A, D }, payloadHash = sha256(bytes('login.sign.payload'))
  const dev = plain('login.device.message'), sig = { ...plain('login.sign.message'), payloadHash }
  const xDev = draw('login.device.random_x', 1, D, dev), devDone = prove(device, dev, xDev)
  const xSig = draw('login.sign.random_x', 1, D, sig), sigDone = prove(device, sig, xSig)
  const D_pin = point('login.D_pin')
  const pin = { ...plain('login.devicePin.message'), userCore, pinGen, pinEpoch: 2 }
  const xPin = draw('login.devicePin.random_x', 1, D, pin), pin1 = { ...pin, uDev: raw(A.multiply(xPin)) }
  const xp = draw('login.devicePin.random_xp', 2, D_pin, pin1)
  const pin2 = { ...pin1, uPin: raw(A_pin.multiply(xp)) }
  const kPin = draw('login.devicePin.random_k', 3, D_pin, pin2)
  const pin3 = { ...pin2, t: raw(A_pin.multiply(kPin)) }
  const c = Hq('CHAL', challengeTlv(groupId, pin3)), vPin = D_pin.multiply(mod(xp + c)).negate()
  const pinDone = { ...prove(device, pin3, xPin), vPin: raw(vPin), z: scalarBytes(mod(kPin + c * xp)) }
  const rpsAccepts = (V, U, base, S) => paired(g1(V).negate(), Q, g1(U).add(base.multiply(c)), g2(bytes(S)))
  need(rpsAccepts(pinDone.vDev, pinDone.uDev, A, 'login.S_dev'), 'the device equation')
  need(rpsAccepts(pinDone.vPin, pinDone.uPin, A_pin, 'login.S_pin'), 'the PIN equation')

  // pin.md, time-permit.md, group.md
  const salt = cat(idCore, userCore, be32(pinGen)), iterations = Number(v['pin.iterations'])
  const stretched = crypto.pbkdf2Sync(v['pin.pin'].normalize('NFKC'), salt, iterations, 32, 'sha256')
  const alpha = Hq('PIN', tlv(stretched))
  const input = htInput(groupId, 4, example.slot, 100, forIdentity(idCore)), HT = H1('PERMIT', input)
  const sQ = g2(bytes('permit.sQ'))
  need(paired(point('permit.id.permit'), Q, HT, sQ), 'the permit\'s pairing')
  need(b64u(raw(sQ)) === example.purposes.permit.pub, 'sQ is not the example document\'s pub')
  checkPurposes(example)
  return {
    'general.sha256OfGt_e_P1_Q': sha256(Fp12.toBytes(bls12_381.pairing(P1, Q))),
    'general.groupDocument.groupId': documentHash(example), 'identity.groupId': code.groupId,
    'hash.message': tlv(groupId, 'x'),
    'hash.H1.DEVICE': H1('DEVICE', hash), 'hash.H1.PIN': H1('PIN', hash), 'hash.Hq.CHAL': Hq('CHAL', hash),
    'identity.enrolmentKeyHash': sha256(hpkePk),
    'identity.attributesTlv': attributesTlv(attributes),
    'identity.idCoreHashInput':
      idCoreInput(groupId, attributes, instance, v['identity.issueDate'], keyHash, bytes('identity.salt')),
    'identity.idCore': idCoreOf(v['identity.leaf'], v['identity.generation'], v['identity.factors'],
      bytes('identity.idCoreHashInput')),
    'identity.idCoreB64u': b64u(idCore),
    'identity.userCoreHashInput':
      tlv(groupId, attributesTlv({ driverName: 'Jo\u0308rg' }), bytes('identity.userSalt')),
    'identity.userCore': sha256(bytes('identity.userCoreHashInput')),
    'identity.A_dev': A, 'identity.A_pin': A_pin, 'identity.A_pinWithoutUser': aPin(),
    'enrolment.secret': code.secret,
    'enrolment.macInput': macInput(groupId, attributes, instance, hpkePk, nonce),
    'enrolment.mac': hmac(code.secret, bytes('enrolment.macInput')),
    'enrolment.wordsInput': wordsInput, 'enrolment.wordsHash': sha256(wordsInput),
    'enrolment.wordIndices': JSON.stringify([0, 1, 2, 3, 4, 5].map(i =>
      Number(integer(sha256(wordsInput)) >> BigInt(245 - 11 * i) & 2047n))),
    'shares.possessionProof.aP1': P1.multiply(a), 'shares.possessionProof.kappa': possession,
    'shares.possessionProof.z': mod(k - possession * a),
    'shares.masters.device.C_j.0': bytesOf(example.purposes.device.shares[0]),
    'shares.masters.device.C_j.1': bytesOf(example.purposes.device.shares[1]),
    'shares.keys.device.A': A,
    'shares.keys.device.shares.0.ctx': shareContext(groupId, 'device', 1, 9, idCore, readTlv(ctx, 10)[8]),
    'shares.keys.device.shares.0.d_j': d1, 'shares.keys.device.shares.0.kappa': kappa,
    'shares.keys.device.shares.0.z': z, 'shares.keys.device.D': D,
    'shares.lambda.1,2.0': lambda(1, [1, 2]), 'shares.lambda.1,2.1': lambda(2, [1, 2]),
    'login.D_dev': D,
    'login.device.fixed_x': challengeTlv(groupId, dev), 'login.device.x': xDev,
    'login.device.U_dev': devDone.uDev,
    'login.device.challengeTlv': challengeTlv(groupId, devDone),
    'login.device.c': Hq('CHAL', bytes('login.device.challengeTlv')),
    'login.device.V_dev': devDone.vDev, 'login.device.message': messageTlv(devDone),
    'login.devicePin.x': xPin, 'login.devicePin.fixed_xp': challengeTlv(groupId, pin1),
    'login.devicePin.xp': xp,
    'login.devicePin.fixed_k': challengeTlv(groupId, pin2), 'login.devicePin.k': kPin,
    'login.devicePin.challengeTlv': challengeTlv(groupId, pin3), 'login.devicePin.c': c,
    'login.devicePin.U_pin': pin3.uPin, 'login.devicePin.T': pin3.t, 'login.devicePin.V_pin': vPin,
    'login.devicePin.z': pinDone.z, 'login.devicePin.message': messageTlv(pinDone),
    'login.sign.payloadHash': payloadHash, 'login.sign.x': xSig,
    'login.sign.challengeTlv': challengeTlv(groupId, sigDone),
    'login.sign.c': Hq('CHAL', challengeTlv(groupId, sigDone)), 'login.sign.message': messageTlv(sigDone),
    'pin.salt': salt, 'pin.stretched': stretched, 'pin.alpha': alpha, 'pin.A_pin': A_pin,
    'pin.token': point('pin.D_pin').subtract(A_pin.multiply(alpha)),
    'permit.id.input': input, 'permit.id.HT': HT,
    'permit.id.wire': permitTlv(100, forIdentity(idCore), bytes('permit.id.permit')),
    'permit.root.wire': tlv(be32(100), u8(0), u8(0), be32(0), undefined,
      readTlv(bytes('permit.root.wire'), 6)[6])
  }
}
const selfCheck = folder => {
  const read = name => fs.readFileSync(new URL(name, folder), 'utf8')
  const lines = fs.readdirSync(folder).flatMap(page => [...read(page).matchAll(/^([a-z]+\.\S+) = (.+)$/gm)])
  const values = Object.fromEntries(lines.map(([, name, value]) => [name, value]))
  const computed = recompute(values, parseJson(read('group-document.example.json')))
  const text = value => typeof value == 'string' ? value
    : (typeof value == 'bigint' ? scalarBytes(value) : value.toBytes ? raw(value) : value).toString('hex')
  for (const [name, value] of Object.entries(values)) {
    const made = computed[name]
    need(made === undefined || text(made) === value, `${name} differs: ${text(made ?? '')}`)
    say(made === undefined ? 'input' : 'value', { name, ...made !== undefined && { ok: true } })
  }
}

const [first, code, what] = process.argv.slice(2)
try {
  if (first === '--self-check') selfCheck(new URL('../docs/protocols/', import.meta.url))
  else await run(first, code, parseJson(fs.existsSync(what) ? fs.readFileSync(what, 'utf8') : what))
  say('stranger', { ok: true })
} catch (error) {
  say('stranger', { ok: false, why: error instanceof Refusal ? error.message : error.stack })
  process.exitCode = 1
}
