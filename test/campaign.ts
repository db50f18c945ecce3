import fc from 'fast-check'

// Loaded before every test file of `npm run test:long`: more cases for each property, all from the printed seed.
fc.configureGlobal({ seed: Number(process.env.MILAGRO_SEED), numRuns: 2000 })
