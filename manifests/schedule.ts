import { BackupError } from '../core/errors.ts';
import {
  cronFieldCount,
  isTimezone,
  nextRuns,
  parseCron,
  type CronDialect,
  type CronSpec,
} from '../core/cron.ts';
import type { Metadata } from './metadata.ts';
import { oneOf, show, type FieldPath, type Finding } from './problem.ts';

/** A schedule as walkeep reads it. */
export interface Schedule {
  readonly spec: CronSpec;
  /** IANA name. */
  readonly timezone: string;
}

const DEFAULT_TIMEZONE = 'Etc/UTC';
const DIALECTS: readonly string[] = ['unix', 'cnpg'];

/**
 * Who reads a schedule: the annotation `walkeep.io/cron` decides; without it five fields are ordinary cron, as their
 * authors mean them, and everything else is CNPG's.
 */
export function dialectOf(text: string, annotations: Metadata['annotations']): CronDialect {
  const asked = annotations['walkeep.io/cron'];
  if (asked === 'unix' || asked === 'cnpg') return asked;
  return cronFieldCount(text) === 5 ? 'unix' : 'cnpg';
}

/**
 * The schedule of a ScheduledBackup or ScheduledVerification.
 *
 * @throws BackupError `format-invalid`
 */
export function scheduleOf(manifest: {
  readonly metadata: Pick<Metadata, 'annotations'>;
  readonly spec: { readonly schedule: string };
}): Schedule {
  const { annotations } = manifest.metadata;
  const text = manifest.spec.schedule.trim();
  return {
    spec: parseCron(text, dialectOf(text, annotations)),
    timezone: annotations['walkeep.io/timezone'] ?? DEFAULT_TIMEZONE,
  };
}

/** Backups closer together than this are hardly meant. */
const UNUSUALLY_OFTEN_MS = 10 * 60_000;

/** What is wrong with a schedule, when it runs next, and, for five fields, when CNPG would run it. */
export function reviewSchedule(
  manifest: {
    readonly metadata: Pick<Metadata, 'annotations'>;
    readonly spec: { readonly schedule: string };
  },
  now: Date,
  path: FieldPath,
): Finding[] {
  const annotated = reviewAnnotations(manifest.metadata.annotations);
  if (annotated.length > 0) return annotated;
  let schedule: Schedule;
  try {
    schedule = scheduleOf(manifest);
  } catch (error) {
    if (error instanceof BackupError) return [refused(manifest.spec.schedule, error, path)];
    throw error;
  }
  const runs = nextRuns(schedule.spec, now, 3, schedule.timezone);
  const [first, second] = runs;
  const findings = [dialectFinding(schedule, runs, manifest.metadata.annotations, now, path)];
  if (!first) {
    const message = `${show(schedule.spec.text)} never runs: no such moment comes within five years`;
    findings.push({ path, message, fix: 'to pause a schedule write suspend: true', severity: 'warning' });
  } else if (second && second.getTime() - first.getTime() < UNUSUALLY_OFTEN_MS) {
    const apart = Math.round((second.getTime() - first.getTime()) / 1000);
    const message = `${show(schedule.spec.text)} runs every ${apart} s, and every run is a whole base backup`;
    const fix = 'WAL is archived all the time without it; a daily backup is usual: "0 0 2 * * *"';
    findings.push({ path, message, fix, severity: 'warning' });
  }
  return findings;
}

function refused(text: string, error: BackupError, path: FieldPath): Finding {
  const fix =
    text.trim() === ''
      ? 'write when to run, such as "0 0 2 * * *" for 02:00 every day'
      : /^(CRON_)?TZ=/.test(text.trim())
        ? 'write the time zone as annotation walkeep.io/timezone: Europe/Berlin'
        : error.hint;
  return { path, message: `${show(text)}: ${error.message}`, fix, severity: 'error' };
}

function reviewAnnotations(annotations: Metadata['annotations']): Finding[] {
  const findings: Finding[] = [];
  const dialect = annotations['walkeep.io/cron'];
  const timezone = annotations['walkeep.io/timezone'];
  const at = (name: string): FieldPath => ['metadata', 'annotations', name];
  if (dialect !== undefined && !DIALECTS.includes(dialect)) {
    const message = `${show(dialect)} is no reading of a schedule`;
    findings.push({
      path: at('walkeep.io/cron'),
      message,
      fix: `write ${oneOf(DIALECTS)}`,
      severity: 'error',
    });
  }
  if (timezone !== undefined && !isTimezone(timezone)) {
    const message = `${show(timezone)} is no time zone`;
    const fix = 'write an IANA name, such as Europe/Berlin or Etc/UTC';
    findings.push({ path: at('walkeep.io/timezone'), message, fix, severity: 'error' });
  }
  return findings;
}

/** The note or warning that says how the text was read and when it runs. */
function dialectFinding(
  { spec, timezone }: Schedule,
  runs: readonly Date[],
  annotations: Metadata['annotations'],
  now: Date,
  path: FieldPath,
): Finding {
  const asked = annotations['walkeep.io/cron'];
  const next = `next runs: ${showRuns(runs, timezone)}`;
  if (cronFieldCount(spec.text) !== 5) return { path, message: next, fix: '', severity: 'note' };
  if (asked !== undefined) {
    const who = spec.dialect === 'unix' ? 'ordinary cron' : 'CNPG (seconds first)';
    return {
      path,
      message: `${show(spec.text)} is read as ${who}, as annotated; ${next}`,
      fix: '',
      severity: 'note',
    };
  }
  return {
    path,
    message: `${show(spec.text)} has five fields and is read as ordinary cron; ${next}. CNPG itself takes the first field as seconds: ${cnpgReading(spec.text, now, timezone)}`,
    fix: `write "0 ${spec.text}" to mean the same to both, or the annotation walkeep.io/cron: unix (as read here) or cnpg`,
    severity: 'warning',
  };
}

function cnpgReading(text: string, now: Date, timezone: string): string {
  try {
    return `it would run at ${showRuns(nextRuns(parseCron(text, 'cnpg'), now, 3, timezone), timezone)}`;
  } catch (error) {
    return `it would refuse it (${error instanceof BackupError ? error.message : 'invalid'})`;
  }
}

/** `2026-01-22 02:00, 2026-01-23 02:00 (Europe/Rome)`; with seconds where there are any. */
function showRuns(runs: readonly Date[], timezone: string): string {
  if (runs.length === 0) return 'never';
  const timeStyle = runs.every((run) => run.getUTCSeconds() === 0) ? 'short' : 'medium';
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone: timezone, dateStyle: 'short', timeStyle });
  const zone = timezone === DEFAULT_TIMEZONE ? 'UTC' : timezone;
  return `${runs.map((run) => format.format(run)).join(', ')} (${zone})`;
}
