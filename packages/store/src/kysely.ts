/**
 * kysely, by the names that are used here. Everything takes it from this module, which the build makes one file of
 * (`scripts/bundle-libraries.mjs`): a process that reads kysely's own 262 files one by one starts later.
 */
export {
  type ColumnType,
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  type Generated,
  Kysely,
  type Selectable,
  SqliteDialect,
  SqliteDriver,
  type SqliteStatement,
  sql,
} from 'kysely'
