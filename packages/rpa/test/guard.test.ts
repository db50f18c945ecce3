/** The guard's questions to the RPS; its door is in the tests of the servers that have one. */
import type { Exchange } from '@milagro-ts/api/call'
import { generateEs256 } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { systemTimers } from '@milagro-ts/api/system'
import { IdCore } from '@milagro-ts/crypto/identity'
import { Guard } from '@milagro-ts/rpa/guard'
import { expect, test } from 'vitest'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { makeGroup } from './group-of-test.js'

const reset = Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' })
const refused = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' })
const WHO = { attributes: { brand: 'Volkswagen' }, instance: 'VIN' }

/** Of a guard whose RPS does this, one after the other. */
async function asked(...turns: readonly (Error | object)[]): Promise<[unknown, string[]]> {
  const { group } = await makeGroup({ m: 1, k: 1 })
  const credentials: string[] = []
  const exchange: Exchange = async ({ headers }) => {
    credentials.push(headers.authorization ?? '')
    const turn = turns[credentials.length - 1]
    if (turn === undefined || turn instanceof Error) throw turn ?? new Error('no turn is left')
    const bytes = new TextEncoder().encode(JSON.stringify(turn))
    return { status: 200, contentType: 'application/json', retryAfter: undefined, bytes }
  }
  const guard = new Guard({
    rpsUrl: 'https://rps.example',
    audience: 'tracking',
    name: 'tracking',
    requestKey: await generateEs256(),
    group,
    random: fixedRandom('guard'),
    clock: () => 1_767_225_600_000,
    timers: systemTimers,
    fetch: async () => {
      throw new Error('not by fetch')
    },
    exchange,
    log: createLog('guard', { level: 'fatal' }),
  })
  return [await guard.permitted(IdCore.zero, 1).catch((error: unknown) => error), credentials]
}

test('a connection that the RPS has just given up is asked about once more, as a request of its own', async () => {
  const [answer, credentials] = await asked(reset, WHO)
  expect(answer).toEqual(WHO)
  expect(new Set(credentials).size).toBe(2)
})

test('no oftener, and for nothing else', async () => {
  const [twice, credentials] = await asked(reset, reset, WHO)
  expect(twice).toMatchObject({ code: 'RETRY_LATER' })
  expect(credentials).toHaveLength(2)
  const [away, once] = await asked(refused, WHO)
  expect(away).toMatchObject({ code: 'RETRY_LATER' })
  expect(once).toHaveLength(1)
})
