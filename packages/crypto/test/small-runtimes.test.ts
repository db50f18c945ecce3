/**
 * Where there is little: QuickJS without WebAssembly, timers or WebCrypto, a bare `vm` context, a worker thread. Each
 * runs the device's part from enrolment to login and gives the bytes of vectors/enrolment-and-login.json.
 */
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import * as bigintEngine from '@milagro-ts/crypto/bigint-engine'
import { toHex, utf8 } from '@milagro-ts/crypto/bytes'
import * as deviceEngine from '@milagro-ts/crypto/device-engine'
import * as engine from '@milagro-ts/crypto/engine'
import { coordinateBytes } from '@milagro-ts/crypto/hash-to-field'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { getQuickJS } from 'quickjs-emscripten'
import { expect, test } from 'vitest'
import { bundle } from './bundle.js'
import { type DeviceInput, deviceLogin } from './device-login.js'
import { expected, group, input } from './frozen-login.js'
import { ENGINE } from './processor.js'

const DEVICE = `export { deviceLogin } from './device-login.ts'`
const call = `milagro.deviceLogin(${JSON.stringify(JSON.stringify(input))})`

test('the device’s part gives the frozen bytes', () => {
  expect(JSON.parse(deviceLogin(JSON.stringify(input)))).toEqual(expected)
})

test('under QuickJS, by the BigInt engine', async () => {
  const { script, inputs } = await bundle(DEVICE, 'bigint')
  expect(inputs.filter(file => !file.startsWith('packages/crypto/'))).toEqual([])
  const quickjs = await getQuickJS()
  expect(quickjs.evalCode('typeof WebAssembly')).toBe('undefined')
  expect(JSON.parse(quickjs.evalCode(`${script};${call}`) as string)).toEqual(expected)
})

test('under QuickJS a wrong share is refused there too', async () => {
  const { script } = await bundle(DEVICE, 'bigint')
  const [first, ...others] = input.device.shares as [DeviceInput['device']['shares'][number]]
  const wrong: DeviceInput = {
    ...input,
    device: { ...input.device, shares: [{ ...first, ctx: `${first.ctx}00` }, ...others] },
  }
  const quickjs = await getQuickJS()
  const answer = quickjs.evalCode(
    `${script};try { milagro.deviceLogin(${JSON.stringify(JSON.stringify(wrong))}) } catch (error) { error.message }`,
  )
  expect(answer).toBe('share 1 is wrong')
})

test('under QuickJS a device’s kernel says what it needs, and does not fall back', async () => {
  const { script } = await bundle(DEVICE, 'device')
  const quickjs = await getQuickJS()
  const answer = quickjs.evalCode(`${script};try { ${call} } catch (error) { error.message }`)
  expect(answer).toBe('no BigInt was allowed, and this runtime has no WebAssembly')
})

test.each([
  [
    bigintEngine,
    [],
    'bigint',
    'it is the only one in this bundle',
    'G2 and pairings need WebAssembly with SIMD, which this runtime lacks',
  ],
  [deviceEngine, ['allowBigInt'], `${ENGINE.name}-g1`, ENGINE.why, 'G2 and pairings are not in this bundle'],
] as const)('where G2 is missing it says so, by name of what is needed', (own, more, name, because, why) => {
  expect(Object.keys(own).sort()).toEqual([...Object.keys(engine), ...more].sort())
  expect(own.engine()).toEqual({ name, why: because })
  const calls = [
    () => own.engineG2.decode(),
    () => own.pairingProduct(),
    () => own.prepareG2(),
    () => own.hashToG2(),
  ]
  expect(own.engineG2.generator).toBe('generator of G2')
  for (const run of calls) expect(run).toThrow(why)
})

test('a device’s kernel gives the bytes of the other engines', () => {
  const message = utf8('milagro')
  const dst = utf8('a domain of this test')
  const [own, other] = [deviceEngine.engineG1, bigintEngine.engineG1]
  const P = deviceEngine.hashToG1(message, dst)
  const Q = bigintEngine.hashToG1(message, dst)
  const hex = (point: typeof P): string => toHex(own.encode(point))
  const otherHex = (point: typeof Q): string => toHex(other.encode(point))
  expect(hex(P)).toBe(otherHex(Q))
  expect(hex(deviceEngine.encodeToG1(message, dst))).toBe(otherHex(bigintEngine.encodeToG1(message, dst)))
  const k = Scalar.fromBigInt(deviceEngine.ORDER - 12_345n).encode()
  const three = Scalar.fromNumber(3).encode()
  expect(hex(own.multiply(P, k))).toBe(otherHex(other.multiply(Q, k)))
  expect(hex(own.multiplyPublic(P, k))).toBe(otherHex(other.multiplyPublic(Q, k)))
  expect(hex(own.sumOfProducts([P, own.generator], [k, three]))).toBe(
    otherHex(other.sumOfProducts([Q, other.generator], [k, three])),
  )
  for (const [ours, others] of [
    [deviceEngine.addScalars, bigintEngine.addScalars],
    [deviceEngine.subtractScalars, bigintEngine.subtractScalars],
    [deviceEngine.multiplyScalars, bigintEngine.multiplyScalars],
  ] as const)
    for (const [a, b] of [
      [k, k],
      [three, k],
      [k, three],
    ] as const)
      expect(toHex(ours(a, b))).toBe(toHex(others(a, b)))
  const wide = coordinateBytes(message, dst, 1).slice(0, 48)
  expect(toHex(deviceEngine.reduceScalar(wide))).toBe(toHex(bigintEngine.reduceScalar(wide)))
  const sum = own.add(P, own.negate(own.generator))
  expect(hex(sum)).toBe(otherHex(other.add(Q, other.negate(other.generator))))
  expect(own.equals(own.decode(own.encode(sum)) as typeof sum, sum)).toBe(true)
  expect(own.isIdentity(own.identity)).toBe(true)
})

test.each(['own', 'device', 'bigint'] as const)(
  'a bundle with %s engine has no kernel for FMA',
  async engine => {
    const { inputs } = await bundle(DEVICE, engine)
    expect(inputs.filter(file => /fma-(wasm|kernels)/.test(file))).toEqual(
      engine === 'bigint' ? [] : ['packages/crypto/src/no-fma-kernels.ts'],
    )
  },
)

test.each(['own', 'device', 'bigint'] as const)('in a bare vm context, %s engine', async engine => {
  const { script } = await bundle(DEVICE, engine)
  const context = { answer: '' }
  runInNewContext(`${script};answer = ${call}`, context)
  expect(JSON.parse(context.answer)).toEqual(expected)
})

test('in worker threads, several at once', async () => {
  const { script } = await bundle(
    `${DEVICE}
     import { fromHex } from '@milagro-ts/crypto/bytes'
     import { G1, G2 } from '@milagro-ts/crypto/points'
     import { sameLogarithm } from '@milagro-ts/crypto/server-key'
     export const hasKey = (ivk: string, S: string) => sameLogarithm(G1.decode(fromHex(ivk)), G2.decode(fromHex(S)))`,
  )
  const { ivk, serverKey } = group.device
  const answers = await Promise.all(
    [serverKey, group.pin.serverKey].map(async key => {
      const code = `${script}
        require('node:worker_threads').parentPort.postMessage({
          login: ${call}, hasKey: milagro.hasKey('${ivk}', '${key}'),
        })`
      const worker = new Worker(code, { eval: true })
      return new Promise<{ login: string; hasKey: boolean }>((resolve, reject) => {
        worker.once('message', resolve)
        worker.once('error', reject)
        worker.once('exit', status => reject(new Error(`the worker left with ${status}, without an answer`)))
      })
    }),
  )
  expect(answers.map(({ login }) => JSON.parse(login))).toEqual([expected, expected])
  expect(answers.map(({ hasKey }) => hasKey)).toEqual([true, false])
})
