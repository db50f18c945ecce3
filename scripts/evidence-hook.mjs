/**
 * Imported before the program of every process of a test run (evidence.mjs): records what its children write on
 * standard error, and the secrets that pass in its HTTP calls. The program notices nothing.
 */
import { ChildProcess } from 'node:child_process'
import { Recorder, SECRETS_OF_CALLS } from './evidence.mjs'

const LONGEST_ANSWER = 1_048_576

const folder = new URL(import.meta.url).searchParams.get('folder')
if (folder !== null) {
  const recorder = new Recorder(folder)
  recordStandardErrors(recorder)
  recordSecretsOfCalls(recorder)
}

/** @param {Recorder} recorder */
function recordStandardErrors(recorder) {
  const prototype = /** @type {{ spawn: (options: unknown) => unknown }} */ (
    /** @type {unknown} */ (ChildProcess.prototype)
  )
  const { spawn } = prototype
  /** @this {ChildProcess} @param {unknown} options */
  prototype.spawn = function (options) {
    const result = spawn.call(this, options)
    let rest = ''
    this.stderr?.on('data', chunk => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) recorder.line('stderr', line)
    })
    this.stderr?.on('close', () => recorder.line('stderr', rest))
    return result
  }
}

/** @param {Recorder} recorder */
function recordSecretsOfCalls(recorder) {
  const { fetch } = globalThis
  globalThis.fetch = async (input, init) => {
    const authorization = new Headers(init?.headers).get('authorization')?.split(' ').at(-1)
    if (authorization !== undefined) recorder.secret('token', authorization)
    if (init?.body instanceof Uint8Array) recordSecretsOf(recorder, Buffer.from(init.body).toString())
    const response = await fetch(input, init)
    const type = response.headers.get('content-type') ?? ''
    // An answer without a length may never end.
    const length = Number(response.headers.get('content-length') ?? Number.NaN)
    if (!response.ok || !type.startsWith('application/json') || !(length <= LONGEST_ANSWER)) return response
    // Read here and handed on whole: a clone would wait for a reader that never comes.
    const bytes = await response.arrayBuffer()
    recordSecretsOf(recorder, Buffer.from(bytes).toString())
    const { status, statusText, headers } = response
    return new Response(bytes, { status, statusText, headers })
  }
}

/**
 * @param {Recorder} recorder
 * @param {string} text
 */
function recordSecretsOf(recorder, text) {
  /** @type {unknown} */
  let value
  try {
    value = JSON.parse(text)
  } catch {
    // Bad input is what some tests send.
    return
  }
  recorder.secretsOf(SECRETS_OF_CALLS, value)
}
