import type { RetentionPlan } from '../core/retention.ts';
import { segmentName } from '../core/segment.ts';
import type { SweepReport, SweptBackup } from '../core/sweep-report.ts';
import type { SweepCatalogue } from './gather-retention.ts';

/** What a sweep has done so far. */
export interface SweepDone {
  readonly marked: readonly string[];
  readonly deletedBackups: readonly string[];
  readonly deletedWal: number;
  readonly deletedBytes: number;
}

export const NOTHING_DONE: SweepDone = { marked: [], deletedBackups: [], deletedWal: 0, deletedBytes: 0 };

export interface ReportParts {
  readonly dryRun: boolean;
  readonly at: Date;
  readonly plan: RetentionPlan;
  readonly catalogue: SweepCatalogue;
  readonly segmentSize: number;
  readonly leftovers: readonly string[];
  readonly warnings: readonly string[];
  /** Of a dry run: nothing. */
  readonly done: SweepDone;
}

/** What a sweep did, or would do, for people and programs. */
export function sweepReport(parts: ReportParts): SweepReport {
  const { plan, catalogue, segmentSize, done, dryRun } = parts;
  const backups = plan.backups.map((planned): SweptBackup => {
    const info = catalogue.entries.find(({ backupId }) => backupId === planned.backupId)?.info;
    const sizeBytes = catalogue.folders.get(planned.backupId)?.sizeBytes;
    return {
      backupId: planned.backupId,
      ...(info?.backupName !== undefined && { backupName: info.backupName }),
      ...(info?.endTime && { endedAt: info.endTime.toISOString() }),
      decision: planned.decision,
      reasons: planned.reasons,
      ...(planned.dueAt !== undefined && { dueAt: new Date(planned.dueAt).toISOString() }),
      ...(sizeBytes !== undefined && { sizeBytes }),
    };
  });
  const count = (...wanted: readonly SweptBackup['decision'][]) =>
    backups.filter(({ decision }) => wanted.includes(decision)).length;
  const going = plan.wal.filter(({ decision }) => decision === 'delete');
  return {
    dryRun,
    at: parts.at.toISOString(),
    ...(plan.refused !== undefined && { refused: plan.refused }),
    backups,
    wal: plan.wal.map(({ timeline, first, last, decision, reason }) => ({
      timeline,
      first: segmentName(timeline, first, segmentSize),
      last: segmentName(timeline, last, segmentSize),
      count: Number(last - first + 1n),
      decision,
      reason,
    })),
    leftovers: parts.leftovers,
    warnings: [...plan.warnings, ...parts.warnings],
    counts: {
      kept: count('keep', 'undecided'),
      marked: count('mark'),
      waiting: count('wait'),
      // What would be deleted, or what was.
      deletedBackups: dryRun ? count('delete') : done.deletedBackups.length,
      deletedWal: dryRun
        ? going.reduce((sum, { first, last }) => sum + Number(last - first + 1n), 0)
        : done.deletedWal,
      deletedBytes: dryRun
        ? backups.reduce(
            (sum, { decision, sizeBytes = 0 }) => sum + (decision === 'delete' ? sizeBytes : 0),
            0,
          )
        : done.deletedBytes,
    },
  };
}

/** A report of nothing but a refusal: the repository could not even be looked at. */
export function refusedReport(dryRun: boolean, at: Date, refused: string): SweepReport {
  const counts = { kept: 0, marked: 0, waiting: 0, deletedBackups: 0, deletedWal: 0, deletedBytes: 0 };
  return { dryRun, at: at.toISOString(), refused, backups: [], wal: [], leftovers: [], warnings: [], counts };
}

/** How far a report is cut to become part of a payload: fields of one line, and what is of least interest last. */
const LIMITS = { backups: 100, wal: 50, lines: 30, reasons: 6, text: 300 } as const;
/** With the page, the signal and what else belongs to one message of a history. */
const MAX_BYTES = 40 * 1024;

/** `report` with lists that fit into a payload (F4). The counts stay whole, and say so together with the warnings. */
export function withinPayload(report: SweepReport): SweepReport {
  let share = 1;
  for (;;) {
    const cut = cutTo(report, share);
    if (Buffer.byteLength(JSON.stringify(cut)) <= MAX_BYTES || share < 0.05) return cut;
    share /= 2;
  }
}

function cutTo(report: SweepReport, share: number): SweepReport {
  const limit = (count: number) => Math.max(1, Math.floor(count * share));
  const short = (text: string) => (text.length > LIMITS.text ? `${text.slice(0, LIMITS.text)}…` : text);
  const lines = (texts: readonly string[]) => texts.slice(0, limit(LIMITS.lines)).map(short);
  // What changes is of more interest than what stays.
  const backups = report.backups.toSorted((a, b) => rank(a.decision) - rank(b.decision));
  const wal = report.wal.toSorted((a, b) => rank(a.decision) - rank(b.decision));
  const kept = new Set(backups.slice(0, limit(LIMITS.backups)));
  const keptWal = new Set(wal.slice(0, limit(LIMITS.wal)));
  const left = report.backups.length - kept.size;
  return {
    ...report,
    ...(report.refused !== undefined && { refused: short(report.refused) }),
    backups: report.backups
      .filter((backup) => kept.has(backup))
      .map((backup) => ({ ...backup, reasons: backup.reasons.slice(0, LIMITS.reasons).map(short) })),
    wal: report.wal
      .filter((range) => keptWal.has(range))
      .map((range) => ({ ...range, reason: short(range.reason) })),
    leftovers: lines(report.leftovers),
    warnings: [
      ...(left > 0 ? [`the list leaves out ${left} backups; walkeep sweep --dry-run shows all`] : []),
      ...lines(report.warnings),
    ],
  };
}

function rank(decision: string): number {
  return ['delete', 'wait', 'mark', 'undecided', 'keep'].indexOf(decision);
}
