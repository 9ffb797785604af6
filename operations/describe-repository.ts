import { isBackupError } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import type { TimelineSwitch } from '../core/timeline.ts';
import { parseWalHeader } from '../postgres/wal-page.ts';
import { readBarmanView, type BarmanView } from '../repository/barman-view.ts';
import { listBackups } from '../repository/catalogue.ts';
import { deriveOwner, readOwner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import { readStoreRecord, weaknessesOf, type StoreRecord } from '../repository/store-record.ts';
import { readHistories } from '../repository/wal.ts';
import { isUsable } from './protection.ts';
import { surveyRepository, total, type Amount, type TimelineAmount } from './survey-repository.ts';

/** A repository as `walkeep repository show` prints it; plain JSON. */
export interface RepositoryDescription {
  readonly repository: string;
  readonly server: string;
  readonly owner:
    | {
        readonly systemId: string;
        readonly segmentSize: number;
        /** When walkeep claimed it; absent while it only follows from what others wrote. */
        readonly claimedAt?: string;
      }
    | undefined;
  /** Why nobody can tell whose it is. */
  readonly ownerProblem?: string;
  readonly sizes: {
    readonly backups: Amount;
    readonly wal: Amount;
    readonly own: Amount;
    readonly strangers: Amount;
  };
  readonly store: (StoreRecord & { readonly weak: readonly string[] }) | undefined;
  readonly backups: {
    /** That can be restored. */
    readonly usable: number;
    readonly unusable: number;
    readonly first?: BackupLine;
    readonly last?: BackupLine;
  };
  readonly timelines: readonly (TimelineAmount & {
    readonly hasHistory: boolean;
    /** Where it left its parent. */
    readonly from?: { readonly timeline: number; readonly lsn: string };
  })[];
  /** What barman-cloud 3.19 would see; `shown` holds as long as `blocking` is empty. */
  readonly barman: BarmanView;
}

interface BackupLine {
  readonly id: string;
  readonly name?: string;
  readonly endedAt?: string;
}

/** Reads all of it; writes nothing. @throws what the store throws */
export async function describeRepository(r: Repository, signal: AbortSignal): Promise<RepositoryDescription> {
  const survey = await surveyRepository(r, signal);
  const [owner, store, entries, histories] = await Promise.all([
    ownerOf(r, signal),
    readStoreRecord(r, signal),
    listBackups(r, signal),
    readHistories(r, signal, () => undefined),
  ]);
  const usable = entries.flatMap(({ info }) => (info && isUsable(info) ? [info] : []));
  const line = (info: (typeof usable)[number] | undefined): BackupLine | undefined =>
    info && {
      id: info.backupId,
      ...(info.backupName === undefined ? {} : { name: info.backupName }),
      ...(info.endTime === undefined ? {} : { endedAt: info.endTime.toISOString() }),
    };
  const [first, last] = [line(usable[0]), line(usable.at(-1))];
  const recorded = survey.backups.filter(({ hasRecord }) => hasRecord).map(({ folder }) => folder);
  return {
    repository: r.url,
    server: r.server,
    ...owner,
    sizes: {
      backups: total(survey.backups),
      wal: total([...survey.timelines, survey.histories]),
      own: total(survey.own.values()),
      strangers: total([survey.strangers, survey.hazards]),
    },
    store: store && { ...store, weak: weaknessesOf(store) },
    backups: {
      usable: usable.length,
      unusable: entries.length - usable.length,
      ...(first && { first }),
      ...(last && { last }),
    },
    timelines: survey.timelines.map((amount) => ({
      ...amount,
      hasHistory: survey.histories.timelines.includes(amount.timeline),
      ...parentOf(histories.get(amount.timeline)),
    })),
    barman: await readBarmanView(r, recorded, signal),
  };
}

async function ownerOf(
  r: Repository,
  signal: AbortSignal,
): Promise<Pick<RepositoryDescription, 'owner' | 'ownerProblem'>> {
  try {
    const owner = await readOwner(r, signal);
    if (owner) {
      const { systemId, segmentSize, createdAt } = owner;
      return { owner: { systemId, segmentSize, claimedAt: createdAt } };
    }
    const derived = await deriveOwner(r, signal, (head) => parseWalHeader(head));
    return { owner: derived && { systemId: derived.systemId, segmentSize: derived.segmentSize } };
  } catch (error) {
    if (!isBackupError(error, 'wal-foreign', 'format-invalid', 'object-damaged')) throw error;
    return { owner: undefined, ownerProblem: error.message };
  }
}

function parentOf(switches: readonly TimelineSwitch[] | undefined): {
  readonly from?: { readonly timeline: number; readonly lsn: string };
} {
  const last = switches?.at(-1);
  return last ? { from: { timeline: last.timeline, lsn: formatLsn(last.switchedAt) } } : {};
}
