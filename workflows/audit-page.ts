import { isWhole, type AuditReport } from '../core/audit.ts';
import { bytesText, factsTable, table } from './page.ts';

export type AuditPhase =
  'waiting-for-worker' | 'auditing' | 'repairing' | 'auditing-again' | 'whole' | 'damaged' | 'failed';

/** What a page holds of long lists. */
const SHOWN = 20;

/** An audit as the Web UI shows it under "current details". */
export function auditPage(
  request: { readonly cluster: string; readonly namespace: string; readonly read: string },
  run: { readonly phase: AuditPhase; readonly report?: AuditReport; readonly error?: string },
): string {
  const { report } = run;
  const { newestBackup: backup, newestVerified: verified, newestSegment: segment } = report ?? {};
  return [
    `### WAL audit of ${request.cluster}: ${run.phase}`,
    factsTable([
      ['cluster', `${request.namespace}/${request.cluster}`],
      ['as of', report?.at],
      ['archive', report && `${report.segments} segments, ${bytesText(report.walBytes)}`],
      ['read and decoded', report ? `${report.segmentsRead} (${request.read})` : request.read],
      ['backups that can be restored', report?.backups],
      ['newest backup', backup && `${backup.backupId}, ended ${backup.endedAt}`],
      ['newest proof by restore', verified && `${verified.id}, ${verified.at}`],
      ['newest segment', segment && `${segment.name}, stored ${segment.storedAt}`],
      ['verdict', report && verdict(report)],
      ['error', run.error],
    ]),
    ...(report ? [...intervals(report), ...damages(report), ...warnings(report)] : []),
  ].join('\n');
}

function verdict(report: AuditReport): string {
  if (report.needsBackup) return 'a base backup is needed: none leads to the newest WAL';
  if (!isWhole(report)) return 'WAL is missing or damaged, see below';
  return report.damages.length > 0 ? 'whole again: what was broken was sent again' : 'whole';
}

function intervals({ intervals: all }: AuditReport): string[] {
  if (all.length === 0) return ['', 'Nothing can be restored.'];
  const rows = all
    .slice(-SHOWN)
    .toReversed()
    .map((one) => [
      one.fromTime,
      one.toTime,
      String(one.timeline),
      one.backupId,
      `${one.fromLsn} … ${one.toLsn}`,
      one.lastSegment,
    ]);
  const headers = ['from', 'to', 'timeline', 'first backup', 'LSN', 'last segment'];
  return ['', '#### Recoverable, newest first', table(headers, rows), ...more(all.length)];
}

function damages({ damages: all }: AuditReport): string[] {
  if (all.length === 0) return [];
  const rows = all
    .slice(-SHOWN)
    .map(({ kind, timeline, first, last, count, repair, source, detail }) => [
      first === last ? first : `${first} … ${last}`,
      String(count),
      String(timeline),
      kind,
      repair === 'repaired' ? `repaired from ${source ?? '?'}` : (repair ?? 'not tried'),
      detail,
    ]);
  const headers = ['WAL', 'files', 'timeline', 'what', 'repair', 'detail'];
  return ['', '#### Missing and damaged', table(headers, rows), ...more(all.length)];
}

function warnings({ warnings: all }: AuditReport): string[] {
  return all.length === 0 ? [] : ['', '#### Notes', ...all.slice(0, SHOWN).map((text) => `- ${text}`)];
}

function more(count: number): string[] {
  return count > SHOWN ? ['', `${count - SHOWN} older ones are in the result.`] : [];
}
