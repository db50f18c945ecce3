/**
 * milagro-crypto.min.js and milagro-device.min.js as whoever ships them has them: no import, one global, and the device's
 * part from enrolment to login in Node, a bare `vm` context, QuickJS and Chromium gives the bytes of
 * vectors/enrolment-and-login.json. The login is written against the global alone.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { runInNewContext } from 'node:vm'
import { build } from 'esbuild'
import { getQuickJS } from 'quickjs-emscripten'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expected, input } from '../packages/crypto/test/frozen-login.js'
import { ROOT } from '../scripts/prepare.mjs'
import { singleFile } from '../scripts/single-files.mjs'
import { Chromium, chromiumFile } from './chromium.js'

const NAMES = ['milagro-crypto', 'milagro-device'] as const
type Name = (typeof NAMES)[number]

/** packages/crypto/test/device-login.ts, with what it imports of the library taken from the global. */
async function driver(name: Name): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('../packages/crypto/test/device-login.ts', import.meta.url))],
    bundle: true,
    write: false,
    format: 'iife',
    globalName: 'driver',
    footer: { js: 'globalThis.driver=driver;' },
    target: 'es2022',
    plugins: [
      {
        name: 'global',
        setup({ onResolve, onLoad }) {
          onResolve({ filter: /^@milagro-ts\/crypto\// }, ({ path }) => ({ path, namespace: 'global' }))
          onLoad({ filter: /./, namespace: 'global' }, ({ path }) => {
            const file = path.slice('@milagro-ts/crypto/'.length)
            const part =
              name === 'milagro-crypto' ? `.${file.replaceAll(/-(.)/g, (_, at) => at.toUpperCase())}` : ''
            return { contents: `module.exports = globalThis.milagro${part}` }
          })
        },
      },
    ],
  })
  return (outputFiles[0] as (typeof outputFiles)[number]).text
}

const call = `driver.deviceLogin(${JSON.stringify(JSON.stringify(input))})`
/** Of the whole library: a server's side, in G2 and pairings. */
const pairings = `(({ points: { G1, G2, pairing }, scalar: { Scalar } }) => {
  const k = Scalar.fromNumber(7)
  return pairing(G1.generator.mulSecret(k), G2.generator).equals(pairing(G1.generator, G2.generator.mulSecret(k)))
})(milagro)`

describe.each(NAMES)('%s.min.js', name => {
  const made = Promise.all([singleFile(name), driver(name)])
  const files = async () => {
    const [{ script }, login] = await made
    return { script, login }
  }

  test('names no other file, and no platform', async () => {
    const { script } = await files()
    expect(script).not.toMatch(/\bimport\s*[({'"]|\brequire\s*\(|\bprocess\.|\bBuffer\b|node:/)
  })

  test('has no kernel for FMA, which is Node’s', async () => {
    const { inputs } = await made.then(([file]) => file)
    expect(inputs.filter(file => /fma-(wasm|kernels)/.test(file))).toEqual([
      'packages/crypto/dist/no-fma-kernels.js',
    ])
  })

  test('in a bare vm context', async () => {
    const { script, login } = await files()
    const context = { answer: '', isRight: true }
    runInNewContext(`${script};${login};answer = ${call}`, context)
    expect(JSON.parse(context.answer)).toEqual(expected)
    if (name === 'milagro-crypto') {
      runInNewContext(`${script};isRight = ${pairings}`, context)
      expect(context.isRight).toBe(true)
    }
  })

  test('in Node, by import and as a classic script', async () => {
    const { script, login } = await files()
    const folder = mkdtempSync(join(tmpdir(), 'milagro-single-'))
    try {
      const file = join(folder, `${name}.min.mjs`)
      writeFileSync(file, script)
      writeFileSync(join(folder, `${name}.min.cjs`), script)
      writeFileSync(join(folder, 'driver.mjs'), `${login};console.log(${call})`)
      const run = (code: string) =>
        execFileSync(process.execPath, ['--input-type=module', '-e', code], { cwd: folder, encoding: 'utf8' })
      const after = `await import(${JSON.stringify(pathToFileURL(join(folder, 'driver.mjs')).href)})`
      const byImport = run(`await import(${JSON.stringify(pathToFileURL(file).href)});${after}`)
      const byRequire = run(
        `import { createRequire } from 'node:module';
         createRequire(${JSON.stringify(file)})('./${name}.min.cjs');${after}`,
      )
      for (const printed of [byImport, byRequire]) expect(JSON.parse(printed)).toEqual(expected)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('in QuickJS, in BigInt, which a device must have allowed', async () => {
    const { script, login } = await files()
    const quickjs = await getQuickJS()
    const answer = (before: string): unknown =>
      quickjs.evalCode(`${script};${login};${before};try { ${call} } catch (error) { error.message }`)
    if (name === 'milagro-device') {
      expect(answer('')).toBe('no BigInt was allowed, and this runtime has no WebAssembly')
      expect(JSON.parse(answer('milagro.allowBigInt()') as string)).toEqual(expected)
      return
    }
    expect(JSON.parse(answer('') as string)).toEqual(expected)
    expect(quickjs.evalCode(`${script};try { ${pairings} } catch (error) { error.message }`)).toMatch(
      /WebAssembly/,
    )
  })

  describe.skipIf(chromiumFile === undefined)('in Chromium', () => {
    let browser: Chromium
    let server: Server
    beforeAll(async () => {
      const { script, login } = await files()
      const served: Readonly<Record<string, string>> = {
        '/': '<!doctype html><title>single file</title><script src="/library.js"></script><script src="/login.js"></script>',
        '/library.js': script,
        '/login.js': `${login};globalThis.engine = () => milagro.engine.engine?.() ?? milagro.engine()`,
      }
      const policy = { loose: "'self' 'wasm-unsafe-eval'", strict: "'self'" }
      server = createServer((request, response) => {
        const { pathname, search } = new URL(request.url ?? '/', 'http://127.0.0.1')
        const body = served[pathname]
        response.writeHead(body === undefined ? 404 : 200, {
          'content-type': pathname === '/' ? 'text/html' : 'text/javascript',
          'content-security-policy': `default-src 'none'; script-src ${search === '?strict' ? policy.strict : policy.loose}`,
        })
        response.end(body)
      })
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
      browser = await Chromium.open()
    })
    afterAll(async () => {
      await browser?.close()
      await new Promise(resolve => server.close(resolve))
    })
    const open = async (search: string) => {
      await browser.page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/${search}`)
      return (code: string): Promise<unknown> => browser.page.evaluate(code)
    }

    test('by the kernel, under wasm-unsafe-eval', async () => {
      const run = await open('')
      expect(JSON.parse((await run(call)) as string)).toEqual(expected)
      expect(await run('engine().name')).toBe(name === 'milagro-device' ? 'wasm-simd-g1' : 'wasm-simd')
      if (name === 'milagro-crypto') expect(await run(pairings)).toBe(true)
      expect(browser.wrongs.policy).toEqual([])
    })
    test('without it, in BigInt or not at all', async () => {
      const run = await open('?strict')
      if (name === 'milagro-device') {
        const refusal = `(() => { try { return ${call} } catch (error) { return error.message } })()`
        expect(await run(refusal)).toBe('no BigInt was allowed, and WebAssembly may not be compiled here')
        await run('milagro.allowBigInt()')
      }
      expect(JSON.parse((await run(call)) as string)).toEqual(expected)
      expect(await run('engine().name')).toBe('bigint')
    })
  })
})

test('npm run single-files writes these two', async () => {
  const { scripts } = JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as {
    scripts: Record<string, string>
  }
  const command = 'node scripts/single-files.mjs'
  expect(scripts['single-files']?.endsWith(command)).toBe(true)
  execFileSync(process.execPath, command.split(' ').slice(1), { cwd: ROOT })
  for (const name of NAMES) {
    const written = readFileSync(`${ROOT}packages/crypto/dist/single/${name}.min.js`, 'utf8')
    expect(written === (await singleFile(name)).script).toBe(true)
  }
})
