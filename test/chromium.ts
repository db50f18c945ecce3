/** A browser for tests: Debian's chromium, driven by playwright-core, and everything in it that went wrong. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BrowserContext, chromium, type Page } from 'playwright-core'

const PLACES = [process.env.MILAGRO_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser']
/** The program, or undefined: then the suites that need it are skipped, with this one line. */
export const chromiumFile = PLACES.find(file => file !== undefined && existsSync(file))
if (chromiumFile === undefined)
  console.log('chromium is not here (/usr/bin/chromium, or MILAGRO_CHROMIUM): no page is tested in a browser')

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** What a page must not do: violate its own policy, throw, complain, or be refused what it asked for. */
export interface Wrongs {
  readonly console: string[]
  readonly policy: string[]
  /** `401 POST /v1/logins` */
  readonly refused: string[]
}

export class Chromium {
  readonly context: BrowserContext
  readonly page: Page
  readonly wrongs: Wrongs = { console: [], policy: [], refused: [] }
  readonly #profile: string

  private constructor(context: BrowserContext, page: Page, profile: string) {
    this.context = context
    this.page = page
    this.#profile = profile
  }

  static async open(): Promise<Chromium> {
    if (chromiumFile === undefined) throw new TypeError('there is no chromium')
    const profile = mkdtempSync(join(tmpdir(), 'milagro-chromium-'))
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: chromiumFile,
      headless: true,
      args: FLAGS,
      viewport: { width: 1280, height: 800 },
      reducedMotion: 'reduce',
    })
    const opened = new Chromium(context, context.pages()[0] ?? (await context.newPage()), profile)
    await opened.#listen()
    return opened
  }

  async close(): Promise<void> {
    await this.context.close()
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 })
  }

  async #listen(): Promise<void> {
    const { context, page, wrongs } = this
    await context.exposeFunction('tellViolation', (what: string) => wrongs.policy.push(what))
    await context.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', event => {
        const { tellViolation } = globalThis as unknown as { tellViolation: (what: string) => void }
        tellViolation(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`)
      })
    })
    page.on('pageerror', error => wrongs.console.push(String(error.stack ?? error)))
    page.on('console', message => {
      const isWrong = message.type() === 'error' || message.type() === 'warning'
      // Chromium's own line for an answer of 400 and above, which is counted below.
      if (isWrong && !message.text().startsWith('Failed to load resource: the server responded'))
        wrongs.console.push(`${message.type()}: ${message.text()}`)
    })
    page.on('dialog', async alert => {
      wrongs.console.push(`${alert.type()}: ${alert.message()}`)
      await alert.dismiss()
    })
    page.on('response', response => {
      const { pathname } = new URL(response.url())
      if (response.status() >= 400)
        wrongs.refused.push(`${response.status()} ${response.request().method()} ${pathname}`)
    })
  }
}
