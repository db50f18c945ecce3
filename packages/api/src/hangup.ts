/**
 * SIGHUP asks a server to read its files again, and ends a process that says nothing else. From `holdHangups` on it ends
 * none: one that comes before anybody can act on it is kept for whoever takes it.
 */
let isHeld = false
const hold = () => {
  isHeld = true
}

/** Keeps what comes from here on; calling it again changes nothing. */
export function holdHangups(): void {
  if (!process.listeners('SIGHUP').includes(hold)) process.on('SIGHUP', hold)
}

/** `act` at each from here on, and once at once if any were held. */
export function takeHangups(act: () => void): void {
  process.on('SIGHUP', act).off('SIGHUP', hold)
  if (!isHeld) return
  isHeld = false
  act()
}

/** For a process that reads nothing again: SIGHUP ends it, as does one that was held. */
export function releaseHangups(): void {
  process.off('SIGHUP', hold)
  if (!isHeld) return
  isHeld = false
  process.kill(process.pid, 'SIGHUP')
}
