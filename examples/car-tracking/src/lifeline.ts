/**
 * Imported before a managed process' own program: when the process that started it is gone, by whatever death, it ends
 * itself, so that nothing is left behind with its ports taken.
 */
const parent = process.ppid
setInterval(() => {
  if (process.ppid !== parent) process.kill(process.pid, 'SIGTERM')
}, 1_000).unref()
