/** OpenAPI 3.1 out of a route table. */
import { CODES, type Code, Problem } from './problem.js'
import { type Caller, codesOf, type Route } from './route.js'

const SECURITY: Readonly<Record<Exclude<Caller, 'open'>, { scheme: object; text: string }>> = {
  server: {
    scheme: { type: 'apiKey', in: 'header', name: 'authorization' },
    text: '`MPIN-Request <JWS>` of a recipient in the group document, bound to method, URL and body.',
  },
  identity: {
    scheme: { type: 'apiKey', in: 'header', name: 'authorization' },
    text: '`Bearer <access token>` or `MPIN <one-pass proof>`.',
  },
  operator: {
    scheme: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' },
    text: 'An operator’s access token.',
  },
  admin: { scheme: { type: 'http', scheme: 'bearer' }, text: 'The admin token in the server’s data folder.' },
}

/** @returns The document as JSON text. */
export function openApi(table: Readonly<Record<string, Route>>, title: string): string {
  const paths: Record<string, Record<string, unknown>> = {}
  const callers = new Set<Exclude<Caller, 'open'>>()
  for (const [name, route] of Object.entries(table)) {
    if (route.caller !== 'open') callers.add(route.caller)
    const path = route.path.replaceAll(/:([A-Za-z]+)/g, '{$1}')
    paths[path] ??= {}
    paths[path][route.method.toLowerCase()] = operation(name, route)
  }
  return JSON.stringify({
    openapi: '3.1.0',
    info: { title, version: '1', license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    paths,
    components: {
      schemas: { Problem },
      securitySchemes: Object.fromEntries(
        [...callers].map(caller => [
          caller,
          { ...SECURITY[caller].scheme, description: SECURITY[caller].text },
        ]),
      ),
    },
  })
}

function operation(name: string, route: Route): object {
  return {
    operationId: name,
    summary: route.summary,
    ...(route.caller === 'open' ? {} : { security: [{ [route.caller]: [] }] }),
    ...(parameters(route).length > 0 ? { parameters: parameters(route) } : {}),
    ...(route.body === undefined
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: route.body } } } }),
    responses: {
      200: {
        description: 'OK',
        content: route.stream ? { [route.stream]: {} } : { 'application/json': { schema: route.response } },
      },
      ...problems(codesOf(route)),
    },
  }
}

function parameters(route: Route): object[] {
  const listed = (where: 'path' | 'query', schema: Route['params']) => {
    const properties = (schema as { properties?: Record<string, object> } | undefined)?.properties ?? {}
    const required = (schema as { required?: string[] } | undefined)?.required ?? []
    return Object.entries(properties).map(([name, property]) => ({
      name,
      in: where,
      required: required.includes(name),
      schema: property,
    }))
  }
  return [...listed('path', route.params), ...listed('query', route.query)]
}

function problems(codes: ReadonlySet<Code>): Record<string, object> {
  const byStatus = new Map<number, Code[]>()
  for (const code of codes) {
    byStatus.set(CODES[code].status, [...(byStatus.get(CODES[code].status) ?? []), code])
  }
  return Object.fromEntries(
    [...byStatus].map(([status, group]) => [
      status,
      {
        description: group.map(code => `\`${code}\`: ${CODES[code].means}`).join(' '),
        content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
      },
    ]),
  )
}
