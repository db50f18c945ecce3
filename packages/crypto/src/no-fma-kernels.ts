/** Where fma-kernels.ts isn't. */
import type { FmaKernels as Kernels } from './fma-kernels.js'

export type FmaKernels = Kernels
export const fmaKernels: FmaKernels | null = null
export const isFmaWanted = (): boolean => false
