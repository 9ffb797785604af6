import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { nextSegment, parseSegmentName, type SegmentName } from '../core/segment.ts';
import { switchWal } from '../postgres/switch-wal.ts';
import { identifySegment, requireOwnWal } from '../postgres/wal-identity.ts';
import { backupPrefix } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal, readWal, type WalObject } from '../repository/wal.ts';
import { decompress } from '../streams/codec.ts';
import { digesting } from '../streams/digest.ts';
import { isRecorded, readDetails, type AttemptDetails } from './backup-attempt.ts';
import type { BackupPorts, CopiedBackup, Progress } from './backup-ports.ts';

/** How closely stored parts are looked at: their size, their bytes, or what their bytes decompress to. */
export type PartVerification = 'size' | 'hash' | 'decode';

export interface ConfirmOptions {
  readonly signal: AbortSignal;
  /** How long the WAL may take to arrive, in milliseconds. */
  readonly deadlineMs: number;
  /** By default the bytes in a directory, the size in an object store, whose checksums cover the way there. */
  readonly verify?: PartVerification;
  /** Asks the primary to close its current segment; by default done by `ports.primary`, or the server itself. */
  readonly requestSwitch?: () => Promise<void>;
  readonly onProgress?: (progress: Progress) => void;
}

type PartAsStored = AttemptDetails['parts'][number];

const POLL_MS = { first: 250, longest: 5_000 };
/** A switch is asked for again: the first may have come before the end of the backup was replayed on the primary. */
const SWITCH_EVERY_MS = 30_000;

/**
 * Makes sure that a copied backup can be restored: every WAL segment from its begin to its end is in the repository,
 * whole and of this cluster, and every part is there as it was written (B1).
 *
 * @throws BackupError `wal-missing` after the deadline; `object-missing` | `object-damaged` | `wal-foreign`
 */
export async function confirmBackup(
  ports: BackupPorts,
  copied: CopiedBackup,
  options: ConfirmOptions,
): Promise<void> {
  const repository = await ports.repository();
  if (await isRecorded(repository, copied, options.signal)) return;
  const details = await readDetails(repository, copied.backupId, options.signal);
  const report = (phase: Progress['phase'], doneBytes: number) =>
    options.onProgress?.({
      phase,
      doneBytes,
      totalBytes: copied.storedBytes,
      storedBytes: copied.storedBytes,
    });
  report('waiting-for-wal', 0);
  const requestSwitch = options.requestSwitch ?? switchBy(ports, copied, options.signal);
  await waitForWal(repository, copied, options, requestSwitch);
  report('verifying', 0);
  const verify = options.verify ?? (ports.store.kind === 'file' ? 'hash' : 'size');
  let doneBytes = 0;
  for (const part of details.parts) {
    await verifyPart(repository, copied.backupId, part, { verify, signal: options.signal });
    report('verifying', (doneBytes += part.storedBytes));
  }
  failpoint('backup.confirmed');
}

/** All segments that a restore of this backup needs before it is consistent, in order. */
export function neededSegments({ beginWal, endWal, segmentSize }: CopiedBackup): SegmentName[] {
  const segments: SegmentName[] = [];
  const last = parseSegmentName(endWal);
  for (let name = parseSegmentName(beginWal); name <= last; name = nextSegment(name, segmentSize))
    segments.push(name);
  return segments;
}

async function waitForWal(
  repository: Repository,
  copied: CopiedBackup,
  { signal, deadlineMs }: ConfirmOptions,
  requestSwitch: (() => Promise<void>) | undefined,
): Promise<void> {
  const began = performance.now();
  const waiting = neededSegments(copied);
  const all = waiting.length;
  let switchedAt: number | undefined;
  let pollMs = POLL_MS.first;
  let problem: BackupError | undefined;
  while (waiting.length > 0) {
    signal.throwIfAborted();
    problem = await missingFrom(repository, waiting[0] as SegmentName, copied, signal);
    if (!problem) {
      waiting.shift();
      continue;
    }
    const elapsed = performance.now() - began;
    if (elapsed >= deadlineMs) {
      throw isBackupError(problem, 'wal-missing')
        ? missing(repository, copied, waiting, all, elapsed)
        : problem;
    }
    if (requestSwitch && (switchedAt === undefined || elapsed - switchedAt > SWITCH_EVERY_MS)) {
      switchedAt = elapsed;
      // Best effort: the segment may come anyway, and when it does not, the message says what to do.
      await requestSwitch().catch(() => signal.throwIfAborted());
    }
    await sleep(Math.min(pollMs, Math.max(10, deadlineMs - elapsed)), undefined, { signal }).catch(() =>
      signal.throwIfAborted(),
    );
    pollMs = Math.min(POLL_MS.longest, pollMs * 1.5);
  }
}

/** Why a segment does not count as archived yet; `undefined` when it does. */
async function missingFrom(
  repository: Repository,
  segment: SegmentName,
  copied: CopiedBackup,
  signal: AbortSignal,
): Promise<BackupError | undefined> {
  const objects = await findWal(repository, segment, signal);
  if (objects.length === 0) return new BackupError('wal-missing', `${segment} is not in ${repository.url}`);
  try {
    for (const object of objects) await checkSegment(repository, object, segment, copied, signal);
    return undefined;
  } catch (error) {
    // What is there is damaged: its archiver may repair it until the deadline.
    if (isBackupError(error, 'object-damaged', 'object-missing')) return error;
    throw error;
  }
}

async function checkSegment(
  repository: Repository,
  object: WalObject,
  segment: SegmentName,
  { systemId, segmentSize }: CopiedBackup,
  signal: AbortSignal,
): Promise<void> {
  try {
    const bytes = await readWal(repository, object, segmentSize, signal);
    const header = identifySegment({ kind: 'segment', name: segment, segment }, bytes);
    requireOwnWal(segment, header, { systemId, segmentSize }, repository.url);
  } catch (error) {
    if (isBackupError(error, 'format-invalid')) {
      throw new BackupError('object-damaged', `${object.key}: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

function missing(
  { url }: Repository,
  { backupId, fromStandby }: CopiedBackup,
  waiting: readonly SegmentName[],
  all: number,
  elapsedMs: number,
): BackupError {
  const hint = fromStandby
    ? 'look at pg_stat_archiver on the primary; when it is idle, run select pg_switch_wal() there'
    : 'look at pg_stat_archiver (last_failed_wal) and at the log of the server: archive_command fails or is slow';
  const rest = waiting.length > 1 ? ` and ${waiting.length - 1} more of ${all}` : '';
  return new BackupError(
    'wal-missing',
    `segment ${waiting[0]}${rest}, which backup ${backupId} needs, did not arrive in ${url} within ${Math.round(elapsedMs / 1000)} s`,
    { hint },
  );
}

function switchBy(
  { primary, postgres }: BackupPorts,
  { fromStandby }: CopiedBackup,
  signal: AbortSignal,
): (() => Promise<void>) | undefined {
  const server = primary ?? (fromStandby ? undefined : postgres);
  return server && (() => switchWal(server, signal));
}

async function verifyPart(
  { store, server }: Repository,
  backupId: string,
  part: PartAsStored,
  { verify, signal }: { readonly verify: PartVerification; readonly signal: AbortSignal },
): Promise<void> {
  const key = backupPrefix(server, backupId) + part.name;
  const object = await store.head(key, { signal });
  if (!object) throw gone(key);
  if (object.sizeBytes !== part.storedBytes) {
    throw new BackupError(
      'object-damaged',
      `${key} has ${object.sizeBytes} bytes, ${part.storedBytes} were written`,
    );
  }
  if (verify === 'size') return;
  const source = await store.get(key, { signal });
  if (!source) throw gone(key);
  const stored = digesting(source);
  const plain =
    verify === 'decode' ? digesting(decompress(part.codec, stored.bytes, { signal, name: key })) : undefined;
  for await (const _ of plain?.bytes ?? stored.bytes) signal.throwIfAborted();
  if (stored.result().sha256 !== part.storedSha256 || (plain && plain.result().sha256 !== part.plainSha256)) {
    throw new BackupError('object-damaged', `${key} does not hold the bytes that were written`);
  }
}

function gone(key: string): BackupError {
  return new BackupError('object-missing', `${key} was written and is gone`, {
    hint: 'something else deletes from this repository: a retention of barman-cloud or CNPG?',
  });
}
