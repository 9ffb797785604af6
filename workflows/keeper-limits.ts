/** Together these keep the state below 64 KiB. */
export const LIMITS = {
  manifestBytes: 30 * 1024,
  /** All that is declared. */
  desireBytes: 34 * 1024,
  waiting: 30,
  ended: 12,
  /** Ended Backups whose outcome is still to be written. */
  unwritten: 12,
  instances: 12,
  removed: 20,
  /** Of one text, in UTF-8. */
  textBytes: 200,
  holdBytes: 120,
  /** Of all of it, when it is carried on. */
  stateBytes: 62 * 1024,
} as const;
