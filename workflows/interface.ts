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
import type { BackupStatus } from '../core/backup-status.ts';
import type { RecoveryTarget } from '../core/recovery.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';

export type { InstanceFacts } from '../activities/cluster.ts';
export type { RestoreResult, RestoreSource } from '../activities/restore.ts';
export type { ArchiveHealth, ArchiveReport } from '../activities/wal-archiving.ts';

/** Workflow types, as `temporal workflow start --type` takes them. */
export const WORKFLOW = {
  cluster: 'cluster',
  walArchiving: 'walArchiving',
  baseBackup: 'baseBackup',
  restore: 'restore',
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

// Search attributes: Keywords all, of which SQL visibility stores allow ten

export const SEARCH_ATTRIBUTE = {
  cluster: defineSearchAttributeKey('WalkeepCluster', 'KEYWORD'),
  namespace: defineSearchAttributeKey('WalkeepNamespace', 'KEYWORD'),
  operation: defineSearchAttributeKey('WalkeepOperation', 'KEYWORD'),
  backup: defineSearchAttributeKey('WalkeepBackup', 'KEYWORD'),
  phase: defineSearchAttributeKey('WalkeepPhase', 'KEYWORD'),
};

// cluster: the keeper

/** What `apply` takes. Either part may be missing, not both. */
export interface ApplyInput {
  readonly cluster?: ClusterManifest;
  readonly backups?: readonly BackupManifest[];
}

/** What became of one applied document, in kubectl's words. */
export interface AppliedObject {
  readonly kind: 'Cluster' | 'Backup';
  readonly name: string;
  readonly outcome: 'created' | 'configured' | 'unchanged';
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

export interface BackupNews {
  readonly backupName: string;
  readonly status: BackupStatus;
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
}

export type BackupTarget = 'primary' | 'prefer-standby';

/** A Backup's status, and what a person who waits wants to know besides. */
export interface RunningBackupStatus extends BackupStatus {
  readonly attempt: number;
  readonly instance?: string;
}

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
