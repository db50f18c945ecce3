/** `milagro tls`: TLS without certificates for programs that know nothing of it. */
import type { GatewayFlags, OutboundFlags } from '@milagro-ts/tls/gateway-process'
import type { PskFileFlags } from '@milagro-ts/tls/psk-file-process'
import type { Command } from 'commander'
import { answers, type Io, UsageError } from '../io.js'
import { again } from '../programs.js'
import { openDevice, type SessionOptions, withSession } from '../session.js'
import { addPeer } from './peer.js'

export function addTls(program: Command, io: Io, status: { exit: number }): void {
  const tls = program
    .command('tls')
    .description('TLS without certificates in front of, or for, programs that know nothing of it')

  tls
    .command('gateway')
    .description(
      'in front of a service: let devices of the group in, and tell it who they are; with --outbound: plain TCP on the loopback, TLS out as a device. In the foreground; SIGHUP reads the settings again, SIGTERM lets connections end',
    )
    .option(
      '--config <file>',
      'settings, JSON; flags go before them (docs/operations/gateway.md). Without --outbound name, dataDir, groupId, groupFile, rps.url and adminListen.port stand there or in the environment (MILAGRO_GATEWAY_NAME and so on), beside MILAGRO_GATEWAY_PASSPHRASE_FILE',
    )
    .option('--listen <host:port>', 'where it listens')
    .option(
      '--to <address>',
      'the service: host:port, or the absolute path of its Unix domain socket; with --outbound the gateway or server to reach, host:port',
    )
    .option('--pass <way>', 'how the service is told who came: proxy, http, mqtt or none')
    .option('--init', 'make the data folder with the long-term keys, print their public parts, and end')
    .option('--outbound', 'the other direction')
    .option('--server <name>', 'outbound: its name in the group document')
    .option('--store <file>', 'outbound: the device’s token store')
    .option('--unlocker <file>', 'outbound: key file without which the store opens nothing')
    .option('--identity <name>', 'outbound, where the store holds several: M-Pin ID or instance')
    .option('--rps <url>', 'outbound: address of the RPS (or MILAGRO_OUTBOUND_RPS_URL)')
    .option('--json', 'answer with one JSON object a line (the program always does)')
    .action(async (options: GatewayFlags & OutboundFlags & { outbound?: boolean }) => {
      const { outbound = false, init, pass } = options
      const others = outbound
        ? { init, pass }
        : (({ server, store, unlocker, identity, rps }) => ({ server, store, unlocker, identity, rps }))(
            options,
          )
      const misplaced = Object.entries(others).find(([, value]) => value !== undefined)?.[0]
      if (misplaced !== undefined)
        throw new UsageError(`--${misplaced} goes ${outbound ? 'without' : 'with'} --outbound`)
      const { hasOpensslConfiguration, NO_TICKETS } = await import('@milagro-ts/tls/tickets')
      if (!outbound && init !== true && !hasOpensslConfiguration(io.env, process.execArgv)) {
        const { relaxedSimdFlags } = await import('@milagro-ts/crypto/fma-kernels')
        status.exit = await again([NO_TICKETS, ...relaxedSimdFlags()])
        return
      }
      const { runGateway, runOutbound } = await import('@milagro-ts/tls/gateway-process')
      await (outbound ? runOutbound(options, io.env) : runGateway(options, io.env))
      status.exit = Number(process.exitCode ?? 0)
    })

  tls
    .command('psk-file')
    .description(
      'write a file of keys for a broker that reads such files (mosquitto’s psk_file), and keep it current: bans remove lines, new devices add them. In the foreground; SIGHUP reads the settings and the list of devices again',
    )
    .requiredOption('--config <file>', 'settings, JSON (docs/operations/gateway.md)')
    .option('--init', 'make the data folder with the long-term keys, print their public parts, and end')
    .option('--once', 'write the file and end')
    .option('--json', 'answer with one JSON object a line (the program always does)')
    .action(async (options: PskFileFlags) => {
      const { runPskFile } = await import('@milagro-ts/tls/psk-file-process')
      await runPskFile(options, io.env)
      status.exit = Number(process.exitCode ?? 0)
    })

  answers(
    io,
    withSession(
      tls
        .command('psk')
        .description(
          'identity and key of this device for a server in this slot, for any program that takes an external PSK (TLS 1.3); the key is secret',
        )
        .requiredOption('--to <name>', 'the server’s name in the group document')
        .option('--static', 'for a server that reads a PSK file: the same until the key epoch ends'),
    ),
    async ({ to, static: isStatic, ...options }: SessionOptions & { to: string; static?: boolean }) => {
      const device = await openDevice(options, io)
      if (isStatic === true) {
        const { identity, psk } = await device.staticPsk(to)
        return answer(identity, psk, {})
      }
      const { identity, psk, slot, endsAt } = await device.externalPsk(to)
      return answer(identity, psk, { slot, endsAt: Math.floor(endsAt / 1000) })
    },
  )

  addPeer(tls, io)
}

function answer(identity: string, psk: Uint8Array, more: object) {
  const key = Buffer.from(psk).toString('hex')
  return { json: { identity, key, ...more }, text: [`identity ${identity}`, `key ${key}`] }
}
