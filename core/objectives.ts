import type { AuditReport } from './audit.ts';
import { formatDuration, parseDuration } from './duration.ts';

/** `BackupPolicy.spec.objectives`: durations as people write them, such as `10m`. */
export interface Objectives {
  readonly rpo: string;
  readonly backupAge: string;
  readonly provenAge: string;
}

/** What is looked at of an ArchiveReport. Times are RFC 3339. */
export interface ArchivingState {
  readonly at: string;
  /** `failing` and `off` are reported at once; the others hold until the next report is due. */
  readonly health: 'working' | 'failing' | 'idle' | 'off';
  readonly role?: string;
  readonly instance?: string;
  readonly lastArchivedAt?: string;
  readonly waitingFiles: number;
}

export interface ObjectiveFacts {
  readonly objectives: Objectives;
  readonly audit?: AuditReport;
  readonly archiving?: ArchivingState;
  /** Milliseconds since 1970. */
  readonly now: number;
  /** When it was first applied, RFC 3339. */
  readonly since: string;
  /** The end of the newest completed Backup, and of the newest successful verification, where they were heard of since the audit. */
  readonly lastBackupAt?: string;
  readonly lastProvenAt?: string;
  /** How often archiving reports when nothing changes, in seconds; default an hour. */
  readonly reportSeconds?: number;
}

/**
 * The age in seconds of the newest moment that the store lets one restore, at `now`. While nothing waits to be
 * archived it counts from the look that saw so: an idle database loses nothing. Times of the store and of this host
 * are compared, so a clock that is ahead makes it 0, never less.
 *
 * @returns `undefined` when nothing can be restored, or nothing is known
 */
export function rpoSeconds(
  audit: AuditReport,
  archiving: ArchivingState | undefined,
  now: number,
): number | undefined {
  const moment = newestMoment(audit, archiving);
  return moment === undefined ? undefined : Math.floor(ageOf(moment, now) / 1000);
}

/** Milliseconds since 1970. What is archived behind a hole moves nothing. */
function newestMoment(audit: AuditReport, archiving: ArchivingState | undefined): number | undefined {
  const { intervals, needsBackup, newestSegment } = audit;
  if (intervals.length === 0) return undefined;
  const audited = latest(intervals.map(({ toTime, fromTime }) => toTime ?? fromTime));
  if (needsBackup) return audited;
  const isComplete = archiving !== undefined && isSound(archiving) && archiving.waitingFiles === 0;
  const archived = isComplete ? archiving.at : archiving?.lastArchivedAt;
  return latest([newestSegment?.storedAt, archived], audited);
}

/**
 * What is longer ago than it may be, as whole sentences; none when all is well. Nothing is in breach before it could
 * have been done: the ages of a cluster that was just applied begin with its first manifest.
 *
 * @throws BackupError `format-invalid` for an objective that is no duration
 */
export function judgeObjectives(facts: ObjectiveFacts): string[] {
  return [rpoBreach(facts), backupBreach(facts), provenBreach(facts)].filter((text) => text !== undefined);
}

function rpoBreach({
  objectives,
  audit,
  archiving,
  now,
  since,
  reportSeconds = 3600,
}: ObjectiveFacts): string | undefined {
  const limitMs = parseDuration(objectives.rpo);
  if (audit?.needsBackup === true && audit.intervals.length > 0) {
    const moment = newestMoment(audit, undefined);
    if (moment === undefined || ageOf(moment, now) <= limitMs) return undefined;
    return `the newest moment that can be restored is ${timeText(moment)}, ${ageText(moment, now)} ago: the WAL after it has a hole, and no base backup begins behind it; rpo is ${objectives.rpo}`;
  }
  if (archiving === undefined) {
    const heard = ageOf(time(since), now) > Math.max(limitMs, reportSeconds * 1000);
    return heard
      ? `no report of WAL archiving has come yet, so nobody knows what a loss would cost; rpo is ${objectives.rpo}`
      : undefined;
  }
  // Nothing to archive here yet: it waits for a restore.
  if (archiving.role === 'absent') return undefined;
  const silenceMs = ageOf(time(archiving.at), now);
  if (isSound(archiving) && silenceMs > 2 * reportSeconds * 1000 + limitMs) {
    return `WAL archiving has not reported since ${archiving.at}, ${formatDuration(silenceMs)} ago; rpo is ${objectives.rpo}`;
  }
  // No news is good news: what fails or stalls is reported at once, so what was sound counts as it was seen.
  const asOf = isSound(archiving) ? Math.min(now, time(archiving.at)) : now;
  if (isSound(archiving) && (archiving.waitingFiles === 0 || archiving.lastArchivedAt === undefined))
    return undefined;
  const moment = (audit && newestMoment(audit, archiving)) ?? latest([archiving.lastArchivedAt]);
  const from = moment ?? time(since);
  if (ageOf(from, asOf) <= limitMs) return undefined;
  const files = archiving.waitingFiles === 1 ? '1 file waits' : `${archiving.waitingFiles} files wait`;
  const where = archiving.instance === undefined ? '' : ` on ${archiving.instance}`;
  return moment === undefined
    ? `no WAL has reached the store (archiving${where} is ${archiving.health}, ${files}); rpo is ${objectives.rpo}`
    : `the newest WAL in the store is from ${timeText(moment)}, ${ageText(moment, now)} ago (archiving${where} is ${archiving.health}, ${files}); rpo is ${objectives.rpo}`;
}

function backupBreach({ objectives, audit, lastBackupAt, now, since }: ObjectiveFacts): string | undefined {
  const newest = latest([audit?.newestBackup?.endedAt, lastBackupAt]);
  // Before the first look nobody knows which backups there are.
  if (newest === undefined && audit === undefined) return undefined;
  return breach(newest, parseDuration(objectives.backupAge), now, since, {
    none: `there is no base backup that can be restored; backupAge is ${objectives.backupAge}`,
    old: (age) =>
      `the newest base backup that can be restored ended ${age} ago; backupAge is ${objectives.backupAge}`,
  });
}

function provenBreach({ objectives, audit, lastProvenAt, now, since }: ObjectiveFacts): string | undefined {
  const newest = latest([audit?.newestVerified?.at, lastProvenAt]);
  return breach(newest, parseDuration(objectives.provenAge), now, since, {
    none: `no backup was ever proven by a restore; provenAge is ${objectives.provenAge}`,
    old: (age) =>
      `the last successful restore of a backup is ${age} ago; provenAge is ${objectives.provenAge}`,
  });
}

function breach(
  newest: number | undefined,
  limitMs: number,
  now: number,
  since: string,
  sentences: { readonly none: string; readonly old: (age: string) => string },
): string | undefined {
  if (ageOf(newest ?? time(since), now) <= limitMs) return undefined;
  return newest === undefined ? sentences.none : sentences.old(ageText(newest, now));
}

function isSound({ health }: ArchivingState): boolean {
  return health === 'working' || health === 'idle';
}

function latest(
  times: readonly (string | undefined)[],
  ...more: readonly (number | undefined)[]
): number | undefined {
  const known = [...times.map((text) => (text === undefined ? Number.NaN : time(text))), ...more];
  return known.reduce<number | undefined>((newest, ms) => {
    if (ms === undefined || Number.isNaN(ms)) return newest;
    return newest === undefined || ms > newest ? ms : newest;
  }, undefined);
}

/** Never negative: clocks differ. */
function ageOf(ms: number, now: number): number {
  return Math.max(0, now - ms);
}

function ageText(ms: number, now: number): string {
  return formatDuration(ageOf(ms, now));
}

function time(text: string): number {
  return new Date(text).getTime();
}

function timeText(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}
