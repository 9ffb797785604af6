import { z } from 'zod';
import { BackupError } from '../core/errors.ts';
import type { PutOptions } from '../stores/object-store.ts';
import { CODECS, CODEC_SUFFIX, compress, decompress, type Codec } from '../streams/codec.ts';
import { isBackupId, ownKey, parsePartName, validateBackupId } from './layout.ts';
import { safeMemberPath } from './member-path.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';
import { createSmallObject, readSmallText, utf8 } from './small-object.ts';

/** What one tar must be when it is read again. */
export interface PartRecord {
  /** In the backup's folder, such as `data.tar.gz`. */
  readonly name: string;
  readonly codec: Codec;
  /** Of the tar before compression. */
  readonly plainBytes: number;
  /** 64 lower-case hexadecimal digits, as `storedSha256`. */
  readonly plainSha256: string;
  /** Of the object. */
  readonly storedBytes: number;
  readonly storedSha256: string;
  readonly members: number;
}

/** What walkeep knows about a backup it took, beside what barman's `backup.info` can say. */
export interface BackupRecord {
  readonly version: 1;
  readonly backupId: string;
  readonly backupName?: string;
  readonly systemId: string;
  /** `server_version_num`. */
  readonly postgresVersion: number;
  readonly parts: readonly PartRecord[];
  /** Pages whose checksum did not fit, by file. */
  readonly pageChecksumFailures: readonly { readonly path: string; readonly blocks: readonly number[] }[];
  readonly walkeepVersion: string;
  readonly cluster: string;
  readonly namespace?: string;
  readonly instance: string;
  readonly fromStandby?: boolean;
  /** Files copied, over all parts. */
  readonly files?: number;
}

const MAX_RECORD_BYTES = 32 * 1024 * 1024;
const MAX_TABLESPACE_MAP_BYTES = 1024 * 1024;

const count = z.number().int().nonnegative();
const digest = z.string().regex(/^[0-9a-f]{64}$/, 'not a SHA-256');
const shortText = z.string().min(1).max(255);

const partSchema = z
  .object({
    name: z.string().max(64),
    codec: z.enum(CODECS),
    plainBytes: count,
    plainSha256: digest,
    storedBytes: count,
    storedSha256: digest,
    members: count,
  })
  // the name becomes part of a key
  .refine(({ name, codec }) => parsePartName(name)?.codec === codec, 'not the name of a part of this codec');

const recordSchema: z.ZodType<BackupRecord> = z.object({
  version: z.literal(1),
  backupId: z.string().refine(isBackupId, 'not a backup id'),
  backupName: shortText.exactOptional(),
  systemId: z.string().regex(/^\d{1,20}$/),
  postgresVersion: count,
  parts: z
    .array(partSchema)
    .max(100_000)
    .refine(
      (parts) => new Set(parts.map(({ name }) => bareName(name))).size === parts.length,
      'a part comes twice',
    ),
  pageChecksumFailures: z
    .array(
      z.object({
        path: z.string().refine(isSafePath, 'not a path in the data directory'),
        blocks: z.array(count),
      }),
    )
    .max(1_000_000),
  walkeepVersion: shortText,
  cluster: shortText,
  namespace: shortText.exactOptional(),
  instance: shortText,
  fromStandby: z.boolean().exactOptional(),
  files: count.exactOptional(),
});

/** Two codecs of one part are one part. */
function bareName(name: string): string {
  const codec = parsePartName(name)?.codec ?? 'none';
  return name.slice(0, name.length - CODEC_SUFFIX[codec].length);
}

function isSafePath(path: string): boolean {
  try {
    return safeMemberPath(path) === path;
  } catch {
    return false;
  }
}

function recordKey(r: Repository, backupId: string, name: string): string {
  return ownKey(r.server, 'backups', validateBackupId(backupId), name);
}

/**
 * Writes what is known about a backup's parts, before its `backup.info`. Writing the same again succeeds.
 *
 * @throws BackupError `already-exists` when another record is there; `format-invalid` for one that could not be read
 */
export async function writeBackupRecord(
  r: Repository,
  record: BackupRecord,
  signal: AbortSignal,
): Promise<void> {
  const key = recordKey(r, record.backupId, 'objects.json');
  await createSmallObject(r.store, key, ownRecordBytes(key, record, recordSchema), { signal });
}

/**
 * @returns `undefined` for backups that walkeep did not take
 * @throws BackupError `format-invalid` | `object-damaged`
 */
export async function readBackupRecord(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<BackupRecord | undefined> {
  const key = recordKey(r, backupId, 'objects.json');
  const record = await readOwnRecord(r, key, { schema: recordSchema, maxBytes: MAX_RECORD_BYTES, signal });
  if (record && record.backupId !== backupId) {
    throw new BackupError('format-invalid', `${key} is about backup ${record.backupId}`);
  }
  return record;
}

type AttachmentOptions = Pick<PutOptions, 'encryption' | 'tags' | 'signal'>;

/** Stores PostgreSQL's `backup_manifest` beside the record, compressed. It may be large, and is streamed. */
export async function writeBackupManifest(
  r: Repository,
  backupId: string,
  manifest: AsyncIterable<Uint8Array>,
  { codec, ...options }: AttachmentOptions & { codec: Codec },
): Promise<void> {
  const key = recordKey(r, backupId, `backup_manifest${CODEC_SUFFIX[codec]}`);
  await r.store.put(key, compress(codec, manifest, { signal: options.signal }), options);
}

/** The plain bytes of a `backup_manifest`. @returns `undefined` when there is none */
export async function readBackupManifest(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array> | undefined> {
  for (const codec of ['gzip', 'zstd', 'lz4', 'none'] as const) {
    const key = recordKey(r, backupId, `backup_manifest${CODEC_SUFFIX[codec]}`);
    const stored = await r.store.get(key, { signal });
    if (stored) return decompress(codec, stored, { signal, name: key });
  }
  return undefined;
}

/**
 * Stores PostgreSQL's `tablespace_map`. It may not lie in a tar: there it would undo a relocation of tablespaces at
 * the first start.
 */
export async function writeTablespaceMap(
  r: Repository,
  backupId: string,
  text: string,
  options: AttachmentOptions,
): Promise<void> {
  await createSmallObject(r.store, recordKey(r, backupId, 'tablespace_map'), utf8(text), options);
}

/** @returns `undefined` when there is none */
export function readTablespaceMap(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const key = recordKey(r, backupId, 'tablespace_map');
  return readSmallText(r.store, key, { maxBytes: MAX_TABLESPACE_MAP_BYTES, signal });
}

/** Removes all that is ours about one backup: for attempts that came to nothing, and after its parts were deleted. */
export async function deleteBackupRecord(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<void> {
  const keys: string[] = [];
  const folder = `${ownKey(r.server, 'backups', validateBackupId(backupId))}/`;
  for await (const { key } of r.store.list(folder, { signal })) keys.push(key);
  await r.store.delete(keys, { signal });
}

export { listOutcomes, readOutcome, writeOutcome, type Outcome } from './outcome.ts';
