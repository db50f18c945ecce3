/** What every view is built of. All text goes through preact as text. */

import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { CODES, Refused } from '@milagro-ts/api/problem'
import { CLIENT_CODES, ClientError } from '@milagro-ts/client/errors'
import type { ComponentChildren } from 'preact'
import { useCallback, useEffect, useId, useLayoutEffect, useRef, useState } from 'preact/hooks'

export type Tone = 'good' | 'bad' | 'warn' | 'plain'

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>
}

/** Unix seconds, as a moment and as how long ago. */
export function Moment({ at }: { at: number | undefined }) {
  if (at === undefined) return <span class="quiet">never</span>
  const moment = new Date(at * 1000)
  return (
    <time dateTime={moment.toISOString()} title={moment.toLocaleString()}>
      {howLongAgo(at)}
    </time>
  )
}

/** Seconds from which on a date says more than a number of days. */
const FAR = 45 * 86_400

function howLongAgo(at: number): string {
  const seconds = Math.round(Date.now() / 1000 - at)
  if (Math.abs(seconds) > FAR)
    return new Date(at * 1000).toLocaleDateString('en', { day: 'numeric', month: 'short', year: 'numeric' })
  const format = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })
  const units: [Intl.RelativeTimeFormatUnit, number][] = [
    ['day', 86_400],
    ['hour', 3_600],
    ['minute', 60],
  ]
  for (const [unit, length] of units)
    if (Math.abs(seconds) >= length) return format.format(-Math.trunc(seconds / length), unit)
  return seconds >= 0 ? 'just now' : 'in a moment'
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  )
}

export function Failure({ error }: { error: unknown }) {
  return (
    <p class="failure" role="alert">
      {inWords(error)}
    </p>
  )
}

/** What happened, for a person: the code's meaning and what the server added. */
export function inWords(error: unknown): string {
  if (error instanceof Refused)
    return withDetail(REFUSED[error.code] ?? CODES[error.code].means, error.detail)
  if (error instanceof ClientError) return CLIENT[error.code] ?? CLIENT_CODES[error.code].means
  if (error instanceof Unreachable) return 'The server can’t be reached. Is it running, and are you online?'
  if (error instanceof UnexpectedAnswer) return 'The server gave an answer that this page doesn’t know.'
  if (error instanceof Error && error.name === 'TypingError') return error.message
  if (error instanceof Error && error.name === 'DecodeError') return 'The code was not typed as it was given.'
  // A fault of this page: its developer reads what it was in the browser's console.
  console.error(error)
  return 'Something went wrong in this page.'
}

const REFUSED: Partial<Record<string, string>> = {
  WRONG_PIN: 'That PIN is wrong. After three wrong ones in a row, another operator has to unlock you.',
  LOCKED: 'Too many wrong PINs: another operator has to unlock you.',
  BANNED: 'This operator is banned.',
  REVOKED: 'This identity has ended. Ask for a new code.',
}
const CLIENT: Partial<Record<string, string>> = {
  ENROLMENT_REFUSED: 'This code is not accepted: it was used, has run out, or is for another operator.',
  ENROLMENT_EXPIRED: 'This code has run out. Ask for a new one.',
  WRONG_GROUP: 'This code is for another group than the server’s.',
  ALREADY_ENROLLED: 'This browser keeps a key of this operator already: log in with its PIN.',
}
const withDetail = (means: string, detail: string | undefined): string =>
  detail === undefined ? means : `${means} (${detail})`

export interface Loaded<T> {
  readonly value: T | undefined
  readonly error: unknown
  readonly reload: () => Promise<void>
}

/** Loads at once, again every `every` milliseconds while the page is seen, and when asked. */
export function useLoad<T>(load: () => Promise<T>, inputs: readonly unknown[], every?: number): Loaded<T> {
  const [value, setValue] = useState<T>()
  const [error, setError] = useState<unknown>()
  const turn = useRef(0)
  const reload = useCallback(async () => {
    const mine = ++turn.current
    try {
      const loaded = await load()
      if (mine !== turn.current) return
      setValue(loaded)
      setError(undefined)
    } catch (failed) {
      if (mine === turn.current) setError(failed)
    }
  }, inputs)
  useEffect(() => {
    void reload()
    if (every === undefined) return
    const timer = setInterval(() => {
      if (document.visibilityState === 'visible') void reload()
    }, every)
    return () => clearInterval(timer)
  }, [reload, every])
  return { value, error, reload }
}

/** A button whose work may fail; while it runs it can't be pressed again. */
export function Act({
  work,
  kind = 'plain',
  children,
}: {
  work: () => Promise<unknown>
  kind?: 'plain' | 'main' | 'danger'
  children: ComponentChildren
}) {
  const { run, error, isBusy } = useWork(work)
  return (
    <span class="act">
      <button type="button" class={kind} disabled={isBusy} onClick={run}>
        {children}
      </button>
      {error !== undefined && <Failure error={error} />}
    </span>
  )
}

export function useWork(work: () => Promise<unknown>) {
  const [isBusy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>()
  const run = () => {
    setBusy(true)
    setError(undefined)
    work()
      .catch((failed: unknown) => setError(failed))
      .finally(() => setBusy(false))
  }
  return { run, error, isBusy }
}

/** A form in which Enter does what its button does. */
export function Form({
  submit,
  action,
  kind = 'main',
  cancel,
  children,
}: {
  submit: () => Promise<unknown>
  action: string
  kind?: 'main' | 'danger'
  cancel?: () => void
  children: ComponentChildren
}) {
  const { run, error, isBusy } = useWork(submit)
  return (
    <form
      onSubmit={event => {
        event.preventDefault()
        run()
      }}
    >
      {children}
      {error !== undefined && <Failure error={error} />}
      <div class="buttons">
        <button type="submit" class={kind} disabled={isBusy}>
          {isBusy ? 'One moment …' : action}
        </button>
        {cancel !== undefined && (
          <button type="button" onClick={cancel}>
            Cancel
          </button>
        )}
      </div>
    </form>
  )
}

export function Field({
  label,
  value,
  change,
  hint,
  type = 'text',
  ...more
}: {
  label: string
  value: string
  change: (value: string) => void
  hint?: string
  type?: 'text' | 'password' | 'datetime-local'
  required?: boolean
  autoFocus?: boolean
  autoComplete?: string
  minLength?: number
  maxLength?: number
  pattern?: string
  placeholder?: string
  inputMode?: 'numeric' | 'text'
}) {
  const id = useId()
  const input = useRef<HTMLInputElement>(null)
  const { autoFocus, ...attributes } = more
  useEffect(() => {
    if (autoFocus) input.current?.focus()
  }, [autoFocus])
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        {...attributes}
        ref={input}
        id={id}
        // Types tie an input's type to its role; every one of ours is a field of text.
        type={type as 'text'}
        value={value}
        spellcheck={false}
        aria-describedby={hint === undefined ? undefined : `${id}-hint`}
        onInput={event => change(event.currentTarget.value)}
      />
      {hint !== undefined && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  )
}

/**
 * The platform's own dialog: it keeps the focus inside, and Escape closes it. The focus goes back to what opened it by
 * our own hand: a dialog that leaves the document takes the platform's memory of it along.
 */
export function Dialog({
  title,
  close,
  children,
}: {
  title: string
  close: () => void
  children: ComponentChildren
}) {
  const dialog = useRef<HTMLDialogElement>(null)
  const id = useId()
  // Before the fields' own effects, of which one takes the focus.
  useLayoutEffect(() => {
    const opener = document.activeElement
    const element = dialog.current
    element?.showModal()
    return () => {
      element?.close()
      const next = opener?.isConnected ? opener : document.getElementById('main')
      if (next instanceof HTMLElement) next.focus()
    }
  }, [])
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onCancel={event => {
        event.preventDefault()
        close()
      }}
    >
      <div class="dialog-head">
        <h2 id={id}>{title}</h2>
        <button type="button" class="icon" aria-label="Close" onClick={close}>
          ×
        </button>
      </div>
      {children}
    </dialog>
  )
}

/** Name=value pairs as people read them. */
export function Attributes({ of }: { of: Readonly<Record<string, string>> }) {
  const entries = Object.entries(of)
  if (entries.length === 0) return <span class="quiet">none</span>
  return (
    <dl class="attributes">
      {entries.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}

export const personOf = (attributes: Readonly<Record<string, string>>): string =>
  attributes.driverName ?? Object.values(attributes).join(' ')
