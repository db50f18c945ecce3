/**
 * A car's position as it is now, by MQTT, for whoever subscribes at a broker: over TLS without certificates to the gateway in front of
 * it, which puts the car's M-Pin ID in the place of the user name. What isn't delivered is forgotten, since the next one
 * comes at once: what must not be lost goes to the tracking server.
 */
import { connect, type MqttOptions } from '@milagro-ts/tls/mqtt'
import type { MqttClient } from 'mqtt'
import type { Position } from './track-chain.js'

export interface GatewayAddress {
  readonly host: string
  readonly port: number
  /** In the group document. */
  readonly name: string
}
/** A Device of the client package is one. */
export type Publisher = MqttOptions['identity'] & { readonly mpinId: string }

export type LiveEvent =
  | { readonly event: 'broker-connected'; readonly gateway: string }
  /** After so many positions over this connection. */
  | { readonly event: 'broker-disconnected'; readonly published: number }
  /** No connection; tried again, and said once. */
  | { readonly event: 'broker-trouble'; readonly why: string }

/** Where a car may write, as the broker's rules have it. */
export const topicOf = (mpinId: string): string => `cars/${mpinId}/position`

/** A connection of this device to the broker. @param reconnectPeriod Milliseconds between two attempts; 0: one attempt. */
export function brokerClient(
  identity: Publisher,
  { name: servername, host, port }: GatewayAddress,
  reconnectPeriod = 0,
): MqttClient {
  // Slots may be shorter than the usual warning, and a connection that ends with one is opened again.
  const to = { identity, servername, host, port, warnBefore: 0 } as const
  return connect({ ...to, clientId: identity.mpinId, protocolVersion: 5, reconnectPeriod })
}

export class LivePositions {
  readonly #client: MqttClient
  readonly #topic: string
  #published = 0

  constructor(
    identity: Publisher,
    gateway: GatewayAddress,
    { again, say }: { readonly again: number; readonly say: (event: LiveEvent) => void },
  ) {
    this.#topic = topicOf(identity.mpinId)
    this.#client = brokerClient(identity, gateway, again)
    let state: 'new' | 'connected' | 'in trouble' = 'new'
    this.#client.on('connect', () => {
      state = 'connected'
      this.#published = 0
      say({ event: 'broker-connected', gateway: gateway.name })
    })
    this.#client.on('error', error => {
      if (state === 'in trouble') return
      state = 'in trouble'
      say({ event: 'broker-trouble', why: error.message })
    })
    this.#client.on('close', () => {
      if (state !== 'connected') return
      state = 'new'
      say({ event: 'broker-disconnected', published: this.#published })
    })
  }

  publish(position: Position): void {
    if (!this.#client.connected) return
    this.#client.publish(this.#topic, JSON.stringify(position), { qos: 0 }, error => {
      if (error === undefined || error === null) this.#published++
    })
  }

  close(): Promise<void> {
    return this.#client.endAsync(true)
  }
}
