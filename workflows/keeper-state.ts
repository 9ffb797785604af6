import type { InstanceFacts } from '../activities/cluster.ts';
import type { ArchiveReport } from '../activities/wal-archiving.ts';
import type { AuditReport } from '../core/audit.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import { isTerminalPhase } from '../core/backup-status.ts';
import { cutText, withShortTexts } from '../core/short-text.ts';
import { BackupError } from '../core/errors.ts';
import { canonicalJson, fingerprint, utf8Bytes } from '../core/fingerprint.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import type { Verification } from '../core/verification.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import { methodOf } from '../manifests/barman-plugin.ts';
import type { BackupPolicyManifest } from '../manifests/backup-policy.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { desireFingerprint, type Desire } from '../manifests/desire.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import type { ScheduledVerificationManifest } from '../manifests/scheduled-verification.ts';
import type {
  AppliedObject,
  ApplyInput,
  ApplyResult,
  BackupTarget,
  KnownBackup,
  KnownInstance,
  SlotNews,
} from './interface.ts';
import { applyBesides } from './keeper-desire.ts';
import { holdOf, newestEnded, noRoomForHold, unmadeHolds, withHold } from './keeper-holds.ts';
import { LIMITS } from './keeper-limits.ts';

/**
 * All that the keeper of a cluster knows: plain JSON, bounded in size, carried on when it continues as new. The
 * functions here decide; the workflow acts.
 */
export interface KeeperState {
  readonly version: 1;
  readonly manifest: ClusterManifest;
  readonly revision: number;
  /** Of all that is declared; what workers hold is compared with it. */
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

  // Since 0.2.0
  readonly policy?: BackupPolicyManifest;
  readonly schedules?: readonly ScheduledBackupManifest[];
  readonly verifications?: readonly ScheduledVerificationManifest[];
  /** When this cluster was applied first, RFC 3339. */
  readonly bornAt?: string;
  readonly audit?: AuditReport;
  readonly lastVerification?: Verification;
  readonly lastSweep?: Pick<SweepReport, 'at' | 'refused' | 'counts'>;
  readonly agenda?: Agenda;
  /** Whether it waits for what could be lost before it lets anything be deleted; absent in runs of older code. */
  readonly careful?: boolean;
  /** A keeper that was begun anew does not know yet what its workers hold of an earlier one … */
  readonly besidesUnknown?: boolean;
  /** … and why it could not be read. */
  readonly heldProblem?: string;
  /** What workers hold besides and there is no place for, `Kind/name`: until it is taken back nothing is deleted. */
  readonly unplaced?: readonly string[];
  /** What was taken over from a worker. */
  readonly adoption?: Adoption;
  /** What was taken back by name, newest last: no worker brings it in again. */
  readonly removed?: readonly string[];
}

/** What a keeper that was begun anew took over from its workers. */
export interface Adoption {
  /** Instances that told what they hold; nothing of another one's is replaced before it did. */
  readonly heard: readonly string[];
  /** Of what was taken over; what is older counts less. */
  readonly revision: number;
  /** `Kind/name`, of which no `apply` has said anything since. */
  readonly names: readonly string[];
}

/** What the keeper has done, and heard, of what comes back again and again. Times are RFC 3339. */
export interface Agenda {
  readonly sweptAt?: string;
  readonly auditedAt?: string;
  /** The last audit that read WAL. */
  readonly walReadAt?: string;
  /** The due time of the last verification that was started, by ScheduledVerification. */
  readonly verified?: Readonly<Record<string, string>>;
  readonly schedules?: Readonly<Record<string, KnownSchedule>>;
  /** Of the schedules that Temporal has; another one is made true. */
  readonly schedulesFingerprint?: string;
  /** When that is tried again, after it could not be done. */
  readonly schedulesNotBefore?: string;
  /** Schedules that were made, also of ScheduledBackups that are gone. */
  readonly knownSchedules?: readonly string[];
  /** When holds are tried again, after one could not be made true, and why it could not. */
  readonly holdsNotBefore?: string;
  readonly holdProblem?: string;
  /** How often in a row none could. */
  readonly holdFailures?: number;
  /** When outcomes are written again, after one could not be, and how often in a row none could. */
  readonly outcomesNotBefore?: string;
  readonly outcomeFailures?: number;
  /** The last Backup that was asked for because the archive has a hole. */
  readonly gapBackupAt?: string;
}

/** What the keeper knows of one of Temporal's Schedules. */
export interface KnownSchedule {
  /** The newest slot whose outcome was heard; at first the moment it was declared. */
  readonly heardUntil: string;
  /** Of what decides its slots: with another schedule, what was due before is nobody's. */
  readonly fingerprint: string;
  readonly last?: SlotNews;
  /** When its slots are looked for again, after they could not be. */
  readonly checkNotBefore?: string;
  /** Why Temporal does not have it as it was declared. */
  readonly problem?: string;
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
  /** What `walkeep.io/hold` on it says. */
  readonly hold?: string;
}

export interface EndedBackup extends KnownBackup {
  readonly fingerprint: string;
  /** What `walkeep.io/hold` on it says … */
  readonly hold?: string;
  /** … and what was made true in the repository; `''`: nothing is held, absent: not known. */
  readonly held?: string;
  /** Why it can never be made true. */
  readonly holdProblem?: string;
  /** How it ended is not in the repository yet … */
  readonly unwritten?: true;
  /** … and what else belongs there: how it was to be taken. */
  readonly method?: string;
}

/** The state of a keeper that was started with `manifest`. @throws BackupError `manifest-invalid` */
export function newKeeper(manifest: ClusterManifest, bornAt?: string): KeeperState {
  refuseLarge(manifest);
  return {
    version: 1,
    ...(bornAt !== undefined && { bornAt }),
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
  const besides = applyBesides(desireOf(next), input);
  if (besides.objects.length > 0) {
    next = withDesire(next, besides.desire);
    // What only a worker holds was not declared, and is there to be taken back.
    const held = new Set(state.unplaced);
    objects.push(
      ...besides.objects.map((one): AppliedObject =>
        one.outcome === 'unchanged' && held.has(`${one.kind}/${one.name}`)
          ? { ...one, outcome: 'deleted' }
          : one,
      ),
    );
  }
  for (const backup of input.backups ?? []) {
    const applied = applyBackup(next, backup);
    next = applied.state;
    objects.push(applied.object);
  }
  if (objects.length === 0)
    throw refused(
      'nothing to apply: "cluster", "backups", "scheduledBackups", "policy", "verifications" or "remove" is needed',
    );
  return { state: next, result: { revision: next.revision, objects } };
}

/** All that is declared and lasts. */
export function desireOf(state: KeeperState): Desire {
  const { manifest, policy, schedules = [], verifications = [] } = state;
  return { cluster: manifest, ...(policy && { policy }), schedules, verifications };
}

/** The state with another declaration; the revision grows when it differs. @throws BackupError `manifest-invalid` */
export function withDesire(state: KeeperState, desire: Desire): KeeperState {
  const bytes = utf8Bytes(canonicalJson(desire));
  if (bytes > LIMITS.desireBytes) {
    throw refused(
      `all that is declared about "${state.manifest.metadata.name}" takes ${bytes} bytes as JSON, at most ${LIMITS.desireBytes} can be kept`,
    );
  }
  const print = desireFingerprint(desire);
  if (print === state.fingerprint) return state;
  const { policy: _earlier, ...rest } = state;
  return {
    ...rest,
    manifest: desire.cluster,
    ...(desire.policy && { policy: desire.policy }),
    schedules: desire.schedules,
    verifications: desire.verifications,
    fingerprint: print,
    revision: state.revision + 1,
  };
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
  const changed = fingerprint(manifest) !== fingerprint(state.manifest);
  const outcome = changed ? 'configured' : state.confirmed ? 'unchanged' : 'created';
  const next = withDesire(state, { ...desireOf(state), cluster: manifest });
  return {
    // a recovery that failed is begun again with what was corrected; one that came to its end finds that out
    state: { ...next, confirmed: true, ...(changed && { recoveryBegun: false }) },
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
  const hold = holdOf(backup);
  if (known) {
    // Started by hand, it was never declared: the name is taken all the same.
    if (known.fingerprint === print || known.fingerprint === '') {
      const outcome = known.hold === hold ? 'unchanged' : 'configured';
      const next = withHold(state, name, hold);
      if (unmadeHolds(next).length > unmadeHolds(state).length) requireRoomForHold(state, name);
      return { state: next, object: { kind: 'Backup', name, outcome } };
    }
    throw refused(
      `Backup "${name}": field "spec": a BackupSpec is immutable once it was applied; give the new one another name`,
    );
  }
  if (state.backups.length >= LIMITS.waiting) {
    throw refused(`Backup "${name}": ${LIMITS.waiting} Backups of "${cluster}" are waiting already`);
  }
  requireRoomForHold(state, name);
  const { target } = backup.spec;
  const queued: QueuedBackup = {
    name,
    fingerprint: print,
    method: methodOf(backup.spec),
    phase: 'pending',
    begun: false,
    ...(target && { target }),
    ...(hold !== undefined && { hold }),
  };
  return {
    state: { ...state, backups: [...state.backups, queued] },
    object: { kind: 'Backup', name, outcome: 'created' },
  };
}

function requireRoomForHold(state: KeeperState, name: string): void {
  const why = noRoomForHold(state);
  if (why !== undefined) throw refused(`Backup "${name}": ${why}`);
}

/** A worker reported itself. The revision grows past what a worker holds that knew an earlier keeper. */
export function noteInstance(state: KeeperState, facts: InstanceFacts, at: string): KeeperState {
  const others = state.instances.filter((one) => one.instance !== facts.instance);
  const newestFirst = others.toSorted((a, b) => (a.seenAt < b.seenAt ? 1 : -1));
  const instances = [{ ...onlyFacts(facts), seenAt: at }, ...newestFirst]
    .slice(0, LIMITS.instances)
    .toSorted((a, b) => (a.instance < b.instance ? -1 : 1));
  const next = { ...state, instances, revision: revisionBeside(state, facts) };
  // A worker that holds just what is declared holds nothing besides.
  return facts.keepsBesides && facts.fingerprint === state.fingerprint ? knowing(next, facts) : next;
}

/** What a keeper remembers of a worker: never what came besides, such as what it holds. */
function onlyFacts({
  instance,
  role,
  host,
  version,
  revision,
  fingerprint: print,
  searchAttributes,
  keepsBesides,
  keeperPace,
}: InstanceFacts): InstanceFacts {
  return {
    instance,
    role,
    host: cutText(host, LIMITS.textBytes),
    version: cutText(version, LIMITS.textBytes),
    ...(revision !== undefined && { revision }),
    ...(print !== undefined && { fingerprint: print }),
    searchAttributes,
    ...(keepsBesides && { keepsBesides }),
    ...(keeperPace && { keeperPace }),
  };
}

/** That instance holds just what is declared. */
function knowing(state: KeeperState, { instance, revision = 0 }: InstanceFacts): KeeperState {
  if (!state.besidesUnknown && !state.adoption) return state;
  const { besidesUnknown: _known, heldProblem, ...rest } = state;
  const { heard, revision: newest, names } = state.adoption ?? { heard: [], revision: 0, names: [] };
  const adoption = {
    heard: [...heard.filter((one) => one !== instance), instance].slice(-LIMITS.instances),
    // What it held before this keeper gave it anything.
    revision: heard.includes(instance) ? newest : Math.max(revision, newest),
    names,
  };
  // What another one could not read is no less unknown for it.
  return heldProblem === undefined ? { ...rest, adoption } : { ...state, adoption };
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

/**
 * A Backup told how it stands. One that was started by hand is listed when it has ended.
 *
 * @param isUnwritten it has ended, and how could not be written into the repository
 */
export function noteBackup(
  state: KeeperState,
  name: string,
  status: BackupStatus,
  at: string,
  isUnwritten = false,
): KeeperState {
  const queued = state.backups.find((one) => one.name === name);
  if (!isTerminalPhase(status.phase)) {
    const { phase, startedAt } = status;
    const backups = state.backups.map((one) =>
      one.name === name ? { ...one, phase, ...(startedAt !== undefined && { startedAt }) } : one,
    );
    return { ...state, backups };
  }
  const earlier = state.ended.find((one) => one.name === name);
  // One that was applied and had ended long before: whether its annotation was taken back meanwhile is not known.
  const isOld = queued !== undefined && queued.phase === 'pending' && status.phase === 'completed';
  const hold = queued?.hold ?? earlier?.hold;
  const held = isOld ? undefined : (earlier?.held ?? '');
  // It may tell a second time, when it is asked how it stands; only one that was completed is surely recorded.
  const unwritten = isUnwritten || (earlier?.unwritten && status.phase === 'failed');
  const method = status.method ?? queued?.method ?? earlier?.method;
  const ended: EndedBackup = {
    name,
    fingerprint: queued?.fingerprint ?? earlier?.fingerprint ?? '',
    phase: status.phase,
    ...(status.backupId !== undefined && { backupId: status.backupId }),
    ...(status.startedAt !== undefined && { startedAt: status.startedAt }),
    ...(status.stoppedAt !== undefined && { stoppedAt: status.stoppedAt }),
    ...(status.error !== undefined && { error: cutText(status.error, LIMITS.textBytes) }),
    ...(hold !== undefined && { hold }),
    ...(held !== undefined && { held }),
    ...(unwritten && { unwritten: true as const, ...(method !== undefined && { method }) }),
  };
  const stoppedAt = status.stoppedAt ?? at;
  const last = status.phase === 'completed' ? 'lastSuccessfulBackup' : 'lastFailedBackup';
  return {
    ...state,
    backups: state.backups.filter((one) => one.name !== name),
    ended: newestEnded([...state.ended.filter((one) => one.name !== name), ended]),
    [last]: later(state[last], stoppedAt),
  };
}

/** A Backup of the keeper's own, for a window without a hole. */
export function queueGapBackup(state: KeeperState, name: string): KeeperState {
  if (state.backups.some((one) => one.name === name)) return state;
  const queued: QueuedBackup = {
    name,
    fingerprint: '',
    method: 'barmanObjectStore',
    // From a standby it would begin at the last restartpoint there, which may lie before the hole.
    target: 'primary',
    phase: 'pending',
    begun: false,
  };
  return { ...state, backups: [...state.backups, queued] };
}

/** A sweep told what it did; a dry run did nothing. */
export function noteSweep(state: KeeperState, report: SweepReport): KeeperState {
  if (report.dryRun) return state;
  const { at, refused: why, counts } = report;
  return {
    ...state,
    lastSweep: { at, counts, ...(why !== undefined && { refused: cutText(why, 2 * LIMITS.textBytes) }) },
  };
}

const LISTED = 8;

/** An audit told what the archive holds; the newest of each list are kept. */
export function noteAudit(state: KeeperState, report: AuditReport): KeeperState {
  const audit = {
    ...report,
    intervals: report.intervals.slice(-LISTED),
    damages: report.damages.slice(-LISTED),
    warnings: report.warnings.slice(0, LISTED),
  };
  return { ...state, audit: withShortTexts(audit, LIMITS.textBytes) };
}

export function noteVerification(state: KeeperState, verification: Verification): KeeperState {
  const lastVerification = {
    ...verification,
    checks: verification.checks.slice(0, 2 * LISTED),
    warnings: verification.warnings.slice(0, LISTED),
  };
  return { ...state, lastVerification: withShortTexts(lastVerification, LIMITS.textBytes) };
}

export function noteArchiving(state: KeeperState, archiving: ArchiveReport): KeeperState {
  return { ...state, archiving: withShortTexts(archiving, 2 * LIMITS.textBytes) };
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
