/**
 * `npm start`: installs and builds if need be, then becomes the car-tracking example; `npm start -- --check` passes
 * its arguments on. The example runs in this process, so that signals and the exit code are its own.
 */
import { existsSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { prepare, ROOT } from './prepare.mjs'

const example = `${ROOT}examples/car-tracking/dist/start.js`
try {
  await prepare()
  if (!existsSync(example)) throw new Error(`the build made no ${example}`)
} catch (error) {
  console.error(`npm start: ${error instanceof Error ? error.message : error}`)
  process.exit(1)
}
// A signal to npm ends the shell that npm started, and that shell passes nothing on: without this the example would go
// on by itself, its ports taken.
if (process.env.npm_lifecycle_event === 'start') {
  const shell = process.ppid
  setInterval(() => {
    if (process.ppid !== shell) process.kill(process.pid, 'SIGTERM')
  }, 1000).unref()
}
process.argv[1] = example
await import(pathToFileURL(example).href)
