/** An enrolment code to hand on: as text, and as a QR code drawn as one SVG path. */

import { useState } from 'preact/hooks'
import { create } from 'qrcode'
import { Dialog, Moment } from './parts.js'

export interface IssuedCode {
  readonly code: string
  readonly expiresAt: number
}

/** Modules of quiet space around it (ISO/IEC 18004 §6.3.8). */
const QUIET = 4

export function QrCode({ text }: { text: string }) {
  const { size, data } = create(text, { errorCorrectionLevel: 'M' }).modules
  let path = ''
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) if (data[y * size + x]) path += `M${x + QUIET} ${y + QUIET}h1v1h-1z`
  }
  const side = size + 2 * QUIET
  return (
    <svg
      class="qr"
      viewBox={`0 0 ${side} ${side}`}
      role="img"
      aria-label="The code as a QR code"
      shape-rendering="crispEdges"
    >
      <rect width={side} height={side} fill="#fff" />
      <path d={path} fill="#000" />
    </svg>
  )
}

export function CodeDialog({
  title,
  issued,
  close,
}: {
  title: string
  issued: IssuedCode
  close: () => void
}) {
  const [isCopied, setCopied] = useState(false)
  return (
    <Dialog title={title} close={close}>
      <p>
        Hand this code to whoever sets it up. It is shown this once, is good for one enrolment, and runs out{' '}
        <Moment at={issued.expiresAt} />.
      </p>
      <QrCode text={issued.code} />
      <p class="code" data-testid="code">
        {issued.code}
      </p>
      <div class="buttons">
        <button
          type="button"
          class="main"
          onClick={() => {
            void navigator.clipboard.writeText(issued.code).then(() => setCopied(true))
          }}
        >
          {isCopied ? 'Copied' : 'Copy the code'}
        </button>
        <button type="button" onClick={close}>
          Done
        </button>
      </div>
    </Dialog>
  )
}
