// A device's TLS without certificates by docs/protocols/tls.md alone, on node:tls and noble: every form is on that page.
//   node stranger-tls.mjs < where.json    connects, says what the server says first
//   node stranger-tls.mjs --self-check    recomputes the worked values of the page
// where.json: {"host", "port", "server", "generation", "slot", "agreeEpoch", "groupId", "idCore", "D"}, bytes in hex
import { createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect } from 'node:tls'
import { bls12_381 } from '@noble/curves/bls12-381.js'

const { G1, G2, fields: { Fr } } = bls12_381
const SUITE = 'BLS12381-SHA256-V1'
const q = Fr.ORDER

// ── tls.md, "The key": the bytes ──
const cat = (...parts) => Buffer.concat(parts.map(part => Buffer.from(part)))
const be = size => value => Buffer.from(BigInt(value).toString(16).padStart(2 * size, '0'), 'hex')
const u8 = be(1), be16 = be(2), be32 = be(4), be48 = be(48)
const hex = text => Buffer.from(text, 'hex')
const integer = bytes => BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
const tlv = (...entries) => cat(...entries.flatMap((value, i) =>
  value?.length ? [u8(i + 1), be32(Buffer.from(value).length), value] : []))
const point = (group, bytes) => {
  const read = group.Point.fromBytes(bytes)
  read.assertValidity()
  if (read.is0()) throw new Error('the identity')
  return read
}
const toCurve = (group, name) => message => group.Point.fromAffine(group.hashToCurve(message,
  { DST: `MILAGRO-TS-V1-AGREE-with-BLS12381${name}_XMD:SHA-256_SSWU_RO_` }).toAffine())
const Hk1 = toCurve(G1, 'G1'), Hk2 = toCurve(G2, 'G2')
/** RFC 9380 hash_to_field: one element, 48 bytes of expand_message_xmd */
const Hq = (label, message) => {
  const sha256 = (...parts) => createHash('sha256').update(cat(...parts)).digest()
  const dst = cat('MILAGRO-TS-V1-', label), suffix = cat(dst, u8(dst.length))
  const b0 = sha256(Buffer.alloc(64), message, be16(48), u8(0), suffix)
  const b1 = sha256(b0, u8(1), suffix)
  const b2 = sha256(b0.map((byte, i) => byte ^ b1[i]), u8(2), suffix)
  return integer(cat(b1, b2).subarray(0, 48)) % q
}
/** 576 bytes, c0 first */
const gtBytes = ({ c0, c1 }) => cat(...[c0, c1].flatMap(six => [six.c0, six.c1, six.c2])
  .flatMap(two => [two.c0, two.c1]).map(be48))

// ── and what is computed ──
function externalPsk({ groupId, idCore, D, server, generation, slot, agreeEpoch }, random) {
  const C = tlv(groupId, u8(1), idCore, be32(idCore.readUInt16BE(4)))
  const B = tlv(groupId, u8(2), server, be32(generation), be32(slot))
  const key = point(G1, D)
  const r = Hq('NONCE', tlv(u8(4), random, D, tlv(B, be32(slot))))
  const R = Buffer.from(Hk1(C).multiply(r).toBytes())
  const [version, epoch] = [be16(0x0304), be32(agreeEpoch)]
  const h = Hq('PSK', tlv(SUITE, idCore, be32(slot), R, B, version, epoch))
  const shared = gtBytes(bls12_381.pairing(key.multiply((r + h) % q), Hk2(B)))
  const info = tlv(SUITE, 'client', C, 'server', B, be32(slot), R, version, epoch)
  const psk = Buffer.from(hkdfSync('sha256', shared, 'MILAGRO-TS-V1-KDF-PSK-M1', info, 32))
  const identity = `m1.${cat(idCore, be32(slot), R).toString('base64url')}`
  return { C, B, r, R, h, shared, info, psk, identity }
}

// ── tls.md, "The handshake" and the first of the guards ──
function say(psk, { host, port }) {
  return new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port,
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256',
      pskCallback: () => psk,
      rejectUnauthorized: true,
      checkServerIdentity: () => new Error('no certificates'),
    })
    socket.once('error', reject)
    socket.once('data', bytes => {
      const { name } = socket.getCipher()
      socket.destroy()
      resolve({ said: bytes.toString(), cipher: name, certificate: Object.keys(socket.getPeerCertificate() ?? {}).length > 0 })
    })
    socket.once('close', () => reject(new Error('closed')))
  })
}

// ── The page's own values ──
function selfCheck() {
  const page = readFileSync(new URL('../docs/protocols/tls.md', import.meta.url), 'utf8')
  const values = new Map([...page.matchAll(/^(\S+) = (\S+)$/gm)].map(([, name, value]) => [name, value]))
  const of = name => values.get(name)
  const C = hex(of('tls.C'))
  const made = externalPsk({
    // Of the name: tag 1, be32 length 32, groupId; 6 bytes of kind; tag 3, be32 length 39, idCore.
    groupId: C.subarray(5, 37), idCore: C.subarray(48, 87), D: hex(of('tls.D_C')), server: of('tls.serverName'),
    generation: of('tls.serverGeneration'), slot: Number(of('tls.slot')), agreeEpoch: of('tls.agreeEpoch'),
  }, hex(of('tls.m1.random_r')))
  const scalar = value => be(32)(value).toString('hex')
  const checks = {
    'tls.C': made.C.toString('hex'), 'tls.m1.B': made.B.toString('hex'), 'tls.m1.r': scalar(made.r),
    'tls.m1.R': made.R.toString('hex'), 'tls.m1.h': scalar(made.h), 'tls.m1.info': made.info.toString('hex'),
    'tls.m1.psk': made.psk.toString('hex'), 'tls.m1.identity': made.identity,
    // HKDF-Extract and one block of HKDF-Expand, once by hand.
    'handshake.psk': createHmac('sha256', createHmac('sha256', 'MILAGRO-TS-V1-KDF-PSK-M1').update(made.shared).digest())
      .update(cat(made.info, u8(1))).digest('hex'),
  }
  for (const [name, value] of Object.entries(checks)) {
    const ok = of(name) === value
    console.log(JSON.stringify({ event: 'value', name, ok }))
    if (!ok) throw new Error(`${name} is another`)
  }
}

try {
  if (process.argv[2] === '--self-check') selfCheck()
  else {
    const where = JSON.parse(readFileSync(0, 'utf8'))
    const { groupId, idCore, D, ...plain } = where
    const psk = externalPsk({ ...plain, groupId: hex(groupId), idCore: hex(idCore), D: hex(D) }, randomBytes(32))
    console.log(JSON.stringify({ event: 'connected', ...(await say(psk, where)) }))
  }
  console.log(JSON.stringify({ event: 'stranger', ok: true }))
} catch (error) {
  console.log(JSON.stringify({ event: 'stranger', ok: false, why: error.message }))
  process.exitCode = 1
}
