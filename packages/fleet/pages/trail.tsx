/** What was done, and how the trust authorities are. */
import type { Answer } from '@milagro-ts/api/route'
import { useState } from 'preact/hooks'
import type { fleetRoutes } from '../src/fleet-routes.js'
import type { Fleet } from './console-session.js'
import { Badge, Dialog, Empty, Failure, Field, Form, Moment, type Tone, useLoad } from './parts.js'

type Entries = Answer<(typeof fleetRoutes)['audit']>['entries']

const PAGE = 50

export function Audit({ fleet }: { fleet: Fleet }) {
  const [before, setBefore] = useState<readonly number[]>([])
  const from = before.at(-1)
  const { value, error } = useLoad(
    () =>
      fleet.audit({
        query: { limit: String(PAGE), ...(from === undefined ? {} : { before: String(from) }) },
      }),
    [fleet, from],
    from === undefined ? 5_000 : undefined,
  )
  return (
    <section aria-labelledby="audit">
      <div class="head">
        <h1 id="audit">Audit</h1>
      </div>
      <p class="lead">Who did what, newest first. No code, PIN or driver’s name stands here.</p>
      {error !== undefined && <Failure error={error} />}
      {value !== undefined && <EntryTable entries={value.entries} />}
      <nav class="pager" aria-label="Pages">
        <button type="button" disabled={before.length === 0} onClick={() => setBefore(before.slice(0, -1))}>
          Newer
        </button>
        <button
          type="button"
          disabled={value?.entries.length !== PAGE}
          onClick={() => {
            const last = value?.entries.at(-1)
            if (last !== undefined) setBefore([...before, last.id])
          }}
        >
          Older
        </button>
      </nav>
    </section>
  )
}

/** Outcomes in capitals are codes: something was refused. */
function toneOf(outcome: string): Tone {
  if (/^[A-Z_]+$/.test(outcome) || outcome === 'refused') return 'bad'
  if (outcome === 'noted') return 'plain'
  return outcome === 'pending' || outcome === 'started' ? 'warn' : 'good'
}

function EntryTable({ entries }: { entries: Entries }) {
  if (entries.length === 0) return <Empty title="Nothing has happened yet" />
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">When</th>
          <th scope="col">Who</th>
          <th scope="col">What</th>
          <th scope="col">Whom</th>
          <th scope="col">Outcome</th>
        </tr>
      </thead>
      <tbody>
        {entries.map(({ id, at, actor, action, subject, outcome }) => (
          <tr key={id}>
            <td>
              <Moment at={at} />
            </td>
            <td>{actor.replace(/^operator:/, '')}</td>
            <td>{action}</td>
            <td class="mono clip" title={subject}>
              {subject}
            </td>
            <td>
              <Badge tone={toneOf(outcome)}>{outcome}</Badge>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

type Seen = Awaited<ReturnType<Fleet['status']>>['authorities']
type SeenAuthority = Extract<Seen, { live: number }>['authorities'][number]
const TROUBLES = {
  silent: 'It does not answer the RPS.',
  refusing: 'It refuses the RPS.',
  'other-epoch': 'It is in another share epoch than the RPS.',
  quarantined: 'It gave a wrong share, and is left out for a while.',
} as const

/** What the RPS has seen of one; nothing where that is as it should be. */
function Standing({ of: seen }: { of: SeenAuthority | undefined }) {
  if (seen === undefined || (seen.trouble === undefined && seen.wrongShares === 0)) return null
  const { trouble, code, wrongShares, answerHash, requestHash } = seen
  return (
    <p>
      <Badge tone="bad">{code ?? trouble ?? `${wrongShares} wrong shares`}</Badge>{' '}
      {trouble !== undefined && TROUBLES[trouble]}{' '}
      {requestHash !== undefined && (
        <span class="quiet mono">
          request {requestHash} answer {answerHash ?? 'none'}
        </span>
      )}
    </p>
  )
}

/** What a finding goes by, and who knows of it. */
interface Finding {
  readonly finding: string
  readonly acknowledged?: { readonly by: string; readonly at: number; readonly reason: string }
}
const isOpen = ({ acknowledged }: Finding): boolean => acknowledged === undefined

/** Who knows of it and why; else the way to say so. */
function Known({ of: { acknowledged }, ask }: { of: Finding; ask: () => void }) {
  if (acknowledged === undefined)
    return (
      <button type="button" onClick={ask}>
        Acknowledge
      </button>
    )
  return (
    <span class="quiet">
      Acknowledged by {acknowledged.by.replace(/^operator:/, '')}, <Moment at={acknowledged.at} />:{' '}
      {acknowledged.reason}
    </span>
  )
}

function AcknowledgeDialog({
  fleet,
  what,
  finding,
  close,
  done,
}: {
  fleet: Fleet
  what: string
  finding: string
  close: () => void
  done: () => Promise<void>
}) {
  const [reason, setReason] = useState('')
  return (
    <Dialog title="Acknowledge a finding" close={close}>
      <p>{what}</p>
      <p>
        It stays here with your name and reason, and is no alarm any more. With other facts it is another.
      </p>
      <Form
        action="Acknowledge"
        cancel={close}
        submit={async () => {
          await fleet.acknowledge({ body: { findings: [finding], reason } })
          await done()
          close()
        }}
      >
        <Field label="What happened" value={reason} change={setReason} required autoFocus maxLength={500} />
      </Form>
    </Dialog>
  )
}

export function Authorities({ fleet }: { fleet: Fleet }) {
  const status = useLoad(() => fleet.status({}), [fleet], 5_000)
  const logs = useLoad(() => fleet.reconcile({}), [fleet], 10_000)
  const [asked, ask] = useState<{ readonly finding: string; readonly what: string }>()
  const authorities = logs.value?.authorities
  const seen = status.value?.authorities
  return (
    <section aria-labelledby="authorities">
      <div class="head">
        <h1 id="authorities">Trust authorities</h1>
      </div>
      <p class="lead">
        Each holds one share of every master secret and keeps a log of what it issued. The logs are compared
        with the register, three times a minute: a key without a vehicle or ticket stands here.
      </p>
      {logs.error !== undefined && <Failure error={logs.error} />}
      {seen !== undefined && 'trouble' in seen && <p>{seen.trouble}</p>}
      {seen !== undefined && !('trouble' in seen) && (
        <p>
          {seen.live} of {seen.authorities.length} answer the RPS, {seen.needed} are needed.{' '}
          {seen.live < seen.needed ? (
            <Badge tone="bad">too few</Badge>
          ) : seen.live < seen.authorities.length ? (
            <Badge tone="warn">the margin shrinks</Badge>
          ) : (
            <Badge tone="good">all well</Badge>
          )}
        </p>
      )}
      <div class="cards">
        {authorities?.map(({ index, name, entries, intact, trouble, faults, unknown, leavesAt }) => (
          <article class="card" key={index}>
            <h2>
              {name}{' '}
              {faults.some(isOpen) ? (
                <Badge tone="bad">log changed</Badge>
              ) : trouble !== undefined ? (
                <Badge tone="bad">in trouble</Badge>
              ) : unknown.some(isOpen) ? (
                <Badge tone="bad">unknown keys: {unknown.filter(isOpen).length}</Badge>
              ) : !intact || unknown.length > 0 ? (
                <Badge tone="plain">acknowledged</Badge>
              ) : (
                <Badge tone="good">in order</Badge>
              )}
            </h2>
            {trouble === undefined ? (
              <p>
                {entries} {entries === 1 ? 'entry' : 'entries'} in its log
                {unknown.length === 0 ? ', every key of them known here.' : '.'}
              </p>
            ) : (
              <p>
                Its log can’t be read: it is down, or answers wrongly.{' '}
                <span class="quiet mono">{trouble}</span>
              </p>
            )}
            {leavesAt !== undefined && (
              <p>
                <Badge tone="warn">leaving</Badge> It has announced its departure: <Moment at={leavesAt} />
              </p>
            )}
            {faults.map(fault => (
              <p key={fault.finding}>
                The log is {fault.fault}: {fault.detail}. Found <Moment at={fault.foundAt} />{' '}
                <Known
                  of={fault}
                  ask={() =>
                    ask({ ...fault, what: `The log of ${name} is ${fault.fault}: ${fault.detail}.` })
                  }
                />
              </p>
            ))}
            {seen !== undefined && !('trouble' in seen) && (
              <Standing of={seen.authorities.find(other => other.index === index)} />
            )}
            {unknown.length > 0 && (
              <ul>
                {unknown.map(key => (
                  <li key={key.number} class="mono">
                    {key.purpose} no. {key.number} <Moment at={key.at} />{' '}
                    {key.why === 'no-vehicle' ? 'for no vehicle' : 'on no ticket of ours'}{' '}
                    <Known
                      of={key}
                      ask={() => ask({ ...key, what: `${name}, entry ${key.number}: a ${key.purpose} key.` })}
                    />
                  </li>
                ))}
              </ul>
            )}
          </article>
        ))}
      </div>
      {(logs.value?.lacking.length ?? 0) > 0 && (
        <>
          <h2>Keys that logs lack</h2>
          <ul>
            {logs.value?.lacking.map(key => (
              <li key={key.instance}>
                {key.instance} logs in, and its key is in {key.held} logs of {key.needed}: missing at{' '}
                {key.missing.join(', ')}{' '}
                <Known
                  of={key}
                  ask={() => ask({ ...key, what: `${key.instance}: missing at ${key.missing.join(', ')}.` })}
                />
              </li>
            ))}
          </ul>
        </>
      )}
      {asked !== undefined && (
        <AcknowledgeDialog
          key={asked.finding}
          fleet={fleet}
          what={asked.what}
          finding={asked.finding}
          close={() => ask(undefined)}
          done={logs.reload}
        />
      )}
      <h2>Fleet itself</h2>
      {status.error !== undefined && <Failure error={status.error} />}
      {status.value !== undefined && (
        <dl class="attributes wide">
          <div>
            <dt>Group</dt>
            <dd class="mono">{status.value.groupId}</dd>
          </div>
          <div>
            <dt>Revision</dt>
            <dd>{status.value.revision}</dd>
          </div>
          <div>
            <dt>Vehicles</dt>
            <dd>
              {status.value.enrolled} enrolled of {status.value.vehicles}
            </dd>
          </div>
          <div>
            <dt>Events for the RPS</dt>
            <dd>
              {status.value.events.last} sent, {status.value.events.waiting} waiting{' '}
              {status.value.events.trouble !== undefined && (
                <Badge tone="bad">{status.value.events.trouble}</Badge>
              )}
            </dd>
          </div>
        </dl>
      )}
    </section>
  )
}
