/**
 * The map beneath the cars, offline: land from Natural Earth 1:50m (public domain, by the npm package world-atlas), as
 * GeoJSON with coordinates to a thousandth of a degree.
 */
import { readFileSync } from 'node:fs'
import { feature } from 'topojson-client'
import { ROOT } from './prepare.mjs'

/** Degrees that are told apart, by their factor. */
const PRECISION = 1_000

export function land() {
  const topology = JSON.parse(readFileSync(`${ROOT}node_modules/world-atlas/land-50m.json`, 'utf8'))
  const shape = feature(topology, topology.objects.land)
  return JSON.stringify(shape, (_key, value) =>
    typeof value === 'number' ? Math.round(value * PRECISION) / PRECISION : value,
  )
}
