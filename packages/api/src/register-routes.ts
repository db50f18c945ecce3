/** What a relying-party application says of its register to static servers, which keep lists of devices themselves. */

import type { RouteTable } from './route.js'
import { Bytes, IdCoreField, Strict } from './schemas.js'
import Type from './typebox.js'

/** Identities in one answer, at most. */
export const DEVICES_PAGE = 1_000

export const registerRoutes = {
  devices: {
    method: 'GET',
    path: '/v1/devices',
    summary:
      'For static servers of the group (kind 3): the M-Pin IDs in force, in order, a page at a time; banned ones, too.',
    caller: 'server',
    /** The last one of the page before, which may have gone meanwhile. */
    query: Strict({ after: Type.Optional(Bytes(39, 'anyIdCore')) }),
    response: Strict({ devices: Type.Array(IdCoreField, { maxItems: DEVICES_PAGE }), more: Type.Boolean() }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'REPLAYED'],
  },
} as const satisfies RouteTable
