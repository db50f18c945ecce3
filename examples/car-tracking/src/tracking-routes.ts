/** Routes of the tracking server. */
import type { RouteTable } from '@milagro-ts/api/route'
import { Bytes, IdCoreField, Jws, Strict, Uint32, UserCoreField } from '@milagro-ts/api/schemas'
import { SignedFields } from '@milagro-ts/api/signed-message'
import Type, { type Static } from '@milagro-ts/api/typebox'
import { LAT_LIMIT, LON_LIMIT } from './gpx.js'

const UnixMilliseconds = Type.Integer({ minimum: 1, maximum: 0xff_ffff_ffff_ff })

export const PositionField = Strict({
  at: UnixMilliseconds,
  latE7: Type.Integer({ minimum: -LAT_LIMIT, maximum: LAT_LIMIT }),
  lonE7: Type.Integer({ minimum: -LON_LIMIT, maximum: LON_LIMIT }),
  speed: Type.Integer({ minimum: 0, maximum: 0xffff }),
  heading: Type.Integer({ minimum: 0, maximum: 359 }),
})
export type PositionField = Static<typeof PositionField>

export const MOST_POSITIONS = 200

/** Where a track stands: what its next batch must build on. */
export const TrackEndField = Strict({ next: Uint32, head: Bytes(32), at: Type.Integer({ minimum: 0 }) })

/** What may be wrong with an identity that proves itself by token or by one pass. */
const identityRefusals = [
  'UNAUTHENTICATED',
  'FORBIDDEN',
  'WRONG_PROOF',
  'WRONG_PIN',
  'LOCKED',
  'BANNED',
  'REVOKED',
  'WRONG_PERMIT',
  'PERMIT_EXPIRED',
  'EXPIRED',
  'REPLAYED',
  'CLOCK',
] as const

/** Who says that the head is the vehicle's: exactly one of them. */
const headWord = {
  /** The RPS' receipt over the head. */
  receipt: Type.Optional(Jws()),
  /** The vehicle's own signature over it, with its permit of the slot. */
  signed: Type.Optional(SignedFields),
}

const Vehicle = Strict({
  idCore: IdCoreField,
  /** Who was proven on the last batch beside the vehicle. */
  userCore: Type.Optional(UserCoreField),
  position: PositionField,
  batches: Uint32,
  positions: Type.Integer({ minimum: 0 }),
  banned: Type.Boolean(),
})

const AppendBody = Strict({
  number: Type.Integer({ minimum: 1, maximum: 0xffff_ffff }),
  previous: Bytes(32),
  positions: Type.Array(PositionField, { minItems: 1, maxItems: MOST_POSITIONS }),
  head: Bytes(32),
  ...headWord,
})
export type AppendBody = Static<typeof AppendBody>

/** What vehicles ask. */
export const vehicleRoutes = {
  append: {
    method: 'POST',
    path: '/v1/tracks',
    summary:
      'The next batch of the caller’s track, its head with the RPS’ receipt or signed by the vehicle itself. The last batch may be sent again; a vehicle has one under way at a time.',
    caller: 'identity',
    body: AppendBody,
    response: Strict({ end: TrackEndField, stored: Type.Integer({ minimum: 0 }) }),
    refuses: [...identityRefusals, 'CONFLICT'],
  },
  end: {
    method: 'GET',
    path: '/v1/tracks/end',
    summary: 'Where the caller’s own track stands, for a vehicle that lost its notes.',
    caller: 'identity',
    response: TrackEndField,
    refuses: identityRefusals,
  },
} as const satisfies RouteTable

/** What operators ask. */
export const readerRoutes = {
  vehicles: {
    method: 'GET',
    path: '/v1/vehicles',
    summary: 'Where every vehicle is.',
    caller: 'operator',
    response: Strict({ vehicles: Type.Array(Vehicle) }),
    refuses: identityRefusals,
  },
  track: {
    method: 'GET',
    path: '/v1/vehicles/:idCore/track',
    summary:
      'A vehicle’s batches from number `from` on, each with its head and who says that it is the vehicle’s.',
    caller: 'operator',
    params: Strict({ idCore: IdCoreField }),
    query: Strict({ from: Type.Optional(Type.String({ pattern: '^[1-9][0-9]{0,9}$' })) }),
    response: Strict({
      start: Bytes(32),
      batches: Type.Array(
        Strict({
          number: Uint32,
          userCore: Type.Optional(UserCoreField),
          receivedAt: UnixMilliseconds,
          positions: Type.Array(PositionField),
          head: Bytes(32),
          ...headWord,
        }),
      ),
      /** Absent at the track's end. */
      more: Type.Optional(Uint32),
    }),
    refuses: identityRefusals,
  },
  stream: {
    method: 'GET',
    path: '/v1/stream',
    summary: 'Server-sent events: `position` for every batch as it is stored, with its last position.',
    caller: 'operator',
    stream: 'text/event-stream',
    refuses: identityRefusals,
  },
} as const satisfies RouteTable

export const trackingRoutes = { ...vehicleRoutes, ...readerRoutes } as const satisfies RouteTable
