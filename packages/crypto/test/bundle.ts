/** One file of the library's sources, as somebody who ships it makes one. */
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'

const SOURCES = fileURLToPath(new URL('../src/', import.meta.url))

/** Packages by name are their sources, as in the other tests. */
const fromSources: Plugin = {
  name: 'sources',
  setup({ onResolve }) {
    onResolve({ filter: /^#fma-kernels$/ }, () => ({ path: `${SOURCES}no-fma-kernels.ts` }))
    onResolve({ filter: /^@milagro-ts\/crypto\// }, ({ path }) => ({
      path: `${SOURCES}${path.slice('@milagro-ts/crypto/'.length)}.ts`,
    }))
  },
}
const withEngine = (file: string): Plugin => ({
  name: file,
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/engine\.js$/ }, () => ({ path: `${SOURCES}${file}` }))
  },
})

export interface Bundle {
  /** A script that leaves its exports in the global `milagro`. */
  readonly script: string
  /** The files in it, from the repository's folder. */
  readonly inputs: readonly string[]
}

/**
 * @param entry TypeScript, by `export … from`.
 * @param engine `bigint` puts bigint-engine.ts in the place of engine.ts, `device` device-engine.ts.
 */
export async function bundle(entry: string, engine: 'own' | 'bigint' | 'device' = 'own'): Promise<Bundle> {
  const root = fileURLToPath(new URL('../../../', import.meta.url))
  const { outputFiles, metafile } = await build({
    stdin: {
      loader: 'ts',
      contents: entry,
      resolveDir: fileURLToPath(new URL('.', import.meta.url)),
      sourcefile: 'entry.ts',
    },
    absWorkingDir: root,
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: 'iife',
    globalName: 'milagro',
    target: 'es2022',
    plugins: [fromSources, ...(engine === 'own' ? [] : [withEngine(`${engine}-engine.ts`)])],
  })
  return {
    script: (outputFiles[0] as (typeof outputFiles)[number]).text,
    inputs: Object.keys(metafile.inputs).filter(input => !input.endsWith('entry.ts')),
  }
}
