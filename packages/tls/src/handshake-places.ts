/**
 * Places of connections that haven't come in yet: so many in all, and so many of one source. Where they are full, somebody
 * who waits to be spoken to gives way to who comes newly:
 *
 *   of one source   its own oldest that hasn't said a whole ClientHello; else the newcomer
 *   in all          the oldest such, of the source that has most of them; else the oldest whose handshake is under way, of the
 *                   source that has most of those and two more than the newcomer's; else the newcomer
 *
 * So silence, whatever number of connections keeps it, keeps nobody out who says a ClientHello in time, and no source takes
 * a place of one that has fewer. Who has most is asked of networks first, and of the sources in that one then: a source is an
 * IPv4 address or a /64 of IPv6, a network the same address or the /56. The limits are the sources' own, since a carrier gives each phone
 * and each car a /64: a stranger's neighbours shall not share his limit. But a customer at home is given a /60 or a /56, and
 * with it as many sources as he likes, so what gives way is reckoned by that.
 */

export interface PlaceLimits {
  readonly handshakes: number
  readonly handshakesPerSource: number
}

/** By the order of arrival, and (those under way) by that of their ClientHellos. */
interface Source<C> {
  readonly name: string
  readonly network: Network<C>
  readonly silent: Set<C>
  readonly heard: Set<C>
}
interface Network<C> {
  readonly name: string
  readonly sources: Set<Source<C>>
  silent: number
  heard: number
}

/** A connection that is to be closed. */
export interface PutOut<C> {
  readonly connection: C
  readonly source: string
}

export class HandshakePlaces<C> {
  readonly #sourceOf = new Map<C, Source<C>>()
  readonly #sources = new Map<string, Source<C>>()
  readonly #networks = new Map<string, Network<C>>()

  get size(): number {
    return this.#sourceOf.size
  }

  /** Entries for sources and networks: none where nobody is. */
  get kept(): number {
    let kept = this.#sources.size
    for (const { sources } of this.#networks.values()) kept += 1 + sources.size
    return kept
  }

  /** A place for a connection that has said nothing yet. Whoever has none (any more) is returned: another, or itself. */
  take(connection: C, source: string, limits: PlaceLimits): PutOut<C> | undefined {
    const own = this.#sources.get(source)
    const isSourceFull = own !== undefined && own.silent.size + own.heard.size >= limits.handshakesPerSource
    let putOut: PutOut<C> | undefined
    if (isSourceFull || this.size >= limits.handshakes) {
      const from = isSourceFull ? own.silent : this.#whoGivesWay(source, own)
      // The oldest.
      const [displaced] = from ?? []
      if (displaced === undefined) return { connection, source }
      putOut = { connection: displaced, source: (this.#sourceOf.get(displaced) as Source<C>).name }
      this.leave(displaced)
    }
    const joined = this.#joined(source)
    joined.silent.add(connection)
    joined.network.silent++
    this.#sourceOf.set(connection, joined)
    return putOut
  }

  /** Its ClientHello is whole. */
  heard(connection: C): void {
    const source = this.#sourceOf.get(connection)
    if (source === undefined || !source.silent.delete(connection)) return
    source.heard.add(connection)
    source.network.silent--
    source.network.heard++
  }

  /** It has come in, or gone. */
  leave(connection: C): void {
    const source = this.#sourceOf.get(connection)
    if (source === undefined) return
    const { name, network, silent, heard } = source
    this.#sourceOf.delete(connection)
    if (silent.delete(connection)) network.silent--
    else if (heard.delete(connection)) network.heard--
    if (silent.size + heard.size > 0) return
    this.#sources.delete(name)
    network.sources.delete(source)
    if (network.sources.size === 0) this.#networks.delete(network.name)
  }

  #joined(name: string): Source<C> {
    const known = this.#sources.get(name)
    if (known !== undefined) return known
    const of = networkOf(name)
    const network = this.#networks.get(of) ?? { name: of, sources: new Set(), silent: 0, heard: 0 }
    const source: Source<C> = { name, network, silent: new Set(), heard: new Set() }
    network.sources.add(source)
    this.#networks.set(of, network)
    this.#sources.set(name, source)
    return source
  }

  /** Those of whom the oldest gives way to one of this source. */
  #whoGivesWay(name: string, own: Source<C> | undefined): Set<C> | undefined {
    const ownNetwork = this.#networks.get(networkOf(name))
    return this.#ofMost('silent', 1, ownNetwork, own) ?? this.#ofMost('heard', 2, ownNetwork, own)
  }

  /** Of whom has most, and `more` than this network and source have; their own where nobody has, if there are any. */
  #ofMost(
    which: 'silent' | 'heard',
    more: 1 | 2,
    ownNetwork: Network<C> | undefined,
    own: Source<C> | undefined,
  ): Set<C> | undefined {
    const other = most(this.#networks.values(), network => network[which], (ownNetwork?.[which] ?? 0) + more)
    if (other !== undefined) return most(other.sources, source => source[which].size, 1)?.[which]
    if (ownNetwork === undefined) return undefined
    const neighbour = most(ownNetwork.sources, source => source[which].size, (own?.[which].size ?? 0) + more)
    if (neighbour !== undefined) return neighbour[which]
    // A handshake that is under way doesn't give way to another of its source.
    return which === 'silent' && own !== undefined && own.silent.size > 0 ? own.silent : undefined
  }
}

/** The first that has most, of those that have `least` of them. */
function most<T>(all: Iterable<T>, count: (one: T) => number, least: number): T | undefined {
  let found: T | undefined
  let highest = least - 1
  for (const one of all) {
    const of = count(one)
    if (of <= highest) continue
    found = one
    highest = of
  }
  return found
}

/** The /56 of a source of IPv6, as `sourceOf` names it; an IPv4 address itself. */
function networkOf(source: string): string {
  const at = source.lastIndexOf(':')
  return at < 0 ? source : `${source.slice(0, at)}:${Number.parseInt(source.slice(at + 1), 16) >> 8}`
}
