/**
 * typebox, by the names that are used here. Everything takes it from this module, which the build makes one file of
 * (`scripts/bundle-libraries.mjs`): a process that reads typebox's own 683 files one by one starts later.
 */
export type { Static, TSchema } from 'typebox'
export { default } from 'typebox'
export { Compile, type Validator } from 'typebox/compile'
