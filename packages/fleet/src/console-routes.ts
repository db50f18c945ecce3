/** What the console's pages may ask before anybody is logged in. */
import type { RouteTable } from '@milagro-ts/api/route'
import { Strict } from '@milagro-ts/api/schemas'
import Type from '@milagro-ts/api/typebox'

export const consoleRoutes = {
  consoleSettings: {
    method: 'GET',
    path: '/v1/console',
    summary: 'Where the console logs operators in, and which extensions it has.',
    caller: 'open',
    response: Strict({
      /** Address of the RPS. */
      rps: Type.String(),
      /** What a login here is for. */
      audience: Type.String(),
      extensions: Type.Array(
        Strict({ name: Type.String(), title: Type.String(), audience: Type.Optional(Type.String()) }),
      ),
    }),
    refuses: [],
  },
} as const satisfies RouteTable
