import { z } from 'zod';
import { parseLsn } from '../core/lsn.ts';
import { parseTargetTime } from '../core/target-time.ts';
import { closestName } from './closest-name.ts';
import type { ExternalCluster } from './external-cluster.ts';
import { flag, objectName, plainText, secretKeySelector, textThat } from './fields.ts';
import { show, type Fault, type FieldPath, type Finding } from './problem.ts';

/** A base backup's id in the repository: when it began, UTC. */
export const BACKUP_ID = /^\d{8}T\d{6}$/;

const LATEST_XID = 2 ** 32 - 1;

function timelineFault(text: string): Fault | undefined {
  if (text === '' || text === 'latest') return undefined;
  if (/^[1-9]\d{0,9}$/.test(text) && Number(text) <= LATEST_XID) return undefined;
  return {
    message: `${show(text)} is no timeline`,
    fix: 'write "latest", or its number in decimal, such as "2"',
  };
}

function xidFault(text: string): Fault | undefined {
  if (/^\d{1,10}$/.test(text) && Number(text) <= LATEST_XID) return undefined;
  return { message: `${show(text)} is no transaction id`, fix: `write a decimal number up to ${LATEST_XID}` };
}

function nameFault(text: string): Fault | undefined {
  const length = new TextEncoder().encode(text).length;
  if (length > 0 && length < 64 && !/[\u0000-\u001f\u007f]/.test(text)) return undefined;
  return {
    message: `${show(text)} can not be the name of a restore point`,
    fix: 'write the name given to pg_create_restore_point: 1 to 63 bytes',
  };
}

function lsnFault(text: string): Fault | undefined {
  try {
    parseLsn(text);
    return undefined;
  } catch {
    return { message: `${show(text)} is no LSN`, fix: 'write it as PostgreSQL shows it, such as 0/3000028' };
  }
}

function targetTimeFault(text: string): Fault | undefined {
  try {
    parseTargetTime(text);
    return undefined;
  } catch {
    return {
      message: `${show(text)} is no time`,
      fix: 'write it like "2026-01-21T02:00:00Z" or "2026-01-21 02:00:00+01:00"',
    };
  }
}

/** Whether a valid `targetTime` names its time zone; without one it is UTC. */
export function hasTimeZone(targetTime: string): boolean {
  // The first ten characters are the date, whose hyphens look like offsets.
  return /(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$/i.test(targetTime.trim().slice(10));
}

/** Where a recovery ends; at most one of time, LSN, XID, name and immediate. Without any: the end of the WAL. */
export const recoveryTargetSchema = z.object({
  backupID: textThat((text) =>
    BACKUP_ID.test(text)
      ? undefined
      : {
          message: `${show(text)} is no backup id`,
          fix: 'write it like 20260121T020000; walkeep get backups -o wide shows the ids',
        },
  ).optional(),
  targetTLI: textThat(timelineFault).optional(),
  targetXID: textThat(xidFault).optional(),
  targetName: textThat(nameFault).optional(),
  targetLSN: textThat(lsnFault).optional(),
  targetTime: textThat(targetTimeFault).optional(),
  targetImmediate: flag.optional(),
  exclusive: flag.default(false),
});
export type RecoveryTargetManifest = z.infer<typeof recoveryTargetSchema>;

/** @returns what contradicts itself in a recovery target, wherever one is written */
export function reviewRecoveryTarget(
  target: RecoveryTargetManifest,
  path: FieldPath,
  options: { readonly backupIsNamed: 'by snapshots' | 'by backup.name' | 'no' },
): Finding[] {
  const findings: Finding[] = [];
  const targets = (['targetTime', 'targetLSN', 'targetXID', 'targetName', 'targetImmediate'] as const).filter(
    (name) => target[name] !== undefined && target[name] !== false,
  );
  if (targets.length > 1) {
    const message = `${targets.join(' and ')} are given; a recovery ends at one of them`;
    findings.push({ path, message, fix: 'keep one', severity: 'error' });
  } else if (targets.length === 1 && target.targetImmediate === false) {
    findings.push({
      path: [...path, 'targetImmediate'],
      message: `targetImmediate: false does nothing, and CNPG refuses it beside ${targets[0]}`,
      fix: 'remove it',
      severity: 'warning',
    });
  }
  const [only] = targets;
  const needsBackup = only === 'targetName' || only === 'targetXID' || only === 'targetImmediate';
  if (targets.length === 1 && needsBackup && target.backupID === undefined) {
    findings.push(...backupIdMissing(only, path, options.backupIsNamed));
  }
  if (options.backupIsNamed === 'by snapshots' && target.backupID !== undefined) {
    const message = 'backupID names a backup in the object store, but volumeSnapshots are the base here';
    findings.push({ path: [...path, 'backupID'], message, fix: 'remove one of the two', severity: 'error' });
  }
  if (target.targetTime !== undefined && !hasTimeZone(target.targetTime)) {
    findings.push({
      path: [...path, 'targetTime'],
      message: `${show(target.targetTime)} names no time zone and is taken as UTC`,
      fix: `write "${target.targetTime}Z" for UTC, or your offset such as +01:00`,
      severity: 'warning',
    });
  }
  return findings;
}

function backupIdMissing(target: string, path: FieldPath, named: string): Finding[] {
  if (named === 'by snapshots') return [];
  if (named === 'by backup.name') {
    const message = `CNPG itself asks for backupID beside ${target}; here backup.name says which backup`;
    return [{ path, message, fix: 'add backupID if CNPG is to take this manifest', severity: 'warning' }];
  }
  const message = `${target} does not say from which backup to begin`;
  const fix = `add backupID: an id that walkeep get backups -o wide shows, from before the ${target === 'targetImmediate' ? 'moment you want' : 'target'}`;
  return [{ path, message, fix, severity: 'error' }];
}

const volumeReference = z.object({
  apiGroup: z.string().optional(),
  kind: z.enum(['VolumeSnapshot', 'PersistentVolumeClaim']),
  name: objectName,
});

/** `bootstrap.recovery`: from which backups, to which moment. */
export const recoverySchema = z.object({
  backup: z.object({ name: objectName, endpointCA: secretKeySelector.optional() }).optional(),
  source: plainText.optional(),
  volumeSnapshots: z
    .object({
      storage: volumeReference,
      walStorage: volumeReference.optional(),
      tablespaceStorage: z.record(z.string(), volumeReference).optional(),
    })
    .optional(),
  recoveryTarget: recoveryTargetSchema.optional(),
  database: plainText.optional(),
  owner: plainText.optional(),
  secret: z.object({ name: objectName }).optional(),
});
export type Recovery = z.infer<typeof recoverySchema>;

/** The rules of `bootstrap.recovery`, given the external clusters it may name. */
export function reviewRecovery(
  recovery: Recovery,
  externalClusters: readonly ExternalCluster[],
  hasWalStorage: boolean,
  path: FieldPath,
): Finding[] {
  const findings = [...reviewBase(recovery, path), ...reviewSource(recovery, externalClusters, path)];
  if (recovery.volumeSnapshots?.walStorage && !hasWalStorage) {
    const message = 'a snapshot of the WAL volume is given, but the cluster has no spec.walStorage';
    const walPath = [...path, 'volumeSnapshots', 'walStorage'];
    findings.push({ path: walPath, message, fix: 'add spec.walStorage, or remove this', severity: 'error' });
  }
  if (recovery.volumeSnapshots) {
    findings.push({
      path: [...path, 'volumeSnapshots'],
      message: 'accepted, but a recovery from volume snapshots is not done yet, and never outside Kubernetes',
      fix: 'recover from the object store: give source instead',
      severity: 'warning',
    });
  }
  findings.push(...describeRecovery(recovery, externalClusters, path));
  if (recovery.recoveryTarget) {
    const backupIsNamed = recovery.volumeSnapshots
      ? 'by snapshots'
      : recovery.backup
        ? 'by backup.name'
        : 'no';
    const targetPath = [...path, 'recoveryTarget'];
    findings.push(...reviewRecoveryTarget(recovery.recoveryTarget, targetPath, { backupIsNamed }));
  }
  return findings;
}

/** One line for people: from where, and to which moment. */
function describeRecovery(
  { source, recoveryTarget: target }: Recovery,
  externalClusters: readonly ExternalCluster[],
  path: FieldPath,
): Finding[] {
  const entry = externalClusters.find((cluster) => cluster.name === source);
  const store = entry?.barmanObjectStore;
  if (!entry || !store) return [];
  const at = [
    ...(target?.targetTime === undefined ? [] : [`to the time ${target.targetTime}`]),
    ...(target?.targetLSN === undefined ? [] : [`to LSN ${target.targetLSN}`]),
    ...(target?.targetXID === undefined ? [] : [`to transaction ${target.targetXID}`]),
    ...(target?.targetName === undefined ? [] : [`to the restore point ${show(target.targetName)}`]),
    ...(target?.targetImmediate === true ? ['to the end of the backup'] : []),
  ];
  const server = store.serverName ?? entry.name;
  const message = `recovers server ${show(server)} in ${store.destinationPath}, ${at[0] ?? 'to the end of its WAL'}`;
  return [{ path, message, fix: '', severity: 'note' }];
}

/** Exactly one base; a source may stand beside snapshots, for their WAL. */
function reviewBase(recovery: Recovery, path: FieldPath): Finding[] {
  const { backup, source, volumeSnapshots } = recovery;
  const error = (message: string, fix: string): Finding[] => [{ path, message, fix, severity: 'error' }];
  if (backup && (source !== undefined || volumeSnapshots)) {
    const other = source === undefined ? 'volumeSnapshots' : 'source';
    return error(`backup and ${other} are given; only one can be meant`, 'keep one of the two');
  }
  if (!backup && source === undefined && !volumeSnapshots) {
    return error(
      'it does not say from what to recover',
      'add source: NAME of an entry of spec.externalClusters, or backup: {name: BACKUP}',
    );
  }
  return [];
}

function reviewSource(
  recovery: Recovery,
  externalClusters: readonly ExternalCluster[],
  path: FieldPath,
): Finding[] {
  const { source } = recovery;
  if (source === undefined) return [];
  const entry = externalClusters.find((cluster) => cluster.name === source);
  const names = externalClusters.map((cluster) => cluster.name);
  if (entry) {
    if (entry.barmanObjectStore || entry.plugin) return [];
    const message = `external cluster ${show(source)} has no barmanObjectStore, so there is no backup to recover from`;
    const fix = `add barmanObjectStore to it (bootstrap.pg_basebackup is the one that copies over a connection)`;
    return [{ path: [...path, 'source'], message, fix, severity: 'error' }];
  }
  const closest = closestName(source, names);
  const known = names.length === 0 ? 'there is no spec.externalClusters' : `there are: ${names.join(', ')}`;
  const fix =
    closest === undefined ? `add an external cluster of this name; ${known}` : `did you mean "${closest}"?`;
  const message = `no entry of spec.externalClusters is named ${show(source)}`;
  return [{ path: [...path, 'source'], message, fix, severity: 'error' }];
}
