/**
 * Where a simulated car drives: the points of a GPX 1.0/1.1 file (topografix.com/GPX/1/1), or a closed loop drawn
 * from a number; and a drive along them at constant speed.
 *
 * Degrees are whole numbers of 10⁻⁷ (about a centimetre) from here on, so that what is hashed on the car and what is
 * stored on the server are the same bytes.
 */
import { DecodeError } from '@milagro-ts/crypto/errors'

export interface Waypoint {
  /** Degrees north · 10⁷, from −900 000 000 to 900 000 000. */
  readonly latE7: number
  /** Degrees east · 10⁷, from −1 800 000 000 to 1 800 000 000. */
  readonly lonE7: number
}

export const LAT_LIMIT = 900_000_000
export const LON_LIMIT = 1_800_000_000
const MOST_BYTES = 16_777_216
const MOST_POINTS = 200_000
const EARTH_RADIUS = 6_371_000

/**
 * The track points (`trkpt`), or without any the route points (`rtept`), in the file's order.
 *
 * This reads what GPX needs of XML and refuses the rest: a document type declaration (and with it entities) is refused,
 * comments, CDATA and processing instructions are passed over.
 * Throws DecodeError for what isn't well-formed GPX, a coordinate out of range, or fewer than two points.
 */
export function parseGpx(text: string): Waypoint[] {
  if (text.length > MOST_BYTES) throw new DecodeError('gpx', `more than ${MOST_BYTES} characters`)
  const track: Waypoint[] = []
  const route: Waypoint[] = []
  const open: string[] = []
  let sawRoot = false
  for (const tag of tags(text)) {
    if (tag.kind === 'close') {
      const expected = open.pop()
      if (expected !== tag.name)
        throw new DecodeError('gpx', `</${tag.name}> closes <${expected ?? 'nothing'}>`)
      continue
    }
    if (open.length === 0) {
      if (sawRoot || tag.name !== 'gpx') throw new DecodeError('gpx', 'the one root element must be <gpx>')
      sawRoot = true
    }
    if (tag.name === 'trkpt' || tag.name === 'rtept') {
      const points = tag.name === 'trkpt' ? track : route
      if (points.length === MOST_POINTS) throw new DecodeError('gpx', `more than ${MOST_POINTS} points`)
      points.push({
        latE7: degrees(tag.attributes, 'lat', LAT_LIMIT),
        lonE7: degrees(tag.attributes, 'lon', LON_LIMIT),
      })
    }
    if (tag.kind === 'open') open.push(tag.name)
  }
  if (open.length > 0) throw new DecodeError('gpx', `<${open.at(-1)}> is never closed`)
  const points = track.length > 0 ? track : route
  if (points.length < 2) throw new DecodeError('gpx', 'fewer than two points')
  return points
}

interface Tag {
  readonly kind: 'open' | 'close' | 'empty'
  /** Without a namespace prefix. */
  readonly name: string
  readonly attributes: string
}

function* tags(text: string): Generator<Tag> {
  let at = 0
  for (;;) {
    const start = text.indexOf('<', at)
    if (start < 0) return
    const skipped = ['<!--', '-->', '<![CDATA[', ']]>', '<?', '?>']
    const skip = skipped.findIndex((mark, index) => index % 2 === 0 && text.startsWith(mark, start))
    if (skip >= 0) {
      const close = skipped[skip + 1] as string
      const end = text.indexOf(close, start)
      if (end < 0) throw new DecodeError('gpx', 'the file ends inside a comment or instruction')
      at = end + close.length
      continue
    }
    if (text.startsWith('<!', start)) throw new DecodeError('gpx', 'document type declarations are not read')
    const end = endOfTag(text, start)
    const inner = text.slice(start + 1, end)
    const shape = /^(\/?)(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)(\s[\s\S]*?)?(\/?)$/.exec(inner.trimEnd())
    if (shape === null || (shape[1] !== '' && shape[4] !== '')) {
      throw new DecodeError('gpx', `not a tag: <${inner.slice(0, 32)}`)
    }
    yield {
      kind: shape[1] !== '' ? 'close' : shape[4] !== '' ? 'empty' : 'open',
      name: shape[2] as string,
      attributes: shape[3] ?? '',
    }
    at = end + 1
  }
}

/** The index of the `>` that ends the tag at `start`; one inside quotes doesn't. */
function endOfTag(text: string, start: number): number {
  let quote = ''
  for (let at = start + 1; at < text.length; at++) {
    const character = text[at] as string
    if (quote !== '') {
      if (character === quote) quote = ''
    } else if (character === '"' || character === "'") quote = character
    else if (character === '>') return at
    else if (character === '<') break
  }
  throw new DecodeError('gpx', 'a tag is never closed')
}

function degrees(attributes: string, name: 'lat' | 'lon', limit: number): number {
  const found = new RegExp(`\\s${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)')`).exec(attributes)
  const text = (found?.[1] ?? found?.[2] ?? '').trim()
  if (!/^[+-]?\d{1,3}(\.\d{1,20})?$/.test(text))
    throw new DecodeError(name, 'not a decimal number of degrees')
  const value = Math.round(Number(text) * 1e7)
  if (Math.abs(value) > limit) throw new DecodeError(name, 'out of range')
  // −0 and 0 are the same place, but not the same JSON.
  return value === 0 ? 0 : value
}

/**
 * A closed loop of `points` waypoints, some kilometres long, around a town that `seed` picks. The same seed gives the
 * same loop, so that a car that starts again drives on where it was.
 */
export function generatedTrack(seed: number, points = 240): Waypoint[] {
  if (!Number.isInteger(seed) || seed < 0) throw new RangeError('seed must be a whole number from 0 on')
  const [lat, lon] = TOWNS[seed % TOWNS.length] as readonly [number, number]
  const wobble = 0.15 + 0.1 * fraction(seed, 1)
  const size = 0.012 + 0.01 * fraction(seed, 2)
  const track: Waypoint[] = []
  for (let step = 0; step <= points; step++) {
    const angle = (2 * Math.PI * (step % points)) / points
    const radius = size * (1 + wobble * Math.sin(3 * angle + seed) + 0.08 * Math.cos(7 * angle))
    track.push({
      latE7: Math.round((lat + radius * Math.sin(angle)) * 1e7),
      lonE7: Math.round((lon + (radius * Math.cos(angle)) / Math.cos((lat * Math.PI) / 180)) * 1e7),
    })
  }
  return track
}

/** Seeds that differ by a multiple of how many there are draw loops around one town. */
export const TOWNS: readonly (readonly [number, number])[] = [
  [48.1374, 11.5755],
  [52.52, 13.405],
  [50.9375, 6.9603],
  [47.3769, 8.5417],
  [48.2082, 16.3738],
  [45.764, 4.8357],
  [51.5074, -0.1278],
]

/** A number in [0, 1) that depends on both arguments; it only has to look irregular. */
function fraction(seed: number, salt: number): number {
  const mixed = Math.sin(seed * 12.9898 + salt * 78.233) * 43_758.5453
  return mixed - Math.floor(mixed)
}

/** Where a car is at a time: place, metres per second, and compass heading in whole degrees 0–359. */
export interface Fix extends Waypoint {
  readonly speed: number
  readonly heading: number
}

/** A drive along waypoints, over and over: from the last one it goes straight back to the first. */
export class Drive {
  readonly #points: readonly Waypoint[]
  /** Metres from the start to each waypoint, and at the end the length of the whole lap. */
  readonly #distances: readonly number[]
  readonly #speed: number

  /** @param speed metres per second, above 0 */
  constructor(points: readonly Waypoint[], speed: number) {
    if (!(speed > 0)) throw new RangeError('speed must be above 0')
    const first = points[0]
    if (first === undefined) throw new RangeError('a drive needs waypoints')
    this.#points = [...points, first]
    const distances = [0]
    for (let at = 1; at < this.#points.length; at++) {
      const length = metres(this.#points[at - 1] as Waypoint, this.#points[at] as Waypoint)
      distances.push((distances[at - 1] as number) + length)
    }
    this.#distances = distances
    this.#speed = speed
  }

  /** @param seconds since the drive began, from 0 on */
  at(seconds: number): Fix {
    const lap = this.#distances.at(-1) as number
    const start = this.#points[0] as Waypoint
    if (lap === 0) return { ...start, speed: 0, heading: 0 }
    const travelled = (seconds * this.#speed) % lap
    let leg = 1
    while ((this.#distances[leg] as number) <= travelled) leg++
    const from = this.#points[leg - 1] as Waypoint
    const to = this.#points[leg] as Waypoint
    const begin = this.#distances[leg - 1] as number
    const part = (travelled - begin) / ((this.#distances[leg] as number) - begin)
    return {
      latE7: Math.round(from.latE7 + part * (to.latE7 - from.latE7)),
      lonE7: Math.round(from.lonE7 + part * (to.lonE7 - from.lonE7)),
      speed: this.#speed,
      heading: heading(from, to),
    }
  }
}

/** Great-circle distance (haversine) in metres. */
export function metres(from: Waypoint, to: Waypoint): number {
  const [lat1, lon1, lat2, lon2] = [
    radians(from.latE7),
    radians(from.lonE7),
    radians(to.latE7),
    radians(to.lonE7),
  ]
  const half =
    Math.sin((lat2 - lat1) / 2) ** 2 + Math.cos(lat1) * Math.cos(lat2) * Math.sin((lon2 - lon1) / 2) ** 2
  return 2 * EARTH_RADIUS * Math.asin(Math.min(1, Math.sqrt(half)))
}

function heading(from: Waypoint, to: Waypoint): number {
  const [lat1, lon1, lat2, lon2] = [
    radians(from.latE7),
    radians(from.lonE7),
    radians(to.latE7),
    radians(to.lonE7),
  ]
  const east = Math.sin(lon2 - lon1) * Math.cos(lat2)
  const north = Math.cos(lat1) * Math.sin(lat2) - Math.sin(lat1) * Math.cos(lat2) * Math.cos(lon2 - lon1)
  return (Math.round((Math.atan2(east, north) * 180) / Math.PI) + 360) % 360
}

function radians(degreesE7: number): number {
  return (degreesE7 / 1e7) * (Math.PI / 180)
}
