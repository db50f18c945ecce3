/**
 * MQTT without certificates, for MQTT.js (or another client that is given streams): each attempt to connect gets a stream of
 * its own, with the PSK of its own slot.
 *
 *   new MqttClient(streamBuilder({ identity: car, host: 'gw.example', port: 8883 }), { clientId })
 *
 * A broker in this process takes the server's sockets, which say whose they are (`socket.peer`); any other stands behind the
 * gateway.
 */
import { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { type ConnectOptions, connect } from './connect.js'
import { refuseFixed } from './options.js'

/** TypeError for an option that is fixed; what `connect` rejects with is the stream's `error`. */
export function streamBuilder(options: ConnectOptions): () => Duplex {
  refuseFixed(options)
  return () => new LateSocket(options)
}

/** A stream that is there before its connection is: what is written waits. It tells `permit-ending` as the socket does. */
class LateSocket extends Duplex {
  readonly #options: ConnectOptions
  #socket: TLSSocket | undefined

  constructor(options: ConnectOptions) {
    super({ allowHalfOpen: false, autoDestroy: true })
    this.#options = options
  }

  override _construct(callback: (error?: Error | null) => void): void {
    connect(this.#options).then(
      socket => {
        this.#socket = socket
        socket.on('data', (chunk: Buffer) => {
          if (!this.push(chunk)) socket.pause()
        })
        socket.on('end', () => this.push(null))
        socket.on('error', error => this.destroy(error))
        socket.on('close', () => this.destroy())
        socket.on('permit-ending', endsAt => this.emit('permit-ending', endsAt))
        this.emit('connect')
        callback()
      },
      (error: Error) => callback(error),
    )
  }
  override _read(): void {
    this.#socket?.resume()
  }
  override _write(chunk: Buffer, encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#socket?.write(chunk, encoding, callback)
  }
  override _final(callback: (error?: Error | null) => void): void {
    this.#socket?.end(callback)
  }
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#socket?.destroy()
    callback(error)
  }
}
