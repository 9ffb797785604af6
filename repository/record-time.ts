import { BackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';

const ISO = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s?(Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?$/;
/** C's `ctime`, as old barman wrote it: `Sun Nov 22 22:25:31 2026`. */
const CTIME = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2})\s+(\d{1,2}) (\d\d:\d\d:\d\d) (\d{4})$/;
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/**
 * A time as a record has it: Python's `str()` of it, ISO 8601, or `ctime`. Without a zone it is taken for UTC, which
 * is what CNPG writes; stock tools would take the reader's own zone, so `hasZone` is worth showing.
 *
 * @throws BackupError `format-invalid`
 */
export function parseRecordTime(text: string): { time: Date; hasZone: boolean } {
  const iso = ISO.exec(text);
  const ctime = iso ? null : CTIME.exec(text);
  const day = iso?.[1] ?? (ctime && ctimeDay(ctime));
  const clock = iso?.[2] ?? ctime?.[3];
  const milliseconds = (iso?.[3] ?? '').slice(0, 3).padEnd(3, '0');
  const utc = new Date(`${day}T${clock}.${milliseconds}Z`);
  const offset = offsetMs(iso?.[4]);
  // a day that does not exist would silently become one of the next month
  if (Number.isNaN(utc.getTime()) || offset === undefined || utc.toISOString().slice(0, 10) !== day) {
    throw new BackupError(
      'format-invalid',
      `not a time: ${quoted(text)} (expected like 2026-11-22 22:25:31+00:00)`,
    );
  }
  return { time: new Date(utc.getTime() - offset), hasZone: iso?.[4] !== undefined };
}

function ctimeDay([, month = '', day = '', , year = '']: RegExpExecArray): string {
  return `${year}-${String(MONTHS.indexOf(month) + 1).padStart(2, '0')}-${day.padStart(2, '0')}`;
}

/** @returns `undefined` for a zone no place has */
function offsetMs(zone: string | undefined): number | undefined {
  if (zone === undefined || zone === 'Z') return 0;
  const [hours = 0, minutes = 0, seconds = 0] = (zone.match(/\d\d/g) ?? []).map(Number);
  if (hours > 23 || minutes > 59 || seconds > 59) return undefined;
  return (zone.startsWith('-') ? -1 : 1) * ((hours * 60 + minutes) * 60 + seconds) * 1000;
}

/** A time as Python's `str()` writes it in UTC: `2026-11-22 22:25:31.966000+00:00`, without a fraction that is zero. */
export function formatRecordTime(time: Date): string {
  const iso = time.toISOString();
  const milliseconds = iso.slice(20, 23);
  const fraction = milliseconds === '000' ? '' : `.${milliseconds}000`;
  return `${iso.slice(0, 10)} ${iso.slice(11, 19)}${fraction}+00:00`;
}
