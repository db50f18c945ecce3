/** The row that is written where nothing but the writing matters: is the store ready, does the log begin. */
export const PROBE =
  'INSERT INTO write_probe (id, writes) VALUES (1, 1) ON CONFLICT DO UPDATE SET writes = writes + 1'
