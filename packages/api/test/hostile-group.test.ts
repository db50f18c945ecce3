/** Anybody may bring a next revision to an RPS: what may be looked at before its signatures hold. */
import { documentHash } from '@milagro-ts/api/group'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1 } from '@milagro-ts/crypto/points'
import { afterEach, expect, test, vi } from 'vitest'
import { keysOf, makeGroup, signedBy } from './group-fixture.js'

afterEach(() => vi.restoreAllMocks())

test('a document that nobody signed costs no point: signatures come before contents', async () => {
  const { group, document, members } = await makeGroup()
  const next = {
    ...document,
    revision: 2,
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(document)),
    policy: { lead: 0, grace: 0 },
  }
  // Wrong inside as well, so that whoever looks at the contents first says something else.
  const { device, ...rest } = next.purposes
  const wrong = { ...next, purposes: { ...rest, device: { ...device, ivk: device.shares[0] as string } } }
  const decoded = vi.spyOn(G1, 'decode')
  const unsigned = { ...wrong, signatures: [] }
  await expect(group.verifyNext(unsigned)).rejects.toMatchObject({ code: 'NOT_APPROVED' })
  const forged = { ...(await signedBy(next, keysOf(members))), purposes: wrong.purposes }
  await expect(group.verifyNext(forged)).rejects.toMatchObject({ code: 'NOT_APPROVED' })
  expect(decoded).not.toHaveBeenCalled()

  await expect(group.verifyNext(await signedBy(wrong, keysOf(members)))).rejects.toThrow(DecodeError)
  expect(decoded).toHaveBeenCalled()
})
