/** Registrations that a person decides, by six words. */
import type { Answer } from '@milagro-ts/api/route'
import { useState } from 'preact/hooks'
import type { fleetRoutes } from '../src/fleet-routes.js'
import type { Fleet } from './console-session.js'
import { Act, Attributes, Badge, Dialog, Empty, Failure, Form, Moment, useLoad } from './parts.js'

type Approval = Answer<(typeof fleetRoutes)['listApprovals']>['approvals'][number]

export function Approvals({ fleet }: { fleet: Fleet }) {
  const { value, error, reload } = useLoad(() => fleet.listApprovals({}), [fleet], 3_000)
  const [deciding, setDeciding] = useState<Approval>()
  return (
    <section aria-labelledby="approvals">
      <div class="head">
        <h1 id="approvals">Waiting for approval</h1>
      </div>
      <p class="lead">
        Compare all six words with what the device itself shows, on its display or read to you by somebody you
        know. They are the same only if nobody in between has changed anything.
      </p>
      {error !== undefined && <Failure error={error} />}
      {value?.approvals.length === 0 && (
        <Empty title="Nobody is waiting">
          <p>A device that enrols without a code appears here.</p>
        </Empty>
      )}
      <div class="cards">
        {value?.approvals.map(approval => (
          <article class="card approval" key={approval.id}>
            <h2>
              {approval.instance}{' '}
              <Badge tone="plain">{approval.kind === 'user' ? 'a driver' : 'a device'}</Badge>
            </h2>
            <Words of={approval.words} />
            <Attributes of={approval.attributes} />
            <p class="quiet">
              Asked <Moment at={approval.createdAt} />.{' '}
              {approval.known ? 'In the register.' : 'Not in the register: approving adds it.'}
              {approval.enrolled && ' Enrolled already: approving ends that identity.'}
            </p>
            <div class="buttons">
              <button type="button" class="main" onClick={() => setDeciding(approval)}>
                The words are the same …
              </button>
              <Act
                kind="danger"
                work={async () => {
                  await fleet.refuse({ params: { id: String(approval.id) }, body: {} })
                  await reload()
                }}
              >
                Refuse
              </Act>
            </div>
          </article>
        ))}
      </div>
      {deciding !== undefined && (
        <Decide
          approval={deciding}
          close={() => setDeciding(undefined)}
          submit={async () => {
            await fleet.approve({
              params: { id: String(deciding.id) },
              body: {
                words: deciding.words,
                ...(deciding.kind === 'device' && deciding.enrolled ? { nextGeneration: true } : {}),
              },
            })
            await reload()
            setDeciding(undefined)
          }}
        />
      )}
    </section>
  )
}

function Words({ of }: { of: string }) {
  return (
    <ol class="words" aria-label="Six words" data-testid="words">
      {of.split(' ').map((word, i) => (
        <li key={`${i}${word}`}>{word}</li>
      ))}
    </ol>
  )
}

function Decide({
  approval,
  close,
  submit,
}: {
  approval: Approval
  close: () => void
  submit: () => Promise<void>
}) {
  const [isCompared, setCompared] = useState(false)
  return (
    <Dialog title={`Approve ${approval.instance}`} close={close}>
      <Words of={approval.words} />
      <Form
        action="Approve"
        cancel={close}
        submit={async () => {
          if (isCompared) await submit()
        }}
      >
        <label class="choice">
          <input
            type="checkbox"
            required
            checked={isCompared}
            onChange={event => setCompared(event.currentTarget.checked)}
          />{' '}
          I have compared all six, word by word.
        </label>
      </Form>
    </Dialog>
  )
}
