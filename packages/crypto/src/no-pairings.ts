/** What engine.ts exports of G2 and pairings, where they are missing: one clear error at their first use. */

/** Two names without arithmetic: G2's generator and identity exist for whoever only names them. */
export type EngineG2 = 'generator of G2' | 'identity of G2'

export function withoutPairings(why: string) {
  const missing = (): never => {
    throw new Error(why)
  }
  return {
    engineG2: {
      generator: 'generator of G2' as EngineG2,
      identity: 'identity of G2' as EngineG2,
      size: 96,
      decode: missing,
      encode: missing,
      add: missing,
      negate: missing,
      equals: missing,
      isIdentity: missing,
      multiply: missing,
      multiplyPublic: missing,
      sumOfProducts: missing,
    },
    prepareG2: missing,
    pairingProduct: missing,
    pairingWithHash: missing,
    divideGT: missing,
    equalGT: missing,
    isOneGT: missing,
    bytesOfGT: missing,
    hashToG2: missing,
    encodeToG2: missing,
  }
}
