/** kill -9 at random moments of enrolment and login, a hundred times. */
import { expect, test } from 'vitest'
import { KillCampaign } from './kill-campaign.js'

const ROUNDS = 100

test(`${ROUNDS} kills lose no enrolment, issue nothing twice, forgive no strike`, async () => {
  const seed = Number(process.env.MILAGRO_SEED)
  console.log(`kill: seed ${seed}`)
  const campaign = await KillCampaign.start(seed)
  try {
    for (let number = 1; number <= ROUNDS; number++) await campaign.round(number)
    console.log(`kill: ${JSON.stringify(campaign.tally)}`)
    expect(campaign.tally.rounds).toBe(ROUNDS)
    for (const [victim, kills] of Object.entries(campaign.tally.kills))
      expect([victim, kills > 0]).toEqual([victim, true])
    expect(campaign.tally.inTime).toBeGreaterThan(ROUNDS / 2)
    expect(campaign.tally.wrongPins).toBeGreaterThan(ROUNDS / 2)
    expect(campaign.tally.locked).toBeGreaterThan(0)
  } finally {
    await campaign.end()
  }
})
