/** One screen that says what is running: the parties, their health, and what to try next. */
import { createClient } from '@milagro-ts/api/call'
import { render } from 'preact'
import { Badge, Failure, type Tone, useLoad } from '../../../packages/fleet/pages/parts.js'
import '../../../packages/fleet/pages/console.css'
import { landingRoutes, type Running } from '../src/landing-routes.js'
import './landing.css'

type Party = Running['parties'][number]

const EVERY = 3_000
const { running } = createClient(landingRoutes, { baseUrl: location.origin })

/** What each party is for, in the order of the story. */
const PARTIES: Readonly<Record<string, readonly [title: string, does: string]>> = {
  fleet: ['Fleet', 'Who is who, and who is banned.'],
  rps: ['RPS', 'Checks every login; keeps nobody’s credential.'],
  tracking: ['Tracking server', 'Believes positions of proven cars only, over TLS without certificates.'],
  gateway: [
    'Gateway',
    'Takes cars’ MQTT over TLS without certificates, for a mosquitto that knows none of this.',
  ],
  'dta-1': ['Trust authority 1', 'One share of every master secret.'],
  'dta-2': ['Trust authority 2', 'One share of every master secret.'],
  'dta-3': ['Trust authority 3', 'One share of every master secret.'],
}
const ORDER = Object.keys(PARTIES)

const HEALTH: Readonly<Record<Party['health'], readonly [Tone, string]>> = {
  ready: ['good', 'ready'],
  troubled: ['warn', 'in trouble'],
  down: ['bad', 'down'],
}

const READ = [
  ['console.md', 'The console, view by view'],
  ['architecture.md', 'Who talks to whom, and one login through every floor'],
  ['cli.md', 'Every command'],
  ['protocols/README.md', 'The protocols, byte by byte'],
] as const

function Landing() {
  const { value, error } = useLoad(() => running({}), [], EVERY)
  if (value === undefined) {
    return <main class="landing">{error !== undefined && <Failure error={error} />}</main>
  }
  const parties = [...value.parties].sort((a, b) => ORDER.indexOf(a.name) - ORDER.indexOf(b.name))
  const driving = value.cars.filter(({ isRunning }) => isRunning).length
  const ready = parties.filter(({ health }) => health === 'ready').length
  return (
    <main class="landing">
      <header class="landing-head">
        <img src="icon.svg" alt="" width="44" height="44" />
        <div>
          <h1>
            {ready === parties.length
              ? 'Everything is running'
              : `${ready} of ${parties.length} servers are ready`}
          </h1>
          <p class="lead" role="status">
            {parties.length} servers and {driving} {driving === 1 ? 'car' : 'cars'}, each a process of its
            own, on this machine alone.
          </p>
        </div>
      </header>
      {error !== undefined && (
        <p class="note bad" role="alert">
          This page gets no answer any more: <code>npm start</code> has ended.
        </p>
      )}
      <nav class="landing-doors" aria-label="Pages">
        <a href={value.console}>
          <strong>Open the console</strong>
          <span>Vehicles, drivers, approvals, bans, audit.</span>
        </a>
        <a href={`${value.console}/#/map`}>
          <strong>Open the live map</strong>
          <span>Every car, and what it has driven.</span>
        </a>
      </nav>
      <p class="note">
        The first time, set your browser up as operator <strong>{value.operator}</strong> with the code in{' '}
        <code>{value.codeFile}</code>, and choose a PIN.
      </p>
      <div class="landing-columns">
        <section aria-labelledby="parties">
          <h2 id="parties">Who is running</h2>
          <ul class="landing-parties">
            {parties.map(party => (
              <PartyRow key={party.name} party={party} />
            ))}
            <li>
              <div>
                <strong>Cars</strong>
                <span class="quiet">
                  {value.cars.map(({ name }) => name).join(', ')}: they log in and report, and two of them
                  speak to each other with no server between them.
                </span>
              </div>
              <Badge tone={driving === value.cars.length ? 'good' : 'warn'}>
                {driving} of {value.cars.length} drive
              </Badge>
            </li>
          </ul>
        </section>
        <section aria-labelledby="try">
          <h2 id="try">What to try next</h2>
          <ol class="landing-steps">
            <li>
              Open the map, ban a car in the console, and see it stop within a second. Lift the ban: it drives
              on.
            </li>
            <li>Add a vehicle: it gets a code, good for one enrolment.</li>
            <li>Look at the authorities’ logs and the audit: which keys were made, and who did what.</li>
          </ol>
          <h2>At the terminal</h2>
          <pre class="landing-commands">{value.commands.join('\n')}</pre>
          <h2>To read</h2>
          <ul class="landing-read">
            {READ.map(([file, title]) => (
              <li key={file}>
                <a href={`docs/${file}`}>{title}</a>
              </li>
            ))}
          </ul>
        </section>
      </div>
      <p class="quiet landing-group">
        Group <span class="mono">{value.group}</span>
      </p>
    </main>
  )
}

function PartyRow({ party: { name, url, health, failing } }: { party: Party }) {
  const [title, does] = PARTIES[name] ?? [name, '']
  const [tone, word] = HEALTH[health]
  return (
    <li>
      <div>
        <span class="landing-name">
          <strong>{title}</strong> <span class="mono quiet">{url}</span>{' '}
          {url.startsWith('http') && <a href={`${url}/openapi.json`}>API</a>}
        </span>
        <span class="quiet">{does}</span>
      </div>
      <Badge tone={tone}>{failing.length === 0 ? word : `${word}: ${failing.join(', ')}`}</Badge>
    </li>
  )
}

const place = document.getElementById('landing')
if (place !== null) render(<Landing />, place)
