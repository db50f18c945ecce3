/**
 * What a car must not forget between two starts: how far it has driven, where its track ends, which positions wait,
 * and the batch that was sent but not yet answered. One file, replaced as a whole at every change.
 */
import { readFile } from 'node:fs/promises'
import { Bytes, Strict, Uint32 } from '@milagro-ts/api/schemas'
import Type, { Compile, type Static } from '@milagro-ts/api/typebox'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Batch, Position, TrackEnd } from './track-chain.js'
import { PositionField } from './tracking-routes.js'

export interface Notes {
  /** The identity whose track this is, as base64url; another identity starts another track. */
  readonly idCore: string
  /** Positions taken since the car was new. */
  readonly taken: number
  readonly end: TrackEnd
  readonly waiting: readonly Position[]
  readonly unanswered: Batch | undefined
}

const EndField = Strict({ next: Uint32, head: Bytes(32), at: Type.Integer({ minimum: 0 }) })
const NotesField = Strict({
  v: Type.Literal(1),
  idCore: Bytes(39),
  taken: Type.Integer({ minimum: 0 }),
  end: EndField,
  waiting: Type.Array(PositionField),
  unanswered: Type.Optional(
    Strict({ number: Uint32, previous: Bytes(32), positions: Type.Array(PositionField), head: Bytes(32) }),
  ),
})
const validator = Compile(NotesField)

/** The notes in `file`, or null when there is none. Throws DecodeError for anything else than notes. */
export async function readNotes(file: string): Promise<Notes | null> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
  return decodeNotes(text)
}

export async function writeNotes(file: string, notes: Notes): Promise<void> {
  await writeFileAtomic(file, encodeNotes(notes))
}

export function encodeNotes(notes: Notes): string {
  const { unanswered } = notes
  const value: Static<typeof NotesField> = {
    v: 1,
    idCore: notes.idCore,
    taken: notes.taken,
    end: { ...notes.end, head: toBase64Url(notes.end.head) },
    waiting: [...notes.waiting],
    ...(unanswered === undefined
      ? {}
      : {
          unanswered: {
            number: unanswered.number,
            previous: toBase64Url(unanswered.previous),
            positions: [...unanswered.positions],
            head: toBase64Url(unanswered.head),
          },
        }),
  }
  return JSON.stringify(value)
}

export function decodeNotes(text: string): Notes {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new DecodeError('notes', 'not JSON')
  }
  if (!validator.Check(value)) throw new DecodeError('notes', 'not the notes of a car')
  const { unanswered } = value
  return {
    idCore: value.idCore,
    taken: value.taken,
    end: { ...value.end, head: fromBase64Url(value.end.head, 'head', 32) },
    waiting: value.waiting,
    unanswered:
      unanswered === undefined
        ? undefined
        : {
            number: unanswered.number,
            previous: fromBase64Url(unanswered.previous, 'previous', 32),
            positions: unanswered.positions,
            head: fromBase64Url(unanswered.head, 'head', 32),
          },
  }
}
