/** What the landing page asks: what is running, and how it is. */
import type { Answer, RouteTable } from '@milagro-ts/api/route'
import { Strict } from '@milagro-ts/api/schemas'
import Type from '@milagro-ts/api/typebox'

export const landingRoutes = {
  running: {
    method: 'GET',
    path: '/v1/running',
    summary: 'The parties of the example, each with its health, and the cars.',
    caller: 'open',
    response: Strict({
      group: Type.String(),
      parties: Type.Array(
        Strict({
          name: Type.String(),
          url: Type.String(),
          health: Type.Enum(['ready', 'troubled', 'down']),
          /** Names of the checks that fail. */
          failing: Type.Array(Type.String()),
        }),
      ),
      cars: Type.Array(Strict({ name: Type.String(), isRunning: Type.Boolean() })),
      console: Type.String(),
      operator: Type.String(),
      /** Where the operator's setup code stands, and never the code. */
      codeFile: Type.String(),
      commands: Type.Array(Type.String()),
    }),
    refuses: [],
  },
} as const satisfies RouteTable
export type Running = Answer<(typeof landingRoutes)['running']>
