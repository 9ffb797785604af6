/**
 * Everything of the workflows that people and programs outside may use: names, ids, queues, messages, inputs and
 * results. All of it is recorded in histories and typed into the Web UI: a public format. Inputs and results are
 * plain JSON.
 */
import { defineQuery, defineSignal, defineUpdate } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { InstanceFacts } from '../activities/cluster.ts';
import type { RestoreResult, RestoreSource } from '../activities/restore.ts';
import type { ArchiveReport } from '../activities/wal-archiving.ts';
import type { AuditReport } from '../core/audit.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import type { RecoveryTarget } from '../core/recovery.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import type { Verification } from '../core/verification.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import type { BackupPolicyManifest } from '../manifests/backup-policy.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { Desire } from '../manifests/desire.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import type { ScheduledVerificationManifest } from '../manifests/scheduled-verification.ts';

export type { InstanceFacts } from '../activities/cluster.ts';
export type { RestoreResult, RestoreSource } from '../activities/restore.ts';
export type { ArchiveHealth, ArchiveReport } from '../activities/wal-archiving.ts';

/** Workflow types, as `temporal workflow start --type` takes them. */
export const WORKFLOW = {
  cluster: 'cluster',
  walArchiving: 'walArchiving',
  baseBackup: 'baseBackup',
  restore: 'restore',
  scheduledBackup: 'scheduledBackup',
  retentionSweep: 'retentionSweep',
  restoreVerification: 'restoreVerification',
  walAudit: 'walAudit',
  capacity: 'capacity',
} as const;

export const DEFAULT_NAMESPACE = 'default';

// Task queues

/** Polled by every worker, for workflows only. */
export const WORKFLOW_QUEUE = 'walkeep';

/** Polled by the workers of all instances of a cluster: what any of them can do. */
export function clusterQueue(namespace: string, cluster: string): string {
  return `${WORKFLOW_QUEUE}/${namespace}/${cluster}`;
}

/** Polled by the worker of one instance: what must happen on that machine. */
export function instanceQueue(namespace: string, cluster: string, instance: string): string {
  return `${clusterQueue(namespace, cluster)}/${instance}`;
}

// Workflow ids

export function clusterWorkflowId(namespace: string, cluster: string): string {
  return `cluster/${namespace}/${cluster}`;
}

export function walArchivingWorkflowId(namespace: string, cluster: string): string {
  return `wal-archiving/${namespace}/${cluster}`;
}

export function backupWorkflowId(namespace: string, backupName: string): string {
  return `backup/${namespace}/${backupName}`;
}

export function restoreWorkflowId(namespace: string, name: string): string {
  return `restore/${namespace}/${name}`;
}

/** Of Temporal's Schedule, not of a workflow. */
export function scheduleId(namespace: string, scheduledBackup: string): string {
  return `scheduledbackup/${namespace}/${scheduledBackup}`;
}

export function sweepWorkflowId(namespace: string, cluster: string): string {
  return `sweep/${namespace}/${cluster}`;
}

/** @param name the ScheduledVerification with its due time, or `manual-<time>` */
export function verificationWorkflowId(namespace: string, cluster: string, name: string): string {
  return `verification/${namespace}/${cluster}/${name}`;
}

export function auditWorkflowId(namespace: string, cluster: string): string {
  return `audit/${namespace}/${cluster}`;
}

/** @param key what is shared: `host/<name>` or `store/<place>` */
export function capacityWorkflowId(key: string): string {
  return `capacity/${key}`;
}

// Search attributes: Keywords all, of which SQL visibility stores allow ten

export const SEARCH_ATTRIBUTE = {
  cluster: defineSearchAttributeKey('WalkeepCluster', 'KEYWORD'),
  namespace: defineSearchAttributeKey('WalkeepNamespace', 'KEYWORD'),
  operation: defineSearchAttributeKey('WalkeepOperation', 'KEYWORD'),
  backup: defineSearchAttributeKey('WalkeepBackup', 'KEYWORD'),
  phase: defineSearchAttributeKey('WalkeepPhase', 'KEYWORD'),
};

// cluster: the keeper

/** What `apply` takes. Every part may be missing, not all of them. */
export interface ApplyInput {
  readonly cluster?: ClusterManifest;
  readonly backups?: readonly BackupManifest[];
  readonly scheduledBackups?: readonly ScheduledBackupManifest[];
  readonly policy?: BackupPolicyManifest;
  readonly verifications?: readonly ScheduledVerificationManifest[];
  /** Declarations to take back. What was stored in the repository stays. */
  readonly remove?: readonly RemovedObject[];
}

export interface RemovedObject {
  readonly kind: 'ScheduledBackup' | 'BackupPolicy' | 'ScheduledVerification';
  readonly name: string;
}

/** What became of one applied document, in kubectl's words. */
export interface AppliedObject {
  readonly kind: 'Cluster' | 'Backup' | RemovedObject['kind'];
  readonly name: string;
  readonly outcome: 'created' | 'configured' | 'unchanged' | 'deleted';
}

export interface ApplyResult {
  readonly revision: number;
  readonly objects: readonly AppliedObject[];
}

/** A Backup as the keeper remembers it. */
export interface KnownBackup {
  readonly name: string;
  readonly phase: BackupStatus['phase'];
  readonly backupId?: string;
  readonly startedAt?: string;
  readonly stoppedAt?: string;
  readonly error?: string;
}

export interface KnownInstance extends InstanceFacts {
  /** When it reported last, RFC 3339. */
  readonly seenAt: string;
}

/** What protects a cluster, as far as the keeper was told. */
export interface ClusterStatus {
  readonly namespace: string;
  readonly cluster: string;
  readonly revision: number;
  readonly instances: readonly KnownInstance[];
  /** Waiting and running first, then the newest that ended. */
  readonly backups: readonly KnownBackup[];
  readonly lastSuccessfulBackup?: string;
  readonly lastFailedBackup?: string;
  readonly archiving?: ArchiveReport;
  /** The newest look at the archive: recoverable intervals, holes, ages. */
  readonly audit?: AuditReport;
  readonly lastVerification?: Verification;
  readonly lastSweep?: Pick<SweepReport, 'at' | 'refused' | 'counts'>;
  /** Age of the newest restorable moment in the store, in seconds, as of `rpoAt`. */
  readonly rpoSeconds?: number;
  readonly rpoAt?: string;
  /** What is due next, RFC 3339, soonest first. */
  readonly nextRuns?: readonly { readonly what: string; readonly at: string }[];
  /** What needs a person, in whole sentences. */
  readonly problems: readonly string[];
}

export interface StoredManifest {
  readonly manifest: ClusterManifest;
  readonly revision: number;
}

export const applyUpdate = defineUpdate<ApplyResult, [ApplyInput]>('apply');
export const clusterStatusQuery = defineQuery<ClusterStatus>('status');
export const manifestQuery = defineQuery<StoredManifest>('manifest');
export type DesireAnswer = Desire & {
  /** Why nothing may be deleted by it at this moment: a whole phrase. */
  readonly doubt?: string;
  /** What was taken back, newest last: `Kind/name`. */
  readonly removed?: readonly string[];
  /** What workers hold besides, and there is no place for: `Kind/name`. */
  readonly unplaced?: readonly string[];
};

/** All that is declared about the cluster and lasts. */
export const desireQuery = defineQuery<DesireAnswer>('desire');
/** What `apply` would answer, without doing it; throws what it would refuse. */
export const previewQuery = defineQuery<ApplyResult, [ApplyInput]>('preview');
/** A worker says what it is: when it connects, when that changes, and every few minutes. */
export const instanceSignal = defineSignal<[InstanceFacts]>('instance');
/** A Backup tells the keeper how it stands. */
export const backupSignal = defineSignal<[BackupNews]>('backup');
/** Archiving tells the keeper how it stands. */
export const archivingSignal = defineSignal<[ArchiveReport]>('archiving');
/** A workflow that was started by hand asks which instances there are; the answer is an `instances` signal. */
export const whoIsThereSignal = defineSignal<[{ readonly replyTo: string }]>('whoIsThere');

/** A schedule's run tells the keeper what became of its slot. */
export const slotSignal = defineSignal<[SlotNews]>('slot');
/** A sweep tells the keeper what it did. */
export const sweepSignal = defineSignal<[SweepReport]>('sweep');
/** A verification tells the keeper what it found. */
export const verificationSignal = defineSignal<[Verification]>('verification');
/** An audit tells the keeper what it found. */
export const auditSignal = defineSignal<[AuditReport]>('audit');

export interface SlotNews {
  readonly scheduledBackup: string;
  /** RFC 3339. */
  readonly slot: string;
  readonly outcome: 'ran' | 'skipped' | 'missed';
  readonly reason?: string;
  readonly backupName?: string;
}

export interface BackupNews {
  readonly backupName: string;
  readonly status: BackupStatus;
  /** It has ended, and how could not be written into the repository. */
  readonly unwritten?: true;
}

// baseBackup

/** Only `cluster` is needed. */
export interface BaseBackupInput {
  readonly cluster: string;
  readonly namespace?: string;
  /** The Backup's name; from the workflow id or the time if there is none. A name is used once. */
  readonly name?: string;
  /** Only `barmanObjectStore` is done; the others fail at once and say so. */
  readonly method?: BackupManifest['spec']['method'];
  readonly target?: BackupTarget;
  readonly immediateCheckpoint?: boolean;
  /** How long to wait for a worker of the cluster, in seconds. */
  readonly waitForWorkerSeconds?: number;
  /** What the Backup object carries: kept with its outcome. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly OwnerReference[];
}

/** As Kubernetes has it; without a `uid` where there is no Kubernetes. */
export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid?: string;
  readonly controller: boolean;
}

export type BackupTarget = 'primary' | 'prefer-standby';

/** A Backup's status, and what a person who waits wants to know besides. */
export interface RunningBackupStatus extends BackupStatus {
  readonly attempt: number;
  readonly instance?: string;
  /** What somebody asked for while it runs. */
  readonly control?: ControlState;
  /** Of the copy, as the worker last reported it: bytes, and when it is likely to end (RFC 3339). */
  readonly progress?: CopyProgress;
}

export interface CopyProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly bytesPerSecond: number;
  readonly eta?: string;
}

/** What an operator wants of something that runs. */
export interface ControlState {
  readonly paused: boolean;
  /** Bytes a second; `null`: no limit. Absent: what the policy says. */
  readonly maxBytesPerSecond?: number | null;
}

export interface ThrottleInput {
  /** Like `20MiB/s`; `null`: no limit. */
  readonly maxRate: string | null;
}

// Control of what runs: as a signal (nobody waits), and as an update of the same name (the answer is the new state).
export const pauseSignal = defineSignal('pause');
export const resumeSignal = defineSignal('resume');
export const throttleSignal = defineSignal<[ThrottleInput]>('throttle');
export const pauseUpdate = defineUpdate<ControlState>('pause');
export const resumeUpdate = defineUpdate<ControlState>('resume');
export const throttleUpdate = defineUpdate<ControlState, [ThrottleInput]>('throttle');

/** The result of `baseBackup` is this status when it is completed. */
export const backupStatusQuery = defineQuery<RunningBackupStatus>('status');
/** The keeper's answer to `whoIsThere`, and its news for `walArchiving`. */
export const instancesSignal = defineSignal<[readonly InstanceFacts[]]>('instances');
/** The keeper asks a Backup to tell how it stands; not reaching it shows that it has ended. */
export const reportSignal = defineSignal('report');

// walArchiving

export interface WalArchivingInput {
  readonly cluster: string;
  readonly namespace?: string;
}

export const archivingQuery = defineQuery<ArchiveReport | null>('archiving');

// restore

export interface RestoreInput {
  /** The cluster that is restored *to*: its worker waits with an empty data directory. */
  readonly cluster: string;
  readonly namespace?: string;
  /** The target's instance; without it the worker that answers first. */
  readonly instance?: string;
  /** Without it what the target's own manifest says in `bootstrap.recovery`. */
  readonly source?: RestoreSource;
  readonly recoveryTarget?: RecoveryTarget;
  /** Recover up to a hole in the archive as if it ended there. */
  readonly acceptEnd?: boolean;
  /** Directories by tablespace name; the others go where they were. */
  readonly tablespaces?: Readonly<Record<string, string>>;
  /** A data directory that is there already is a success, not a failure: a bootstrap that has happened. */
  readonly bootstrap?: boolean;
  readonly waitForWorkerSeconds?: number;
}

export type RestoreOutcome =
  ({ readonly outcome: 'restored' } & RestoreResult) | { readonly outcome: 'already-there' };

export interface RestoreStatus {
  readonly phase: 'waiting-for-worker' | 'planning' | 'restoring' | 'restored' | 'failed';
  readonly instance?: string;
  readonly backupId?: string;
  /** What ends the recovery, for people. */
  readonly endsAt?: string;
  readonly error?: string;
}

export const restoreStatusQuery = defineQuery<RestoreStatus>('status');

// scheduledBackup

/** `scheduledBackup` or `cluster` is needed; a run by `--cron` gives `cluster`. */
export interface ScheduledBackupInput {
  readonly scheduledBackup?: string;
  readonly cluster?: string;
  readonly namespace?: string;
  /** The run that `immediate: true` asks for: it has no slot. */
  readonly immediate?: boolean;
  /** Used where no ScheduledBackup is named. */
  readonly method?: BackupManifest['spec']['method'];
  readonly target?: BackupTarget;
}

// retentionSweep

export interface RetentionSweepInput {
  readonly cluster: string;
  readonly namespace?: string;
  /** Plan and tell; mark and delete nothing. */
  readonly dryRun?: boolean;
}

/** The newest state of the report while it runs; the result when it has ended. */
export const sweepQuery = defineQuery<SweepReport | null>('report');

// restoreVerification

export interface RestoreVerificationInput {
  readonly cluster: string;
  readonly namespace?: string;
  /** The ScheduledVerification whose rules hold; what is given besides wins. */
  readonly scheduledVerification?: string;
  readonly backup?: string;
  readonly target?: 'end' | 'random' | RecoveryTarget;
  readonly checks?: Partial<ScheduledVerificationManifest['spec']['checks']>;
  /** Task queue that restores; default: the cluster's. */
  readonly queue?: string;
  readonly scratchDirectory?: string;
  readonly waitForWorkerSeconds?: number;
}

export interface VerificationStatus {
  readonly phase: 'waiting-for-worker' | 'planning' | 'verifying' | 'recording' | 'ended';
  readonly verification?: Verification;
  readonly error?: string;
}

/** The result of `restoreVerification` is the evidence. */
export const verificationStatusQuery = defineQuery<VerificationStatus>('status');

// walAudit

export interface WalAuditInput {
  readonly cluster: string;
  readonly namespace?: string;
  /** Send again what is missing or damaged, and ask for a base backup where that can't be done; default true. */
  readonly repair?: boolean;
  /** How much WAL is read and decoded: `none`, what is new since the last audit, or `all`. */
  readonly read?: 'none' | 'new' | 'all';
}
