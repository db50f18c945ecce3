/** Bans and their end, for vehicles, drivers and operators alike. */
import { useState } from 'preact/hooks'
import type { Fleet } from './console-session.js'
import { Dialog, Field, Form } from './parts.js'

export type BanTarget =
  | { readonly vehicle: number }
  | { readonly driver: number }
  | { readonly operator: number }

export function BanDialog({
  fleet,
  who,
  target,
  close,
  done,
}: {
  fleet: Fleet
  who: string
  target: BanTarget
  close: () => void
  done: () => Promise<void>
}) {
  const [reason, setReason] = useState('')
  const [until, setUntil] = useState('')
  return (
    <Dialog title={`Ban ${who}`} close={close}>
      <p>
        Refused everywhere within a second, and offline when its time permit ends. You can lift a ban again.
      </p>
      <Form
        action="Ban"
        kind="danger"
        cancel={close}
        submit={async () => {
          const ends = until === '' ? {} : { expiresAt: Math.floor(new Date(until).getTime() / 1000) }
          await fleet.ban({ body: { ...target, reason, ...ends } })
          await done()
          close()
        }}
      >
        <Field
          label="Reason"
          value={reason}
          change={setReason}
          required
          autoFocus
          maxLength={500}
          hint="For the register; nobody else is told."
        />
        <Field
          label="Ends by itself (optional)"
          type="datetime-local"
          value={until}
          change={setUntil}
          hint="Without it the ban stands until somebody lifts it."
        />
      </Form>
    </Dialog>
  )
}

/** Something that can't be taken back: said once more, in words. */
export function ConfirmDialog({
  title,
  action,
  text,
  work,
  close,
}: {
  title: string
  action: string
  text: string
  work: () => Promise<unknown>
  close: () => void
}) {
  return (
    <Dialog title={title} close={close}>
      <p>{text}</p>
      <Form
        action={action}
        kind="danger"
        cancel={close}
        submit={async () => {
          await work()
          close()
        }}
      >
        {null}
      </Form>
    </Dialog>
  )
}
