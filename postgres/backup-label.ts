import { BackupError } from '../core/errors.ts';
import { parseLsn, type Lsn } from '../core/lsn.ts';
import { parseSegmentName, type SegmentName } from '../core/segment.ts';

/** What a `backup_label` says about the beginning of its backup. */
export interface BackupLabel {
  readonly beginLsn: Lsn;
  readonly beginWal: SegmentName;
  readonly timeline: number;
}

/** @throws BackupError `format-invalid` when a line is absent that recovery depends on */
export function parseBackupLabel(text: string): BackupLabel {
  const start = /^START WAL LOCATION: ([0-9A-F]+\/[0-9A-F]+) \(file ([0-9A-F]{24})\)$/m.exec(text);
  const timeline = /^START TIMELINE: (\d+)$/m.exec(text);
  if (!start || !timeline) {
    throw new BackupError('format-invalid', `not a backup_label: ${JSON.stringify(text.slice(0, 200))}`);
  }
  return {
    beginLsn: parseLsn(start[1] as string),
    beginWal: parseSegmentName(start[2] as string),
    timeline: Number(timeline[1]),
  };
}
