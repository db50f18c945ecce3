/** Drivers, operators, and bans in force. */
import { useState } from 'preact/hooks'
import { BanDialog, ConfirmDialog } from './ban-dialog.js'
import type { Fleet } from './console-session.js'
import { CodeDialog, type IssuedCode } from './enrolment-code.js'
import { Act, Badge, Dialog, Empty, Failure, Field, Form, Moment, personOf, useLoad } from './parts.js'
import { LiftBan, StateBadge } from './vehicles.js'

const EVERY = 10_000
const MOST = '500'

export function Drivers({ fleet }: { fleet: Fleet }) {
  const { value, error, reload } = useLoad(
    () => fleet.listDrivers({ query: { limit: MOST } }),
    [fleet],
    EVERY,
  )
  const [banning, setBanning] = useState<{ readonly id: number; readonly name: string }>()
  return (
    <section aria-labelledby="drivers">
      <div class="head">
        <h1 id="drivers">Drivers</h1>
      </div>
      <p class="lead">A driver is added on a vehicle. A ban here counts on every vehicle.</p>
      {error !== undefined && <Failure error={error} />}
      {value?.drivers.length === 0 && <Empty title="No driver yet" />}
      {value !== undefined && value.drivers.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">Driver</th>
              <th scope="col">State</th>
              <th scope="col">
                <span class="sr">What can be done</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {value.drivers.map(({ id, attributes, ban }) => (
              <tr key={id}>
                <th scope="row">{personOf(attributes)}</th>
                <td>
                  {ban === undefined ? (
                    <Badge tone="good">may drive</Badge>
                  ) : (
                    <Badge tone="bad">banned</Badge>
                  )}
                </td>
                <td class="actions">
                  {ban === undefined ? (
                    <button
                      type="button"
                      class="danger"
                      onClick={() => setBanning({ id, name: personOf(attributes) })}
                    >
                      Ban
                    </button>
                  ) : (
                    <LiftBan fleet={fleet} ban={ban.id} done={reload} />
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {banning !== undefined && (
        <BanDialog
          fleet={fleet}
          who={banning.name}
          target={{ driver: banning.id }}
          close={() => setBanning(undefined)}
          done={reload}
        />
      )}
    </section>
  )
}

export function Operators({ fleet, self }: { fleet: Fleet; self: string }) {
  const { value, error, reload } = useLoad(
    () => fleet.listOperators({ query: { limit: MOST } }),
    [fleet],
    EVERY,
  )
  const [isInviting, setInviting] = useState(false)
  const [revoking, setRevoking] = useState<{ readonly id: number; readonly name: string }>()
  const [issued, setIssued] = useState<{ readonly title: string; readonly code: IssuedCode }>()
  return (
    <section aria-labelledby="operators">
      <div class="head">
        <h1 id="operators">Operators</h1>
        <button type="button" class="main" onClick={() => setInviting(true)}>
          Invite an operator
        </button>
      </div>
      <p class="lead">
        Operators have no passwords: each has a key of their own, in a browser or in a file, and a PIN.
      </p>
      {error !== undefined && <Failure error={error} />}
      {value !== undefined && (
        <table>
          <thead>
            <tr>
              <th scope="col">Operator</th>
              <th scope="col">State</th>
              <th scope="col">Last seen</th>
              <th scope="col">
                <span class="sr">What can be done</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {value.operators.map(operator => {
              const name = operator.instance.replace(/^operator:/, '')
              const params = { id: String(operator.id) }
              return (
                <tr key={operator.id}>
                  <th scope="row">
                    {name} {name === self && <Badge tone="plain">you</Badge>}
                  </th>
                  <td>
                    <StateBadge of={operator} />
                  </td>
                  <td>
                    <Moment at={operator.seenAt} />
                  </td>
                  <td class="actions">
                    {name !== self && operator.state === 'enrolled' && (
                      <Act work={() => fleet.unlockOperator({ params, body: {} })}>Unlock</Act>
                    )}
                    {name !== self && (
                      <Act
                        work={async () => {
                          const code = await fleet.operatorCode({ params, body: {} })
                          setIssued({ title: `Code for ${name}`, code })
                        }}
                      >
                        New code
                      </Act>
                    )}
                    {name !== self && operator.state === 'enrolled' && (
                      <button
                        type="button"
                        class="danger"
                        onClick={() => setRevoking({ id: operator.id, name })}
                      >
                        Revoke
                      </button>
                    )}
                  </td>
                </tr>
              )
            })}
          </tbody>
        </table>
      )}
      {isInviting && (
        <Invite
          close={() => setInviting(false)}
          submit={async name => {
            const { code } = await fleet.inviteOperator({ body: { name } })
            await reload()
            setInviting(false)
            setIssued({ title: `Code for ${name}`, code })
          }}
        />
      )}
      {revoking !== undefined && (
        <ConfirmDialog
          title={`Revoke ${revoking.name}`}
          action="Revoke for good"
          text="This operator’s key ends now and never comes back."
          close={() => setRevoking(undefined)}
          work={async () => {
            await fleet.revokeOperator({ params: { id: String(revoking.id) }, body: {} })
            await reload()
          }}
        />
      )}
      {issued !== undefined && (
        <CodeDialog title={issued.title} issued={issued.code} close={() => setIssued(undefined)} />
      )}
    </section>
  )
}

function Invite({ close, submit }: { close: () => void; submit: (name: string) => Promise<void> }) {
  const [name, setName] = useState('')
  return (
    <Dialog title="Invite an operator" close={close}>
      <Form action="Make a code" cancel={close} submit={() => submit(name.trim())}>
        <Field
          label="Name"
          value={name}
          change={setName}
          required
          autoFocus
          maxLength={64}
          pattern="[a-z0-9]([a-z0-9._\-]{0,62}[a-z0-9])?"
          hint="Small letters and digits; dots and hyphens inside."
        />
      </Form>
    </Dialog>
  )
}

export function Bans({ fleet }: { fleet: Fleet }) {
  const { value, error, reload } = useLoad(() => fleet.listBans({}), [fleet], EVERY)
  return (
    <section aria-labelledby="bans">
      <div class="head">
        <h1 id="bans">Bans in force</h1>
      </div>
      {error !== undefined && <Failure error={error} />}
      {value?.bans.length === 0 && (
        <Empty title="Nobody is banned">
          <p>Ban a vehicle or a driver on its page.</p>
        </Empty>
      )}
      {value !== undefined && value.bans.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">Who</th>
              <th scope="col">Reason</th>
              <th scope="col">Since</th>
              <th scope="col">Ends</th>
              <th scope="col">
                <span class="sr">What can be done</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {value.bans.map(ban => (
              <tr key={ban.id}>
                <th scope="row">
                  {ban.vehicle !== undefined ? (
                    <a href={`#/vehicles/${ban.vehicle}`}>Vehicle {ban.vehicle}</a>
                  ) : ban.driver !== undefined ? (
                    `Driver ${ban.driver}`
                  ) : (
                    `Operator ${ban.operator}`
                  )}
                </th>
                <td>{ban.reason}</td>
                <td>
                  <Moment at={ban.since} />{' '}
                  <span class="quiet">by {ban.madeBy.replace(/^operator:/, '')}</span>
                </td>
                <td>
                  {ban.expiresAt === undefined ? (
                    <span class="quiet">when lifted</span>
                  ) : (
                    <Moment at={ban.expiresAt} />
                  )}
                </td>
                <td class="actions">
                  <LiftBan fleet={fleet} ban={ban.id} done={reload} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  )
}
