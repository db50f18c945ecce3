/** The register: vehicles, one vehicle with its drivers, and what an operator does to them. */
import type { Answer } from '@milagro-ts/api/route'
import { useState } from 'preact/hooks'
import type { fleetRoutes } from '../src/fleet-routes.js'
import { BanDialog, ConfirmDialog } from './ban-dialog.js'
import type { Fleet } from './console-session.js'
import { CodeDialog, type IssuedCode } from './enrolment-code.js'
import {
  Act,
  Attributes,
  Badge,
  Dialog,
  Empty,
  Failure,
  Field,
  Form,
  Moment,
  personOf,
  type Tone,
  useLoad,
} from './parts.js'

type Vehicle = Answer<(typeof fleetRoutes)['listVehicles']>['vehicles'][number]
type VehicleWithDrivers = Answer<(typeof fleetRoutes)['vehicle']>
type DriverOnVehicle = VehicleWithDrivers['drivers'][number]

const PAGE = 50
const EVERY = 5_000

const STATES: Readonly<Record<Vehicle['state'], readonly [Tone, string]>> = {
  registered: ['plain', 'registered'],
  invited: ['warn', 'waits for its device'],
  enrolled: ['good', 'enrolled'],
  revoked: ['bad', 'revoked'],
}

export function StateBadge({ of }: { of: Pick<Vehicle, 'state' | 'ban'> }) {
  if (of.ban !== undefined) return <Badge tone="bad">banned</Badge>
  const [tone, words] = STATES[of.state]
  return <Badge tone={tone}>{words}</Badge>
}

export function Vehicles({ fleet }: { fleet: Fleet }) {
  const [search, setSearch] = useState('')
  const [after, setAfter] = useState<readonly number[]>([])
  const [isAdding, setAdding] = useState(false)
  const from = after.at(-1)
  const { value, error, reload } = useLoad(
    () =>
      fleet.listVehicles({
        query: {
          limit: String(PAGE),
          ...(from === undefined ? {} : { after: String(from) }),
          ...(search === '' ? {} : { instance: search }),
        },
      }),
    [fleet, search, from],
    EVERY,
  )
  const vehicles = value?.vehicles
  return (
    <section aria-labelledby="vehicles">
      <div class="head">
        <h1 id="vehicles">Vehicles</h1>
        <input
          type="search"
          placeholder="Find by VIN"
          aria-label="Find by VIN"
          value={search}
          onInput={event => {
            setAfter([])
            setSearch(event.currentTarget.value.trim())
          }}
        />
        <button type="button" class="main" onClick={() => setAdding(true)}>
          Add a vehicle
        </button>
      </div>
      {error !== undefined && <Failure error={error} />}
      {vehicles !== undefined &&
        (vehicles.length === 0 ? (
          <Empty title={search === '' ? 'No vehicle yet' : 'No vehicle has this VIN'}>
            <p>{search === '' ? 'Add one: it gets a code to enrol with.' : 'The whole VIN is compared.'}</p>
          </Empty>
        ) : (
          <table>
            <thead>
              <tr>
                <th scope="col">Vehicle</th>
                <th scope="col">State</th>
                <th scope="col">Attributes</th>
                <th scope="col">Last seen</th>
              </tr>
            </thead>
            <tbody>
              {vehicles.map(vehicle => (
                <tr key={vehicle.id}>
                  <th scope="row">
                    <a href={`#/vehicles/${vehicle.id}`}>{vehicle.instance}</a>
                  </th>
                  <td>
                    <StateBadge of={vehicle} />
                  </td>
                  <td class="quiet">{Object.values(vehicle.attributes).join(' · ')}</td>
                  <td>
                    <Moment at={vehicle.seenAt} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        ))}
      {(after.length > 0 || vehicles?.length === PAGE) && (
        <nav class="pager" aria-label="Pages">
          <button type="button" disabled={after.length === 0} onClick={() => setAfter(after.slice(0, -1))}>
            Back
          </button>
          <button
            type="button"
            disabled={vehicles?.length !== PAGE}
            onClick={() => {
              const last = vehicles?.at(-1)
              if (last !== undefined) setAfter([...after, last.id])
            }}
          >
            More
          </button>
        </nav>
      )}
      {isAdding && <AddVehicle fleet={fleet} close={() => setAdding(false)} done={reload} />}
    </section>
  )
}

function AddVehicle({ fleet, close, done }: { fleet: Fleet; close: () => void; done: () => Promise<void> }) {
  const [instance, setInstance] = useState('')
  const [attributes, setAttributes] = useState({ brand: '', model: '', variant: '' })
  const [factors, setFactors] = useState<'0' | '1' | '2'>('2')
  const [withCode, setWithCode] = useState(true)
  const [issued, setIssued] = useState<IssuedCode>()
  if (issued !== undefined) return <CodeDialog title={`Code for ${instance}`} issued={issued} close={close} />
  return (
    <Dialog title="Add a vehicle" close={close}>
      <Form
        action="Add"
        cancel={close}
        submit={async () => {
          const given = Object.entries(attributes).filter(([, value]) => value.trim() !== '')
          const added = await fleet.addVehicle({
            body: {
              instance: instance.trim(),
              attributes: Object.fromEntries(given.map(([name, value]) => [name, value.trim()])),
              factors: Number(factors) as 0 | 1 | 2,
              withCode,
            },
          })
          await done()
          if (added.code === undefined) close()
          else setIssued(added.code)
        }}
      >
        <Field label="VIN" value={instance} change={setInstance} required autoFocus maxLength={128} />
        {(['brand', 'model', 'variant'] as const).map(name => (
          <Field
            key={name}
            label={name[0]?.toUpperCase() + name.slice(1)}
            value={attributes[name]}
            change={value => setAttributes({ ...attributes, [name]: value })}
            maxLength={128}
          />
        ))}
        <div class="field">
          <label for="factors">A login needs</label>
          <select
            id="factors"
            value={factors}
            onChange={event => setFactors(event.currentTarget.value as '0' | '1' | '2')}
          >
            <option value="2">the vehicle; its driver’s PIN where a service asks</option>
            <option value="0">the vehicle alone</option>
            <option value="1">the vehicle and a PIN, always</option>
          </select>
        </div>
        <fieldset>
          <legend>It enrols by</legend>
          <label class="choice">
            <input type="radio" name="by" checked={withCode} onChange={() => setWithCode(true)} /> a code that
            you hand on
          </label>
          <label class="choice">
            <input type="radio" name="by" checked={!withCode} onChange={() => setWithCode(false)} /> six words
            that you compare with its display
          </label>
        </fieldset>
      </Form>
    </Dialog>
  )
}

type Open =
  | { readonly what: 'ban' | 'revoke' | 'add-driver' }
  | { readonly what: 'ban-driver'; readonly driver: DriverOnVehicle }
  | { readonly what: 'code'; readonly title: string; readonly issued: IssuedCode }

export function VehiclePage({ fleet, id }: { fleet: Fleet; id: string }) {
  const params = { id }
  const { value: vehicle, error, reload } = useLoad(() => fleet.vehicle({ params }), [fleet, id], EVERY)
  const [open, setOpen] = useState<Open>()
  const close = () => setOpen(undefined)
  const showCode = async (title: string, making: Promise<IssuedCode>) => {
    const issued = await making
    await reload()
    setOpen({ what: 'code', title, issued })
  }
  if (vehicle === undefined) return error === undefined ? null : <Failure error={error} />
  const { instance, ban } = vehicle
  return (
    <section aria-labelledby="vehicle">
      <p class="crumb">
        <a href="#/vehicles">Vehicles</a>
      </p>
      <div class="head">
        <h1 id="vehicle">{instance}</h1>
        <StateBadge of={vehicle} />
      </div>
      {error !== undefined && <Failure error={error} />}
      {ban !== undefined && (
        <p class="note bad">
          Banned <Moment at={ban.since} />: {ban.reason}
          {ban.expiresAt !== undefined && (
            <>
              . Ends <Moment at={ban.expiresAt} />
            </>
          )}
        </p>
      )}
      <div class="buttons">
        {ban === undefined && vehicle.state !== 'revoked' && (
          <button type="button" class="danger" onClick={() => setOpen({ what: 'ban' })}>
            Ban
          </button>
        )}
        {ban !== undefined && (
          <Act
            kind="main"
            work={async () => {
              await fleet.unban({ params: { id: String(ban.id) } })
              await reload()
            }}
          >
            Lift the ban
          </Act>
        )}
        {(vehicle.state === 'registered' || vehicle.state === 'invited') && (
          <Act work={() => showCode(`Code for ${instance}`, fleet.vehicleCode({ params, body: {} }))}>
            New enrolment code
          </Act>
        )}
        {(vehicle.state === 'enrolled' || vehicle.state === 'revoked') && (
          <Act work={() => showCode(`Next code for ${instance}`, fleet.nextGeneration({ params, body: {} }))}>
            Enrol again
          </Act>
        )}
        {vehicle.state === 'enrolled' && (
          <button type="button" class="danger" onClick={() => setOpen({ what: 'revoke' })}>
            Revoke
          </button>
        )}
      </div>
      <div class="cards">
        <div class="card">
          <h2>Known by</h2>
          <Attributes of={vehicle.attributes} />
        </div>
        <div class="card">
          <h2>Identity</h2>
          <dl class="attributes">
            <div>
              <dt>M-Pin ID</dt>
              <dd class="mono">{vehicle.idCore ?? '–'}</dd>
            </div>
            <div>
              <dt>Generation</dt>
              <dd>{vehicle.generation ?? '–'}</dd>
            </div>
            <div>
              <dt>Enrolled</dt>
              <dd>
                <Moment at={vehicle.enrolledAt} />
              </dd>
            </div>
            <div>
              <dt>Last seen</dt>
              <dd>
                <Moment at={vehicle.seenAt} />
              </dd>
            </div>
          </dl>
        </div>
      </div>
      <div class="head">
        <h2>Drivers</h2>
        <button type="button" onClick={() => setOpen({ what: 'add-driver' })}>
          Add a driver
        </button>
      </div>
      {vehicle.drivers.length === 0 ? (
        <Empty title="No driver on this vehicle" />
      ) : (
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
            {vehicle.drivers.map(driver => (
              <tr key={driver.id}>
                <th scope="row">{personOf(driver.attributes)}</th>
                <td>
                  <DriverState driver={driver} />
                </td>
                <td class="actions">
                  {driver.locked && (
                    <Act
                      kind="main"
                      work={async () => {
                        await fleet.unlock({ params: { id, driver: String(driver.id) }, body: {} })
                        await reload()
                      }}
                    >
                      Unlock
                    </Act>
                  )}
                  {driver.userCore === undefined ? (
                    <Act
                      work={() =>
                        showCode(
                          `Code for ${personOf(driver.attributes)}`,
                          fleet.driverCode({ params: { id, driver: String(driver.id) }, body: {} }),
                        )
                      }
                    >
                      New code
                    </Act>
                  ) : (
                    <Act
                      work={() =>
                        showCode(
                          `New PIN for ${personOf(driver.attributes)}`,
                          fleet.resetPin({ params: { id, driver: String(driver.id) }, body: {} }),
                        )
                      }
                    >
                      PIN forgotten
                    </Act>
                  )}
                  {driver.ban === undefined ? (
                    <button
                      type="button"
                      class="danger"
                      onClick={() => setOpen({ what: 'ban-driver', driver })}
                    >
                      Ban
                    </button>
                  ) : (
                    <LiftBan fleet={fleet} ban={driver.ban.id} done={reload} />
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {open?.what === 'ban' && (
        <BanDialog
          fleet={fleet}
          who={instance}
          target={{ vehicle: vehicle.id }}
          close={close}
          done={reload}
        />
      )}
      {open?.what === 'ban-driver' && (
        <BanDialog
          fleet={fleet}
          who={personOf(open.driver.attributes)}
          target={{ driver: open.driver.id }}
          close={close}
          done={reload}
        />
      )}
      {open?.what === 'revoke' && (
        <ConfirmDialog
          title={`Revoke ${instance}`}
          action="Revoke for good"
          text="Its identity ends now and never comes back. The vehicle can enrol again, as its next generation, with a new code."
          close={close}
          work={async () => {
            await fleet.revoke({ params, body: {} })
            await reload()
          }}
        />
      )}
      {open?.what === 'add-driver' && (
        <AddDriver
          close={close}
          submit={async driverName => {
            const { code } = await fleet.assignDriver({ params, body: { attributes: { driverName } } })
            await reload()
            setOpen({ what: 'code', title: `Code for ${driverName}`, issued: code })
          }}
        />
      )}
      {open?.what === 'code' && (
        <CodeDialog key={open.issued.code} title={open.title} issued={open.issued} close={close} />
      )}
    </section>
  )
}

function DriverState({ driver }: { driver: DriverOnVehicle }) {
  if (driver.ban !== undefined) return <Badge tone="bad">banned</Badge>
  if (driver.locked) return <Badge tone="bad">locked: wrong PINs</Badge>
  if (driver.userCore === undefined) return <Badge tone="warn">waits for the PIN</Badge>
  return <Badge tone="good">enrolled</Badge>
}

export function LiftBan({ fleet, ban, done }: { fleet: Fleet; ban: number; done: () => Promise<void> }) {
  return (
    <Act
      work={async () => {
        await fleet.unban({ params: { id: String(ban) } })
        await done()
      }}
    >
      Lift the ban
    </Act>
  )
}

function AddDriver({ close, submit }: { close: () => void; submit: (name: string) => Promise<void> }) {
  const [name, setName] = useState('')
  return (
    <Dialog title="Add a driver" close={close}>
      <Form action="Add" cancel={close} submit={() => submit(name.trim())}>
        <Field
          label="Name"
          value={name}
          change={setName}
          required
          autoFocus
          maxLength={128}
          hint="As the driver enrols with it in the car."
        />
      </Form>
    </Dialog>
  )
}
