import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { BackupPorts, CopiedBackup, TakeBackupInput } from '../../operations/take-backup.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { readBackup } from '../../repository/catalogue.ts';
import { backupPrefix, parsePartName } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { decompress, type Codec } from '../../streams/codec.ts';
import type { Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';

/** A repository in a directory, with what a backup test does to it. */
export interface BackupBench {
  readonly directory: string;
  readonly repository: Repository;
  /** For `archive_command`: plain copies in the barman layout, by `cp` alone. */
  readonly archiveCommand: string;
  /** For `restore_command` of a restored server. */
  readonly restoreCommand: string;
  ports(server: Postgres, user?: string): BackupPorts;
}

export const SERVER = 'srv';
export const NEVER: AbortSignal = new AbortController().signal;

/** An empty repository that the server's user may write to. */
export function createBench(): BackupBench {
  const directory = makeTempDir('repo');
  const wals = join(directory, SERVER, 'wals');
  const store = { kind: 'file', directory } as const;
  const repository = createRepository(openStore(store), SERVER);
  for (const path of [join(directory, SERVER), wals]) {
    mkdirSync(path);
    giveToServerUser(path);
  }
  const folder = `d=${wals}/$(echo %f | cut -c1-16); case %f in *.history) d=${wals};; esac`;
  return {
    directory,
    repository,
    archiveCommand: `${folder}; mkdir -p $d && cp %p $d/.%f && mv $d/.%f $d/%f`,
    restoreCommand: `${folder}; cp $d/%f %p`,
    ports: (server, user = 'postgres') => ({
      postgres: connectionFromEnvironment({ ...server.environment, PGUSER: user }),
      store,
      repository: () => Promise.resolve(repository),
      walkeepVersion: '0.0.0-test',
    }),
  };
}

export function inputFor(server: Postgres, change: Partial<TakeBackupInput> = {}): TakeBackupInput {
  return {
    cluster: 'c',
    namespace: 'default',
    instance: 'c-1',
    backupName: 'nightly',
    immediateCheckpoint: true,
    jobs: 2,
    codec: 'gzip',
    pgdata: server.dataDirectory,
    ...change,
  };
}

/**
 * Unpacks a backup with the system's tar: a reader that knows nothing of us.
 *
 * @returns the new data directory, its tablespaces linked to new places
 */
export async function unpack(
  bench: BackupBench,
  { backupId }: Pick<CopiedBackup, 'backupId'>,
): Promise<string> {
  const info = await readBackup(bench.repository, backupId, NEVER);
  const root = makeTempDir('restored');
  const target = (area: string) => join(root, area);
  const prefix = backupPrefix(SERVER, backupId);
  for (const name of readdirSync(join(bench.directory, prefix)).toSorted()) {
    const part = parsePartName(name);
    if (!part) continue;
    mkdirSync(target(part.area), { recursive: true, mode: 0o700 });
    giveToServerUser(target(part.area));
    await untar(bench, prefix + name, part.codec, target(part.area));
  }
  for (const { oid } of info?.tablespaces ?? []) {
    symlinkSync(target(String(oid)), join(target('data'), 'pg_tblspc', String(oid)));
  }
  return target('data');
}

async function untar(
  { repository }: BackupBench,
  key: string,
  codec: Codec,
  directory: string,
): Promise<void> {
  const source = await repository.store.get(key, { signal: NEVER });
  if (!source) throw new Error(`${key} is not there`);
  const tar = spawn('tar', ['-x', '-p', '-f', '-', '-C', directory], {
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  const ended = once(tar, 'exit');
  // tar may leave at the end mark, before the last zeros; what counts is its own word.
  await pipeline(Readable.from(decompress(codec, source, { signal: NEVER })), tar.stdin).catch(() => {});
  const [code] = (await ended) as [number];
  if (code !== 0) throw new Error(`tar ended with ${code} for ${key}`);
}

/** Everything in a repository that belongs to base backups, ours and barman's. */
export async function backupObjects({ repository }: BackupBench): Promise<string[]> {
  const keys: string[] = [];
  for (const folder of ['base/', 'walkeep/']) {
    for await (const { key } of repository.store.list(`${SERVER}/${folder}`, { signal: NEVER }))
      keys.push(key);
  }
  return keys;
}

/** What a backup must not leave at a server: O3. */
export async function leftovers(
  server: Postgres,
): Promise<{ sessions: number; locks: number; slots: number }> {
  const [row] = await server.psql<{ sessions: number; locks: number; slots: number }>(
    `select (select count(*)::int from pg_stat_activity where application_name like 'walkeep%') as sessions,
            (select count(*)::int from pg_locks where locktype = 'advisory') as locks,
            (select count(*)::int from pg_replication_slots) as slots`,
  );
  return row as { sessions: number; locks: number; slots: number };
}
