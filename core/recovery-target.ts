import { BackupError } from './errors.ts';
import { formatLsn, parseLsn, type Lsn } from './lsn.ts';
import { formatMicros, formatPostgresTime, parseTargetTime, type Micros } from './target-time.ts';

/** Where a recovery is to end, in CNPG's names (`bootstrap.recovery.recoveryTarget`). At most one target. */
export interface RecoveryTarget {
  /** RFC 3339 or PostgreSQL's timestamp; without a zone it is UTC. */
  readonly targetTime?: string | undefined;
  readonly targetLSN?: string | undefined;
  readonly targetXID?: string | undefined;
  readonly targetName?: string | undefined;
  readonly targetImmediate?: boolean | undefined;
  /** A backup's id or name, or `newest` or `oldest`. Required with XID, name and immediate. */
  readonly backupID?: string | undefined;
  /** `latest` (and nothing), `current` (that of the backup), or a number. */
  readonly targetTLI?: string | undefined;
  /** Stop just before the target instead of just after it. */
  readonly exclusive?: boolean | undefined;
}

export type TargetKind = 'end' | 'time' | 'lsn' | 'xid' | 'name' | 'immediate';

/** A target that was understood. */
export type Target =
  | { readonly kind: 'end' | 'immediate'; readonly inclusive: boolean }
  | { readonly kind: 'time'; readonly inclusive: boolean; readonly micros: Micros }
  | { readonly kind: 'lsn'; readonly inclusive: boolean; readonly lsn: Lsn }
  | { readonly kind: 'xid' | 'name'; readonly inclusive: boolean; readonly value: string };

/** @throws BackupError `usage` for two targets, or one that can't be */
export function parseTarget(target: RecoveryTarget): Target {
  const inclusive = target.exclusive !== true;
  const given: Target[] = [];
  if (isGiven(target.targetTime))
    given.push({ kind: 'time', inclusive, micros: parseTargetTime(target.targetTime) });
  if (isGiven(target.targetLSN)) given.push({ kind: 'lsn', inclusive, lsn: parseLsn(target.targetLSN) });
  if (isGiven(target.targetXID)) {
    if (!/^\d{1,10}$/.test(target.targetXID) || BigInt(target.targetXID) > 0xffff_ffffn) {
      throw new BackupError(
        'usage',
        `not a transaction id: "${target.targetXID}" (expected a number below 4294967296)`,
      );
    }
    given.push({ kind: 'xid', inclusive, value: target.targetXID });
  }
  if (isGiven(target.targetName)) {
    if (
      new TextEncoder().encode(target.targetName).length > 63 ||
      /[\u0000-\u001f\u007f]/.test(target.targetName)
    ) {
      throw new BackupError(
        'usage',
        `not the name of a restore point: ${JSON.stringify(target.targetName)} (at most 63 bytes, no control characters)`,
      );
    }
    given.push({ kind: 'name', inclusive, value: target.targetName });
  }
  if (target.targetImmediate === true) given.push({ kind: 'immediate', inclusive });
  if (given.length > 1) {
    const kinds = given.map(({ kind }) => kind).join(' and ');
    throw new BackupError('usage', `one recovery can have one target, and this one has ${kinds}`);
  }
  return given[0] ?? { kind: 'end', inclusive };
}

/** CNPG takes an empty text for none. */
export function isGiven(text: string | undefined): text is string {
  return text !== undefined && text !== '';
}

export function valueOf(target: Target): { value?: string } {
  switch (target.kind) {
    case 'time':
      return { value: formatMicros(target.micros) };
    case 'lsn':
      return { value: formatLsn(target.lsn) };
    case 'xid':
    case 'name':
      return { value: target.value };
    case 'end':
    case 'immediate':
      return {};
  }
}

/** `recovery_target*` as PostgreSQL is to have them. */
export function targetSettings(target: Target, timeline: string): Record<string, string> {
  const common = { recovery_target_timeline: timeline, recovery_target_inclusive: String(target.inclusive) };
  switch (target.kind) {
    case 'time':
      return { ...common, recovery_target_time: formatPostgresTime(target.micros) };
    case 'lsn':
      return { ...common, recovery_target_lsn: formatLsn(target.lsn) };
    case 'xid':
      return { ...common, recovery_target_xid: target.value };
    case 'name':
      return { ...common, recovery_target_name: target.value };
    case 'immediate':
      return { ...common, recovery_target: 'immediate' };
    case 'end':
      return common;
  }
}

/** Whether nothing about the target says when it was, so that the backup has to be named. */
export function needsBackup(target: Target): boolean {
  return target.kind === 'xid' || target.kind === 'name' || target.kind === 'immediate';
}

/** What ends a recovery to a target, for people. */
export function describeTarget(target: Target): string {
  const side = target.inclusive ? 'at' : 'just before';
  switch (target.kind) {
    case 'end':
      return 'the end of the archive';
    case 'immediate':
      return 'the moment the backup is consistent';
    case 'time':
      return `${target.inclusive ? 'the last commit up to and including' : 'the last commit before'} ${formatMicros(target.micros)}`;
    case 'lsn':
      return `${side} LSN ${formatLsn(target.lsn)}`;
    case 'xid':
      return `${side} the end of transaction ${target.value}`;
    case 'name':
      return `the restore point "${target.value}"`;
  }
}
