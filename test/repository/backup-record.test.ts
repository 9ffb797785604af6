import { describe, expect, it, test } from 'vitest';
import {
  deleteBackupRecord,
  listOutcomes,
  readBackupManifest,
  readBackupRecord,
  readOutcome,
  readTablespaceMap,
  writeBackupManifest,
  writeBackupRecord,
  writeOutcome,
  writeTablespaceMap,
  type BackupRecord,
  type Outcome,
} from '../../repository/backup-record.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');
const ID = '20261122T222531';

const part = (name: string, codec: 'gzip' | 'none' = 'gzip') => ({
  name,
  codec,
  plainBytes: 1024,
  plainSha256: 'a'.repeat(64),
  storedBytes: 100,
  storedSha256: 'b'.repeat(64),
  members: 3,
});

const record: BackupRecord = {
  version: 1,
  backupId: ID,
  backupName: 'nightly',
  systemId: '7711125222447432971',
  postgresVersion: 170010,
  parts: [part('data.tar.gz'), part('16384_0001.tar', 'none')],
  pageChecksumFailures: [{ path: 'base/5/16386', blocks: [3, 5] }],
  walkeepVersion: '0.1.0',
  cluster: 'pg-main',
  namespace: 'production',
  instance: 'pg-main-1',
  fromStandby: false,
  files: 1200,
};

describe('the record of what was stored', () => {
  it('B1: out is in; the same again succeeds, another is refused', async () => {
    const r = open();
    await writeBackupRecord(r, record, signal);
    await writeBackupRecord(r, record, signal);
    await expect(writeBackupRecord(r, { ...record, files: 1 }, signal)).rejects.toMatchObject({
      code: 'already-exists',
    });
    expect(await readBackupRecord(r, ID, signal)).toEqual(record);
    expect(await readBackupRecord(r, '20261122T222532', signal)).toBeUndefined();
  });

  it('passes over what a newer version added', async () => {
    const r = open();
    await r.store.put(
      `pg/walkeep/backups/${ID}/objects.json`,
      Buffer.from(JSON.stringify({ ...record, more: 1 })),
      { signal },
    );
    expect(await readBackupRecord(r, ID, signal)).toEqual(record);
  });

  test.for<[string, object]>([
    ['a part that is no part', { parts: [part('../../x')] }],
    ['a part of another codec', { parts: [part('data.tar')] }],
    ['a part twice', { parts: [part('data.tar.gz'), part('data.tar', 'none')] }],
    ['a negative size', { parts: [{ ...part('data.tar.gz'), storedBytes: -1 }] }],
    ['a size that is no number', { parts: [{ ...part('data.tar.gz'), storedBytes: '1' }] }],
    ['a size beyond numbers', { parts: [{ ...part('data.tar.gz'), storedBytes: 1e300 }] }],
    ['a hash that is none', { parts: [{ ...part('data.tar.gz'), storedSha256: 'x' }] }],
    ['a path that leaves', { pageChecksumFailures: [{ path: '../x', blocks: [] }] }],
    ['another version', { version: 2 }],
    ['another backup', { backupId: '20261122T222532' }],
    ['an id that is none', { backupId: 'latest' }],
  ])('S2: a record with %s is refused when it is read', async ([, change]) => {
    const r = open();
    await r.store.put(
      `pg/walkeep/backups/${ID}/objects.json`,
      Buffer.from(JSON.stringify({ ...record, ...change })),
      { signal },
    );
    await expect(readBackupRecord(r, ID, signal)).rejects.toMatchObject({
      code: 'format-invalid',
      message: expect.stringContaining('objects.json'),
    });
  });

  it('does not write what it would not read', async () => {
    const r = open();
    const wrong = { ...record, parts: [part('data.tar')] };
    await expect(writeBackupRecord(r, wrong, signal)).rejects.toMatchObject({ code: 'format-invalid' });
  });

  test.for(['none', 'gzip', 'lz4', 'zstd'] as const)(
    'E1: keeps the manifest and the tablespace map, by %s',
    async (codec) => {
      const r = open();
      async function* manifest() {
        yield Buffer.from('{"PostgreSQL-Backup-Manifest-Version": 1,');
        yield Buffer.from('"Files": []}');
      }
      await writeBackupManifest(r, ID, manifest(), { codec, signal });
      await writeTablespaceMap(r, ID, '16384 /srv/ts\n', { signal });
      expect(await readTablespaceMap(r, ID, signal)).toBe('16384 /srv/ts\n');
      const read = await readBackupManifest(r, ID, signal);
      expect(Buffer.concat(await all(read!)).toString()).toBe(
        '{"PostgreSQL-Backup-Manifest-Version": 1,"Files": []}',
      );
      await writeBackupRecord(r, record, signal);
      await deleteBackupRecord(r, ID, signal);
      await deleteBackupRecord(r, ID, signal);
      expect(await readBackupManifest(r, ID, signal)).toBeUndefined();
      expect(await all(r.store.list('', { signal }))).toEqual([]);
    },
  );
});

describe('the outcome of a Backup', () => {
  const outcome: Outcome = {
    version: 1,
    backupName: 'nightly-20261122',
    cluster: 'pg-main',
    namespace: 'production',
    status: { phase: 'completed', backupId: ID, error: null },
    recordedAt: '2026-11-22T22:25:44Z',
  };

  it('is created once, replaced when asked, and listed by name', async () => {
    const r = open();
    await writeOutcome(r, outcome, { mode: 'create', signal });
    await writeOutcome(r, outcome, { mode: 'create', signal });
    const failed = { ...outcome, status: { phase: 'failed', error: 'x' } };
    await expect(writeOutcome(r, failed, { mode: 'create', signal })).rejects.toMatchObject({
      code: 'already-exists',
    });
    await writeOutcome(r, failed, { mode: 'replace', signal });
    expect(await readOutcome(r, outcome.backupName, signal)).toEqual(failed);
    await writeOutcome(r, { ...outcome, backupName: 'a.b' }, { mode: 'create', signal });
    await r.store.put('pg/walkeep/outcomes/.hidden.json', Buffer.from('x'), { signal });
    expect((await listOutcomes(r, signal)).map(({ backupName }) => backupName)).toEqual([
      'a.b',
      'nightly-20261122',
    ]);
    expect(await readOutcome(r, 'never', signal)).toBeUndefined();
  });

  test.for(['', '..', '../x', 'a/b', '.x', 'a b', 'x'.repeat(201)])(
    'S2: the name %j is refused',
    async (backupName) => {
      const r = open();
      await expect(
        writeOutcome(r, { ...outcome, backupName }, { mode: 'replace', signal }),
      ).rejects.toMatchObject({ code: 'format-invalid' });
      await expect(readOutcome(r, backupName, signal)).rejects.toMatchObject({ code: 'format-invalid' });
    },
  );

  it('S2: one that is about another Backup is refused', async () => {
    const r = open();
    await r.store.put('pg/walkeep/outcomes/other.json', Buffer.from(JSON.stringify(outcome)), { signal });
    await expect(readOutcome(r, 'other', signal)).rejects.toMatchObject({ code: 'format-invalid' });
  });
});

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}
