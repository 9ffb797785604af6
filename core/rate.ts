import { BackupError } from './errors.ts';

const UNITS: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['k', 1e3],
  ['K', 1e3],
  ['M', 1e6],
  ['G', 1e9],
  ['T', 1e12],
  ['ki', 2 ** 10],
  ['Ki', 2 ** 10],
  ['Mi', 2 ** 20],
  ['Gi', 2 ** 30],
  ['Ti', 2 ** 40],
]);

/** Slower than this is a typing mistake: no backup would ever end. It is also a piece of a copy in about four minutes. */
export const LEAST_BYTES_PER_SECOND = 1024;

/**
 * Bytes a second of a rate as people write it, such as `100MB/s`, `64MiB/s` or `20 MiB`; `kB` is a thousand bytes.
 *
 * @throws BackupError `format-invalid`; also for less than 1 KiB a second
 */
export function parseRate(text: string): number {
  const match = /^(\d{1,15}(?:\.\d{1,9})?)\s?((?:[kKMGT]i?)?)B(?:\/s)?$/.exec(text);
  const bytes = match ? Math.round(Number(match[1]) * (UNITS.get(match[2] ?? '') ?? Number.NaN)) : Number.NaN;
  if (!Number.isSafeInteger(bytes) || bytes < LEAST_BYTES_PER_SECOND) {
    throw new BackupError('format-invalid', `not a rate: "${text}"`, {
      hint: 'write bytes a second, at least 1KiB/s, such as 100MB/s or 64MiB/s',
    });
  }
  return bytes;
}
