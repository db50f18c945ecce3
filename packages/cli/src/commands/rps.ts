/** `milagro rps`: the authentication server. */
import type { Command } from 'commander'
import { addServerVerbs } from './server-verbs.js'

export function addRps(program: Command, status: { exit: number }): void {
  const rps = program.command('rps').description('the authentication server (RPS)')
  addServerVerbs(rps, 'rps', status)
}
