/** The world as arguments: what a protocol may not reach for by itself. */

/** Fresh, unpredictable bytes, `length` of them. */
export type Random = (length: number) => Uint8Array
/** Unix time in milliseconds. */
export type Clock = () => number
