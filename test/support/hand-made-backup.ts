import { createHash } from 'node:crypto';
import { parseLsn } from '../../core/lsn.ts';
import { segmentAt } from '../../core/segment.ts';
import { crc32c } from '../../postgres/crc32c.ts';
import { writeBackupRecord, type PartRecord } from '../../repository/backup-record.ts';
import { writeBackupInfo } from '../../repository/catalogue.ts';
import { backupPrefix, parsePartName, walKey } from '../../repository/layout.ts';
import type { Repository } from '../../repository/repository.ts';
import { TAR_END, tarHeader, tarPadding, type TarEntry } from '../../repository/tar.ts';
import { compressBytes, type Codec } from '../../streams/codec.ts';
import { makeSegment, MiB, SYSTEM_ID } from './wal-segment.ts';

const signal = new AbortController().signal;
const BEGIN = '0/200028';
const END = '0/201000';

/** A file by its text or bytes, a directory by `null`, or any entry. */
export type Member =
  | [path: string, content: string | Uint8Array | null]
  | (Partial<TarEntry> & { path: string; content?: string });

export const LABEL = `START WAL LOCATION: ${BEGIN} (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/200060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 22:25:32 UTC\nLABEL: test\nSTART TIMELINE: 1\n`;

/** What every data directory has, small. */
export function dataMembers(): Member[] {
  return [
    ['.', null],
    ['PG_VERSION', '15\n'],
    ['postgresql.conf', `port = 5432\ndata_directory = '/srv/source'\n`],
    ['postgresql.auto.conf', `# Do not edit\narchive_command = 'send home'\n`],
    ['pg_hba.conf', 'local all all trust\n'],
    ['global', null],
    ['global/1262', 'databases'],
    ['base', null],
    ['base/5', null],
    ['base/5/16384', 'x'.repeat(20_000)],
    ['pg_wal', null],
    ['pg_tblspc', null],
    ['global/pg_control', controlFile()],
    ['backup_label', LABEL],
  ];
}

/** A `pg_control` of PostgreSQL 15, with raised limits. */
export function controlFile({ systemId = SYSTEM_ID } = {}): Uint8Array {
  const bytes = Buffer.alloc(8192);
  bytes.writeBigUInt64LE(BigInt(systemId), 0);
  bytes.writeUInt32LE(1300, 8);
  bytes.writeUInt32LE(6, 16);
  bytes.writeBigUInt64LE(parseLsn('0/200060'), 32);
  bytes.writeUInt32LE(1, 48);
  bytes.writeInt32LE(250, 180);
  bytes.writeInt32LE(8, 184);
  bytes.writeInt32LE(10, 188);
  bytes.writeInt32LE(5, 192);
  bytes.writeInt32LE(64, 196);
  bytes.writeUInt32LE(8192, 216);
  bytes.writeUInt32LE(131_072, 220);
  bytes.writeUInt32LE(MiB, 228);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 288)), 288);
  return bytes;
}

export function makeTar(members: readonly Member[]): Uint8Array {
  const pieces: Uint8Array[] = [];
  for (const member of members) {
    const [path, given] = Array.isArray(member) ? member : [member.path, member.content ?? ''];
    const content = given === null ? Buffer.alloc(0) : Buffer.from(given as Uint8Array);
    const type = given === null ? 'directory' : 'file';
    const entry: TarEntry = {
      path,
      type,
      size: content.length,
      mode: given === null ? 0o700 : 0o600,
      uid: 0,
      gid: 0,
      mtimeMs: 0,
      ...(Array.isArray(member) ? {} : { ...member, size: content.length }),
    };
    pieces.push(tarHeader(entry), content, tarPadding(content.length));
  }
  return Buffer.concat([...pieces, TAR_END]);
}

export interface HandMade {
  readonly backupId?: string;
  /** By name, such as `data.tar.gz`. */
  readonly tars?: Readonly<Record<string, readonly Member[] | Uint8Array>>;
  readonly tablespaces?: readonly { name: string; oid: number; location: string }[];
  /** Write walkeep's own record, too. */
  readonly isRecorded?: boolean;
  readonly systemId?: string;
}

/** Puts a backup and three segments of WAL into a repository, without any PostgreSQL. */
export async function putBackup(repository: Repository, options: HandMade = {}): Promise<string> {
  const {
    backupId = '20261122T222531',
    tars = { 'data.tar.gz': dataMembers() },
    tablespaces = [],
    isRecorded = true,
  } = options;
  const parts: PartRecord[] = [];
  for (const [name, content] of Object.entries(tars)) {
    const plain = content instanceof Uint8Array ? content : makeTar(content);
    const codec = parsePartName(name)?.codec as Codec;
    const stored = await compressBytes(codec, plain);
    await repository.store.put(backupPrefix(repository.server, backupId) + name, stored, { signal });
    const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
    parts.push({
      name,
      codec,
      plainBytes: plain.length,
      plainSha256: hash(plain),
      storedBytes: stored.length,
      storedSha256: hash(stored),
      members: 0,
    });
  }
  for (const number of [1, 2, 3]) {
    const fileName = `00000001000000000000000${number}`;
    await repository.store.put(walKey(repository.server, fileName, 'none'), makeSegment(fileName), {
      signal,
    });
  }
  const systemId = options.systemId ?? SYSTEM_ID;
  if (isRecorded) {
    const about = { walkeepVersion: '0.0.0', cluster: 'pg', instance: 'pg-1', postgresVersion: 150_020 };
    await writeBackupRecord(
      repository,
      { version: 1, backupId, systemId, parts, pageChecksumFailures: [], ...about },
      signal,
    );
  }
  const [beginLsn, endLsn] = [parseLsn(BEGIN), parseLsn(END)];
  await writeBackupInfo(
    repository,
    {
      backupId,
      status: 'DONE',
      beginTime: new Date('2026-11-22T22:25:31Z'),
      endTime: new Date('2026-11-22T22:25:44Z'),
      beginLsn,
      endLsn,
      beginWal: segmentAt(1, beginLsn, MiB),
      endWal: segmentAt(1, endLsn, MiB),
      timeline: 1,
      systemId,
      version: 150_020,
      segmentSize: MiB,
      tablespaces: [...tablespaces],
      backupLabel: LABEL,
      serverName: 'cloud',
      pgdata: '/srv/source',
      unknown: {},
    },
    signal,
  );
  return backupId;
}
