/**
 * Prints the OpenAPI 3.1 document of each table of routes into docs/openapi/, after a build:
 *
 *   node scripts/print-openapi.mjs
 *
 * A test compares; a running server says the same at /openapi.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { hookRoutes } from '@milagro-ts/api/hook-routes'
import { openApi } from '@milagro-ts/api/openapi'
import { registerRoutes } from '@milagro-ts/api/register-routes'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { ROOT } from './prepare.mjs'

/** The files, by their path in the repository, with what they should hold. @returns {Record<string, string>} */
export function openApiFiles() {
  const documents = {
    dta: openApi(dtaRoutes, 'Distributed trust authority'),
    'dta-admin': openApi(dtaAdminRoutes, 'Distributed trust authority, admin listener'),
    rps: openApi(rpsRoutes, 'Authentication server'),
    rpa: openApi(rpaRoutes, 'Callbacks of a relying-party application'),
    register: openApi(registerRoutes, 'What a relying-party application says of its register'),
    hooks: openApi(hookRoutes, 'What fleet calls at the customer’s own system'),
  }
  return Object.fromEntries(
    Object.entries(documents).map(([name, text]) => [
      `docs/openapi/${name}.json`,
      `${JSON.stringify(JSON.parse(text), null, 2)}\n`,
    ]),
  )
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  mkdirSync(`${ROOT}docs/openapi`, { recursive: true })
  for (const [file, text] of Object.entries(openApiFiles())) writeFileSync(ROOT + file, text)
}
