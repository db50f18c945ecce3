/** `node main.js --config file.json [--init]` (rps-process.ts). */
import { runRps } from './rps-process.js'

await runRps()
