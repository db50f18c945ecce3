/**
 * For NODE_OPTIONS (`--import file:…?tracking` or `?gateway`): that server's door leaves the banned where they are, on a machine
 * that `npm start -- --check` takes for the slowest. It must notice.
 */
import { DenyList } from '@milagro-ts/rpa/ban-events'
import { Door } from '@milagro-ts/tls/door'
import { MOST_SLOWNESS } from '../../examples/car-tracking/dist/ban-limit.js'

const { look } = Door.prototype
const { denies } = DenyList.prototype
const { cpuUsage } = process
const broken = new URL(import.meta.url).search.slice(1)
let isLooking = false

if (process.argv[1].endsWith('start.js'))
  process.cpuUsage = before => {
    const { user, system } = cpuUsage.call(process, before)
    return before === undefined
      ? { user, system }
      : { user: user / MOST_SLOWNESS, system: system / MOST_SLOWNESS }
  }
else if (process.argv.some(word => word === broken || word.endsWith(`${broken}-main.js`))) {
  Door.prototype.look = function () {
    isLooking = true
    look.call(this)
    isLooking = false
  }
  DenyList.prototype.denies = function (...whom) {
    return isLooking ? null : denies.apply(this, whom)
  }
}
