import { whyNothing, type SweepReport } from '../core/sweep-report.ts';
import { formatBytes, formatTable, printable } from './output.ts';

/** The plan as tables: every backup and every range of WAL, with its fate and why. */
export function describeSweep(report: SweepReport): string {
  const blocks: string[] = [];
  if (report.backups.length > 0) {
    blocks.push(
      formatTable(
        ['BACKUP ID', 'NAME', 'ENDED', 'SIZE', 'DECISION', 'DUE', 'BECAUSE'],
        report.backups.map(({ backupId, backupName, endedAt, sizeBytes, decision, dueAt, reasons }) => [
          backupId,
          backupName ?? '',
          short(endedAt),
          sizeBytes === undefined ? '' : formatBytes(sizeBytes),
          decision,
          short(dueAt),
          reasons.join('; '),
        ]),
      ),
    );
  }
  if (report.wal.length > 0) {
    blocks.push(
      formatTable(
        ['FIRST WAL', 'LAST WAL', 'SEGMENTS', 'DECISION', 'BECAUSE'],
        report.wal.map(({ first, last, count, decision, reason }) => [
          first,
          last,
          `${count}`,
          decision,
          reason,
        ]),
      ),
    );
  }
  const list = (name: string, texts: readonly string[]) =>
    texts.length === 0 ? [] : [`${name}:\n${texts.map((text) => `  ${printable(text)}\n`).join('')}`];
  blocks.push(...list('Leftovers', report.leftovers), ...list('Warnings', report.warnings));
  const refusal =
    report.refused === undefined ? '' : `Nothing is deleted: ${printable(whyNothing(report.refused))}\n`;
  return [...blocks, refusal || printable(counted(report))].join('\n');
}

function counted({ counts, dryRun }: SweepReport): string {
  const { kept, marked, waiting, deletedBackups, deletedWal, deletedBytes } = counts;
  const verb = dryRun ? 'to delete' : 'deleted';
  return (
    `${kept} kept, ${marked} ${dryRun ? 'to mark' : 'marked'}, ${waiting} waiting, ` +
    `${deletedBackups} ${verb}, with ${deletedWal} WAL segments (${formatBytes(deletedBytes)})\n`
  );
}

/** What was done, in a few lines. */
export function summary(report: SweepReport): string {
  const lines = [
    ...report.leftovers.map((text) => `removed: ${text}\n`),
    ...report.warnings.map((text) => `warning: ${text}\n`),
  ];
  const end =
    report.refused === undefined ? counted(report) : `Nothing is deleted: ${whyNothing(report.refused)}\n`;
  return `\n${lines.join('')}${end}`;
}

function short(time: string | undefined): string {
  return time === undefined ? '' : `${time.slice(0, 16).replace('T', ' ')}Z`;
}
