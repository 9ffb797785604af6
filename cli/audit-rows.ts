import type { AuditReport, RecoverableInterval } from '../core/audit.ts';

/** The label of a line and its text; lines that go on have no label. */
export type Row = [label: string, text: string];

/**
 * What can be restored to, newest first, and each hole, as lines for people. Pure.
 *
 * @param limit of intervals and of damages
 */
export function intervalRows(report: AuditReport, limit = 5): Row[] {
  const intervals = report.intervals.toReversed();
  const damages = report.damages.toReversed();
  const rows = [
    ...intervals.slice(0, limit).map((one): Row => ['Recoverable', intervalText(one)]),
    ...rest(intervals.length - limit, 'older intervals'),
    ...damages.slice(0, limit).map((one): Row => [labelOf(one), damageText(one)]),
    ...rest(damages.length - limit, 'more that is missing or damaged'),
  ];
  const all = intervals.length === 0 ? [['Recoverable', 'nothing'] satisfies Row, ...rows] : rows;
  return all.map(([label, text], index) => [label === all[index - 1]?.[0] ? '' : label, text]);
}

/** `2026-11-24T02:00:10Z to 2026-11-24T09:30:00Z (timeline 1, 0/3000000 to 0/9000000, from backup …)` */
function intervalText({ fromTime, toTime, timeline, fromLsn, toLsn, backupId }: RecoverableInterval): string {
  const where = `timeline ${timeline}, ${fromLsn} to ${toLsn}, from backup ${backupId}`;
  const from = fromTime === undefined ? undefined : wholeSeconds(fromTime);
  if (from === undefined) return where;
  return `${from}${toTime === undefined ? ' on' : ` to ${wholeSeconds(toTime)}`} (${where})`;
}

function labelOf({ kind, repair }: AuditReport['damages'][number]): string {
  if (repair === 'repaired') return 'Repaired';
  return kind === 'missing' ? 'Missing' : 'Damaged';
}

function damageText({ first, last, count, repair, source, detail }: AuditReport['damages'][number]): string {
  const what = first === last ? first : `${first} to ${last} (${count} segments)`;
  if (repair === 'repaired') return `${what}, sent again from ${source ?? 'pg_wal'}`;
  const nobody = repair === 'impossible' ? ', and no instance has it any more' : '';
  return `${what}${nobody}${detail === undefined ? '' : `: ${detail}`}`;
}

function rest(count: number, what: string): Row[] {
  return count > 0 ? [['', `and ${count} ${what}`]] : [];
}

function wholeSeconds(time: string): string {
  return `${new Date(time).toISOString().slice(0, 19)}Z`;
}
