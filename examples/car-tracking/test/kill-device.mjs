// The device of the kill campaign: enrols, enrols its driver, and makes the logins that are still to be made, each
// with the right PIN or a wrong one. Whenever it is killed, the next start goes on.
//
//   node kill-device.mjs DATA-FOLDER     settings in DATA-FOLDER/settings.json
//
// What it knows of its login requests stands in DATA-FOLDER/journal, a line before each is sent and a line after each
// answer. Standard output: {event: 'exchange'} before every HTTP request, {event: 'enrolled' | 'seated' | 'done'}.
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Device } from '@milagro-ts/client/device'
import { adviceOn, ClientError } from '@milagro-ts/client/errors'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'

const folder = process.argv[2]
const settings = JSON.parse(readFileSync(join(folder, 'settings.json'), 'utf8'))
const { rps, code, driverCode, instance, attributes, driver, pin, wrongPin, audience, plan } = settings
const journal = join(folder, 'journal')
const say = event => process.stdout.write(`${JSON.stringify(event)}\n`)
const note = entry => appendFileSync(journal, `${JSON.stringify(entry)}\n`)

let attempt = attempts().length

/** The numbers of the attempts that were begun. */
function attempts() {
  if (!existsSync(journal)) return []
  const lines = readFileSync(journal, 'utf8').trim().split('\n')
  return lines.map(line => JSON.parse(line)).filter(entry => 'sent' in entry)
}

const options = {
  rps,
  store: fileTokenStore(join(folder, 'store.json')),
  pinCost: { iterations: 10, slowDevice: true },
  wait: milliseconds => sleep(Math.min(milliseconds, 100)),
  async fetch(input, init) {
    say({ event: 'exchange' })
    const isLogin = new URL(input).pathname === '/v1/logins'
    if (isLogin) note({ sent: attempt, right: plan[attempt], body: Buffer.from(init.body).toString() })
    const response = await fetch(input, init)
    if (!isLogin) return response
    const text = await response.text()
    note({ answered: attempt, status: response.status, code: JSON.parse(text).code ?? 'OK' })
    return new Response(text, response)
  },
}

/** Again while the SDK says that it is worth it. */
async function patiently(work) {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!['again', 'later'].includes(adviceOn(error)) || error.code === 'LOCKED') throw error
      await sleep(50)
    }
  }
}

const car = await patiently(() => Device.enrol({ ...options, code, attributes, instance }))
say({ event: 'enrolled', idCore: car.mpinId })
await patiently(() => car.enrolUser({ code: driverCode, attributes: { driverName: driver }, pin }))
say({ event: 'seated' })
while (attempt < plan.length) {
  const typed = plan[attempt] ? pin : wrongPin
  try {
    await car.login({ audience, user: driver, pin: typed })
    attempt++
  } catch (error) {
    // Sent or not: an attempt that has no line in the journal is made again.
    const isSent = attempts().some(({ sent }) => sent === attempt)
    const isKnown = ['WRONG_PIN', 'LOCKED', 'RETRY_LATER', 'OUTCOME_UNKNOWN', 'STORE_CHANGED'].includes(
      error.code,
    )
    if (!isKnown && !(error instanceof ClientError) && adviceOn(error) !== 'later') throw error
    if (isSent) attempt++
    else await sleep(50)
  }
}
say({ event: 'done' })
