/** Prometheus metrics of a server: labels are names of routes and codes, never anything about a person or a thing. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

export interface Metrics {
  readonly registry: Registry
  /** One answered request; `code` is `OK` or a problem code. */
  observe(route: string, code: string, seconds: number): void
  /** A named count; made at first use, with the label names of that use. */
  count(name: string, labels?: Record<string, string>): void
  /** How many there are of something now. */
  gauge(name: string, value: number): void
}

/**
 * Short words that stand in the program or in a group document. What is as long as an identifier, or begins like an
 * address, becomes `other`: metrics are open to whoever reaches the listener, and each label value is kept for ever.
 */
const LABEL = /^(?:[a-z][a-z0-9_.-]{0,19}|[A-Z][A-Z_]{0,23})$/

export function createMetrics(prefix: string): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, prefix: `${prefix}_` })
  const requests = new Counter({
    name: `${prefix}_requests_total`,
    help: 'Requests answered, by route and code.',
    labelNames: ['route', 'code'],
    registers: [registry],
  })
  const duration = new Histogram({
    name: `${prefix}_request_seconds`,
    help: 'Time from request to answer, by route.',
    labelNames: ['route'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [registry],
  })
  const counters = new Map<string, Counter>()
  const gauges = new Map<string, Gauge>()
  return {
    registry,
    observe(route, code, seconds) {
      requests.inc({ route, code })
      duration.observe({ route }, seconds)
    },
    count(name, labels = {}) {
      let counter = counters.get(name)
      if (counter === undefined) {
        counter = new Counter({
          name: `${prefix}_${name}_total`,
          help: `Count of ${name.replaceAll('_', ' ')}.`,
          labelNames: Object.keys(labels),
          registers: [registry],
        })
        counters.set(name, counter)
      }
      const entries = Object.entries(labels)
      counter.inc(
        Object.fromEntries(entries.map(([key, value]) => [key, LABEL.test(value) ? value : 'other'])),
      )
    },
    gauge(name, value) {
      let gauge = gauges.get(name)
      if (gauge === undefined) {
        const help = `Now: ${name.replaceAll('_', ' ')}.`
        gauge = new Gauge({ name: `${prefix}_${name}`, help, registers: [registry] })
        gauges.set(name, gauge)
      }
      gauge.set(value)
    },
  }
}
