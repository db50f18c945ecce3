/**
 * Loaded before every test file: while scripts/test.mjs records (scripts/evidence.mjs), every log line, problem
 * document, error message and metric of the servers in this process is kept, and every secret where it comes to be.
 * Otherwise, and for the tests themselves, nothing is different.
 */
import type { DestinationStream } from 'pino'
import { afterAll, vi } from 'vitest'
import { SECRETS_OF_STORES } from '../scripts/evidence.mjs'
import { recorder } from './evidence-recorder.js'

const kept = recorder
if (kept !== undefined) {
  vi.doMock('@milagro-ts/api/log', async original => {
    const module = await original<typeof import('@milagro-ts/api/log')>()
    return {
      ...module,
      createLog: (name: string, { level = 'info', destination }: CreateLogOptions = {}) =>
        module.createLog(name, { level: 'trace', destination: alsoRecorded(level, destination) }),
    }
  })
  vi.doMock('@milagro-ts/api/metrics', async original => {
    const module = await original<typeof import('@milagro-ts/api/metrics')>()
    return {
      ...module,
      createMetrics: (prefix: string) => {
        const metrics = module.createMetrics(prefix)
        pages.push(() => metrics.registry.metrics())
        return metrics
      },
    }
  })
  vi.doMock('@milagro-ts/api/problem', async original => {
    const module = await original<typeof import('@milagro-ts/api/problem')>()
    const { toProblem } = module.Refused.prototype
    module.Refused.prototype.toProblem = function () {
      const problem = toProblem.call(this)
      kept.line('problem', JSON.stringify(problem))
      return problem
    }
    return module
  })
  vi.doMock('@milagro-ts/store/sealed-file', async original => {
    const module = await original<typeof import('@milagro-ts/store/sealed-file')>()
    return {
      ...module,
      sealBytes: (...[passphrase, plaintext, random]: Parameters<typeof module.sealBytes>) => {
        kept.secret('passphrase', passphrase)
        recordSealed(plaintext)
        return module.sealBytes(passphrase, plaintext, random)
      },
      writeSealedFile: (...given: Parameters<typeof module.writeSealedFile>) => {
        const [, passphrase, plaintext] = given
        kept.secret('passphrase', passphrase)
        recordSealed(plaintext)
        return module.writeSealedFile(...given)
      },
      readSealedFile: async (...[path, passphrase]: Parameters<typeof module.readSealedFile>) => {
        kept.secret('passphrase', passphrase)
        const plaintext = await module.readSealedFile(path, passphrase)
        recordSealed(plaintext)
        return plaintext
      },
    }
  })
  vi.doMock('@milagro-ts/client/pin-stretch', async original => {
    const module = await original<typeof import('@milagro-ts/client/pin-stretch')>()
    return {
      ...module,
      stretchPin: (...[pin, account, iterations]: Parameters<typeof module.stretchPin>) => {
        kept.secret('pin', pin)
        return module.stretchPin(pin, account, iterations)
      },
    }
  })
  vi.doMock('@milagro-ts/client/token-store', async original => {
    const module = await original<typeof import('@milagro-ts/client/token-store')>()
    return { ...module, memoryTokenStore: () => alsoRegistered(module.memoryTokenStore()) }
  })
  vi.doMock('@milagro-ts/client/file-token-store', async original => {
    const module = await original<typeof import('@milagro-ts/client/file-token-store')>()
    return {
      ...module,
      fileTokenStore: (...given: Parameters<typeof module.fileTokenStore>) =>
        alsoRegistered(module.fileTokenStore(...given)),
    }
  })
  vi.doMock('@milagro-ts/crypto/enrolment', async original => {
    const module = await original<typeof import('@milagro-ts/crypto/enrolment')>()
    return {
      ...module,
      encodeEnrolmentCode: (code: Parameters<typeof module.encodeEnrolmentCode>[0]) => {
        const text = module.encodeEnrolmentCode(code)
        kept.secret('code', text)
        return text
      },
    }
  })
  // What they say is read by people, and by other servers' logs.
  vi.doMock('@milagro-ts/client/errors', async original => {
    const module = await original<typeof import('@milagro-ts/client/errors')>()
    return { ...module, ClientError: saying(module.ClientError) }
  })
  vi.doMock('@milagro-ts/crypto/errors', async original => {
    const module = await original<typeof import('@milagro-ts/crypto/errors')>()
    return { ...module, DecodeError: saying(module.DecodeError) }
  })
  vi.doMock('@milagro-ts/store/store-error', async original => {
    const module = await original<typeof import('@milagro-ts/store/store-error')>()
    return { ...module, StoreError: saying(module.StoreError) }
  })
}

interface CreateLogOptions {
  readonly level?: string
  readonly destination?: DestinationStream
}
/** Metrics of this file's servers, for the end: they only ever grow. */
const pages: (() => Promise<string>)[] = []
afterAll(async () => {
  for (const page of pages.splice(0)) recorder?.line('metrics', await page())
})

const LEVELS: Readonly<Record<string, number>> = {
  trace: 10,
  debug: 20,
  info: 30,
  warn: 40,
  error: 50,
  fatal: 60,
  silent: Number.POSITIVE_INFINITY,
}

/** Everything is kept; what the test asked for goes where the test wants it. */
function alsoRecorded(level: string, destination: DestinationStream | undefined): DestinationStream {
  const least = LEVELS[level] ?? 0
  return {
    write(line) {
      recorder?.line('log', line)
      if ((JSON.parse(line) as { level: number }).level < least) return
      if (destination === undefined) process.stderr.write(line)
      else destination.write(line)
    },
  }
}

function alsoRegistered(store: import('@milagro-ts/client/token-store').TokenStore) {
  return {
    read: () => store.read(),
    replace(former: string | null, next: string) {
      recordJson(next)
      return store.replace(former, next)
    },
  }
}

function recordSealed(plaintext: Uint8Array): void {
  const text = Buffer.from(plaintext).toString()
  if (text.startsWith('{')) recordJson(text)
  // Of an authority's states: the last of its scalars.
  else if (plaintext.length >= 32) recorder?.secret('key', plaintext.slice(-32))
}

function recordJson(text: string): void {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // Tests of the stores keep any text in them.
    return
  }
  recorder?.secretsOf(SECRETS_OF_STORES, value)
}

/** The same class, whose messages are kept. */
function saying<Class extends new (...given: never[]) => Error>(original: Class): Class {
  return new Proxy(original, {
    construct(target, given, self) {
      const error = Reflect.construct(target, given, self) as Error
      recorder?.line('error', `${error.name}: ${error.message}`)
      return error
    },
  })
}
