import { failpoint } from '../core/failpoint.ts';
import type { PlannedBackup } from '../core/retention.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import { backupInfoKey } from '../repository/layout.ts';
import type { Lease } from '../repository/lease.ts';
import type { Repository } from '../repository/repository.ts';
import { storeTime } from '../repository/store-time.ts';
import {
  beginDeletion,
  markedBackup,
  placeTombstone,
  stopDeletion,
  takeBackTombstone,
} from '../repository/tombstones.ts';
import { deleteData, whyNotNow } from './delete-backup.ts';
import { youngAfter, type Clocks, type SweepRules } from './gather-retention.ts';
import { describeLeftover, findLeftovers, removeLeftover } from './sweep-leftovers.ts';
import { lookAgain, lookAround, type Look } from './sweep-look.ts';
import { NOTHING_DONE, sweepReport, type SweepDone } from './sweep-report.ts';
import { deleteWal } from './sweep-wal.ts';

/** Plain JSON. */
export interface SweepProgress {
  readonly phase:
    'looking' | 'marking' | 'deleting' | 'deleting-wal' | 'deleting-records' | 'cleaning-up' | 'done';
  readonly deletedBackups: number;
  readonly deletedWal: number;
  readonly deletedBytes: number;
}

export interface SweepOptions {
  readonly signal: AbortSignal;
  /** Names who sweeps, for whoever meets the lease. */
  readonly holder: string;
  readonly onProgress?: (progress: SweepProgress) => void;
  /** The host's clock, in ms. */
  readonly now?: () => number;
  readonly lease?: { readonly ttlMs?: number; readonly settleMs?: number };
}

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
  #done: SweepDone = NOTHING_DONE;

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
    if (look.plan.refused !== undefined) return this.#conclude(look, []);
    await this.#mark(look);
    const deleted = await this.#deleteBackups();
    const leftovers = deleted === undefined ? [] : await this.#cleanUp();
    return this.#conclude(look, leftovers);
  }

  /** What may be taken back comes first: it saves something. */
  async #mark({ plan, catalogue }: Look): Promise<void> {
    this.#report('marking');
    for (const { backupId, takeBack, reasons } of plan.backups) {
      if (!takeBack) continue;
      await this.#lease.check(this.#signal);
      await takeBackTombstone(this.#r, backupId, this.#signal);
      this.#warnings.push(`${backupId} was marked, and stays: ${reasons.join('; ')}`);
    }
    const marked: string[] = [];
    for (const { backupId, decision, reasons } of plan.backups) {
      if (decision !== 'mark') continue;
      failpoint('sweep.before-tombstone');
      await this.#lease.check(this.#signal);
      const info = catalogue.entries.find((entry) => entry.backupId === backupId)?.info;
      const tombstone = {
        version: 1 as const,
        backupId,
        reasons: reasons.slice(0, 100).map((reason) => reason.slice(0, 1000)),
        epoch: this.#lease.epoch,
        markedAt: new Date(this.#clocks.now).toISOString(),
        backup: info ? markedBackup(info, catalogue.folders.get(backupId)?.sizeBytes) : {},
      };
      await placeTombstone(this.#r, tombstone, this.#signal);
      failpoint('sweep.tombstoned');
      marked.push(backupId);
    }
    this.#done = { ...this.#done, marked };
  }

  /**
   * Data, WAL, records, in this order for all that is due: while a record is there the next sweep knows what is not
   * finished, and WAL goes only when nothing that needs it can be restored any more.
   *
   * @returns `undefined` when it had to stop in between
   */
  async #deleteBackups(): Promise<readonly string[] | undefined> {
    const deleted: string[] = [];
    for (;;) {
      const due = this.#due(deleted).slice(0, GROUP);
      if (due.length === 0) break;
      this.#report('deleting');
      for (const { backupId } of due) {
        failpoint('sweep.before-deleting');
        await this.#lease.check(this.#signal);
        await beginDeletion(this.#r, backupId, this.#signal);
        failpoint('sweep.deleting');
      }
      // Whoever places a hold looks for our word afterwards, and we look for holds after our word: one sees the other.
      await this.#lookAgain();
      for (const { backupId } of due) if (await this.#deleteOne(backupId)) deleted.push(backupId);
      await this.#lookAgain();
      if (this.#look?.plan.refused !== undefined) return this.#stop();
    }
    if (deleted.length > 0) await this.#lookAgain();
    if (this.#look?.plan.refused !== undefined) return this.#stop();
    await this.#deleteWal(deleted);
    await this.#deleteRecords(deleted);
    return deleted;
  }

  #due(deleted: readonly string[]): PlannedBackup[] {
    return (this.#look?.plan.backups ?? []).filter(
      ({ backupId, decision }) =>
        decision === 'delete' && !deleted.includes(backupId) && !this.#spared.has(backupId),
    );
  }

  /** @returns whether its data is gone */
  async #deleteOne(backupId: string): Promise<boolean> {
    const planned = this.#look?.plan.backups.find((backup) => backup.backupId === backupId);
    const folder = this.#look?.catalogue.folders.get(backupId);
    if (planned?.decision !== 'delete') {
      await this.#spare(backupId, planned, planned?.reasons.join('; ') ?? 'it is not listed any more');
      return false;
    }
    // What is half gone can't be saved by anybody: it is finished.
    const isHalfGone = this.#look?.halfGone.has(backupId) === true;
    const why = isHalfGone ? undefined : await this.#whyNotNow(backupId);
    if (why !== undefined) {
      await this.#spare(backupId, { ...planned, decision: 'keep', reasons: [why] }, why);
      return false;
    }
    await deleteData(this.#r, backupId, {
      mayGoOn: () => this.#lease.check(this.#signal),
      signal: this.#signal,
    });
    this.#done = {
      ...this.#done,
      deletedBackups: [...this.#done.deletedBackups, backupId],
      deletedBytes: this.#done.deletedBytes + (folder?.sizeBytes ?? 0),
    };
    this.#report('deleting');
    return true;
  }

  #whyNotNow(backupId: string): Promise<string | undefined> {
    const storeNow = new Date(this.#clocks.storeNow ?? this.#clocks.now);
    return whyNotNow(this.#r, backupId, { storeNow, signal: this.#signal });
  }

  async #spare(backupId: string, planned: PlannedBackup | undefined, why: string): Promise<void> {
    this.#spared.set(backupId, planned);
    if (this.#look?.halfGone.has(backupId) === true) return;
    await this.#lease.check(this.#signal);
    if (planned?.decision === 'keep') await takeBackTombstone(this.#r, backupId, this.#signal);
    else await stopDeletion(this.#r, backupId, this.#signal);
    this.#warnings.push(`${backupId} was about to be deleted, and stays: ${why}`);
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
      mayGoOn: () => this.#lease.check(this.#signal),
      onProgress: (wal) => {
        this.#done = {
          ...before,
          deletedWal: before.deletedWal + wal.segments,
          deletedBytes: before.deletedBytes + wal.bytes,
        };
        this.#report('deleting-wal');
      },
      signal: this.#signal,
    });
  }

  async #deleteRecords(deleted: readonly string[]): Promise<void> {
    for (const backupId of deleted) {
      this.#report('deleting-records');
      failpoint('sweep.before-delete-record');
      await this.#lease.check(this.#signal);
      await this.#r.store.delete([backupInfoKey(this.#r.server, backupId)], { signal: this.#signal });
      failpoint('sweep.record-deleted');
      const why = await removeLeftover(this.#r, { kind: 'unfinished', backupId }, this.#signal);
      if (why !== undefined) this.#warnings.push(why);
    }
  }

  async #cleanUp(): Promise<string[]> {
    this.#report('cleaning-up');
    await this.#lookAgain();
    if (this.#look === undefined) return [];
    const now = this.#clocks.storeNow ?? this.#clocks.now;
    const found = await findLeftovers(this.#r, this.#look.catalogue, { ...this.#rules, now }, this.#signal);
    this.#warnings.push(...found.warnings);
    const removed: string[] = [];
    for (const leftover of found.removable) {
      await this.#lease.check(this.#signal);
      const why = await removeLeftover(this.#r, leftover, this.#signal);
      if (why === undefined) removed.push(describeLeftover(leftover));
      else this.#warnings.push(why);
    }
    return removed;
  }

  async #lookAgain(): Promise<void> {
    if (this.#look === undefined) return;
    this.#look = await lookAgain(this.#r, this.#look, this.#rules, this.#clocks, this.#signal);
  }

  #stop(): undefined {
    this.#warnings.push(`stopped: ${this.#look?.plan.refused ?? ''}`);
    return undefined;
  }

  #report(phase: SweepProgress['phase']): void {
    this.#options.onProgress?.({ phase, ...this.deleted });
  }

  /** The plan that was acted on, with what turned out otherwise. */
  #conclude({ plan, catalogue, archive }: Look, leftovers: readonly string[]): SweepReport {
    this.#report('done');
    return sweepReport({
      dryRun: false,
      at: new Date(this.#clocks.now),
      plan: {
        ...plan,
        backups: plan.backups.map((backup) => this.#spared.get(backup.backupId) ?? backup),
      },
      catalogue,
      segmentSize: archive.segments.segmentSize,
      leftovers,
      warnings: this.#warnings,
      done: this.#done,
    });
  }
}
