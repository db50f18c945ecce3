/** Which audiences a message may name on which route, and which service speaks for which. */
import { Refused } from '@milagro-ts/api/problem'
import type { AudiencePolicy, RpsConfig } from './config.js'

export class Audiences {
  /** The RPS' own: permits, PIN changes, a device's word for its user, whoami. */
  readonly own: AudiencePolicy
  readonly #configured: ReadonlyMap<string, AudiencePolicy>

  constructor({ audiences, publicUrl }: Pick<RpsConfig, 'audiences' | 'publicUrl'>) {
    this.#configured = new Map(audiences.map(policy => [policy.name, policy]))
    this.own = this.#configured.get(publicUrl) ?? { name: publicUrl, pin: 'optional', tlsExporter: 'absent' }
  }

  /** Of a login. Refused MALFORMED for an audience that isn't served here. */
  ofLogin(name: string): AudiencePolicy {
    const policy = name === this.own.name ? this.own : this.#configured.get(name)
    if (policy === undefined) throw unknownAudience()
    return policy
  }

  /**
   * Of an application's signature: never the RPS' own, or what an application lets a device sign could be taken for
   * a PIN change.
   */
  ofSignature(name: string): AudiencePolicy {
    if (name === this.own.name) throw unknownAudience()
    return this.ofLogin(name)
  }

  /** Of a message that `service` was sent and asks about. */
  ofService(service: string, name: string): AudiencePolicy {
    const policy = this.#configured.get(name)
    if (policy?.service !== service) throw unknownAudience()
    return policy
  }

  /** Refused FORBIDDEN for a server that speaks for no audience. */
  checkService(service: string): void {
    for (const policy of this.#configured.values()) if (policy.service === service) return
    throw new Refused('FORBIDDEN', { detail: `${service} speaks for no audience here` })
  }
}

function unknownAudience(): Refused {
  return new Refused('MALFORMED', { field: 'audience', detail: 'not an audience of this route' })
}
