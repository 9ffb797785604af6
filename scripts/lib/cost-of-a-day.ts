import { beatIntervalMs } from '../../activities/beat.ts';
import type { RunCost } from './billable-actions.ts';

/** What was measured once, each with all that it causes in other runs. */
export interface Measured {
  /** A slot of a schedule: the backup, and the sweep and the audit that follow it. */
  readonly backup: RunCost;
  /** Of that, the histories of the backup itself. */
  readonly backupEvents: number;
  readonly audit: RunCost;
  readonly verification: RunCost;
  readonly archivingReport: RunCost;
  readonly instanceReport: RunCost;
  /** How long a keeper with nothing to do sleeps, in seconds. */
  readonly idleSeconds: number;
}

/** What is assumed of a cluster; all times in seconds. */
export interface Assumptions {
  readonly instances: number;
  readonly backupSeconds: number;
  readonly verificationSeconds: number;
  /** Of the backup's and the others' activities. */
  readonly heartbeatTimeoutSeconds: number;
  readonly archivingReportSeconds: number;
  readonly archivingBeatSeconds: number;
  readonly instanceReportSeconds: number;
  readonly auditSeconds: number;
  /** Queries by people, a day. */
  readonly looks: number;
}

export interface CostRow {
  readonly what: string;
  readonly perDay: number;
  readonly each: number;
  readonly actions: number;
}

const DAY = 86_400;
/** A Schedule that starts something costs two besides the start. */
const SCHEDULE = 2;
/** The keeper starts it as a child, and sleeps anew. */
const AS_CHILD = 2;

/** What a day of one cluster costs in actions: a backup, a verification in seven days, and all that watches. */
export function costOfADay(measured: Measured, assumed: Assumptions): CostRow[] {
  const row = (what: string, perDay: number, each: number): CostRow => ({
    what,
    perDay,
    each,
    actions: perDay * each,
  });
  const beats = (seconds: number) => heartbeats(seconds, assumed.heartbeatTimeoutSeconds);
  const { backup, audit, verification, archivingReport, instanceReport } = measured;
  return [
    row('backup by schedule, with its sweep and audit', 1, backup.actions + SCHEDULE),
    row(`  its heartbeats, ${minutes(assumed.backupSeconds)}`, 1, beats(assumed.backupSeconds)),
    row('audit', DAY / assumed.auditSeconds, audit.actions),
    row('  heartbeats of one that reads WAL, 5 min', 1, beats(300)),
    row('verification', 1 / 7, verification.actions + AS_CHILD),
    row(
      `  its heartbeats, ${minutes(assumed.verificationSeconds)}`,
      1 / 7,
      beats(assumed.verificationSeconds),
    ),
    row('report of archiving', DAY / assumed.archivingReportSeconds, archivingReport.actions),
    row('  heartbeats', DAY / assumed.archivingBeatSeconds, 1),
    row(
      'report of an instance',
      (assumed.instances * DAY) / assumed.instanceReportSeconds,
      instanceReport.actions,
    ),
    row('keeper wakes with nothing to do', DAY / measured.idleSeconds, 1),
    row('somebody looks (queries)', assumed.looks, 1),
  ];
}

/** How many heartbeats an activity of this length sends, at the pace of real ones. */
export function heartbeats(seconds: number, timeoutSeconds: number): number {
  let count = 0;
  for (let at = 0; at <= seconds * 1000; at += beatIntervalMs(at, timeoutSeconds * 1000)) count += 1;
  return count;
}

function minutes(seconds: number): string {
  return `${Math.round(seconds / 60)} min`;
}
