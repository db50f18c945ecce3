/// <reference lib="dom" />
/**
 * The token store of a browser: one record in IndexedDB, sealed with an AES-GCM key that WebCrypto made and doesn't
 * give away. Whoever copies the profile's files finds a sealed text; whoever runs script in this origin can use the
 * key, and can't take it along.
 */
import { ClientError } from './errors.js'
import type { TokenStore } from './token-store.js'

const STORE = 'kept'
const KEY = 'key'
const TEXT = 'text'

interface Sealed {
  readonly iv: Uint8Array<ArrayBuffer>
  readonly ciphertext: ArrayBuffer
}

export interface BrowserStoreOptions {
  /** Name of the database, one for each application of an origin. */
  readonly name: string
  readonly indexedDB?: IDBFactory
}

/** STORE_UNAVAILABLE where the browser refuses its database; STORE_DAMAGED where the text doesn't open any more. */
export function browserTokenStore({
  name,
  indexedDB = globalThis.indexedDB,
}: BrowserStoreOptions): TokenStore {
  let opened: Promise<IDBDatabase> | undefined
  const database = (): Promise<IDBDatabase> => {
    opened ??= openDatabase(indexedDB, name).catch((error: unknown) => {
      opened = undefined
      throw unavailable(error)
    })
    return opened
  }
  return {
    async read() {
      const db = await database()
      const [key, sealed] = await inOrder(db, 'readonly', store => [store.get(KEY), store.get(TEXT)])
      return sealed === undefined ? null : open(key as CryptoKey, sealed as Sealed)
    },
    /**
     * WebCrypto answers later than a transaction of IndexedDB lasts. So the sealed text is compared with the one that
     * was opened: a transaction writes only if it still stands there, and otherwise it is looked at again.
     */
    async replace(former, next) {
      const db = await database()
      for (;;) {
        const key = await keyOf(db)
        const [sealed] = (await inOrder(db, 'readonly', store => [store.get(TEXT)])) as [Sealed | undefined]
        const text = sealed === undefined ? null : await open(key, sealed)
        if (text !== former) return false
        if (await swap(db, sealed, await seal(key, next))) return true
      }
    },
  }
}

function openDatabase(factory: IDBFactory, name: string): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = factory.open(name, 1)
    request.onupgradeneeded = () => request.result.createObjectStore(STORE)
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
    request.onblocked = () => reject(new Error('another page holds the database'))
  })
}

/** The results of requests in one transaction, once it is durable. */
function inOrder(
  db: IDBDatabase,
  mode: IDBTransactionMode,
  ask: (store: IDBObjectStore) => IDBRequest[],
): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(STORE, mode, { durability: 'strict' })
    const requests = ask(transaction.objectStore(STORE))
    transaction.oncomplete = () => resolve(requests.map(({ result }) => result))
    transaction.onabort = () => reject(unavailable(transaction.error))
  })
}

/** The key of this database; of two pages that make one at once, one's stays. */
async function keyOf(db: IDBDatabase): Promise<CryptoKey> {
  const [known] = await inOrder(db, 'readonly', store => [store.get(KEY)])
  if (known !== undefined) return known as CryptoKey
  const made = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, [
    'encrypt',
    'decrypt',
  ])
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(STORE, 'readwrite', { durability: 'strict' })
    const store = transaction.objectStore(STORE)
    let kept = made
    const request = store.get(KEY)
    request.onsuccess = () => {
      if (request.result === undefined) store.put(made, KEY)
      else kept = request.result as CryptoKey
    }
    transaction.oncomplete = () => resolve(kept)
    transaction.onabort = () => reject(unavailable(transaction.error))
  })
}

/** Writes `next` where `former` still stands. */
function swap(db: IDBDatabase, former: Sealed | undefined, next: Sealed): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(STORE, 'readwrite', { durability: 'strict' })
    const store = transaction.objectStore(STORE)
    let isSwapped = false
    const request = store.get(TEXT)
    request.onsuccess = () => {
      if (!isSame(request.result as Sealed | undefined, former)) return
      isSwapped = true
      store.put(next, TEXT)
    }
    transaction.oncomplete = () => resolve(isSwapped)
    transaction.onabort = () => reject(unavailable(transaction.error))
  })
}

/** Two sealings never share an iv, so it stands for the text. */
function isSame(a: Sealed | undefined, b: Sealed | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return a.iv.length === b.iv.length && a.iv.every((byte, i) => byte === b.iv[i])
}

async function seal(key: CryptoKey, text: string): Promise<Sealed> {
  const iv = crypto.getRandomValues(new Uint8Array(12))
  const plain = new TextEncoder().encode(text)
  return { iv, ciphertext: await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, key, plain) }
}

async function open(key: CryptoKey, { iv, ciphertext }: Sealed): Promise<string> {
  try {
    return new TextDecoder().decode(await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, key, ciphertext))
  } catch (error) {
    throw new ClientError('STORE_DAMAGED', 'what the browser keeps does not open any more', { cause: error })
  }
}

const unavailable = (error: unknown): ClientError =>
  new ClientError('STORE_UNAVAILABLE', 'the browser does not give its database', { cause: error })
