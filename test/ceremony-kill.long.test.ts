/** kill -9 at random moments of ceremonies, rotations among them, and of issuing, a hundred times. */
import { expect, test } from 'vitest'
import { CeremonyKillCampaign } from './ceremony-kill-campaign.js'

const ROUNDS = 100

test(`${ROUNDS} kills lose no share and no key, and issue nothing twice`, async () => {
  const seed = Number(process.env.MILAGRO_SEED)
  console.log(`ceremony kill: seed ${seed}`)
  const campaign = await CeremonyKillCampaign.start(seed)
  try {
    for (let number = 1; number <= ROUNDS; number++) await campaign.round(number)
    const { rounds, inTime, wentOver } = campaign.tally
    console.log(`ceremony kill: ${JSON.stringify(campaign.tally)}`)
    for (const [kind, count] of Object.entries(rounds)) expect([kind, count > 0]).toEqual([kind, true])
    expect(Object.keys(wentOver)).not.toEqual([])
    expect(inTime.coordinator + inTime.authority).toBeGreaterThan(ROUNDS / 2)
  } finally {
    await campaign.end()
  }
})
