import { whyNothing, type SweepReport } from '../core/sweep-report.ts';
import { bytesText, factsTable, table } from './page.ts';

const SHOWN = 40;

export type SweepPhase = 'waiting-for-worker' | 'planning' | 'deleting' | 'done' | 'failed';

/** A sweep as the Web UI shows it under "current details": each backup with its fate and why, and the WAL. */
export function sweepPage(
  { namespace, cluster, dryRun }: { namespace: string; cluster: string; dryRun: boolean },
  phase: SweepPhase,
  report: SweepReport | undefined,
  error?: string,
): string {
  const title = `### ${dryRun ? 'Dry run of a sweep' : 'Sweep'} of ${cluster}: ${phase}`;
  if (!report)
    return [
      title,
      factsTable([
        ['cluster', `${namespace}/${cluster}`],
        ['error', error],
      ]),
    ].join('\n');
  const { counts, backups, wal } = report;
  const isDone = phase === 'done' && !report.dryRun;
  const lines = [
    title,
    factsTable([
      ['cluster', `${namespace}/${cluster}`],
      ['nothing is deleted', report.refused === undefined ? undefined : whyNothing(report.refused)],
      ['error', error],
      ['kept', counts.kept],
      ['marked now', counts.marked],
      ['waiting for the end of the grace period', counts.waiting],
      [isDone ? 'deleted backups' : 'backups to delete', counts.deletedBackups],
      [isDone ? 'deleted WAL segments' : 'WAL segments to delete', counts.deletedWal],
      [isDone ? 'freed' : 'to be freed', bytesText(counts.deletedBytes)],
    ]),
  ];
  if (backups.length > 0) {
    const rows = backups
      .slice(0, SHOWN)
      .map(({ backupId, backupName, decision, reasons, dueAt }) => [
        backupId,
        backupName,
        dueAt === undefined ? decision : `${decision} until ${dueAt.slice(0, 16).replace('T', ' ')}Z`,
        reasons.join('; '),
      ]);
    lines.push('', table(['backup', 'name', 'decision', 'because'], rows), ...more(backups.length));
  }
  if (wal.length > 0) {
    const rows = wal
      .slice(0, SHOWN)
      .map(({ first, last, count, decision, reason }) => [
        `${first} … ${last}`,
        `${count}`,
        decision,
        reason,
      ]);
    lines.push('', table(['WAL', 'segments', 'decision', 'because'], rows), ...more(wal.length));
  }
  const list = (name: string, texts: readonly string[]) =>
    texts.length === 0
      ? []
      : ['', `**${name}**`, ...texts.map((text) => `- ${text.replaceAll(/\s*\n\s*/g, ' ')}`)];
  return [...lines, ...list('Leftovers', report.leftovers), ...list('Warnings', report.warnings)].join('\n');
}

function more(length: number): string[] {
  return length > SHOWN ? ['', `and ${length - SHOWN} more`] : [];
}
