import { hostname } from 'node:os';
import { BackupError, isBackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { parseLsn } from '../core/lsn.ts';
import { readBackup } from '../repository/catalogue.ts';
import { backupPrefix, basePrefix, isBackupId, ownKey, parsePartName } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { createSmallObject, readSmallText, utf8 } from '../repository/small-object.ts';
import type { PutOptions } from '../stores/object-store.ts';
import type { CopiedBackup } from './backup-ports.ts';
import type { WrittenPart } from './backup-part.ts';

/** Who makes an attempt, for whoever finds it later. */
export interface AttemptOwner {
  readonly backupName: string;
  readonly cluster: string;
  readonly namespace: string;
  readonly instance: string;
}

/** All that recording a copied backup needs. It travels from activity to activity through the repository. */
export interface AttemptDetails {
  readonly version: 1;
  readonly owner: AttemptOwner;
  readonly copied: CopiedBackup;
  readonly backupLabel: string;
  readonly tablespaceMap: string;
  readonly tablespaces: readonly { readonly oid: number; readonly name: string; readonly location: string }[];
  readonly parts: readonly Omit<WrittenPart, 'damage' | 'damagedPages'>[];
  readonly pageChecksumFailures: readonly { readonly path: string; readonly blocks: readonly number[] }[];
  /** What was there and is not in the backup, although no rule names it. */
  readonly skipped: readonly { readonly path: string; readonly why: string }[];
  readonly dataChecksums: boolean;
  readonly pgdata: string;
  readonly configFile?: string;
  readonly hbaFile?: string;
  readonly identFile?: string;
  readonly includedFiles?: readonly string[];
  readonly encryption?: NonNullable<PutOptions['encryption']>;
  readonly tags?: Readonly<Record<string, string>>;
  readonly copySeconds: number;
  readonly jobs: number;
}

const FOLDER = 'attempts';
const VERDICT = 'verdict';
const MAX_DETAILS_BYTES = 64 * 1024 * 1024;
const SECOND_MS = 1000;
const MAX_CLAIMS = 1000;

/**
 * Takes a backup id that nobody ever had: the second of `now` in UTC, or the one after the newest backup or attempt if
 * that is later (ids order backups, so a clock that went back must not), or the next free one. The claim stays for
 * good, also when the attempt fails: a late writer of an old attempt can never meet a new one.
 */
export async function claimAttempt(
  repository: Repository,
  owner: AttemptOwner,
  { now, ...put }: { readonly now: Date } & Pick<PutOptions, 'signal' | 'encryption' | 'tags'>,
): Promise<string> {
  const newest = await newestId(repository, put.signal);
  let at = Math.max(now.getTime(), newest === undefined ? 0 : timeOf(newest) + SECOND_MS);
  for (let tried = 0; tried < MAX_CLAIMS; tried += 1, at += SECOND_MS) {
    const backupId = idAt(new Date(at));
    const claim = {
      version: 1,
      backupId,
      ...owner,
      host: hostname(),
      pid: process.pid,
      claimedAt: now.toISOString(),
    };
    try {
      const body = utf8(`${JSON.stringify(claim, null, 2)}\n`);
      await repository.store.put(claimKey(repository.server, backupId), body, {
        ...put,
        ifAbsent: true,
        sizeBytes: body.length,
      });
      failpoint('backup.attempt-claimed');
      return backupId;
    } catch (error) {
      if (!isBackupError(error, 'already-exists')) throw error;
    }
  }
  throw new BackupError(
    'backup-in-progress',
    `no free backup id after ${MAX_CLAIMS} tries in ${repository.url}`,
  );
}

/** Keeps what recording needs. Storing it again, unchanged, succeeds. */
export function saveDetails(
  repository: Repository,
  details: AttemptDetails,
  put: Pick<PutOptions, 'signal' | 'encryption' | 'tags'>,
): Promise<void> {
  const body = utf8(`${JSON.stringify(details, null, 2)}\n`);
  return createSmallObject(
    repository.store,
    detailsKey(repository.server, details.copied.backupId),
    body,
    put,
  );
}

/** @throws BackupError `backup-unusable` when the attempt is unknown, or was cleared away */
export async function readDetails(
  repository: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<AttemptDetails> {
  const key = detailsKey(repository.server, backupId);
  const text = await readSmallText(repository.store, key, { maxBytes: MAX_DETAILS_BYTES, signal });
  if (text === undefined) {
    throw new BackupError(
      'backup-unusable',
      `the copy of backup ${backupId} is not in ${repository.url} (no ${key})`,
      {
        hint: 'take a new backup',
      },
    );
  }
  // Ours, under a key of ours, written whole: no more than its version is looked at.
  const details = JSON.parse(text) as AttemptDetails;
  if (details.version !== 1) {
    throw new BackupError('format-invalid', `${key} is of version ${String(details.version)}, expected 1`);
  }
  return details;
}

/**
 * Whether a copied backup counts already: an earlier call came to its end, and only its answer was lost.
 *
 * @throws BackupError `already-exists` when another backup has this id's record
 */
export async function isRecorded(
  repository: Repository,
  copied: CopiedBackup,
  signal: AbortSignal,
): Promise<boolean> {
  const info = await readBackup(repository, copied.backupId, signal);
  if (!info) return false;
  const isSame =
    info.status === 'DONE' &&
    info.systemId === copied.systemId &&
    info.beginLsn === parseLsn(copied.beginLsn) &&
    info.endLsn === parseLsn(copied.endLsn);
  if (isSame) return true;
  throw new BackupError(
    'already-exists',
    `another backup is recorded as ${copied.backupId} in ${repository.url}`,
  );
}

/** Where the list of the files in one part lies until the backup is recorded. */
export function partFilesKey(server: string, backupId: string, partName: string): string {
  return ownKey(server, FOLDER, backupId, `${partName}.files.gz`);
}

/**
 * Settles for good whether an attempt is recorded or discarded: somebody may believe that recording it failed, while it
 * still goes on. The first word stands, and saying it again succeeds.
 *
 * @throws BackupError `already-exists` when the other word was said
 */
export function settleAttempt(
  { store, server }: Repository,
  backupId: string,
  word: 'record' | 'discard',
  put: Pick<PutOptions, 'signal' | 'encryption' | 'tags'>,
): Promise<void> {
  return createSmallObject(store, ownKey(server, FOLDER, backupId, VERDICT), utf8(`${word}\n`), put);
}

/** Removes what an attempt left for its next steps, but not the claim of its id, nor, if told so, its verdict. */
export async function clearAttempt(
  repository: Repository,
  backupId: string,
  signal: AbortSignal,
  { keepsVerdict = false }: { readonly keepsVerdict?: boolean } = {},
): Promise<void> {
  const isLeftOver = (name: string) => !keepsVerdict || name !== VERDICT;
  await deleteAll(repository, `${ownKey(repository.server, FOLDER, backupId)}/`, isLeftOver, signal);
}

/** What is in the repository of an attempt, beside its tars. All times are the store's. */
export interface StoredAttempt {
  readonly backupId: string;
  /** Absent when its claim is gone, which nothing of walkeep removes. */
  readonly claimedAt?: Date;
  /** When the newest of its objects was stored. */
  readonly touchedAt: Date;
  /** It was settled whether it is recorded or discarded. */
  readonly isSettled: boolean;
  /** Objects for its next steps: none when it came to its end, well or not. */
  readonly leftOver: number;
}

/** All attempts that ever were, by id. @throws what the store throws */
export async function listAttempts(
  { store, server }: Repository,
  signal: AbortSignal,
): Promise<Map<string, StoredAttempt>> {
  const prefix = `${ownKey(server, FOLDER)}/`;
  const attempts = new Map<string, StoredAttempt>();
  for await (const { key, modifiedAt } of store.list(prefix, { signal })) {
    const backupId = key.slice(prefix.length, prefix.length + 15);
    const rest = key.slice(prefix.length + 15);
    if (!isBackupId(backupId)) continue;
    const known = attempts.get(backupId) ?? {
      backupId,
      touchedAt: modifiedAt,
      isSettled: false,
      leftOver: 0,
    };
    attempts.set(backupId, {
      ...known,
      touchedAt: known.touchedAt > modifiedAt ? known.touchedAt : modifiedAt,
      ...(rest === '.json' && { claimedAt: modifiedAt }),
      ...(rest === `/${VERDICT}` && { isSettled: true }),
      ...(rest.startsWith('/') && rest !== `/${VERDICT}` && { leftOver: known.leftOver + 1 }),
    });
  }
  return attempts;
}

/** Removes the tars of an attempt. */
export async function deleteParts(
  repository: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<void> {
  await deleteAll(
    repository,
    backupPrefix(repository.server, backupId),
    (name) => parsePartName(name) !== undefined,
    signal,
  );
}

async function deleteAll(
  { store }: Repository,
  prefix: string,
  chosen: (name: string) => boolean,
  signal: AbortSignal,
): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix, { signal })) {
    if (chosen(key.slice(prefix.length))) keys.push(key);
  }
  if (keys.length > 0) await store.delete(keys, { signal });
}

async function newestId({ store, server }: Repository, signal: AbortSignal): Promise<string | undefined> {
  let newest: string | undefined;
  const consider = (id: string) => {
    if (isBackupId(id) && (newest === undefined || id > newest)) newest = id;
  };
  const base = basePrefix(server);
  for await (const folder of store.folders(base, { signal })) consider(folder.slice(base.length, -1));
  const claims = `${ownKey(server, FOLDER)}/`;
  for await (const { key } of store.list(claims, { signal })) {
    const name = key.slice(claims.length);
    if (name.endsWith('.json') && !name.includes('/')) consider(name.slice(0, -'.json'.length));
  }
  return newest;
}

function claimKey(server: string, backupId: string): string {
  return ownKey(server, FOLDER, `${backupId}.json`);
}

function detailsKey(server: string, backupId: string): string {
  return ownKey(server, FOLDER, backupId, 'copied.json');
}

function idAt(time: Date): string {
  return time.toISOString().slice(0, 19).replaceAll(/[-:]/g, '');
}

function timeOf(id: string): number {
  const [year, month, day, hour, minute, second] = [0, 4, 6, 9, 11, 13].map((at, index) =>
    Number(id.slice(at, at + (index === 0 ? 4 : 2))),
  ) as [number, number, number, number, number, number];
  return Date.UTC(year, month - 1, day, hour, minute, second);
}
