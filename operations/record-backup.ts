import type { BackupStatus } from '../core/backup-status.ts';
import { BackupError, isBackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { parseLsn } from '../core/lsn.ts';
import { parseSegmentName } from '../core/segment.ts';
import { formatManifest, type ManifestFile } from '../postgres/backup-manifest.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import {
  writeBackupManifest,
  writeBackupRecord,
  writeTablespaceMap,
  type BackupRecord,
} from '../repository/backup-record.ts';
import { writeBackupInfo } from '../repository/catalogue.ts';
import type { Repository } from '../repository/repository.ts';
import { decompress } from '../streams/codec.ts';
import {
  clearAttempt,
  isRecorded,
  partFilesKey,
  readDetails,
  settleAttempt,
  type AttemptDetails,
} from './backup-attempt.ts';
import type { BackupPorts, CopiedBackup } from './backup-ports.ts';

/**
 * Makes a copied and confirmed backup count: PostgreSQL's manifest, the tablespace map and the hashes of all parts
 * beside it, then `backup.info` with DONE, which is the last write and never changes (B2). Recording it again succeeds.
 *
 * @returns the Backup's status, as CloudNativePG has it
 * @throws BackupError `already-exists` when another backup has this id's record; `backup-unusable` when the copy is gone;
 *   `store-unavailable` also when the store lost the record that it had confirmed
 */
export async function recordBackup(
  ports: BackupPorts,
  copied: CopiedBackup,
  { signal }: { readonly signal: AbortSignal },
): Promise<BackupStatus> {
  const repository = await ports.repository();
  if (!(await isRecorded(repository, copied, signal))) await record(ports, repository, copied, signal);
  failpoint('backup.recorded');
  // The record stands; what is left over of the attempt is the sweep's, if this fails.
  await clearAttempt(repository, copied.backupId, signal).catch(() => {});
  return statusOf(repository, copied);
}

async function record(
  { walkeepVersion }: BackupPorts,
  repository: Repository,
  copied: CopiedBackup,
  signal: AbortSignal,
): Promise<void> {
  const details = await readDetails(repository, copied.backupId, signal);
  const put = {
    signal,
    ...(details.encryption === undefined ? {} : { encryption: details.encryption }),
    ...(details.tags === undefined ? {} : { tags: details.tags }),
  };
  failpoint('backup.before-own-record');
  await writeBackupManifest(repository, copied.backupId, manifestOf(repository, details, signal), {
    ...put,
    codec: 'gzip',
  });
  if (details.tablespaceMap !== '')
    await writeTablespaceMap(repository, copied.backupId, details.tablespaceMap, put);
  await writeBackupRecord(repository, recordOf(details, walkeepVersion), signal);
  await settleAttempt(repository, copied.backupId, 'record', put).catch((error: unknown) => {
    if (!isBackupError(error, 'already-exists')) throw error;
    throw new BackupError('backup-unusable', `backup ${copied.backupId} was discarded meanwhile`, {
      cause: error,
      hint: 'take a new backup',
    });
  });
  failpoint('backup.before-record');
  await writeBackupInfo(repository, infoOf(details), signal, put);
  // Nobody looks at it again before a restore is needed, and stores have lost what they had confirmed.
  if (await isRecorded(repository, copied, signal)) return;
  throw new BackupError(
    'store-unavailable',
    `the record of backup ${copied.backupId} was stored, said ${repository.url}, and is not there`,
  );
}

async function* manifestOf(
  repository: Repository,
  { copied, parts }: AttemptDetails,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const frame = {
    systemId: copied.systemId,
    majorVersion: Math.floor(copied.postgresVersion / 10_000),
    timeline: copied.timeline,
    beginLsn: parseLsn(copied.beginLsn),
    endLsn: parseLsn(copied.endLsn),
  };
  async function* files() {
    for (const part of parts)
      yield* filesOf(repository, partFilesKey(repository.server, copied.backupId, part.name), signal);
  }
  for await (const text of formatManifest(files(), frame)) yield Buffer.from(text);
}

async function* filesOf(
  repository: Repository,
  key: string,
  signal: AbortSignal,
): AsyncGenerator<ManifestFile> {
  const source = await repository.store.get(key, { signal });
  if (!source)
    throw new BackupError('object-missing', `${key} was written and is gone`, { hint: 'take a new backup' });
  for await (const line of linesOf(decompress('gzip', source, { signal, name: key }))) {
    yield JSON.parse(line) as ManifestFile;
  }
}

async function* linesOf(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const piece of bytes) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split('\n');
    rest = lines.pop() as string;
    yield* lines;
  }
}

function recordOf(
  { copied, parts, owner, pageChecksumFailures }: AttemptDetails,
  walkeepVersion: string,
): BackupRecord {
  return {
    version: 1,
    backupId: copied.backupId,
    backupName: copied.backupName,
    systemId: copied.systemId,
    postgresVersion: copied.postgresVersion,
    parts: parts.map(({ name, codec, plainBytes, plainSha256, storedBytes, storedSha256, members }) => ({
      name,
      codec,
      plainBytes,
      plainSha256,
      storedBytes,
      storedSha256,
      members,
    })),
    pageChecksumFailures,
    walkeepVersion,
    cluster: owner.cluster,
    namespace: owner.namespace,
    instance: owner.instance,
    fromStandby: copied.fromStandby,
    files: copied.files,
  };
}

function infoOf(details: AttemptDetails): BackupInfo {
  const { copied, configFile, hbaFile, identFile, includedFiles } = details;
  return {
    backupId: copied.backupId,
    backupName: copied.backupName,
    status: 'DONE',
    beginTime: new Date(copied.beginTime),
    endTime: new Date(copied.endTime),
    beginWal: parseSegmentName(copied.beginWal),
    endWal: parseSegmentName(copied.endWal),
    beginLsn: parseLsn(copied.beginLsn),
    endLsn: parseLsn(copied.endLsn),
    timeline: copied.timeline,
    systemId: copied.systemId,
    version: copied.postgresVersion,
    segmentSize: copied.segmentSize,
    tablespaces: details.tablespaces,
    backupLabel: details.backupLabel,
    pgdata: details.pgdata,
    copyStats: { total_time: Math.round(details.copySeconds * 1e6) / 1e6, number_of_workers: details.jobs },
    ...(configFile === undefined ? {} : { configFile }),
    ...(hbaFile === undefined ? {} : { hbaFile }),
    ...(identFile === undefined ? {} : { identFile }),
    ...(includedFiles === undefined ? {} : { includedFiles }),
    unknown: {},
  };
}

function statusOf({ server }: Repository, copied: CopiedBackup): BackupStatus {
  return {
    phase: 'completed',
    backupId: copied.backupId,
    backupName: copied.backupName,
    startedAt: inSeconds(copied.beginTime),
    stoppedAt: inSeconds(copied.endTime),
    beginWal: copied.beginWal,
    endWal: copied.endWal,
    beginLSN: copied.beginLsn,
    endLSN: copied.endLsn,
    serverName: server,
    majorVersion: Math.floor(copied.postgresVersion / 10_000),
    online: true,
  };
}

/** RFC 3339 without a fraction, as Kubernetes has times. */
function inSeconds(time: string): string {
  return `${time.slice(0, 19)}Z`;
}
