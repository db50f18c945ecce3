/**
 * The console: who isn't logged in sees a login, everybody else one view at a time, named by the address' fragment.
 * Extensions are modules of this same origin (the fleet's settings name them): they get a place on the page and the
 * operator's logins, and nothing of the key.
 */
import { render } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Extension, ExtensionHost } from '../src/console-extension.js'
import { Approvals } from './approvals.js'
import {
  type ConsoleSession,
  type ConsoleSettings,
  enrolOperator,
  knownOperators,
  loadSettings,
  logInOperator,
} from './console-session.js'
import { Failure, Field, Form, useLoad } from './parts.js'
import { Bans, Drivers, Operators } from './people.js'
import { Audit, Authorities } from './trail.js'
import { VehiclePage, Vehicles } from './vehicles.js'

function Console() {
  const settings = useLoad(loadSettings, [])
  const [session, setSession] = useState<ConsoleSession>()
  if (settings.error !== undefined) {
    return (
      <main class="door">
        <Failure error={settings.error} />
        <button type="button" onClick={() => void settings.reload()}>
          Try again
        </button>
      </main>
    )
  }
  if (settings.value === undefined) return null
  if (session === undefined) return <Door settings={settings.value} enter={setSession} />
  return (
    <Shell
      session={session}
      leave={() => {
        session.close()
        setSession(undefined)
      }}
    />
  )
}

function Door({ settings, enter }: { settings: ConsoleSettings; enter: (session: ConsoleSession) => void }) {
  const known = useLoad(knownOperators, [])
  const [isNew, setNew] = useState(false)
  if (known.error !== undefined) return <Failure error={known.error} />
  if (known.value === undefined) return null
  const [first] = known.value
  return (
    <main class="door">
      <img src="icon.svg" alt="" width="48" height="48" />
      <h1>Fleet</h1>
      {first === undefined || isNew ? (
        <SetUp settings={settings} enter={enter} />
      ) : (
        <LogIn settings={settings} operators={known.value} enter={enter} />
      )}
      {first !== undefined && (
        <button type="button" class="link" onClick={() => setNew(!isNew)}>
          {isNew ? 'Log in instead' : 'I have a code for another operator'}
        </button>
      )}
    </main>
  )
}

function SetUp({ settings, enter }: { settings: ConsoleSettings; enter: (session: ConsoleSession) => void }) {
  const [operator, setOperator] = useState('admin')
  const [code, setCode] = useState('')
  const [pin, setPin] = useState('')
  const [again, setAgain] = useState('')
  return (
    <>
      <p class="lead">
        Set this browser up as an operator’s. Its key is made now, in shares that trust authorities issue; it
        stays in this browser.
      </p>
      <Form
        action="Set up"
        submit={async () => {
          if (pin !== again) throw new TypingError('The two PINs differ.')
          enter(await enrolOperator(settings, { operator: operator.trim(), code, pin }))
        }}
      >
        <Field
          label="Operator"
          value={operator}
          change={setOperator}
          required
          autoComplete="username"
          pattern="[a-z0-9]([a-z0-9._\-]{0,62}[a-z0-9])?"
        />
        <Field
          label="Setup code"
          value={code}
          change={setCode}
          required
          autoFocus
          autoComplete="off"
          placeholder="ABCD-EFGH-…"
          hint="From fleet’s first start, or from an operator who invited you."
        />
        <Field
          label="Choose a PIN"
          type="password"
          value={pin}
          change={setPin}
          required
          minLength={4}
          autoComplete="new-password"
          inputMode="numeric"
          hint="At least four characters. Three wrong ones in a row lock you out."
        />
        <Field
          label="The PIN again"
          type="password"
          value={again}
          change={setAgain}
          required
          autoComplete="new-password"
          inputMode="numeric"
        />
      </Form>
    </>
  )
}

/** What a person typed and can mend; shown as it is. */
class TypingError extends Error {
  override readonly name = 'TypingError'
}

function LogIn({
  settings,
  operators,
  enter,
}: {
  settings: ConsoleSettings
  operators: readonly string[]
  enter: (session: ConsoleSession) => void
}) {
  const [operator, setOperator] = useState(operators[0] as string)
  const [pin, setPin] = useState('')
  return (
    <Form
      action="Log in"
      submit={async () => {
        try {
          enter(await logInOperator(settings, { operator, pin }))
        } finally {
          setPin('')
        }
      }}
    >
      {operators.length === 1 ? (
        <p class="lead">
          Welcome back, <strong>{operator}</strong>.
        </p>
      ) : (
        <div class="field">
          <label for="operator">Operator</label>
          <select id="operator" value={operator} onChange={event => setOperator(event.currentTarget.value)}>
            {operators.map(name => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </div>
      )}
      <Field
        label="PIN"
        type="password"
        value={pin}
        change={setPin}
        required
        autoFocus
        autoComplete="current-password"
        inputMode="numeric"
      />
    </Form>
  )
}

const VIEWS = [
  ['vehicles', 'Vehicles'],
  ['approvals', 'Approvals'],
  ['drivers', 'Drivers'],
  ['bans', 'Bans'],
  ['operators', 'Operators'],
  ['authorities', 'Authorities'],
  ['audit', 'Audit'],
] as const

function Shell({ session, leave }: { session: ConsoleSession; leave: () => void }) {
  const [view = 'vehicles', id] = usePlace()
  const { fleet, operator, settings } = session
  const waiting = useLoad(() => fleet.listApprovals({}), [fleet], 5_000).value?.approvals.length ?? 0
  const main = useRef<HTMLElement>(null)
  useEffect(() => main.current?.focus({ preventScroll: true }), [view, id])
  const extension = settings.extensions.find(({ name }) => name === view)
  const links = [
    ...VIEWS.slice(0, 1),
    ...settings.extensions.map(({ name, title }) => [name, title] as const),
    ...VIEWS.slice(1),
  ]
  return (
    <div class="shell">
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        To the content
      </button>
      <header>
        <a class="brand" href="#/vehicles">
          <img src="icon.svg" alt="" width="28" height="28" />
          Fleet
        </a>
        <nav aria-label="Views">
          {links.map(([name, title]) => (
            <a key={name} href={`#/${name}`} aria-current={view === name ? 'page' : undefined}>
              {title}
              {name === 'approvals' && waiting > 0 && <span class="count">{waiting}</span>}
            </a>
          ))}
        </nav>
        <div class="who">
          <span>{operator}</span>
          <button type="button" class="link" onClick={leave}>
            Log out
          </button>
        </div>
      </header>
      <main ref={main} tabIndex={-1} id="main" class={extension === undefined ? undefined : 'whole'}>
        {view === 'vehicles' &&
          (id === undefined ? <Vehicles fleet={fleet} /> : <VehiclePage key={id} fleet={fleet} id={id} />)}
        {view === 'approvals' && <Approvals fleet={fleet} />}
        {view === 'drivers' && <Drivers fleet={fleet} />}
        {view === 'bans' && <Bans fleet={fleet} />}
        {view === 'operators' && <Operators fleet={fleet} self={operator} />}
        {view === 'authorities' && <Authorities fleet={fleet} />}
        {view === 'audit' && <Audit fleet={fleet} />}
        {extension !== undefined && (
          <ExtensionPlace key={extension.name} session={session} extension={extension} />
        )}
      </main>
    </div>
  )
}

/** `#/vehicles/7` → ['vehicles', '7']. */
function usePlace(): readonly string[] {
  const read = () => location.hash.split('/').slice(1).filter(Boolean)
  const [place, setPlace] = useState(read)
  useEffect(() => {
    const moved = () => setPlace(read())
    addEventListener('hashchange', moved)
    return () => removeEventListener('hashchange', moved)
  }, [])
  return place
}

function ExtensionPlace({
  session,
  extension,
}: {
  session: ConsoleSession
  extension: ConsoleSettings['extensions'][number]
}) {
  const place = useRef<HTMLDivElement>(null)
  const [error, setError] = useState<unknown>()
  useEffect(() => {
    const element = place.current
    if (element === null) return
    let unmount: (() => void) | undefined
    let isGone = false
    const host: ExtensionHost = {
      audience: extension.audience,
      authorization: options =>
        session.authorization(extension.audience ?? session.settings.audience, options),
      fleet: session.fleet,
    }
    const start = async () => {
      const { mount } = (await import(`${location.origin}/extensions/${extension.name}/main.js`)) as Extension
      if (!isGone) unmount = mount(element, host)
    }
    start().catch((failed: unknown) => setError(failed))
    return () => {
      isGone = true
      unmount?.()
    }
  }, [session, extension])
  return error === undefined ? <div class="extension" ref={place} /> : <Failure error={error} />
}

const place = document.getElementById('console')
if (place !== null) render(<Console />, place)
