/** Chow–Choo: two names agree on a key in two moves, and a stolen key of one doesn't open it. */
import assert from 'node:assert'
import { clientBegin, serverAgree } from '@milagro-ts/crypto/chow-choo'
import { agreePointG1, agreePointG2, encodeName } from '@milagro-ts/crypto/identity'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const names = {
  IdC: encodeName(groupId, { kind: 1, idCore: identityOf(5), slot: 100 }),
  IdS: encodeName(groupId, { kind: 3, name: 'gw.example', generation: 1 }),
}

const [move, awaiting] = clientBegin(names, agreePointG2(names.IdC).mulSecret(s), random)
// → PC, PG
const received = { PC: G2.decode(move.PC.encode()), PG: G1.decode(move.PG.encode()) }
const [answer, atServer] = serverAgree(names, agreePointG1(names.IdS).mulSecret(s), received, random)
// ← PS
assert.deepEqual(awaiting.agree({ PS: G1.decode(answer.PS.encode()) }), atServer)
