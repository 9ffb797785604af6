import { isBackupError } from '../core/errors.ts';
import { readBackup } from '../repository/catalogue.ts';
import { basePrefix, isBackupId } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { listVerifications, newestVerified } from '../repository/verifications.ts';

/** How old what protects a cluster is, as its repository says, whoever made it. */
export interface ProtectionAges {
  /** When this was read, in ms since 1970, as all times here. */
  readonly readAt: number;
  /** The end of the newest backup that counts. */
  readonly newestBackupAt?: number;
  /** The end of the newest verification that succeeded. */
  readonly newestProvenAt?: number;
}

/** Failed attempts leave no record, so one of the newest few is good, or nothing has been for long. */
const RECORDS_READ = 20;
const VERIFICATIONS_READ = 20;

/** Reads a handful of small objects, however large the repository is. @throws what the store throws */
export async function readProtectionAges(
  repository: Repository,
  { signal, now = Date.now() }: { readonly signal: AbortSignal; readonly now?: number },
): Promise<ProtectionAges> {
  const newestBackupAt = await newestBackup(repository, signal);
  const verifications = await listVerifications(repository, signal, { limit: VERIFICATIONS_READ });
  const proven = newestVerified(verifications);
  return {
    readAt: now,
    ...(newestBackupAt !== undefined && { newestBackupAt }),
    ...(proven && { newestProvenAt: Date.parse(proven.endedAt) }),
  };
}

async function newestBackup(repository: Repository, signal: AbortSignal): Promise<number | undefined> {
  const prefix = basePrefix(repository.server);
  const ids: string[] = [];
  for await (const folder of repository.store.folders(prefix, { signal }))
    ids.push(folder.slice(prefix.length, -1));
  const newestFirst = ids.filter(isBackupId).toSorted().toReversed();
  for (const id of newestFirst.slice(0, RECORDS_READ)) {
    const info = await readBackup(repository, id, signal).catch((error: unknown) => {
      if (isBackupError(error, 'format-invalid', 'object-damaged')) return undefined;
      throw error;
    });
    if (info?.status === 'DONE' && info.endTime) return info.endTime.getTime();
  }
  return undefined;
}
