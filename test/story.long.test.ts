/** The story against an RPS that tells of bans, but too late. */
import { test } from 'vitest'
import { stopsAt } from './story-check.js'

test('stops at an RPS that tells of bans too late', () => stopsAt('tells-bans-late', 'driver-banned'))
