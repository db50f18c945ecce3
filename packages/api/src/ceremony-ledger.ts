/**
 * The ledger travels with a reshare (protocols.md §3 "no silent clone"): each dealer states in its answer how many
 * lines its ledger has and their hash, adds none from then on, and hands it over in signed pages.
 *
 *   line   identity hash (32) ‖ enrolment-key hash (32), ascending by the first
 *   hash   SHA-256 of all lines, concatenated
 *   page   JWS{suite, ceremony, name, after?, lines}: the lines that follow the identity hash `after`
 *
 * A key that was issued has its line at t authorities, a reshare has at least t dealers, and 2t > n: so every line is in
 * the union of what the dealers state.
 */

import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { SUITE } from '@milagro-ts/crypto/suite'
import type { Ceremony } from './ceremony.js'
import { signJws, verifyJws } from './jws.js'
import type { Es256PrivateKey } from './keys.js'
import { Refused } from './problem.js'
import { Bytes, ServerName, Strict } from './schemas.js'
import Type, { Compile, type Static } from './typebox.js'

/** Lines of one page at most. */
export const LEDGER_PAGE = 1_000
const TYP = 'mpin-ceremony-ledger+jwt'

export const LedgerLine = Strict({ identityHash: Bytes(32), enrolmentKeyHash: Bytes(32) })
export type LedgerLine = Static<typeof LedgerLine>
const Page = Strict({
  suite: Type.Literal(SUITE),
  ceremony: Bytes(32),
  name: ServerName,
  after: Type.Optional(Bytes(32)),
  lines: Type.Array(LedgerLine, { minItems: 1, maxItems: LEDGER_PAGE }),
})
type Page = Static<typeof Page>
const pages = Compile(Page)

export interface LedgerPage {
  /** i: whose ledger it is from. */
  readonly dealer: number
  readonly after: string | undefined
  readonly lines: readonly LedgerLine[]
}

export function signLedgerPage(
  ceremony: Ceremony,
  {
    name,
    key,
    after,
    lines,
  }: { name: string; key: Es256PrivateKey; after: string | undefined; lines: LedgerLine[] },
): Promise<string> {
  const page: Page = {
    suite: SUITE,
    ceremony: toBase64Url(ceremony.hash),
    name,
    ...(after !== undefined && { after }),
    lines,
  }
  return signJws(TYP, page, key, name)
}

/** Refused NOT_APPROVED unless a dealer of this ceremony has signed it. */
export async function readLedgerPage(ceremony: Ceremony, page: string): Promise<LedgerPage> {
  const keys = new Map(ceremony.dealers.map(({ name, signKey }) => [name, signKey]))
  const verified = await verifyJws(TYP, page, keys)
  const payload = verified?.payload
  if (!verified || !pages.Check(payload))
    throw new Refused('NOT_APPROVED', { detail: 'not a page of a dealer’s ledger' })
  const { name, ceremony: of, after, lines } = payload as Page
  if (name !== verified.kid || of !== toBase64Url(ceremony.hash))
    throw new Refused('NOT_APPROVED', { detail: 'a page of another ledger' })
  const dealer = ceremony.dealers.find(one => one.name === name)?.dealer as number
  return { dealer, after, lines }
}
