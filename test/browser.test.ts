/**
 * The story as a person clicks it, in a browser, against real processes: an operator sets a browser up, adds a car,
 * approves another by its six words, bans one and sees it stop on the map.
 *
 * MILAGRO_SCREENSHOTS=<folder> keeps the pictures that are looked at here.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { type CarSettings, Cars } from '@milagro-ts/car-tracking/cars'
import { TOWNS } from '@milagro-ts/car-tracking/gpx'
import { createLanding, type Landing } from '@milagro-ts/car-tracking/landing'
import { freePorts } from '@milagro-ts/car-tracking/processes'
import { SERVERS, Servers } from '@milagro-ts/car-tracking/servers'
import type { Locator, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'
import { Chromium, chromiumFile } from './chromium.js'

const PIN = '482913'
/** What a page shows as it is, or it runs a stranger's script. */
const HOSTILE = '<img src=x onerror=alert(1)>'
const PATIENCE = 20_000
const CARS = { coded: 'WVW-CODED-1', worded: 'WVW-WORDED-2' } as const

describe.runIf(chromiumFile !== undefined)('the pages, in a browser', () => {
  const folder = mkdtempSync(join(tmpdir(), 'milagro-browser-'))
  let servers: Servers
  let cars: Cars
  let browser: Chromium
  let page: Page
  let landing: Landing
  let setup: { readonly operator: string; readonly code: string }

  beforeAll(async () => {
    const [landingPort = 0, answering = 0, ...ports] = await freePorts(2 + 2 * SERVERS.length)
    const portsOf = (name: (typeof SERVERS)[number]) => {
      const at = 2 * SERVERS.indexOf(name)
      return { public: ports[at] as number, admin: ports[at + 1] as number }
    }
    servers = new Servers({
      folder,
      ports: Object.fromEntries(SERVERS.map(name => [name, portsOf(name)])) as never,
      slotLength: 86_400,
      grace: 0,
      deltaSeconds: 5,
      clock: systemClock,
      random: systemRandom,
      progress: () => undefined,
    })
    cars = new Cars({ folder, servers, answering: { host: '127.0.0.1', port: answering } })
    const [opened] = await Promise.all([Chromium.open(), servers.start()])
    browser = opened
    page = browser.page
    page.setDefaultTimeout(PATIENCE)
    setup = servers.process('fleet').events.find(({ event }) => event === 'setup-code') as never
    landing = await createLanding({
      port: landingPort,
      pagesFolder: `${ROOT}examples/car-tracking/dist/landing`,
      docsFolder: `${ROOT}docs`,
      parties: SERVERS.map(name => ({ name, url: servers.url(name), adminUrl: servers.adminUrl(name) })),
      cars: () => cars.all.map(({ name, running }) => ({ name, isRunning: running })),
      group: servers.groupId,
      console: servers.url('fleet'),
      operator: setup.operator,
      codeFile: '.milagro/browser.code',
      commands: ['npx milagro fleet list …'],
      clock: systemClock,
      fetch,
    })
  })

  afterAll(async () => {
    await browser?.close()
    await landing?.close()
    await cars?.end()
    await servers?.end()
    rmSync(folder, { recursive: true, force: true })
  })

  const button = (name: string | RegExp, within: Page | Locator = page) =>
    within.getByRole('button', { name, exact: typeof name === 'string' })
  const dialog = () => page.getByRole('dialog')
  const row = (name: string) => page.getByRole('row').filter({ hasText: name })
  const heading = (name: string) => page.getByRole('heading', { name, exact: true, level: 1 })
  const go = async (view: string, title = view) => {
    await page
      .getByRole('navigation', { name: 'Views' })
      .getByRole('link', { name: new RegExp(`^${view}`) })
      .click()
    await heading(title).waitFor()
  }
  const openVehicle = async (instance: string) => {
    await go('Vehicles')
    await page.getByRole('link', { name: instance }).click()
    await heading(instance).waitFor()
  }
  const until = (locator: Locator) => locator.waitFor({ timeout: PATIENCE })

  /** A picture of what is seen now; kept if somebody wants to look at it. */
  const picture = async (name: string) => {
    const bytes = await page.screenshot({ animations: 'disabled' })
    expect(bytes.length).toBeGreaterThan(5_000)
    const kept = process.env.MILAGRO_SCREENSHOTS
    if (kept === undefined) return
    mkdirSync(kept, { recursive: true })
    writeFileSync(join(kept, `${name}.png`), bytes)
  }

  const startCar = (name: string, instance: string, code?: string) => {
    const settings: CarSettings = {
      name,
      instance,
      attributes: code === undefined ? { brand: 'Fiat', model: '500e' } : { brand: HOSTILE, model: 'ID.3' },
      // In one town, so that the map shows both and their streets.
      seed: name === 'car-1' ? 0 : TOWNS.length,
      speed: 60,
      positionEvery: 200,
      reportEvery: 400,
      ...(code === undefined ? { groupId: servers.groupId } : {}),
    }
    return cars.start(settings, { code })
  }

  test('the landing page says what is running, and where to go', async () => {
    await page.goto(landing.url)
    await until(page.getByRole('heading', { name: 'Everything is running' }))
    expect(await page.getByText('ready', { exact: true }).count()).toBe(SERVERS.length)
    await picture('landing')
    const { href } = await page.getByRole('link', { name: /Open the console/ }).evaluate(link => ({
      href: (link as HTMLAnchorElement).href,
    }))
    expect(href).toBe(`${servers.url('fleet')}/`)
    const docs = await page.request.get(`${landing.url}/docs/architecture.md`)
    expect(docs.status()).toBe(200)
  })

  test('every page forbids what it does not need', async () => {
    for (const url of [landing.url, servers.url('fleet')]) {
      const { 'content-security-policy': policy, ...headers } = (await page.request.get(url)).headers()
      expect(policy).toMatch(/^default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self';/)
      expect(policy).toContain("frame-ancestors 'none'")
      expect(policy).not.toMatch(/unsafe-inline|'unsafe-eval'|\*/)
      expect(headers).toMatchObject({
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      })
    }
  })

  test('a setup code makes this browser an operator’s', async () => {
    await page.goto(servers.url('fleet'))
    await page.getByLabel('Operator').fill(setup.operator)
    await page.getByLabel('Setup code').fill(setup.code)
    await page.getByLabel('Choose a PIN').fill(PIN)
    await page.getByLabel('The PIN again').fill(`${PIN}9`)
    await page.keyboard.press('Enter')
    await until(page.getByText('The two PINs differ.'))
    await picture('set-up')
    await page.getByLabel('The PIN again').fill(PIN)
    await page.keyboard.press('Enter')
    await until(heading('Vehicles'))
    await until(page.getByText('No vehicle yet'))
    await picture('empty')
  })

  test('the PIN logs in, a wrong one does not, and nothing secret is kept in sight', async () => {
    await button('Log out').click()
    await page.reload()
    await page.getByLabel('PIN').fill('000000')
    await button('Log in').click()
    await until(page.getByText(/That PIN is wrong/))
    expect(await page.getByLabel('PIN').inputValue()).toBe('')
    await picture('log-in')
    await page.getByLabel('PIN').fill(PIN)
    await button('Log in').click()
    await until(heading('Vehicles'))
    expect(page.url()).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/(#\/vehicles)?$/)
    const kept = await page.evaluate(async () => {
      const [{ name } = { name: '' }] = await indexedDB.databases()
      const db = await new Promise<IDBDatabase>(resolve => {
        const request = indexedDB.open(name as string)
        request.onsuccess = () => resolve(request.result)
      })
      const key = await new Promise<CryptoKey>(resolve => {
        const request = db.transaction('kept').objectStore('kept').get('key')
        request.onsuccess = () => resolve(request.result as CryptoKey)
      })
      const exported = await crypto.subtle.exportKey('raw', key).then(
        () => 'exported',
        (error: Error) => error.name,
      )
      db.close()
      return { local: localStorage.length, session: sessionStorage.length, cookie: document.cookie, exported }
    })
    expect(kept).toEqual({ local: 0, session: 0, cookie: '', exported: 'InvalidAccessError' })
  })

  test('a vehicle is added, its code is shown, and a car enrols with it', async () => {
    await button('Add a vehicle').click()
    await dialog().getByLabel('VIN').fill(CARS.coded)
    await dialog().getByLabel('Brand').fill(HOSTILE)
    await dialog().getByLabel('Model').fill('ID.3')
    await picture('add-vehicle')
    await dialog().getByLabel('Model').press('Enter')
    const shown = dialog().getByTestId('code')
    await until(shown)
    await until(dialog().getByRole('img', { name: 'The code as a QR code' }))
    await picture('code')
    const code = await shown.textContent()
    await button('Done', dialog()).click()
    await until(row(CARS.coded).getByText('waits for its device'))
    await startCar('car-1', CARS.coded, code ?? '')
    await until(row(CARS.coded).getByText('enrolled'))
  })

  test('a car without a code shows six words, the same as here, and is approved', async () => {
    const car = await startCar('car-2', CARS.worded)
    const { words } = await car.waitFor(({ event }) => event === 'words')
    await go('Approvals', 'Waiting for approval')
    const card = page.getByRole('article').filter({ hasText: CARS.worded })
    await until(card)
    expect(await card.getByRole('listitem').allTextContents()).toEqual((words as string).split(' '))
    await picture('approvals')
    await button(/The words are the same/, card).click()
    // Nobody approves without having compared.
    await button('Approve', dialog()).click()
    expect(await dialog().count()).toBe(1)
    await dialog()
      .getByLabel(/I have compared all six/)
      .check()
    await button('Approve', dialog()).click()
    await until(page.getByText('Nobody is waiting'))
    await car.waitFor(({ event }) => event === 'enrolled')
    await go('Vehicles')
    await until(row(CARS.worded).getByText('enrolled'))
    await picture('vehicles')
  })

  test('a driver is added; names and attributes are text, whatever they hold', async () => {
    await openVehicle(CARS.coded)
    await button('Add a driver').click()
    await dialog().getByLabel('Name').fill(HOSTILE)
    await dialog().getByLabel('Name').press('Enter')
    await until(dialog().getByTestId('code'))
    await button('Done', dialog()).click()
    await until(page.getByRole('rowheader', { name: HOSTILE }))
    await until(page.getByRole('definition').filter({ hasText: HOSTILE }))
    expect(await page.locator('main img').count()).toBe(0)
    await picture('vehicle')
    await go('Drivers')
    await until(page.getByRole('rowheader', { name: HOSTILE }))
    expect(await page.locator('main img').count()).toBe(0)
  })

  test('on the map both cars drive; a banned one stands still at once, the other goes on', async () => {
    await go('Map', 'Cars')
    const pin = (name: string) => page.locator('.map-pin').filter({ hasText: name })
    const state = (name: string, wanted: string) =>
      until(page.locator(`.map-pin[data-state="${wanted}"]`).filter({ hasText: name }))
    await state(CARS.coded, 'drives')
    await state(CARS.worded, 'drives')
    await until(page.locator('path.map-land').first())
    await picture('map')

    await openVehicle(CARS.coded)
    await button('Ban').first().click()
    await dialog().getByLabel('Reason').fill('stolen')
    await picture('ban')
    await button('Ban', dialog()).click()
    await until(page.getByText(/^Banned .*: stolen/))
    await go('Map', 'Cars')
    await state(CARS.coded, 'banned')
    // How far a marker is from the other end of the world, by what leaflet writes there.
    const place = (name: string) => pin(name).evaluate(element => element.parentElement?.style.transform)
    const stopped = await place(CARS.coded)
    const driven = await place(CARS.worded)
    await expect.poll(() => place(CARS.worded), { timeout: PATIENCE }).not.toBe(driven)
    const further = await place(CARS.worded)
    await expect.poll(() => place(CARS.worded), { timeout: PATIENCE }).not.toBe(further)
    expect(await place(CARS.coded)).toBe(stopped)
    await picture('map-banned')

    await openVehicle(CARS.coded)
    await button('Lift the ban').click()
    await until(page.getByText('enrolled').first())
    await go('Map', 'Cars')
    await state(CARS.coded, 'drives')
  })

  test('a driver is banned until a day that is set, and the ban stands in the list', async () => {
    await go('Drivers')
    await button('Ban', row(HOSTILE)).click()
    await dialog().getByLabel('Reason').fill('licence withdrawn')
    await dialog()
      .getByLabel(/Ends by itself/)
      .fill('2031-05-01T08:00')
    await button('Ban', dialog()).click()
    await until(row(HOSTILE).getByText('banned'))
    await go('Bans', 'Bans in force')
    await until(row('licence withdrawn'))
    expect(await row('licence withdrawn').locator('time').last().getAttribute('datetime')).toMatch(
      /^2031-05-01/,
    )
    await picture('bans')
    await button('Lift the ban', row('licence withdrawn')).click()
    await until(page.getByText('Nobody is banned'))
  })

  test('with the keyboard alone: to a vehicle, a dialog that keeps the focus, and out again', async () => {
    await go('Vehicles')
    await page.getByRole('link', { name: 'Fleet' }).focus()
    const focused = () => page.evaluate(() => document.activeElement?.textContent?.trim() ?? '')
    const tabTo = async (text: string, most = 40) => {
      for (let i = 0; i < most; i++) {
        if ((await focused()) === text) return
        await page.keyboard.press('Tab')
      }
      throw new Error(`no Tab leads to ${text}`)
    }
    await tabTo(CARS.worded)
    const outline = await page.evaluate(
      () => getComputedStyle(document.activeElement as Element).outlineStyle,
    )
    expect(outline).toBe('solid')
    await page.keyboard.press('Enter')
    await until(heading(CARS.worded))
    await tabTo('Revoke')
    await page.keyboard.press('Enter')
    await until(dialog())
    const stays = () =>
      page.evaluate(() => document.querySelector('dialog')?.contains(document.activeElement))
    // From the dialog's last button the focus may rest on the browser's own controls (the body), never on the page.
    for (let i = 0; i < 8; i++) {
      await page.keyboard.press('Tab')
      expect((await stays()) || (await page.evaluate(() => document.activeElement === document.body))).toBe(
        true,
      )
    }
    await page.keyboard.press('Escape')
    await dialog().waitFor({ state: 'detached' })
    expect(await focused()).toBe('Revoke')
    await page.keyboard.press('Enter')
    await tabTo('Revoke for good')
    await page.keyboard.press('Enter')
    await until(page.getByText('revoked', { exact: true }))
  })

  test('the trail has what was done, and no code or name', async () => {
    await go('Audit')
    const table = page.getByRole('table')
    await until(table)
    await picture('audit')
    const text = (await table.textContent()) ?? ''
    for (const what of ['ban', 'unban', 'revoke', 'approve']) expect(text).toContain(what)
    expect(text).not.toContain(HOSTILE)
    expect(text).not.toContain(setup.code)
  })

  test('an authority that is down is seen, here and on the landing page', async () => {
    await go('Authorities', 'Trust authorities')
    await expect.poll(() => page.getByText('in order').count(), { timeout: PATIENCE }).toBe(3)
    await servers.process('dta-3').end()
    await go('Vehicles')
    await go('Authorities', 'Trust authorities')
    await until(page.getByRole('article').filter({ hasText: 'dta-3' }).getByText('in trouble'))
    await picture('authorities')
    await page.goto(landing.url)
    await until(page.getByRole('heading', { name: '5 of 6 servers are ready' }))
    await until(page.getByText('down', { exact: true }))
    await page.goto(servers.url('fleet'))
    await page.getByLabel('PIN').fill(PIN)
    await button('Log in').click()
    await until(heading('Vehicles'))
  })

  test('faults of a log, unknown keys, one that lacks a key and one that leaves are seen; an operator acknowledges', async () => {
    const findings = { shorter: 'a1'.repeat(12), unknown: 'b2'.repeat(12), lacking: 'c3'.repeat(12) }
    const foundAt = Math.floor(systemClock() / 1000) - 60
    const acknowledged = new Map<string, string>()
    // Fleet's own answer, with what it would say of authorities that do worse than these.
    await page.route('**/v1/reconciliation', async route => {
      const answer = await (await route.fetch()).json()
      const known = (finding: string) => {
        const reason = acknowledged.get(finding)
        return {
          finding,
          ...(reason === undefined
            ? {}
            : { acknowledged: { by: `operator:${setup.operator}`, at: foundAt, reason } }),
        }
      }
      const [first, second] = answer.authorities
      const hash = first.unknown[0]?.idCoreHash ?? Buffer.alloc(32, 7).toString('base64url')
      const detail = `it has 3 entries, it had 5 ${HOSTILE}`
      Object.assign(first, {
        intact: false,
        faults: [{ fault: 'shorter', detail, foundAt, heads: [], ...known(findings.shorter) }],
      })
      const key = { number: 7, at: foundAt, purpose: 'device', idCoreHash: hash, ticketHash: hash }
      Object.assign(second, {
        leavesAt: foundAt + 86_400,
        unknown: [{ ...key, why: 'no-vehicle', foundAt, ...known(findings.unknown) }],
      })
      answer.lacking = [
        {
          instance: CARS.coded,
          idCoreHash: hash,
          held: 1,
          needed: 2,
          missing: ['dta-3'],
          ...known(findings.lacking),
        },
      ]
      await route.fulfill({ json: answer })
    })
    await page.route('**/v1/reconciliation/acknowledgements', async route => {
      const body = route.request().postDataJSON() as { findings: string[]; reason: string }
      for (const finding of body.findings) acknowledged.set(finding, body.reason)
      await route.fulfill({ json: {} })
    })
    await go('Vehicles')
    await go('Authorities', 'Trust authorities')
    const card = (name: string) => page.getByRole('article').filter({ hasText: name })
    await until(card('dta-1').getByText('log changed'))
    // As text, whatever a log's fault says.
    await until(card('dta-1').getByText(`The log is shorter: it has 3 entries, it had 5 ${HOSTILE}`))
    await until(card('dta-2').getByText('unknown keys: 1'))
    await until(card('dta-2').getByText(/no\. 7 .* for no vehicle/))
    await until(card('dta-2').getByText('leaving', { exact: true }))
    await until(card('dta-2').getByText(/It has announced its departure/))
    const lacking = page.getByRole('listitem').filter({ hasText: `${CARS.coded} logs in` })
    await until(lacking.getByText(/in 1 logs of 2: missing at dta-3/))
    await picture('authorities-findings')

    for (const [within, reason] of [
      [card('dta-1'), 'its disk was put back'],
      [card('dta-2'), 'a test of its operator'],
      [lacking, 'it catches up'],
    ] as const) {
      await button('Acknowledge', within).click()
      await until(dialog())
      await dialog().getByLabel('What happened').fill(reason)
      if (acknowledged.size === 0) await picture('acknowledge')
      await button('Acknowledge', dialog()).click()
      await until(within.getByText(new RegExp(`Acknowledged by ${setup.operator}, .*: ${reason}`)))
      expect(await dialog().count()).toBe(0)
    }
    expect([...acknowledged.keys()]).toEqual(Object.values(findings))
    await until(card('dta-1').getByText('acknowledged', { exact: true }))
    expect(await button('Acknowledge').count()).toBe(0)
    await picture('authorities-acknowledged')
    await page.unrouteAll({ behavior: 'wait' })
  })

  test('on a phone, in the dark: everything fits', async () => {
    await page.emulateMedia({ colorScheme: 'dark' })
    await go('Vehicles')
    await picture('vehicles-dark')
    await go('Map', 'Cars')
    await until(page.locator('.map-pin').first())
    await until(page.locator('path.map-land').first())
    await picture('map-dark')
    await page.setViewportSize({ width: 390, height: 844 })
    const views = [
      ['Vehicles'],
      ['Map', 'Cars'],
      ['Approvals', 'Waiting for approval'],
      ['Drivers'],
      ['Bans', 'Bans in force'],
      ['Operators'],
      ['Authorities', 'Trust authorities'],
      ['Audit'],
    ] as const
    for (const [view, title = view] of views) {
      await go(view, title)
      await until(page.locator('main :is(table, .empty, .card, .map-pin)').first())
      const width = await page.evaluate(() => document.documentElement.scrollWidth)
      expect([view, width]).toEqual([view, 390])
      await picture(`phone-dark-${view.toLowerCase()}`)
    }
    await page.emulateMedia({ colorScheme: 'light' })
    await openVehicle(CARS.coded)
    await picture('phone-vehicle')
    await button('Add a driver').click()
    await picture('phone-dialog')
    await page.keyboard.press('Escape')
    await page.goto(landing.url)
    await until(page.getByRole('heading', { level: 1 }))
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390)
    await picture('phone-landing')
  })

  test('nothing went wrong on the way: no complaint, no violation of the policy, no refusal but the wrong PIN', () => {
    expect(browser.wrongs.policy).toEqual([])
    expect(browser.wrongs.console).toEqual([])
    expect(browser.wrongs.refused).toEqual([expect.stringMatching(/^40[13] POST \/v1\/logins$/)])
  })

  test('a violation would have been seen: a script that stands in the document is blocked, and told', async () => {
    await page.evaluate(() => {
      const script = document.createElement('script')
      script.textContent = 'alert(1)'
      document.head.append(script)
    })
    await expect.poll(() => browser.wrongs.policy).toEqual([expect.stringMatching(/^script-src-elem inline/)])
    expect(browser.wrongs.console).toEqual([expect.stringMatching(/^error: .*Content Security Policy/)])
  })
})
