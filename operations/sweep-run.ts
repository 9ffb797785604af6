import { failpoint } from '../core/failpoint.ts';
import { LockedWal } from '../core/locked-wal.ts';
import { cautiousNow } from '../core/retention-clocks.ts';
import type { PlannedBackup } from '../core/retention.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import type { Lease } from '../repository/lease.ts';
import type { Repository } from '../repository/repository.ts';
import { storeTime } from '../repository/store-time.ts';
import { beginDeletion, stopDeletion, takeBackTombstone } from '../repository/tombstones.ts';
import { unlessAborted } from '../streams/abortable.ts';
import {
  deleteData,
  requireMayDelete,
  spareWhole,
  takeBackUntouched,
  whyNotNow,
  type Reprieve,
} from './delete-backup.ts';
import { hasRules, youngAfter, type Clocks, type SweepRules } from './gather-retention.ts';
import { deleteRecords, findLeftovers, removeLeftovers } from './sweep-leftovers.ts';
import { sweepTrials } from './sweep-trials.ts';
import { lookAgain, lookAround, type Look } from './sweep-look.ts';
import { lockOfBackup, type LockQuestion } from './object-locks.ts';
import { placeMarks } from './sweep-mark.ts';
import type { SweepOptions, SweepProgress } from './sweep-options.ts';
import { NOTHING_DONE, sweepReport, type SweepDone } from './sweep-report.ts';
import { describeOrphaned, removeOrphanedRecords } from './sweep-wal-records.ts';
import { deletesWal, deleteWal, withoutLocked } from './sweep-wal.ts';

/** So many backups are made known together as being deleted, and looked at again together. */
const GROUP = 20;

/** One sweep under its lease, from look to look. */
export class SweepRun {
  readonly #r: Repository;
  readonly #rules: SweepRules;
  readonly #lease: Lease;
  readonly #options: SweepOptions;
  readonly #signal: AbortSignal;
  readonly #warnings: string[] = [];
  /** Backups that were about to be deleted, and stay: not looked at again in this sweep. */
  readonly #spared = new Map<string, PlannedBackup | undefined>();
  #clocks: Clocks = { now: 0 };
  #look: Look | undefined;
  /** Why nothing more may be deleted, by the last look; a whole phrase. */
  #stopped: string | undefined;
  /** Whether this sweep has deleted some data: before that nobody knows that the store lets it. */
  #hasDeleted = false;
  #done: SweepDone = NOTHING_DONE;
  #lockedWal = new LockedWal();
  /** Why some locks could not be looked at; each is said once. */
  readonly #unseen = new Set<string>();

  constructor(r: Repository, rules: SweepRules, lease: Lease, options: SweepOptions) {
    this.#r = r;
    this.#rules = rules;
    this.#lease = lease;
    this.#options = options;
    this.#signal = AbortSignal.any([options.signal, lease.lost]);
    if (!lease.isExclusive) {
      this.#warnings.push(
        'this store does not refuse to create what exists: two sweeps at the same moment are unlikely, not impossible',
      );
    }
  }

  /** What is gone so far. */
  get deleted(): Pick<SweepReport['counts'], 'deletedBackups' | 'deletedWal' | 'deletedBytes'> {
    const { deletedBackups, deletedWal, deletedBytes } = this.#done;
    return { deletedBackups: deletedBackups.length, deletedWal, deletedBytes };
  }

  async toEnd(): Promise<SweepReport> {
    this.#report('looking');
    const now = (this.#options.now ?? Date.now)();
    this.#clocks = { now, storeNow: (await storeTime(this.#r, this.#signal)).getTime() };
    const look = await lookAround(this.#r, this.#rules, this.#clocks, this.#signal);
    this.#look = look;
    if (look.plan.refused !== undefined) {
      await this.takeBackUntouched();
      return this.#conclude(look, []);
    }
    this.#report('marking');
    const { marked, warnings } = await placeMarks(this.#r, look, {
      lease: this.#lease,
      now,
      graceMs: this.#rules.graceMs,
      signal: this.#signal,
    });
    this.#done = { ...this.#done, marked };
    this.#warnings.push(...warnings);
    const deleted = await this.#deleteBackups();
    const leftovers = deleted === undefined ? [] : await this.#cleanUp();
    if (this.#stopped !== undefined) await this.takeBackUntouched();
    return this.#conclude(look, leftovers);
  }

  /** For whatever ends before it has seen to what an earlier sweep said. @throws BackupError `lease-lost` */
  async takeBackUntouched(): Promise<readonly string[]> {
    this.#warnings.push(...(await takeBackUntouched(this.#r, this.#lease, this.#signal)));
    return this.#warnings;
  }

  /**
   * Data, WAL, records, in this order for all that is due: while a record is there the next sweep knows what is not
   * finished, and WAL goes only when nothing that needs it can be restored any more.
   *
   * @returns `undefined` when it had to stop in between
   */
  async #deleteBackups(): Promise<readonly string[] | undefined> {
    const deleted: string[] = [];
    if (this.#due(deleted).length > 0) {
      await this.#lease.check(this.#signal);
      await requireMayDelete(this.#r, this.#signal);
    }
    for (;;) {
      // What may go wrong with deleting is learnt from one backup, not from a group of them.
      const due = this.#due(deleted).slice(0, this.#hasDeleted ? GROUP : 1);
      if (due.length === 0) break;
      this.#report('deleting');
      try {
        if (!(await this.#deleteGroup(due, deleted))) return this.#stop();
      } catch (error) {
        await this.#spareGroup(due, deleted);
        throw error;
      }
      if (this.#stopped !== undefined) return this.#stop();
    }
    if (deleted.length > 0 || this.#deletesWal()) await this.#lookAgain();
    if (this.#stopped !== undefined) return this.#stop();
    await this.#deleteWal(deleted);
    if (this.#stopped !== undefined) return this.#stop();
    await this.#deleteRecords(deleted);
    return deleted;
  }

  /** @returns whether it was done; what is deleted by then is in `deleted`, also after a failure */
  async #deleteGroup(due: readonly PlannedBackup[], deleted: string[]): Promise<boolean> {
    for (const { backupId } of due) {
      failpoint('sweep.before-deleting');
      await this.#lease.check(this.#signal);
      await beginDeletion(this.#r, backupId, this.#signal);
      failpoint('sweep.deleting');
    }
    // Whoever places a hold looks for our word afterwards, and we look for holds after our word: one sees the other.
    await this.#lookAgain();
    if (this.#stopped !== undefined) {
      await this.#spareGroup(due, deleted);
      return false;
    }
    for (const { backupId } of due) if (await this.#deleteOne(backupId, deleted)) deleted.push(backupId);
    await this.#lookAgain();
    return true;
  }

  /** What went wrong with a group leaves its whole members backups as before. */
  async #spareGroup(due: readonly PlannedBackup[], deleted: readonly string[]): Promise<void> {
    const whole = new Map<string, number>();
    for (const { backupId } of due) {
      const known = this.#look?.catalogue.folders.get(backupId)?.parts.length;
      const isSettled =
        deleted.includes(backupId) || this.#spared.has(backupId) || this.#isHalfGone(backupId);
      if (!isSettled && known !== undefined) whole.set(backupId, known);
    }
    await spareWhole(this.#r, whole, this.#lease);
  }

  #isHalfGone(backupId: string): boolean {
    return this.#look?.halfGone.has(backupId) === true;
  }

  #due(deleted: readonly string[]): PlannedBackup[] {
    return (this.#look?.plan.backups ?? []).filter(
      ({ backupId, decision }) =>
        decision === 'delete' && !deleted.includes(backupId) && !this.#spared.has(backupId),
    );
  }

  /** @returns whether its data is gone */
  async #deleteOne(backupId: string, deleted: readonly string[]): Promise<boolean> {
    const planned = this.#look?.plan.backups.find((backup) => backup.backupId === backupId);
    const folder = this.#look?.catalogue.folders.get(backupId);
    if (planned?.decision !== 'delete') {
      await this.#spare(backupId, planned, planned?.reasons.join('; ') ?? 'it is not listed any more');
      return false;
    }
    const reprieve = this.#neededByChild(backupId, deleted) ?? (await this.#whyNotNow(backupId));
    if (reprieve !== undefined) {
      const { why, ...stays } = reprieve;
      await this.#spare(backupId, { backupId, reasons: [why], ...stays }, why);
      return false;
    }
    const count = await deleteData(this.#r, backupId, {
      mayGoOn: () => this.#lease.check(this.#signal),
      signal: this.#signal,
    });
    if (count > 0) this.#hasDeleted = true;
    this.#done = {
      ...this.#done,
      deletedBackups: [...this.#done.deletedBackups, backupId],
      deletedBytes: this.#done.deletedBytes + (folder?.sizeBytes ?? 0),
    };
    this.#report('deleting');
    return true;
  }

  /**
   * Chains die from the end: what is built on a backup, and was spared in the last moment, needs it. The plan counts on the
   * child's deletion, which did not come.
   */
  #neededByChild(backupId: string, deleted: readonly string[]): Reprieve | undefined {
    if (this.#isHalfGone(backupId)) return undefined;
    const child = this.#look?.catalogue.entries.find(
      ({ backupId: id, info }) => info?.parentBackupId === backupId && !deleted.includes(id),
    );
    if (child === undefined) return undefined;
    const dueAt = this.#spared.get(child.backupId)?.dueAt;
    return {
      why: `backup ${child.backupId}, which is built on it, has to go first`,
      decision: 'wait',
      ...(dueAt !== undefined && { dueAt }),
    };
  }

  async #whyNotNow(backupId: string): Promise<Reprieve | undefined> {
    const lock = await lockOfBackup(this.#r, backupId, this.#lockQuestion());
    // What is half gone can't be saved by anybody else: it is finished.
    if (this.#isHalfGone(backupId)) return lock && { why: lock.why, decision: 'undecided' };
    if (lock) {
      const { why, untilMs } = lock;
      return { why, decision: 'wait', ...(untilMs !== undefined && { dueAt: untilMs }) };
    }
    const storeNow = new Date(this.#clocks.storeNow ?? this.#clocks.now);
    const { graceMs } = this.#rules;
    return whyNotNow(this.#r, backupId, { storeNow, graceMs, signal: this.#signal });
  }

  #lockQuestion(): LockQuestion {
    return {
      nowMs: cautiousNow(this.#clocks),
      onUnseen: (why) => this.#unseen.add(why),
      signal: this.#signal,
    };
  }

  async #spare(backupId: string, planned: PlannedBackup | undefined, why: string): Promise<void> {
    this.#spared.set(backupId, planned);
    if (this.#isHalfGone(backupId)) return;
    await this.#lease.check(this.#signal);
    if (planned?.decision === 'keep') await takeBackTombstone(this.#r, backupId, this.#signal);
    else await stopDeletion(this.#r, backupId, this.#signal);
    this.#warnings.push(`${backupId} was about to be deleted, and stays: ${why}`);
  }

  #deletesWal(): boolean {
    return this.#look !== undefined && deletesWal(this.#look.plan);
  }

  async #deleteWal(deleted: readonly string[]): Promise<void> {
    if (this.#look === undefined) return;
    const { plan, catalogue, archive } = this.#look;
    const undone = plan.backups.filter(
      ({ backupId, decision }) => decision === 'delete' && !deleted.includes(backupId),
    );
    if (undone.length > 0) {
      this.#warnings.push(
        `no WAL was deleted: the plan counts on the deletion of ${undone[0]?.backupId ?? ''}, which stays`,
      );
      return;
    }
    this.#report('deleting-wal');
    const before = this.#done;
    await deleteWal(this.#r, plan, {
      segmentSize: archive.segments.segmentSize,
      youngAfter: youngAfter(catalogue, { ...this.#rules, now: this.#clocks.storeNow ?? this.#clocks.now }),
      ...this.#lockQuestion(),
      mayGoOn: () => this.#mayGoOnWithWal(),
      onProgress: (wal) => {
        this.#done = {
          ...before,
          deletedWal: before.deletedWal + wal.segments,
          deletedBytes: before.deletedBytes + wal.bytes,
        };
        this.#lockedWal = wal.locked;
        this.#report('deleting-wal');
      },
    }).catch((error: unknown) => {
      if (this.#stopped === undefined) throw error;
    });
  }

  /** There may be hours of it, without a look in between. */
  async #mayGoOnWithWal(): Promise<void> {
    this.#stopped = await this.#noLongerDeclared();
    if (this.#stopped !== undefined) throw new Error(this.#stopped);
    await this.#lease.check(this.#signal);
  }

  async #deleteRecords(deleted: readonly string[]): Promise<void> {
    const left = await deleteRecords(this.#r, deleted, {
      ...this.#lockQuestion(),
      mayGoOn: () => this.#lease.check(this.#signal),
      onNext: () => this.#report('deleting-records'),
    });
    this.#warnings.push(...left);
  }

  async #cleanUp(): Promise<string[]> {
    this.#report('cleaning-up');
    await this.#lookAgain();
    if (this.#look === undefined) return [];
    if (this.#stopped !== undefined) {
      this.#stop();
      return [];
    }
    const now = this.#clocks.storeNow ?? this.#clocks.now;
    const found = await findLeftovers(this.#r, this.#look.catalogue, { ...this.#rules, now }, this.#signal);
    this.#warnings.push(...found.warnings);
    if (!hasRules(this.#rules)) return [];
    const mayGoOn = () => this.#lease.check(this.#signal);
    const removing = { mayGoOn, signal: this.#signal };
    const { removed, warnings } = await removeLeftovers(this.#r, found.removable, removing);
    const after = youngAfter(this.#look.catalogue, { ...this.#rules, now });
    const orphaned = await removeOrphanedRecords(this.#r, { youngAfter: after, ...removing });
    const trials = await sweepTrials(this.#r, { now, ...removing });
    this.#warnings.push(...warnings, ...orphaned.warnings, ...trials);
    return [...removed, ...describeOrphaned(orphaned)];
  }

  async #lookAgain(): Promise<void> {
    if (this.#look === undefined) return;
    this.#look = await lookAgain(this.#r, this.#look, this.#rules, this.#clocks, this.#signal);
    this.#stopped = this.#look.plan.refused ?? (await this.#noLongerDeclared());
  }

  async #noLongerDeclared(): Promise<string | undefined> {
    const asked = this.#options.stillDeclared?.();
    return asked && unlessAborted(asked, this.#signal);
  }

  #stop(): undefined {
    this.#warnings.push(`stopped: ${this.#stopped ?? ''}`);
    return undefined;
  }

  #report(phase: SweepProgress['phase']): void {
    this.#options.onProgress?.({ phase, ...this.deleted });
  }

  #asItCame(planned: PlannedBackup): PlannedBackup {
    const { backupId, decision } = planned;
    const isLeft = this.#stopped !== undefined && !this.#done.deletedBackups.includes(backupId);
    if (decision !== 'delete' || !isLeft) return planned;
    return { backupId, decision: 'undecided', reasons: [...planned.reasons, `stopped: ${this.#stopped}`] };
  }

  /** The plan that was acted on, with what turned out otherwise. */
  #conclude({ plan: acted, catalogue, archive }: Look, leftovers: readonly string[]): SweepReport {
    this.#report('done');
    const plan = withoutLocked(acted, this.#lockedWal);
    return sweepReport({
      dryRun: false,
      at: new Date(this.#clocks.now),
      plan: {
        ...plan,
        backups: plan.backups.map((backup) => this.#spared.get(backup.backupId) ?? this.#asItCame(backup)),
      },
      catalogue,
      segmentSize: archive.segments.segmentSize,
      leftovers,
      warnings: [...this.#warnings, ...this.#unseen],
      done: this.#done,
    });
  }
}
