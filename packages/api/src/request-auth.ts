/**
 * How one server proves itself to another: `Authorization: MPIN-Request <jws>`, a JWT bound to method, full URL and
 * body hash, good for 60 seconds, once.
 *
 *   caller                                              server
 *   jti = random(16), bh = SHA-256(body)
 *   request = JWS_requestKey{iss, htm, htu, bh, iat, exp, jti}
 *            -- method, URL, body, MPIN-Request -->     keyOf(iss) verifies; htm, htu, bh are this request's;
 *                                                       exp ≤ iat + 60; put(jti) or REPLAYED;
 *                                                       iat ≤ now + 60, now < exp or CLOCK
 *
 * The jti is stored, and CLOCK said, only after the signature held: strangers can't fill the store, and learn nothing.
 * One that was out of its time is used all the same, so that an old request says nothing of a clock twice.
 */
import { createPrivateKey, sign } from 'node:crypto'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { SingleUse } from '@milagro-ts/store/single-use'
import { canonicalBytes } from './canonical-json.js'
import { verifyJws } from './jws.js'
import type { Es256PrivateKey, Es256PublicKey } from './keys.js'
import { outOfTime, type PeerClocks } from './peer-clocks.js'
import { Refused } from './problem.js'
import { Bytes, Strict, UnixSeconds } from './schemas.js'
import Type, { Compile, type Static } from './typebox.js'

const TYP = 'mpin-request+jwt'
const SCHEME = 'MPIN-Request '
/** Seconds that a request lives, and that a caller's clock may run ahead. */
const LIFETIME = 60
const SKEW = 60
/** Seconds that a request that came out of its time is remembered at least. */
const LATE_KEPT = 120

const RequestPayload = Strict({
  iss: Type.String({ minLength: 1, maxLength: 253 }),
  htm: Type.String({ minLength: 3, maxLength: 8 }),
  htu: Type.String({ minLength: 8, maxLength: 4096 }),
  bh: Bytes(32),
  iat: UnixSeconds,
  exp: UnixSeconds,
  jti: Bytes(16),
})
const payloads = Compile(RequestPayload)

/** What is signed of a request: `url` in full, with its query; `body` empty when there is none. */
export interface SignedRequest {
  readonly method: string
  readonly url: string
  readonly body: Uint8Array
}

/** `name` is the recipient's name in the group document. */
export interface RequestSigner {
  readonly name: string
  readonly key: Es256PrivateKey
  readonly clock: Clock
  readonly random: Random
}

/** The Authorization header's value for one request. */
export async function signRequest(request: SignedRequest, signer: RequestSigner): Promise<string> {
  return requestSigner(signer)(request)
}

/**
 * For the typed client's `authorize`. Signs at once, on this thread: WebCrypto's ES256 goes through another, which takes three times as
 * much of the processor. Throws for what is no key.
 */
export function requestSigner({
  name,
  key,
  clock,
  random,
}: RequestSigner): (request: SignedRequest) => Promise<string> {
  const header = encode({ alg: 'ES256', kid: name, typ: TYP })
  const secret = createPrivateKey({ key: { ...key.toJwk() }, format: 'jwk' })
  return async ({ method, url, body }) => {
    const iat = Math.floor(clock() / 1000)
    const payload = encode({
      iss: name,
      htm: method,
      htu: new URL(url).href,
      bh: toBase64Url(sha256(body)),
      iat,
      exp: iat + LIFETIME,
      jti: toBase64Url(random(16)),
    })
    const text = `${header}.${payload}`
    // The key alone: with options beside it Node 24 takes twice as long.
    return `${SCHEME}${text}.${toBase64Url(fixedLength(sign('sha256', utf8(text), secret)))}`
  }
}

/** r ‖ s (RFC 7518 §3.4), 64 bytes, of SEQUENCE {INTEGER r, INTEGER s} (RFC 3279 §2.2.3); all lengths are below 128. */
function fixedLength(der: Uint8Array): Uint8Array {
  const fixed = new Uint8Array(64)
  let at = 2
  for (const end of [32, 64]) {
    const next = at + 2 + (der[at + 1] as number)
    // An integer has a leading zero where it would be negative else, and none that isn't needed.
    const integer = der.subarray(Math.max(at + 2, next - 32), next)
    fixed.set(integer, end - integer.length)
    at = next
  }
  return fixed
}

const encode = (value: object): string => toBase64Url(canonicalBytes(value))

/** A request as it arrived: `url` is path and query as sent. */
export interface ArrivedRequest {
  readonly method: string
  readonly url: string
  readonly headers: { readonly authorization?: string | undefined }
  /** SHA-256 of the body's bytes. */
  readonly bodyHash: Uint8Array
}

/**
 * The `server` check of `mount`. `publicUrl` is where callers reach this server, from its configuration: a Host header
 * is the caller's claim. Throws Refused UNAUTHENTICATED, CLOCK for what is only out of its time, REPLAYED for a second use.
 */
export function serverCallerCheck({
  keyOf,
  singleUse,
  clock,
  publicUrl,
  clocks,
}: {
  keyOf: (name: string) => Es256PublicKey | undefined
  singleUse: Pick<SingleUse, 'put'>
  clock: Clock
  publicUrl: string
  /** Told of each caller's clock. */
  clocks?: PeerClocks | undefined
}): (request: ArrivedRequest) => Promise<{ name: string }> {
  const base = publicUrl.replace(/\/$/, '')
  return async request => {
    const { iss, jti, iat, exp } = await verifyRequest(request, base, keyOf).catch((error: unknown) => {
      throw error instanceof DecodeError ? no(`${error.field}: ${error.why}`) : error
    })
    const now = clock() / 1000
    const isInTime = iat <= now + SKEW && now < exp
    const expiresAt = (isInTime ? exp : Math.max(exp, now + LATE_KEPT)) * 1000
    if (!(await singleUse.put('request', `${iss} ${jti}`, { expiresAt })))
      throw new Refused('REPLAYED', { detail: 'this request was made before' })
    if (!isInTime) {
      const refused = outOfTime(iss, iat, now)
      clocks?.differ(iss, refused)
      throw refused
    }
    clocks?.agree(iss)
    return { name: iss }
  }
}

async function verifyRequest(
  { method, url, headers, bodyHash }: ArrivedRequest,
  base: string,
  keyOf: (name: string) => Es256PublicKey | undefined,
): Promise<Static<typeof RequestPayload>> {
  if (!headers.authorization?.startsWith(SCHEME)) throw no('no request JWT')
  const verified = await verifyJws(TYP, headers.authorization.slice(SCHEME.length), { get: keyOf })
  if (verified === null) throw no('not signed by a known caller')
  const { kid, payload } = verified
  if (!payloads.Check(payload)) throw no('the payload has a wrong shape')
  if (payload.iss !== kid) throw no('iss is not the signer')
  if (payload.htm !== method || payload.htu !== new URL(base + url).href)
    throw no('made for another method or address')
  if (!equalBytes(fromBase64Url(payload.bh, 'bh', 32), bodyHash)) throw no('made for another body')
  const { iat, exp } = payload
  if (exp > iat + LIFETIME || exp <= iat) throw no('it lives for too long, or not at all')
  // One jti has one text, so that a second spelling isn't a second use.
  fromBase64Url(payload.jti, 'jti', 16)
  return payload
}

function no(detail: string): Refused {
  return new Refused('UNAUTHENTICATED', { detail })
}
