import { BackupError, isBackupError } from '../core/errors.ts';
import type { PathEndRecords, RecoveryPlan, RecoveryTarget } from '../core/recovery.ts';
import { isSegmentName, segmentNumber, timelineOf } from '../core/segment.ts';
import { formatMicros, parseTargetTime, toMicros } from '../core/target-time.ts';
import { chooseMoment, chooseVerifiedBackup, type VerifiableBackup } from '../core/verification-choice.ts';
import { readBackupRecord } from '../repository/backup-record.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import { listBackups, listParts, readBackup, type CatalogueEntry } from '../repository/catalogue.ts';
import { backupInfoKey, basePrefix, isBackupId } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { listTombstones } from '../repository/tombstones.ts';
import { listVerifications, provenAt } from '../repository/verifications.ts';
import { findWal, listWal, readHistories } from '../repository/wal.ts';
import { readPathEnd } from './path-end.ts';
import { planFromRepository, type PlanRequest } from './recovery-plan.ts';
import { Damage, finding, objectIn } from './verification-damage.ts';

export interface VerificationTarget {
  /** `latest`, `oldest`, `random`, `stalest`, or a backup's id or name. */
  readonly backup: string;
  readonly target: 'end' | 'random' | RecoveryTarget;
  /** Equal seeds choose the same. */
  readonly seed: string;
}

/** What is to be verified, and how it will be reached. */
export interface ChosenVerification {
  readonly info: BackupInfo;
  readonly plan: RecoveryPlan;
  /** What the last WAL of the plan says; of a plan to the archive's end only. */
  readonly end?: PathEndRecords;
  /** When the store got the last WAL of the plan. */
  readonly lastStoredAt?: Date;
  readonly warnings: readonly string[];
}

/** As long as the clocks of a server and of who took its backup may differ, in microseconds. */
const MARGIN = 1_000_000n;

/**
 * Chooses the backup and the target, and plans the way there. It reads records and lists only.
 *
 * @throws Damage when the catalogue or the archive shows by itself that this backup can't be restored; BackupError
 *   `verification-impossible` | `backup-unknown` | `target-unreachable` | `not-yet` when it can't be tried; what the store throws
 */
export async function chooseVerification(
  repository: Repository,
  wanted: VerificationTarget,
  { signal, onBackup = () => {} }: ChoiceOptions,
): Promise<ChosenVerification> {
  const explicit = typeof wanted.target === 'object' ? wanted.target : undefined;
  const backupId = await chooseBackup(repository, wanted, explicit, { signal, onBackup });
  if (explicit === undefined) {
    const plan = await planToEnd(repository, { target: { backupID: backupId } }, signal);
    await requireHistories(repository, plan, signal);
    if (wanted.target === 'random') return atRandom(repository, plan, wanted.seed, signal);
    return chosen(repository, plan, signal);
  }
  // What keeps the backup itself from being restored is damage, whatever the target is.
  const named = backupId === undefined ? {} : { backupID: backupId };
  if (backupId !== undefined) await planToEnd(repository, { target: named, acceptEnd: true }, signal);
  const target = { ...explicit, ...named };
  const plan = await finding('wal', () => planFromRepository(repository, { target }, { signal }));
  await requireHistories(repository, plan, signal);
  return chosen(repository, plan, signal);
}

export interface ChoiceOptions {
  readonly signal: AbortSignal;
  /** Told of the backup as soon as it is chosen. */
  readonly onBackup?: (backup: { readonly backupId: string; readonly backupName?: string }) => void;
}

/** @returns `undefined` when the target itself says which backup leads there best */
async function chooseBackup(
  repository: Repository,
  { backup, seed }: VerificationTarget,
  explicit: RecoveryTarget | undefined,
  { signal, onBackup }: Required<ChoiceOptions>,
): Promise<string | undefined> {
  if (explicit?.backupID !== undefined && explicit.backupID !== '') return explicit.backupID;
  const saysWhen = explicit?.targetTime !== undefined || explicit?.targetLSN !== undefined;
  if (saysWhen && backup === 'latest') return undefined;
  const entries = await listBackups(repository, signal);
  const tombstones = await listTombstones(repository, signal);
  const proven =
    backup === 'stalest'
      ? provenAt(await listVerifications(repository, signal, { onProblem: () => {} }))
      : new Map<string, Date>();
  const candidates = entries
    .filter(({ backupId }) => tombstones.get(backupId)?.deletingSince === undefined)
    .map((entry) => candidateOf(entry, proven, tombstones.has(entry.backupId)));
  const isNamed = !['latest', 'oldest', 'random', 'stalest'].includes(backup);
  const found = chooseVerifiedBackup(
    isNamed ? candidates : candidates.filter(({ unfit }) => unfit === undefined),
    backup,
    seed,
  );
  if (found === undefined) {
    throw isNamed
      ? new BackupError('backup-unknown', `there is no backup "${backup}" in ${repository.url}`)
      : new BackupError(
          'verification-impossible',
          `there is no backup in ${repository.url} that could be restored`,
          {
            hint: 'take a backup first: walkeep backup CLUSTER --wait',
          },
        );
  }
  if (found.unfit !== undefined) {
    throw new BackupError(
      'verification-impossible',
      `backup ${found.backupId} can't be verified: ${found.unfit}`,
    );
  }
  const { backupId, backupName } = found;
  onBackup({ backupId, ...(backupName !== undefined && { backupName }) });
  if (found.problem !== undefined) {
    throw new Damage({
      name: 'record',
      object: backupInfoKey(repository.server, found.backupId),
      detail: found.problem,
    });
  }
  return found.backupId;
}

interface Candidate extends VerifiableBackup {
  /** Why it is none that a restore could take, by itself and not by damage. */
  readonly unfit?: string;
  readonly problem?: string;
}

function candidateOf(
  { backupId, info, problem }: CatalogueEntry,
  proven: ReadonlyMap<string, Date>,
  isMarked: boolean,
): Candidate {
  const unfit = !isBackupId(backupId) ? 'it has no id of a backup' : info && unfitness(info);
  const endedAt = info?.endTime?.getTime() ?? timeInId(backupId);
  const at = proven.get(backupId)?.getTime();
  return {
    backupId,
    endedAt,
    isMarked,
    ...(info?.backupName !== undefined && { backupName: info.backupName }),
    ...(at !== undefined && { provenAt: at }),
    ...(unfit !== undefined && { unfit }),
    ...(info === undefined && { problem: problem ?? 'its record can’t be read' }),
  };
}

function unfitness({ status, parentBackupId, snapshots }: BackupInfo): string | undefined {
  if (status !== 'DONE') return `its status is ${status}`;
  if (parentBackupId !== undefined) return 'it is incremental, which walkeep does not restore';
  return snapshots ? 'it consists of volume snapshots, which are not in the repository' : undefined;
}

function timeInId(backupId: string): number {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)$/.exec(backupId);
  if (!match) return 0;
  const [, year, month, day, hour, minute, second] = match.map(Number) as [number, ...number[]];
  return Date.UTC(year ?? 0, (month ?? 1) - 1, day, hour, minute, second);
}

/** Everything that keeps a complete backup from the archive's end is damage: it is what restores are taken for. */
async function planToEnd(
  repository: Repository,
  request: PlanRequest,
  signal: AbortSignal,
): Promise<RecoveryPlan> {
  try {
    return await planFromRepository(repository, request, { signal });
  } catch (error) {
    if (
      !isBackupError(
        error,
        'wal-hole',
        'backup-unusable',
        'target-unreachable',
        'object-damaged',
        'format-invalid',
      )
    )
      throw error;
    throw new Damage({ name: 'wal', ...objectIn(error.message), detail: error.message }, error.notListed);
  }
}

/** A history that can't be read hides a timeline: what was committed on it would silently be left out. */
async function requireHistories(
  repository: Repository,
  plan: RecoveryPlan,
  signal: AbortSignal,
): Promise<void> {
  const needed = new Set(plan.timelinePath.map(({ timeline }) => timeline));
  await readHistories(repository, signal, (fileName, error) => {
    const timeline = Number.parseInt(fileName.slice(0, 8), 16);
    if (!needed.has(timeline) && timeline < plan.targetTimeline) return;
    throw new Damage({ name: 'histories', object: fileName, detail: error.message });
  });
}

/** A moment between the end of the backup and the newest commit that is archived. */
async function atRandom(
  repository: Repository,
  toEnd: RecoveryPlan,
  seed: string,
  signal: AbortSignal,
): Promise<ChosenVerification> {
  const from = toMicros(new Date(toEnd.backupEndTime)) + MARGIN;
  const to = toEnd.newestCommit === undefined ? undefined : parseTargetTime(toEnd.newestCommit);
  const moment = to === undefined ? undefined : chooseMoment(from, to, seed);
  if (moment === undefined) {
    const end = await chosen(repository, toEnd, signal);
    const warning =
      'nothing was committed since the backup ended, so there is no moment to choose: it is restored to the end';
    return { ...end, warnings: [...end.warnings, warning] };
  }
  const target = { targetTime: formatMicros(moment), backupID: toEnd.backupId };
  return chosen(repository, await planFromRepository(repository, { target }, { signal }), signal);
}

async function chosen(
  repository: Repository,
  plan: RecoveryPlan,
  signal: AbortSignal,
): Promise<ChosenVerification> {
  const info = await finding('record', () => readBackup(repository, plan.backupId, signal));
  if (info === undefined) {
    throw new BackupError('backup-unknown', `backup ${plan.backupId} is not in ${repository.url} any more`);
  }
  const end = plan.target.kind === 'end' ? await readPathEnd(repository, plan, signal) : undefined;
  const [last] = await findWal(repository, plan.tail?.file ?? plan.lastSegment, signal);
  return {
    info,
    plan,
    warnings: plan.warnings,
    ...(end && { end }),
    ...(last && { lastStoredAt: last.modifiedAt }),
  };
}

/** What a verification takes. */
export interface VerificationSize {
  /** On the scratch disk. */
  readonly scratchBytes: number;
  /** Read from the store. */
  readonly storedBytes: number;
  /** Of all backups and all WAL; absent where nobody asked. */
  readonly repositoryBytes?: number;
}

/** What is unpacked of a backup without a record: compressed data is seldom smaller than a quarter. */
const UNPACKED_RATIO = 4;
/** What lies in `pg_wal` between two checkpoints of replay. */
const MOST_WAL_BYTES = 2 ** 30;

/** Reads the sizes of what will be restored, and if wanted of the whole repository. */
export async function measure(
  repository: Repository,
  { plan }: ChosenVerification,
  { wholeRepository, signal }: { wholeRepository: boolean; signal: AbortSignal },
): Promise<VerificationSize> {
  const parts = await listParts(repository, plan.backupId, signal);
  const record = await finding('record', () => readBackupRecord(repository, plan.backupId, signal));
  const plain = new Map(record?.parts.map(({ name, plainBytes }) => [name, plainBytes]));
  const unpacked = parts.reduce((sum, { key, codec, sizeBytes }) => {
    const known = plain.get(key.slice(key.lastIndexOf('/') + 1));
    return sum + (known ?? (codec === 'none' ? sizeBytes : sizeBytes * UNPACKED_RATIO));
  }, 0);
  const stored = parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const wal = await measureWal(repository, plan, wholeRepository, signal);
  const base = wholeRepository ? await sizeBelow(repository, basePrefix(repository.server), signal) : 0;
  return {
    scratchBytes: unpacked + Math.min(plan.walSegments * plan.segmentSize, MOST_WAL_BYTES),
    storedBytes: stored + wal.ofPlan,
    ...(wholeRepository && { repositoryBytes: base + wal.all }),
  };
}

async function measureWal(
  repository: Repository,
  plan: RecoveryPlan,
  wholeRepository: boolean,
  signal: AbortSignal,
): Promise<{ ofPlan: number; all: number }> {
  const number = (name: string) => (isSegmentName(name) ? segmentNumber(name, plan.segmentSize) : -1n);
  const [first, last] = [number(plan.firstSegment), number(plan.lastSegment)];
  const timelines = new Set(plan.timelinePath.map(({ timeline }) => timeline));
  let [ofPlan, all] = [0, 0];
  const from = wholeRepository ? {} : { fromFolder: plan.firstSegment.slice(0, 16) };
  for await (const { file, sizeBytes } of listWal(repository, signal, { withoutHistories: true, ...from })) {
    all += sizeBytes;
    if (file.kind !== 'segment' || !timelines.has(timelineOf(file.segment))) continue;
    const at = number(file.segment);
    if (at >= first && at <= last) ofPlan += sizeBytes;
  }
  return { ofPlan, all };
}

async function sizeBelow({ store }: Repository, prefix: string, signal: AbortSignal): Promise<number> {
  let bytes = 0;
  for await (const { sizeBytes } of store.list(prefix, { signal })) bytes += sizeBytes;
  return bytes;
}
