/**
 * The live map, an extension of fleet's console: where every car is, from the tracking server's stream; what each has
 * driven, as roads beneath them; and who is banned, whose car stands still from then on.
 */
import { type Client, createClient, routeUrl } from '@milagro-ts/api/call'
import { readEvents } from '@milagro-ts/api/sse'
import type { ExtensionHost } from '@milagro-ts/fleet/console-extension'
import L from 'leaflet'
import 'leaflet/dist/leaflet.css'
import './map.css'
import { type PositionField, trackingRoutes } from '../src/tracking-routes.js'

type Tracking = Client<typeof trackingRoutes>

interface Car {
  readonly idCore: string
  readonly marker: L.Marker
  readonly pin: HTMLElement
  readonly row: HTMLElement
  readonly road: readonly [L.Polyline, L.Polyline]
  readonly points: L.LatLng[]
  name: string
  isBanned: boolean
  at: number
  speed: number
}

/** Milliseconds between two looks at who is banned, and at names. */
const LOOK_EVERY = 1_500
const NAMES_EVERY = 15_000
/** Milliseconds without a position after which a car counts as silent. */
const SILENT_AFTER = 15_000
/** Batches of a track that are drawn when the map opens. */
const PAST_BATCHES = 400
const POINTS_KEPT = 5_000

export function mount(element: HTMLElement, host: ExtensionHost): () => void {
  let view: MapView | undefined
  let isGone = false
  // A map measures its place when it is made, and the place has its size by our styles.
  void styled().then(() => {
    if (!isGone) view = new MapView(element, host)
  })
  return () => {
    isGone = true
    view?.end()
  }
}

class MapView {
  readonly #host: ExtensionHost
  readonly #tracking: Tracking
  readonly #map: L.Map
  readonly #list: HTMLElement
  readonly #status: HTMLElement
  readonly #resizing: ResizeObserver
  readonly #cars = new Map<string, Car>()
  readonly #ending = new AbortController()
  readonly #timers: ReturnType<typeof setInterval>[] = []
  #isFitted = false

  constructor(element: HTMLElement, host: ExtensionHost) {
    this.#host = host
    const url = host.audience
    if (url === undefined) throw new TypeError('the map wants the tracking server as its audience')
    this.#tracking = createClient(trackingRoutes, { baseUrl: url, authorize: () => host.authorization() })
    const place = append(element, 'div', 'map')
    place.setAttribute('role', 'region')
    place.setAttribute('aria-label', 'Map of the cars')
    const side = append(element, 'aside', 'map-side')
    append(side, 'h1', '', 'Cars')
    this.#status = append(side, 'p', 'map-status')
    this.#status.setAttribute('role', 'status')
    this.#list = append(side, 'ul', 'map-cars')
    this.#map = L.map(place, { zoomControl: true, attributionControl: true, minZoom: 2, maxZoom: 18 })
    this.#map.attributionControl.setPrefix(false).addAttribution('Land: Natural Earth')
    this.#map.setView([48, 11], 4)
    this.#resizing = new ResizeObserver(() => this.#map.invalidateSize())
    this.#resizing.observe(place)
    void this.#unlessEnded(this.#drawLand(), 'The map beneath the cars can’t be loaded.')
    void this.#look()
    void this.#name()
    void this.#follow(url)
    this.#timers.push(
      setInterval(() => void this.#look(), LOOK_EVERY),
      setInterval(() => void this.#name(), NAMES_EVERY),
      setInterval(() => this.#tellSilence(), 1_000),
    )
  }

  end(): void {
    this.#ending.abort()
    this.#resizing.disconnect()
    for (const timer of this.#timers) clearInterval(timer)
    this.#map.remove()
  }

  async #drawLand(): Promise<void> {
    const answer = await fetch(new URL('land.json', import.meta.url), { signal: this.#ending.signal })
    if (!answer.ok) throw new Error(`land.json: ${answer.status}`)
    const style = { className: 'map-land', weight: 1, fill: true, interactive: false }
    L.geoJSON(await answer.json(), { style, interactive: false })
      .addTo(this.#map)
      .bringToBack()
  }

  /** Every vehicle with its ban; the roads of those that are new here. */
  async #look(): Promise<void> {
    try {
      const { vehicles } = await this.#tracking.vehicles({})
      for (const { idCore, position, batches, banned } of vehicles) {
        const isNew = !this.#cars.has(idCore)
        const car = this.#car(idCore)
        if (isNew) {
          const past = this.#drawPast(car, Math.max(1, batches - PAST_BATCHES))
          void this.#unlessEnded(past, 'What was driven before can’t be loaded.')
        }
        this.#move(car, position)
        this.#setBanned(car, banned)
      }
      this.#say(vehicles.length === 0 ? 'No car has reported yet.' : '')
      this.#fit()
    } catch {
      if (!this.#ending.signal.aborted) this.#say('The tracking server can’t be reached; trying again.')
    }
  }

  async #drawPast(car: Car, from: number): Promise<void> {
    const past: L.LatLng[] = []
    for (let next: number | undefined = from; next !== undefined; ) {
      const {
        batches,
        more,
      }: { batches: readonly { positions: readonly PositionField[] }[]; more?: number } =
        await this.#tracking.track({ params: { idCore: car.idCore }, query: { from: String(next) } })
      for (const { positions } of batches) past.push(...positions.map(placeOf))
      next = more
    }
    car.points.unshift(...past)
    this.#drawRoad(car)
  }

  /** The stream of positions; it ends with the token that opened it, and is then opened again. */
  async #follow(baseUrl: string): Promise<void> {
    const { signal } = this.#ending
    while (!signal.aborted) {
      try {
        const authorization = await this.#host.authorization()
        const answer = await fetch(routeUrl(trackingRoutes.stream, baseUrl, {}), {
          headers: { authorization },
          signal,
        })
        if (answer.status === 401) await this.#host.authorization({ fresh: true })
        if (answer.ok && answer.body !== null) {
          for await (const said of readEvents(answer.body)) {
            if (said?.event !== 'position') continue
            const { idCore, position } = JSON.parse(said.data) as { idCore: string; position: PositionField }
            this.#move(this.#car(idCore), position)
          }
        }
      } catch {
        if (signal.aborted) return
      }
      await new Promise(resolve => setTimeout(resolve, 1_000))
    }
  }

  /** What operators call the cars. */
  async #name(): Promise<void> {
    try {
      const { vehicles } = await this.#host.fleet.listVehicles({ query: { limit: '1000' } })
      for (const { idCore, instance } of vehicles) {
        const car = idCore === undefined ? undefined : this.#cars.get(idCore)
        if (car === undefined) continue
        car.name = instance
        this.#draw(car)
      }
    } catch {
      // Names are a help: a car without one is shown by its M-Pin ID until the next look.
    }
  }

  #car(idCore: string): Car {
    const known = this.#cars.get(idCore)
    if (known !== undefined) return known
    const pin = document.createElement('span')
    pin.className = 'map-pin'
    append(pin, 'span', 'map-arrow')
    append(pin, 'span', 'map-name')
    const marker = L.marker([0, 0], {
      icon: L.divIcon({ html: pin, className: 'map-car', iconSize: [22, 22] }),
      keyboard: false,
    }).addTo(this.#map)
    const row = append(this.#list, 'li', '')
    const button = append(row, 'button', '')
    ;(button as HTMLButtonElement).type = 'button'
    button.addEventListener('click', () => this.#map.flyTo(marker.getLatLng(), 15))
    const road = [
      L.polyline([], { className: 'map-road-edge', interactive: false }).addTo(this.#map),
      L.polyline([], { className: 'map-road', interactive: false }).addTo(this.#map),
    ] as const
    const car: Car = {
      idCore,
      marker,
      pin,
      row,
      road,
      points: [],
      name: `${idCore.slice(0, 10)}…`,
      isBanned: false,
      at: 0,
      speed: 0,
    }
    this.#cars.set(idCore, car)
    void this.#name()
    return car
  }

  #move(car: Car, position: PositionField): void {
    if (position.at <= car.at) return
    car.at = position.at
    car.speed = position.speed
    const place = placeOf(position)
    car.points.push(place)
    if (car.points.length > POINTS_KEPT) car.points.splice(0, car.points.length - POINTS_KEPT)
    car.marker.setLatLng(place)
    car.pin.style.setProperty('--heading', `${position.heading}deg`)
    this.#drawRoad(car)
    this.#draw(car)
  }

  #setBanned(car: Car, isBanned: boolean): void {
    if (car.isBanned === isBanned) return
    car.isBanned = isBanned
    this.#draw(car)
  }

  #drawRoad({ road, points }: Car): void {
    for (const line of road) line.setLatLngs(points)
  }

  #draw(car: Car): void {
    const isSilent = Date.now() - car.at > SILENT_AFTER
    const state = car.isBanned ? 'banned' : isSilent ? 'silent' : 'drives'
    if (car.pin.dataset.state !== state) car.pin.dataset.state = state
    const name = car.pin.querySelector('.map-name')
    if (name !== null) name.textContent = car.isBanned ? `${car.name} · banned` : car.name
    const button = car.row.firstElementChild
    if (button === null) return
    car.row.dataset.state = state
    const words = {
      banned: 'banned: its positions are refused, it stands still here',
      silent: 'silent',
      drives: `${Math.round(car.speed * 0.036)} km/h`,
    }[state]
    button.replaceChildren()
    append(button as HTMLElement, 'strong', '', car.name)
    append(button as HTMLElement, 'span', '', words)
  }

  #tellSilence(): void {
    for (const car of this.#cars.values()) this.#draw(car)
  }

  /** Once, when the first cars are there: all of them on the map. */
  #fit(): void {
    const places = [...this.#cars.values()].filter(({ at }) => at > 0).map(({ marker }) => marker.getLatLng())
    if (this.#isFitted || places.length === 0) return
    this.#isFitted = true
    this.#map.fitBounds(L.latLngBounds(places).pad(0.4), { maxZoom: 14, animate: false })
  }

  /** What fails because the view has ended is no news; anything else is said. */
  async #unlessEnded(work: Promise<void>, otherwise: string): Promise<void> {
    try {
      await work
    } catch {
      if (!this.#ending.signal.aborted) this.#say(otherwise)
    }
  }

  #say(text: string): void {
    if (this.#status.textContent !== text) this.#status.textContent = text
  }
}

const placeOf = ({ latE7, lonE7 }: PositionField): L.LatLng => L.latLng(latE7 / 1e7, lonE7 / 1e7)

function append(parent: HTMLElement, tag: string, className: string, text?: string): HTMLElement {
  const element = document.createElement(tag)
  if (className !== '') element.className = className
  if (text !== undefined) element.textContent = text
  return parent.appendChild(element)
}

/** The bundler puts our styles beside this module; the page's policy takes them from there only. */
function styled(): Promise<void> {
  const href = new URL('main.css', import.meta.url).href
  if (document.querySelector(`link[href="${href}"]`) !== null) return Promise.resolve()
  const link = document.createElement('link')
  link.rel = 'stylesheet'
  link.href = href
  return new Promise(resolve => {
    link.addEventListener('load', () => resolve())
    // Without its styles the map is plain, and still there.
    link.addEventListener('error', () => resolve())
    document.head.append(link)
  })
}
