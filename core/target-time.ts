import { BackupError } from './errors.ts';

/** A moment with PostgreSQL's own resolution: microseconds since 1970-01-01 UTC. */
export type Micros = bigint;

const SHAPE =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?)?\s*(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$/;

/**
 * Reads what people and manifests write for a moment: RFC 3339 or PostgreSQL's timestamp. Without a zone it is UTC,
 * as in CNPG. Digits beyond microseconds are dropped.
 *
 * @throws BackupError `usage` when it is neither, or no such day or hour exists
 */
export function parseTargetTime(text: string): Micros {
  const match = SHAPE.exec(text.trim());
  if (match) {
    const [, year, month, day, hour = '0', minute = '0', second = '0', fraction = '', zone = 'Z'] = match;
    const fields = [year, month, day, hour, minute, second].map(Number) as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const [y, mo, d, h, mi, s] = fields;
    const ms = Date.UTC(y, mo - 1, d, h, mi, s);
    const back = new Date(ms);
    const exists =
      y >= 1970 && back.getUTCMonth() === mo - 1 && back.getUTCDate() === d && h < 24 && mi < 60 && s < 60;
    if (exists) return BigInt(ms) * 1000n + BigInt(fraction.padEnd(6, '0').slice(0, 6)) - zoneMicros(zone);
  }
  throw new BackupError('usage', `not a time: "${text}"`, {
    hint: 'write it like 2026-11-22T22:25:44Z or "2026-11-22 22:25:44.5+01:00"; without a zone it is UTC',
  });
}

function zoneMicros(zone: string): Micros {
  const match = /^([+-])(\d{2}):?(\d{2})?$/.exec(zone);
  if (!match) return 0n;
  const minutes = Number(match[2]) * 60 + Number(match[3] ?? 0);
  return BigInt(match[1] === '-' ? -minutes : minutes) * 60_000_000n;
}

/** PostgreSQL's spelling, in UTC: `2026-11-22 22:25:44.500000+00`. */
export function formatPostgresTime(micros: Micros): string {
  return formatMicros(micros).replace('T', ' ').replace('Z', '+00');
}

/** RFC 3339 in UTC, with as many digits as are needed: `2026-11-22T22:25:44.5Z`. */
export function formatMicros(micros: Micros): string {
  const whole = new Date(Number(micros / 1000n)).toISOString().slice(0, 19);
  const fraction = (micros % 1_000_000n).toString().padStart(6, '0').replace(/0+$/, '');
  return `${whole}${fraction === '' ? '' : `.${fraction}`}Z`;
}

/** The first microsecond of a `Date`, whose resolution is a millisecond. */
export function toMicros(date: Date): Micros {
  return BigInt(date.getTime()) * 1000n;
}
