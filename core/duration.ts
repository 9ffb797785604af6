import { BackupError } from './errors.ts';

const SECOND = 1000;
const UNITS: ReadonlyMap<string, number> = new Map([
  ['ms', 1],
  ['s', SECOND],
  ['m', 60 * SECOND],
  ['h', 3600 * SECOND],
  ['d', 86_400 * SECOND],
  ['w', 7 * 86_400 * SECOND],
]);

/**
 * Milliseconds of a duration as walkeep's own kinds write it: `90s`, `10m`, `26h`, `8d`, and sums such as `1h30m`.
 *
 * @throws BackupError `format-invalid`
 */
export function parseDuration(text: string): number {
  const terms = [...text.matchAll(/(\d{1,9})(ms|s|m|h|d|w)/g)];
  if (terms.length === 0 || terms.map((term) => term[0]).join('') !== text) {
    throw new BackupError('format-invalid', `not a duration: "${text}"`, {
      hint: 'write a number and a unit, such as 90s, 10m, 26h or 8d',
    });
  }
  return terms.reduce((sum, term) => sum + Number(term[1]) * (UNITS.get(term[2] ?? '') ?? 0), 0);
}

/** The shortest spelling of a duration with at most two units: `26h`, `8d`, `1h 30m`. */
export function formatDuration(ms: number): string {
  if (ms < SECOND) return `${Math.round(ms)}ms`;
  let rest = Math.round(ms / SECOND) * SECOND;
  const parts: string[] = [];
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = UNITS.get(unit) ?? 1;
    const count = Math.floor(rest / size);
    if (count > 0) parts.push(`${count}${unit}`);
    rest -= count * size;
    if (parts.length === 2) break;
  }
  return parts.join(' ');
}

const POSTGRES_SECONDS: ReadonlyMap<string, number> = new Map([
  ['us', 1e-6],
  ['ms', 1e-3],
  ['s', 1],
  ['sec', 1],
  ['min', 60],
  // No unit of PostgreSQL, but what people write in manifests, and it can't be mistaken for months there.
  ['m', 60],
  ['h', 3600],
  ['d', 86_400],
]);

/**
 * Whole seconds of a setting such as `archive_timeout`: PostgreSQL's units, seconds without one, and `m` for minutes.
 *
 * @throws BackupError `format-invalid`
 */
export function parsePostgresSeconds(text: string): number {
  const match = /^\s*(\d{1,10})\s*([a-z]*)\s*$/.exec(text);
  const unit = match?.[2] === '' ? 1 : POSTGRES_SECONDS.get(match?.[2] ?? '-');
  if (!match || unit === undefined) {
    throw new BackupError('format-invalid', `not a time PostgreSQL understands: "${text}"`, {
      hint: 'write it as PostgreSQL does, such as 300s or 5min',
    });
  }
  return Math.round(Number(match[1]) * unit);
}
