import { openGuard, protect } from '@milagro-ts/rpa/protect'
import express from 'express'

const { RPS, AUDIENCE, GROUP_ID, GROUP_FILE, KEY_FILE, PORT } = process.env
const app = express()
app.get('/', (_request, response) => response.send('Open to everybody.\n'))

const files = { keyFile: KEY_FILE, groupFile: GROUP_FILE, groupId: GROUP_ID }
app.use(protect(await openGuard({ rps: RPS, audience: AUDIENCE, name: 'shop', ...files })))

// From here on: devices that have logged in and aren't banned.
app.get('/garage', ({ proven }, response) => response.json({ idCore: proven.idCore.mpinId, amr: proven.amr }))
app.listen(PORT, '127.0.0.1', () => console.log('ready'))
