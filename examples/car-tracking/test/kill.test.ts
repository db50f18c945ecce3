/** kill -9 at random moments of enrolment and login, ten times; a hundred in kill.long.test.ts. */
import { randomInt } from 'node:crypto'
import { expect, test } from 'vitest'
import { KillCampaign } from './kill-campaign.js'

const ROUNDS = 10

test('ten kills lose no enrolment, issue nothing twice, forgive no strike', {
  timeout: 900_000,
}, async () => {
  const seed = Number(process.env.MILAGRO_SEED ?? randomInt(2 ** 31))
  console.log(`kill: seed ${seed} (MILAGRO_SEED=${seed} repeats it)`)
  const campaign = await KillCampaign.start(seed)
  try {
    for (let number = 1; number <= ROUNDS; number++) await campaign.round(number)
    console.log(`kill: ${JSON.stringify(campaign.tally)}`)
    expect(campaign.tally.rounds).toBe(ROUNDS)
    for (const [victim, kills] of Object.entries(campaign.tally.kills))
      expect([victim, kills > 0]).toEqual([victim, true])
    expect(campaign.tally.inTime).toBeGreaterThan(0)
    expect(campaign.tally.replays).toBeGreaterThan(0)
  } finally {
    await campaign.end()
  }
})
