/**
 * The rows of `npm run bench` in their order: what each must reach and what it aims at, as a ratio to mcl-wasm, and for
 * sizes in bytes after gzip.
 *
 * @typedef {object} Target
 * @property {string} op
 * @property {string} title
 * @property {'us' | 'bytes'} unit
 * @property {number} must
 * @property {number} aim
 */

/** @param {string} op @param {string} title @param {number} must @param {number} aim @returns {Target} */
const ratio = (op, title, must, aim) => ({ op, title, unit: 'us', must, aim })
/** @param {string} op @param {string} title @param {number} must @param {number} aim @returns {Target} */
const size = (op, title, must, aim) => ({ op, title, unit: 'bytes', must: must * 1000, aim: aim * 1000 })

export const TARGETS = [
  ratio('mpin-check', 'M-Pin check, S and Q precomputed', 0.5, 0.35),
  ratio('hash-g1', 'hash to G1', 0.8, 0.6),
  ratio('mul-g1-secret', 'G1 multiplication, secret scalar', 1, 0.75),
  ratio('mul-g1-public', 'G1 multiplication, public scalar', 0.8, 0.55),
  ratio('msm-32', 'sum of 32 products in G1', 0.8, 0.55),
  ratio('msm-256', 'sum of 256 products in G1', 0.8, 0.55),
  ratio('subgroup-g1', 'G1 decoding with the subgroup check', 0.6, 0.45),
  ratio('mul-g2-secret', 'G2 multiplication, secret scalar', 0.8, 0.6),
  ratio('pairing', 'pairing', 0.55, 0.4),
  ratio('login-single', 'server login, one by one', 0.55, 0.4),
  ratio('login-batch-64', 'server login in a batch of 64, ids cached', 0.2, 0.12),
  ratio('login-batch-64-cold', 'server login in a batch of 64', 0.25, 0.16),
  ratio('login-client', 'client login', 0.9, 0.65),
  ratio('load', 'load and initialise, fresh process', 0.3, 0.15),
  size('size-all', 'the library, gzip', 60, 40),
  size('size-device', 'what a device needs, gzip', 30, 20),
]
