/** A fetch that remembers what it saw: `--check` reports, and asserts on, what really came over the wire. */

export interface Seen {
  readonly origin: string
  /** Method and path, without query. */
  readonly route: string
  readonly status: number
  /** Of a problem document. */
  readonly code?: string
  readonly milliseconds: number
}

export class Observer {
  readonly #seen: Seen[] = []

  /** For clients that take a fetch of their own. */
  readonly fetch: typeof fetch = (input, init) => this.#observed(globalThis.fetch, input, init)

  /** The same over another fetch. */
  over(fetch: typeof globalThis.fetch): typeof globalThis.fetch {
    return (input, init) => this.#observed(fetch, input, init)
  }

  async #observed(
    fetch: typeof globalThis.fetch,
    input: Parameters<typeof globalThis.fetch>[0],
    init: RequestInit | undefined,
  ): Promise<Response> {
    const url = new URL(input instanceof Request ? input.url : input)
    const begin = performance.now()
    const response = await fetch(input, init)
    const code = await codeOf(response)
    this.#seen.push({
      origin: url.origin,
      route: `${init?.method ?? 'GET'} ${url.pathname}`,
      status: response.status,
      ...(code === undefined ? {} : { code }),
      milliseconds: Math.round(performance.now() - begin),
    })
    return response
  }

  /** The newest answer of a route that begins so. TypeError when there was none: the step didn't do what it says. */
  last(route: string): Seen {
    const seen = this.#seen.findLast(one => one.route.startsWith(route))
    if (seen === undefined) throw new TypeError(`no answer of ${route} was seen`)
    return seen
  }
}

async function codeOf(response: Response): Promise<string | undefined> {
  const isProblem = response.headers.get('content-type')?.startsWith('application/problem+json')
  if (!isProblem) return undefined
  const problem = (await response.clone().json()) as { code?: string }
  return problem.code
}
