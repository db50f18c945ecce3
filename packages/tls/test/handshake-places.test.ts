/** Who gives way where the places of those who haven't come in are full; connections are names here. */
import { HandshakePlaces } from '@milagro-ts/tls/handshake-places'
import { beforeEach, describe, expect, test } from 'vitest'

let places: HandshakePlaces<string>
beforeEach(() => {
  places = new HandshakePlaces()
})

const ROOM = { handshakes: 100, handshakesPerSource: 100 }
/** So many are there, `1 of source` the oldest; nobody had to go. */
function come(source: string, count: number): void {
  for (let n = 1; n <= count; n++) expect(places.take(`${n} of ${source}`, source, ROOM)).toBeUndefined()
}
/** Who goes where all places are full. */
const next = (source: string, connection = `next of ${source}`) =>
  places.take(connection, source, { ...ROOM, handshakes: places.size })?.connection

test('a thousand silent connections of ten addresses, a hundred more each second: who speaks within nine seconds stays', () => {
  const limits = { handshakes: 1_000, handshakesPerSource: 100 }
  let came = 0
  const gone: string[] = []
  const take = (connection: string, source: string) => {
    const putOut = places.take(connection, source, limits)
    if (putOut !== undefined) gone.push(putOut.connection)
  }
  const seconds = (count: number) => {
    for (let n = 0; n < 100 * count; n++) take(`stranger ${++came}`, `127.0.1.${1 + (came % 10)}`)
  }
  seconds(10)
  expect([places.size, gone]).toEqual([1_000, []])
  seconds(5)
  for (let n = 1; n <= 20; n++) {
    const car = `car ${n}`
    take(car, n % 2 === 0 ? '192.0.2.1' : `192.0.2.${n}`)
    seconds(9)
    places.heard(car)
    seconds(20)
    places.leave(car)
  }
  expect(gone.filter(one => one.startsWith('car'))).toEqual([])
  expect(places.size).toBe(999)
  // Of each address the oldest ones have gone.
  expect(gone.slice(0, 10).sort()).toEqual(Array.from({ length: 10 }, (_, n) => `stranger ${n + 1}`).sort())
})

test('from an address that has all its places taken by silent ones, who speaks before they are all renewed stays', () => {
  const limits = { handshakes: 1_000, handshakesPerSource: 100 }
  const take = (connection: string) => places.take(connection, '127.0.1.1', limits)?.connection
  for (let n = 1; n <= 100; n++) take(`stranger ${n}`)
  expect(take('car')).toBe('stranger 1')
  for (let n = 101; n <= 199; n++) expect(take(`stranger ${n}`)).toBe(`stranger ${n - 99}`)
  // And who doesn't, doesn't: it is the oldest then.
  expect(take('stranger 200')).toBe('car')
  expect(places.size).toBe(100)
})

describe('where all places are full', () => {
  test('the oldest silent one goes, of the source that has most of them', () => {
    come('192.0.2.1', 2)
    come('192.0.2.2', 3)
    come('192.0.2.3', 1)
    expect(next('192.0.2.4')).toBe('1 of 192.0.2.2')
    expect(next('192.0.2.3')).toBe('1 of 192.0.2.1')
  })

  test('a source that has most itself gives way to itself, and takes no place of one that has as many', () => {
    come('192.0.2.1', 2)
    come('192.0.2.2', 2)
    expect(next('192.0.2.2')).toBe('1 of 192.0.2.2')
    expect(next('192.0.2.1')).toBe('1 of 192.0.2.1')
    come('192.0.2.3', 1)
    expect(next('192.0.2.3')).toMatch(/ of 192\.0\.2\.[12]$/)
  })

  test('whose handshake is under way goes after all who are silent, whatever number its source has', () => {
    come('192.0.2.1', 5)
    for (let n = 1; n <= 5; n++) places.heard(`${n} of 192.0.2.1`)
    come('192.0.2.2', 1)
    expect(next('192.0.2.3')).toBe('1 of 192.0.2.2')
    expect(next('192.0.2.3', 'another')).toBe('next of 192.0.2.3')
    places.heard('another')
    // Nobody is silent any more.
    expect(next('192.0.2.4')).toBe('1 of 192.0.2.1')
  })

  test('it goes to a source that has two fewer, and no other; else the newcomer goes', () => {
    come('192.0.2.1', 2)
    come('192.0.2.2', 1)
    for (const one of ['1 of 192.0.2.1', '2 of 192.0.2.1', '1 of 192.0.2.2']) places.heard(one)
    for (const source of ['192.0.2.1', '192.0.2.2'])
      expect(places.take('newcomer', source, { ...ROOM, handshakes: 3 })).toEqual({
        connection: 'newcomer',
        source,
      })
    expect(places.size).toBe(3)
    expect(next('192.0.2.3')).toBe('1 of 192.0.2.1')
  })

  test('it goes to one whose source has another under way, too', () => {
    come('192.0.2.1', 3)
    come('192.0.2.2', 1)
    for (const one of ['2 of 192.0.2.1', '1 of 192.0.2.1', '3 of 192.0.2.1', '1 of 192.0.2.2'])
      places.heard(one)
    // The first of them to have said its ClientHello.
    expect(next('192.0.2.2')).toBe('2 of 192.0.2.1')
  })

  test('who goes is named with its own source', () => {
    come('2001:db8:0:1', 1)
    expect(places.take('newcomer', '192.0.2.1', { ...ROOM, handshakes: 1 })).toEqual({
      connection: '1 of 2001:db8:0:1',
      source: '2001:db8:0:1',
    })
  })
})

test('where a source’s places are full its own oldest silent one goes, then the newcomer', () => {
  const limits = { handshakes: 100, handshakesPerSource: 2 }
  const take = (connection: string) => places.take(connection, '192.0.2.1', limits)?.connection
  come('192.0.2.2', 2)
  take('1')
  take('2')
  places.heard('1')
  expect(take('3')).toBe('2')
  places.heard('3')
  expect(take('4')).toBe('4')
  places.leave('1')
  expect(take('5')).toBeUndefined()
})

describe('a customer who has a /56 of IPv6', () => {
  test('is one for whom gives way, by whatever number of /64', () => {
    for (let n = 0; n < 10; n++) come(`2001:db8:0:1f${n}`, 1)
    come('192.0.2.1', 2)
    expect(next('192.0.2.2')).toBe('1 of 2001:db8:0:1f0')
    // Its own next one displaces its own.
    expect(next('2001:db8:0:1ff')).toBe('1 of 2001:db8:0:1f1')
    // Another /56.
    expect(next('2001:db8:0:200')).toBe('1 of 2001:db8:0:1f2')
  })

  test('has the limit of a source in each /64; and of neighbours the one that has most gives way', () => {
    come('2001:db8:0:101', 1)
    come('2001:db8:0:102', 3)
    come('2001:db8:0:103', 2)
    expect(next('192.0.2.1')).toBe('1 of 2001:db8:0:102')
    expect(next('2001:db8:0:104')).toBe('2 of 2001:db8:0:102')
    const limits = { handshakes: 100, handshakesPerSource: 1 }
    expect(places.take('a second', '2001:db8:0:101', limits)?.connection).toBe('1 of 2001:db8:0:101')
    expect(places.take('a first', '2001:db8:0:105', limits)).toBeUndefined()
  })

  test('a short last part is of the /56 that it stands in', () => {
    come('2001:db8:0:1', 2)
    come('2001:db8:0:ff', 2)
    come('2001:db8:1:0', 3)
    expect(next('192.0.2.1')).toBe('1 of 2001:db8:0:1')
  })
})

test('who has left has no place, once, and what has none can neither leave nor be heard', () => {
  come('192.0.2.1', 2)
  places.heard('1 of 192.0.2.1')
  for (let n = 0; n < 2; n++) {
    places.leave('1 of 192.0.2.1')
    places.leave('2 of 192.0.2.1')
    places.heard('2 of 192.0.2.1')
    places.leave('nobody')
  }
  come('2001:db8:0:1', 1)
  come('2001:db8:0:2', 1)
  places.leave('1 of 2001:db8:0:1')
  expect([places.size, places.kept]).toEqual([1, 3])
  places.leave('1 of 2001:db8:0:2')
  expect([places.size, places.kept]).toEqual([0, 0])
  expect(places.take('newcomer', '192.0.2.1', { handshakes: 1, handshakesPerSource: 1 })).toBeUndefined()
})
