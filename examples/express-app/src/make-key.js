/** Writes the service's request key (mode 0600) and prints what the plan of the founding says of this recipient. */
import { writeFileSync } from 'node:fs'
import { generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'

const requestKey = await generateEs256()
// Every recipient names an HPKE key; a service that holds no server key never opens anything with it.
const { publicKey } = await generateHpkeKey(systemRandom)
writeFileSync(process.argv[2] ?? 'key.json', JSON.stringify(requestKey.toJwk()), { mode: 0o600, flag: 'wx' })
console.log(
  JSON.stringify({
    name: 'shop',
    kind: 2,
    generation: 1,
    purposes: [],
    hpkeKey: toBase64Url(publicKey),
    requestKey: requestKey.publicKey.toBase64Url(),
  }),
)
