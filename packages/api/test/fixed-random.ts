import { be32, concat, utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'

/** Bytes that are the same in every run: SHA-256 of the seed and a counter. */
export function fixedRandom(seed: string): Random {
  let counter = 0
  return length => {
    const blocks: Uint8Array[] = []
    for (let made = 0; made < length; made += 32) blocks.push(sha256(utf8(seed), be32(counter++)))
    return concat(...blocks).slice(0, length)
  }
}
