import type { InstanceFacts } from '../activities/cluster.ts';
import type { ArchiveReport } from '../activities/wal-archiving.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import { isTerminalPhase } from '../core/backup-status.ts';
import { BackupError } from '../core/errors.ts';
import { canonicalJson, fingerprint, utf8Bytes } from '../core/fingerprint.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type {
  AppliedObject,
  ApplyInput,
  ApplyResult,
  BackupTarget,
  ClusterStatus,
  KnownBackup,
  KnownInstance,
} from './interface.ts';

/**
 * All that the keeper of a cluster knows: plain JSON, bounded in size, carried on when it continues as new. The
 * functions here decide; the workflow acts.
 */
export interface KeeperState {
  readonly version: 1;
  readonly manifest: ClusterManifest;
  readonly revision: number;
  /** Of the manifest; what workers hold is compared with it. */
  readonly fingerprint: string;
  /** Whether an `apply` has confirmed the manifest this keeper was started with. */
  readonly confirmed: boolean;
  readonly instances: readonly KnownInstance[];
  /** In the order they were applied: waiting and running, then (newest last) those that ended. */
  readonly backups: readonly QueuedBackup[];
  readonly ended: readonly EndedBackup[];
  readonly lastSuccessfulBackup?: string;
  readonly lastFailedBackup?: string;
  readonly archiving?: ArchiveReport;
  /** Whether the recovery that `bootstrap.recovery` asks for was handed to its workflow. */
  readonly recoveryBegun?: boolean;
}

/** A Backup that waits or runs. */
export interface QueuedBackup {
  readonly name: string;
  /** Of its spec, which may never change. */
  readonly fingerprint: string;
  readonly target?: BackupTarget;
  readonly method: BackupManifest['spec']['method'];
  readonly phase: BackupStatus['phase'];
  readonly startedAt?: string;
  /** Whether its workflow was started. */
  readonly begun: boolean;
}

export interface EndedBackup extends KnownBackup {
  readonly fingerprint: string;
}

/** Together these keep the state below 64 KiB. */
export const LIMITS = {
  manifestBytes: 32 * 1024,
  waiting: 50,
  ended: 24,
  instances: 12,
  errorCharacters: 300,
} as const;

/** The state of a keeper that was started with `manifest`. @throws BackupError `manifest-invalid` */
export function newKeeper(manifest: ClusterManifest): KeeperState {
  refuseLarge(manifest);
  return {
    version: 1,
    manifest,
    revision: 1,
    fingerprint: fingerprint(manifest),
    confirmed: false,
    instances: [],
    backups: [],
    ended: [],
  };
}

/**
 * What `apply` does to the state, and what it answers. Applying the same again changes nothing.
 *
 * @throws BackupError `manifest-invalid` when something can't be applied; then nothing is
 */
export function applyTo(state: KeeperState, input: ApplyInput): { state: KeeperState; result: ApplyResult } {
  const objects: AppliedObject[] = [];
  let next = state;
  if (input.cluster) {
    const applied = applyCluster(next, input.cluster);
    next = applied.state;
    objects.push(applied.object);
  }
  for (const backup of input.backups ?? []) {
    const applied = applyBackup(next, backup);
    next = applied.state;
    objects.push(applied.object);
  }
  if (objects.length === 0) throw refused('field "cluster" or "backups": one of the two is needed');
  return { state: next, result: { revision: next.revision, objects } };
}

function applyCluster(
  state: KeeperState,
  manifest: ClusterManifest,
): { state: KeeperState; object: AppliedObject } {
  const name = manifest.metadata.name;
  if (name !== state.manifest.metadata.name) {
    throw refused(
      `field "cluster.metadata.name": this is the keeper of "${state.manifest.metadata.name}", not of "${name}"`,
    );
  }
  refuseLarge(manifest);
  const print = fingerprint(manifest);
  const changed = print !== state.fingerprint;
  const outcome = changed ? 'configured' : state.confirmed ? 'unchanged' : 'created';
  return {
    state: changed
      ? // a recovery that failed is begun again with what was corrected; one that came to its end finds that out
        {
          ...state,
          manifest,
          fingerprint: print,
          revision: state.revision + 1,
          confirmed: true,
          recoveryBegun: false,
        }
      : { ...state, confirmed: true },
    object: { kind: 'Cluster', name, outcome },
  };
}

function applyBackup(
  state: KeeperState,
  backup: BackupManifest,
): { state: KeeperState; object: AppliedObject } {
  const { name } = backup.metadata;
  const cluster = state.manifest.metadata.name;
  if (backup.spec.cluster.name !== cluster) {
    throw refused(
      `Backup "${name}": field "spec.cluster.name": expected "${cluster}", got "${backup.spec.cluster.name}"`,
    );
  }
  const print = fingerprint(backup.spec);
  const known = [...state.backups, ...state.ended].find((one) => one.name === name);
  if (known) {
    // Started by hand, it was never declared: the name is taken all the same.
    if (known.fingerprint === print || known.fingerprint === '')
      return { state, object: { kind: 'Backup', name, outcome: 'unchanged' } };
    throw refused(
      `Backup "${name}": field "spec": a BackupSpec is immutable once it was applied; give the new one another name`,
    );
  }
  if (state.backups.length >= LIMITS.waiting) {
    throw refused(`Backup "${name}": ${LIMITS.waiting} Backups of "${cluster}" are waiting already`);
  }
  const { target, method } = backup.spec;
  const queued: QueuedBackup = {
    name,
    fingerprint: print,
    method,
    phase: 'pending',
    begun: false,
    ...(target && { target }),
  };
  return {
    state: { ...state, backups: [...state.backups, queued] },
    object: { kind: 'Backup', name, outcome: 'created' },
  };
}

/** A worker reported itself. The revision grows past what a worker holds that knew an earlier keeper. */
export function noteInstance(state: KeeperState, facts: InstanceFacts, at: string): KeeperState {
  const others = state.instances.filter((one) => one.instance !== facts.instance);
  const newestFirst = others.toSorted((a, b) => (a.seenAt < b.seenAt ? 1 : -1));
  const instances = [{ ...facts, seenAt: at }, ...newestFirst]
    .slice(0, LIMITS.instances)
    .toSorted((a, b) => (a.instance < b.instance ? -1 : 1));
  return { ...state, instances, revision: revisionBeside(state, facts) };
}

/** With Temporal's state lost the count begins anew here, but not in the workers' state directories. */
function revisionBeside(state: KeeperState, { revision, fingerprint: held }: InstanceFacts): number {
  if (revision === undefined || revision < state.revision) return state.revision;
  return held === state.fingerprint ? revision : revision + 1;
}

/** Instances that hold another manifest than the applied one, or none. */
export function instancesBehind(state: KeeperState): KnownInstance[] {
  return state.instances.filter((one) => one.fingerprint !== state.fingerprint);
}

/** The Backup to start now: one at a time, in the order they were applied. */
export function nextBackup(state: KeeperState): QueuedBackup | undefined {
  const [first] = state.backups;
  return first && !first.begun ? first : undefined;
}

export function markBegun(state: KeeperState, name: string): KeeperState {
  return {
    ...state,
    backups: state.backups.map((one) => (one.name === name ? { ...one, begun: true } : one)),
  };
}

/** A Backup told how it stands. One that was started by hand is listed when it has ended. */
export function noteBackup(state: KeeperState, name: string, status: BackupStatus, at: string): KeeperState {
  const queued = state.backups.find((one) => one.name === name);
  if (!isTerminalPhase(status.phase)) {
    const { phase, startedAt } = status;
    const backups = state.backups.map((one) =>
      one.name === name ? { ...one, phase, ...(startedAt !== undefined && { startedAt }) } : one,
    );
    return { ...state, backups };
  }
  const earlier = state.ended.find((one) => one.name === name);
  const ended: EndedBackup = {
    name,
    fingerprint: queued?.fingerprint ?? earlier?.fingerprint ?? '',
    phase: status.phase,
    ...(status.backupId !== undefined && { backupId: status.backupId }),
    ...(status.startedAt !== undefined && { startedAt: status.startedAt }),
    ...(status.stoppedAt !== undefined && { stoppedAt: status.stoppedAt }),
    ...(status.error !== undefined && { error: status.error.slice(0, LIMITS.errorCharacters) }),
  };
  const stoppedAt = status.stoppedAt ?? at;
  const last = status.phase === 'completed' ? 'lastSuccessfulBackup' : 'lastFailedBackup';
  return {
    ...state,
    backups: state.backups.filter((one) => one.name !== name),
    ended: [...state.ended.filter((one) => one.name !== name), ended].slice(-LIMITS.ended),
    [last]: later(state[last], stoppedAt),
  };
}

/** The answer to `status`. */
export function statusOf(state: KeeperState, namespace: string): ClusterStatus {
  const { manifest, revision, instances, archiving, lastSuccessfulBackup, lastFailedBackup } = state;
  return {
    namespace,
    cluster: manifest.metadata.name,
    revision,
    instances,
    backups: [...state.backups.map(asKnown), ...state.ended.toReversed().map(asKnown)],
    ...(lastSuccessfulBackup !== undefined && { lastSuccessfulBackup }),
    ...(lastFailedBackup !== undefined && { lastFailedBackup }),
    ...(archiving && { archiving }),
    problems: problemsOf(state),
  };
}

/** What needs a person. */
export function problemsOf(state: KeeperState): string[] {
  const { archiving, instances, manifest, ended } = state;
  const problems: string[] = [];
  const name = manifest.metadata.name;
  if (instances.length === 0) {
    problems.push(`no worker of "${name}" has reported yet: start walkeep worker next to the database`);
  }
  if (!manifest.spec.backup?.barmanObjectStore) {
    problems.push(`"${name}" has no spec.backup.barmanObjectStore: nothing is archived or backed up`);
  }
  if (archiving?.health === 'failing') {
    problems.push(
      `WAL archiving fails on ${archiving.instance}: ${archiving.lastError ?? 'see the worker’s log'}`,
    );
  }
  for (const behind of instancesBehind(state)) {
    problems.push(`${behind.instance} does not hold the applied manifest yet (revision ${state.revision})`);
  }
  const last = ended.at(-1);
  if (last?.phase === 'failed')
    problems.push(`the last Backup, "${last.name}", failed: ${last.error ?? 'no reason given'}`);
  return problems;
}

function asKnown(backup: KnownBackup | QueuedBackup): KnownBackup {
  const { name, phase, startedAt } = backup;
  return {
    name,
    phase,
    ...(startedAt !== undefined && { startedAt }),
    ...('backupId' in backup && backup.backupId !== undefined && { backupId: backup.backupId }),
    ...('stoppedAt' in backup && backup.stoppedAt !== undefined && { stoppedAt: backup.stoppedAt }),
    ...('error' in backup && backup.error !== undefined && { error: backup.error }),
  };
}

function later(a: string | undefined, b: string): string {
  return a !== undefined && a > b ? a : b;
}

function refuseLarge(manifest: ClusterManifest): void {
  const bytes = utf8Bytes(canonicalJson(manifest));
  if (bytes <= LIMITS.manifestBytes) return;
  throw refused(
    `Cluster "${manifest.metadata.name}": ${bytes} bytes as JSON, at most ${LIMITS.manifestBytes} can be kept`,
  );
}

function refused(message: string): BackupError {
  return new BackupError('manifest-invalid', message);
}
