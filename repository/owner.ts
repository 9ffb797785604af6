import { z } from 'zod';
import { BackupError, isBackupError } from '../core/errors.ts';
import { isSegmentSize } from '../core/segment.ts';
import { readBackup } from './catalogue.ts';
import { basePrefix, isBackupId, ownKey } from './layout.ts';
import { readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';
import { createSmallObject, utf8 } from './small-object.ts';
import { listWal, readWalHead } from './wal.ts';

/** Whose backups and WAL a repository holds. */
export interface Owner {
  readonly version: 1;
  /** PostgreSQL's system identifier, in digits. */
  readonly systemId: string;
  /** Bytes of a WAL segment. */
  readonly segmentSize: number;
  /** When walkeep first saw the repository, ISO 8601. */
  readonly createdAt: string;
}

export type OwnerIdentity = Pick<Owner, 'systemId' | 'segmentSize'>;

/**
 * Reads the system identifier and segment size out of the first bytes of a WAL segment.
 *
 * @throws BackupError when they are no beginning of one
 */
export type WalHeaderReader = (head: Uint8Array) => OwnerIdentity;

const ownerSchema = z.object({
  version: z.literal(1),
  systemId: z.string().regex(/^\d{1,20}$/),
  segmentSize: z.number().refine(isSegmentSize),
  createdAt: z.iso.datetime({ offset: true }),
});

const MAX_OWNER_BYTES = 64 * 1024;
/** The long header of a segment's first page is shorter. */
const WAL_HEAD_BYTES = 8192;
/** Of an archive's first segments, so many are tried when one can't be read. */
const MAX_SEGMENTS_TRIED = 8;

/** @returns `undefined` when walkeep never wrote here @throws BackupError `format-invalid` for a record it did not write */
export function readOwner(r: Repository, signal: AbortSignal): Promise<Owner | undefined> {
  return readOwnRecord(r, ownKey(r.server, 'owner.json'), {
    schema: ownerSchema,
    maxBytes: MAX_OWNER_BYTES,
    signal,
  });
}

/**
 * Makes sure that the repository belongs to this cluster, before anything is written to it (A4). A repository nobody
 * owns is claimed: an empty one at once, one that barman or CNPG wrote when its newest readable record, or else its
 * WAL, is of the same cluster. Nothing but the owner record is written.
 *
 * @param readWalHeader how to tell whose WAL is; without it an archive that has WAL but neither owner nor backup is refused
 * @throws BackupError `wal-foreign` when it is another cluster's
 */
export async function claimOwner(
  r: Repository,
  identity: OwnerIdentity,
  signal: AbortSignal,
  readWalHeader?: WalHeaderReader,
): Promise<Owner> {
  const existing = await readOwner(r, signal);
  if (existing) return requireSame(r, existing, identity);
  const derived = await deriveOwner(r, signal, readWalHeader);
  if (derived) requireSame(r, derived, identity);
  const { systemId, segmentSize } = identity;
  const owner: Owner = { version: 1, systemId, segmentSize, createdAt: new Date().toISOString() };
  try {
    const bytes = utf8(`${JSON.stringify(owner, undefined, 2)}\n`);
    await createSmallObject(r.store, ownKey(r.server, 'owner.json'), bytes, { signal });
    return owner;
  } catch (error) {
    if (!isBackupError(error, 'already-exists')) throw error;
    // somebody else was first: another worker of this cluster, or another cluster
    const first = await readOwner(r, signal);
    if (!first) throw error;
    return requireSame(r, first, identity);
  }
}

function requireSame<T extends OwnerIdentity>(r: Repository, owner: T, identity: OwnerIdentity): T {
  if (owner.systemId !== identity.systemId) {
    throw new BackupError(
      'wal-foreign',
      `${r.url} belongs to the cluster with system identifier ${owner.systemId}, this one has ${identity.systemId}`,
      {
        hint:
          'give this cluster its own serverName. After pg_upgrade or a new initdb that is right, too: ' +
          'the old backups stay restorable under the old name',
      },
    );
  }
  if (owner.segmentSize !== identity.segmentSize) {
    throw new BackupError(
      'wal-foreign',
      `${r.url} holds WAL segments of ${owner.segmentSize} bytes, this cluster has segments of ${identity.segmentSize}`,
      { hint: 'the segment size was changed: give the cluster a new serverName and take a new base backup' },
    );
  }
  return owner;
}

/**
 * Whose a repository without an owner record is: the newest backup whose record can be read tells, or else the
 * archived WAL. Nothing is written.
 *
 * @returns `undefined` when it holds neither
 * @throws BackupError `wal-foreign` when it holds WAL and nothing tells whose
 */
export async function deriveOwner(
  r: Repository,
  signal: AbortSignal,
  readWalHeader?: WalHeaderReader,
): Promise<OwnerIdentity | undefined> {
  return (await ownerOfNewestBackup(r, signal)) ?? ownerOfWal(r, signal, readWalHeader);
}

async function ownerOfNewestBackup(r: Repository, signal: AbortSignal): Promise<OwnerIdentity | undefined> {
  const prefix = basePrefix(r.server);
  const ids: string[] = [];
  for await (const folder of r.store.folders(prefix, { signal })) ids.push(folder.slice(prefix.length, -1));
  for (const id of ids.filter(isBackupId).toSorted().toReversed()) {
    const info = await readBackup(r, id, signal).catch((error: unknown) => {
      if (isBackupError(error, 'format-invalid', 'object-damaged')) return undefined;
      throw error;
    });
    if (info?.systemId !== undefined) return { systemId: info.systemId, segmentSize: info.segmentSize };
  }
  return undefined;
}

async function ownerOfWal(
  r: Repository,
  signal: AbortSignal,
  readWalHeader: WalHeaderReader | undefined,
): Promise<OwnerIdentity | undefined> {
  let problem: unknown;
  let tried = 0;
  for await (const object of listWal(r, signal, { withoutHistories: true })) {
    if (object.file.kind !== 'segment' && object.file.kind !== 'partial') continue;
    tried += 1;
    try {
      if (readWalHeader) return readWalHeader(await readWalHead(r, object, WAL_HEAD_BYTES, signal));
    } catch (error) {
      if (!isBackupError(error, 'object-damaged', 'object-missing', 'format-invalid')) throw error;
      problem = error;
    }
    if (tried >= MAX_SEGMENTS_TRIED || !readWalHeader) break;
  }
  if (tried === 0) return undefined;
  throw new BackupError('wal-foreign', `${r.url} holds WAL, but nothing in it tells of which cluster`, {
    cause: problem,
    hint: 'give this cluster its own serverName, or move the old WAL away',
  });
}
