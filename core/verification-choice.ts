import type { Micros } from './target-time.ts';

/** What a choice among backups needs to know of one. */
export interface VerifiableBackup {
  readonly backupId: string;
  readonly backupName?: string | undefined;
  /** Milliseconds since 1970: its end, or the time in its id where the record does not say. */
  readonly endedAt: number;
  /** The last verification that succeeded, in milliseconds since 1970. */
  readonly provenAt?: number | undefined;
  /** Marked for deletion: chosen only when it is named. */
  readonly isMarked?: boolean | undefined;
}

/** `latest`, `oldest`, `random`, `stalest` (not proved for longest), or a backup's id or name. */
export type BackupChoice = string;

/**
 * The backup to verify. Whatever is not asked for by name is chosen among those that retention has not marked.
 *
 * @param seed equal seeds choose the same backup of the same list
 * @returns `undefined` when there is none
 */
export function chooseVerifiedBackup<Backup extends VerifiableBackup>(
  backups: readonly Backup[],
  choice: BackupChoice,
  seed: string,
): Backup | undefined {
  const kept = backups.filter(({ isMarked }) => isMarked !== true);
  const byAge = (kept.length > 0 ? kept : backups).toSorted(
    (a, b) => a.endedAt - b.endedAt || (a.backupId < b.backupId ? -1 : 1),
  );
  switch (choice) {
    case 'latest':
      return byAge.at(-1);
    case 'oldest':
      return byAge[0];
    case 'random':
      return byAge[Math.floor(fractionOf(seed, 'backup') * byAge.length)];
    case 'stalest':
      // Of those that were never proved the newest counts most: it is the one a restore would take.
      return (
        byAge.findLast(({ provenAt }) => provenAt === undefined) ??
        byAge.toSorted((a, b) => (a.provenAt ?? 0) - (b.provenAt ?? 0))[0]
      );
    default:
      return (
        backups.find(({ backupId }) => backupId === choice) ??
        backups.findLast(({ backupName }) => backupName === choice)
      );
  }
}

/**
 * A moment between two others, neither of them.
 *
 * @returns `undefined` when nothing lies between them
 */
export function chooseMoment(from: Micros, to: Micros, seed: string): Micros | undefined {
  const span = to - from - 1n;
  if (span <= 0n) return undefined;
  const share = BigInt(Math.floor(fractionOf(seed, 'moment') * 2 ** 32));
  return from + 1n + ((span * share) >> 32n);
}

/** What was read from a repository for the sake of verifications. */
export interface PastReading {
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  readonly storedBytes: number;
}

export interface ReadBudget {
  /** Percent of the repository's bytes that a day's verifications may read; `undefined`: as much as they like. */
  readonly percent: number | undefined;
  readonly repositoryBytes: number;
  readonly past: readonly PastReading[];
  /** What this verification would read. */
  readonly neededBytes: number;
  readonly now: number;
}

const DAY_MS = 86_400_000;

/**
 * Whether a verification has to wait, because the last 24 hours' verifications have read their share. The first of a day
 * is never kept waiting: otherwise a small repository, of which one backup is the greater part, would never be verified.
 *
 * @returns why it has to wait, or `undefined`
 */
export function exceededBudget(budget: ReadBudget): string | undefined {
  const { percent, repositoryBytes, past, neededBytes, now } = budget;
  if (percent === undefined) return undefined;
  const spent = past
    .filter(({ startedAt }) => startedAt > now - DAY_MS && startedAt <= now)
    .reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  const allowed = (repositoryBytes * percent) / 100;
  if (spent === 0 || spent + neededBytes <= allowed) return undefined;
  const mebi = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
  return (
    `the verifications of the last 24 hours read ${mebi(spent)}, this one would read ${mebi(neededBytes)}, ` +
    `and ${percent}% of the repository's ${mebi(repositoryBytes)} are ${mebi(allowed)}`
  );
}

/** A number from 0 up to 1, always the same for the same words. */
export function fractionOf(...words: readonly string[]): number {
  let hash = 0x811c9dc5;
  for (const character of words.join('\0')) {
    hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193);
  }
  // FNV's last step mixes the high bits too little: neighbouring seeds would choose neighbouring moments.
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}
