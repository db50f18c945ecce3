/** `node main.js --config file.json [--init]` (process.ts). */
import { runRps } from './process.js'

await runRps()
