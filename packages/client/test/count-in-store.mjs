// Adds 1 to the number in a token store, again when somebody else was faster: node count-in-store.mjs FILE TIMES
import { fileTokenStore } from '@milagro-ts/client/file-token-store'

const [, , file, times] = process.argv
const store = fileTokenStore(file)
for (let left = Number(times); left > 0; ) {
  const text = await store.read()
  if (await store.replace(text, String(Number(text) + 1))) left--
}
