import { readFileSync } from 'node:fs'
import { HpkeKeyPair } from '@milagro-ts/api/keys'
import { open, seal } from '@milagro-ts/api/seal'
import { fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { describe, expect, test } from 'vitest'

interface SealedVector {
  readonly ctx: string
  readonly hpke: {
    readonly skE: string
    readonly enc: string
    readonly plaintext: string
    readonly sealed: string
  }
}
interface KeyVector {
  readonly hpkeSk: string
  readonly hpkePk: string
  readonly shares: readonly SealedVector[]
}
const vectors = JSON.parse(readFileSync(new URL('../../../vectors/v1.json', import.meta.url), 'utf8')) as {
  shares: { keys: Record<string, KeyVector> }
}

describe('the sealed shares of the independent implementation', () => {
  test.each(Object.entries(vectors.shares.keys))('%s', async (_purpose, { hpkeSk, hpkePk, shares }) => {
    const pair = await HpkeKeyPair.fromSecret(fromHex(hpkeSk))
    expect(toHex(pair.publicKey)).toBe(hpkePk)
    expect(toHex(pair.secret())).toBe(hpkeSk)
    for (const { ctx, hpke } of shares) {
      const opened = await open(pair, fromHex(ctx), fromHex(hpke.sealed))
      expect(opened && toHex(opened)).toBe(hpke.plaintext)
      const sealed = await seal(pair.publicKey, fromHex(ctx), fromHex(hpke.plaintext), () =>
        fromHex(hpke.skE),
      )
      expect(toHex(sealed)).toBe(hpke.sealed)
    }
  })
})

describe('a seal does not open', async () => {
  const device = await HpkeKeyPair.fromSecret(new Uint8Array(32).fill(1))
  const relay = await HpkeKeyPair.fromSecret(new Uint8Array(32).fill(2))
  const info = new TextEncoder().encode('share 1')
  const plaintext = new TextEncoder().encode('d, kappa, z')
  const random = (length: number) => new Uint8Array(length).fill(3)
  const sealed = await seal(device.publicKey, info, plaintext, random)

  test('with another key', async () => expect(await open(relay, info, sealed)).toBeNull())

  test('with another info', async () =>
    expect(await open(device, new TextEncoder().encode('share 2'), sealed)).toBeNull())

  test('with any byte changed', async () => {
    for (let i = 0; i < sealed.length; i++) {
      const changed = sealed.slice()
      changed[i] = (changed[i] as number) ^ 1
      expect(await open(device, info, changed), `byte ${i}`).toBeNull()
    }
  })

  test('cut short', async () => {
    expect(await open(device, info, sealed.subarray(0, -1))).toBeNull()
    await expect(open(device, info, sealed.subarray(0, 47))).rejects.toBeInstanceOf(DecodeError)
  })

  test('when the encapsulated key is of small order', async () => {
    const small = sealed.slice()
    small.fill(0, 0, 32)
    expect(await open(device, info, small)).toBeNull()
  })

  test('and none is made to a key of small order or of another length', async () => {
    for (const key of [new Uint8Array(32), new Uint8Array(31), new Uint8Array(33)])
      await expect(seal(key, info, plaintext, random)).rejects.toBeInstanceOf(DecodeError)
  })
})
