/** Ten thousand simulated lives of groups, from the campaign's seed on. */
import { test, vi } from 'vitest'
import { campaign, rememberingPoints } from './ceremony-campaign.js'

vi.mock('@milagro-ts/api/jws', async original =>
  (await import('./ceremony-campaign.js')).rememberingJws(original as () => Promise<never>),
)
vi.mock('@milagro-ts/api/seal', async () => (await import('./ceremony-campaign.js')).sealOfNode)
rememberingPoints()

const RUNS = 10_000

test(`${RUNS} runs`, async () => {
  await campaign(Number(process.env.MILAGRO_SEED), RUNS)
})
