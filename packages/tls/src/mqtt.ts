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
import { type ConnectOptions, connect, type TlsIdentity } from './connect.js'
import { refuseFixed } from './options.js'

/** TypeError for an option that is fixed; what `connect` rejects with is the stream's `error`. */
export function streamBuilder(options: ConnectOptions): () => Duplex {
  refuseFixed(options)
  return () => new LateSocket(options)
}

/** A stream that is there before its connection is: what is written waits. It tells `permit-ending` as the socket does. */
class LateSocket extends Duplex {
  readonly #options: ConnectOptions
  readonly #gone = new AbortController()
  #socket: TLSSocket | undefined

  constructor(options: ConnectOptions) {
    super({ allowHalfOpen: false, autoDestroy: true })
    this.#options = options
  }

  override _construct(callback: (error?: Error | null) => void): void {
    const { identity, ...options } = this.#options
    const { signal } = this.#gone
    // Node waits with the end of a stream until this is over; a server that says nothing shall not be waited for.
    const gone = () => callback()
    signal.addEventListener('abort', gone)
    const asked: TlsIdentity = {
      async externalPsk(server, kind) {
        const psk = await identity.externalPsk(server, kind)
        signal.throwIfAborted()
        return psk
      },
    }
    // node:tls takes a signal, its types don't list it.
    const late = { signal }
    connect({ ...options, ...late, identity: asked }).then(
      socket => {
        if (signal.aborted) return void socket.destroy()
        this.#socket = socket
        socket.on('data', (chunk: Buffer) => {
          if (!this.push(chunk)) socket.pause()
        })
        socket.on('end', () => this.push(null))
        socket.on('error', error => this.destroy(error))
        socket.on('close', () => {
          // After an end what was said last may still be to be read; the stream ends by itself when it has been.
          if (!socket.readableEnded) this.destroy()
        })
        socket.on('permit-ending', endsAt => this.emit('permit-ending', endsAt))
        this.emit('connect')
        callback()
      },
      (error: Error) => {
        if (signal.aborted) return
        signal.removeEventListener('abort', gone)
        callback(error)
      },
    )
  }
  override destroy(error?: Error): this {
    if (this.#socket === undefined) this.#gone.abort()
    return super.destroy(error)
  }
  override _read(): void {
    this.#socket?.resume()
  }
  override _write(chunk: Buffer, encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#socket?.write(chunk, encoding, callback)
  }
  override _final(callback: (error?: Error | null) => void): void {
    if (this.#socket?.destroyed === true) callback()
    else this.#socket?.end(callback)
  }
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#socket?.destroy()
    callback(error)
  }
}
