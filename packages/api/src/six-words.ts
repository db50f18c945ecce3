/** The words that a person compares on console and device: 6 · 11 = 66 bits (protocols.md §3). */
import { wordlist } from '@scure/bip39/wordlists/english.js'

/** `indices` from `sixWordIndices`, each below 2048; the words, joined by single spaces. */
export function sixWords(indices: readonly number[]): string {
  if (indices.length !== 6) throw new RangeError('six words have six indices')
  const words = indices.map(index => {
    const word = wordlist[index]
    if (word === undefined) throw new RangeError('a word index is an integer below 2048')
    return word
  })
  return words.join(' ')
}
