import { describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { formatBackupInfo } from '../../repository/backup-info.ts';
import { claimOwner, deriveOwner, readOwner, type WalHeaderReader } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { compressBytes } from '../../streams/codec.ts';
import { done } from './records/done.ts';

const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');
const ours = { systemId: '7711125222447432971', segmentSize: 16 * 1024 * 1024 };
const theirs = { ...ours, systemId: '7000000000000000001' };

const store = (r: Repository, keys: Record<string, string | Uint8Array>) =>
  Promise.all(
    Object.entries(keys).map(([key, body]) => r.store.put(key, Buffer.from(body as string), { signal })),
  );

async function keys(r: Repository): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of r.store.list('', { signal })) found.push(key);
  return found;
}

/** Stands for the WAL page header: the system identifier as text. */
const readHeader: WalHeaderReader = (head) => {
  const systemId = /^id:(\d+)/.exec(Buffer.from(head).toString('latin1'))?.[1];
  if (systemId === undefined) throw new BackupError('object-damaged', 'not a WAL page');
  return { systemId, segmentSize: 16 * 1024 * 1024 };
};

const foreign = {
  code: 'wal-foreign',
  message: expect.stringMatching(/7000000000000000001.*7711125222447432971/),
};

describe('the owner of a repository', () => {
  it('A4: an empty repository is claimed, by one cluster', async () => {
    const r = open();
    expect(await readOwner(r, signal)).toBeUndefined();
    const owner = await claimOwner(r, theirs, signal);
    expect(owner).toMatchObject({ version: 1, ...theirs });
    expect(await readOwner(r, signal)).toEqual(owner);
    expect(await claimOwner(r, theirs, signal)).toEqual(owner);
    await expect(claimOwner(r, ours, signal)).rejects.toMatchObject({
      ...foreign,
      hint: expect.stringContaining('serverName'),
    });
    expect(await readOwner(r, signal)).toEqual(owner);
  });

  it('A4: of two that claim at once, one cluster has it', async () => {
    const r = open();
    const claims = await Promise.allSettled(
      [ours, theirs, ours, theirs].map((identity) => claimOwner(r, identity, signal)),
    );
    expect(claims.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected']);
    expect(await readOwner(r, signal)).toMatchObject(ours);
  });

  it('A4: another segment size is refused', async () => {
    const r = open();
    await claimOwner(r, ours, signal);
    const claim = claimOwner(r, { ...ours, segmentSize: 64 * 1024 * 1024 }, signal);
    await expect(claim).rejects.toMatchObject({
      code: 'wal-foreign',
      message: expect.stringContaining('67108864'),
    });
  });

  it('A4: a repository that barman wrote is whose newest readable record says', async () => {
    const r = open();
    const record = formatBackupInfo(done);
    await store(r, {
      'pg/base/20261121T000000/backup.info': record.replace(ours.systemId, '5'),
      'pg/base/20261122T222531/backup.info': record.replace(ours.systemId, theirs.systemId),
      'pg/base/20261123T000000/backup.info': 'status=STARTED\n',
      'pg/base/20261124T000000/backup.info': 'garbage',
    });
    const before = await keys(r);
    expect(await deriveOwner(r, signal)).toEqual(theirs);
    await expect(claimOwner(r, ours, signal)).rejects.toMatchObject(foreign);
    expect(await keys(r)).toEqual(before);
    await claimOwner(r, theirs, signal);
    expect(await keys(r)).toEqual([...before, 'pg/walkeep/owner.json']);
  });

  it('A4: without a record the archived WAL tells', async () => {
    const r = open();
    await store(r, {
      'pg/wals/0000000100000000/000000010000000000000001.bz2': 'damaged too',
      'pg/wals/0000000100000000/000000010000000000000002': 'damaged',
      'pg/wals/0000000100000000/000000010000000000000003.gz': await compressBytes(
        'gzip',
        Buffer.from(`id:${theirs.systemId} `),
      ),
    });
    await expect(claimOwner(r, ours, signal, readHeader)).rejects.toMatchObject(foreign);
    expect(await claimOwner(r, theirs, signal, readHeader)).toMatchObject(theirs);
  });

  test.for([
    ['nobody can read', { 'pg/wals/0000000100000000/000000010000000000000001': 'damaged' }, readHeader],
    [
      'nobody is there to read',
      { 'pg/wals/0000000100000000/000000010000000000000001': `id:${ours.systemId}` },
      undefined,
    ],
    ['is a partial only', { 'pg/wals/0000000100000000/000000010000000000000001.partial': 'x' }, readHeader],
  ] as const)('A4: WAL that %s is taken for foreign', async ([, objects, reader]) => {
    const r = open();
    await store(r, objects);
    await expect(claimOwner(r, ours, signal, reader)).rejects.toMatchObject({ code: 'wal-foreign' });
    expect(await readOwner(r, signal)).toBeUndefined();
  });

  it('A4: a store that fails proves nothing', async () => {
    const r = open();
    const failing = {
      ...r,
      store: { ...r.store, get: () => Promise.reject(new BackupError('store-unavailable', 'no answer')) },
    };
    await expect(claimOwner(failing, ours, signal)).rejects.toMatchObject({ code: 'store-unavailable' });
  });

  test.for([
    '{}',
    'x',
    '{"version":2}',
    '{"version":1,"systemId":"x","segmentSize":16777216,"createdAt":"2026-11-22T00:00:00Z"}',
    '{"version":1,"systemId":"1","segmentSize":1000,"createdAt":"2026-11-22T00:00:00Z"}',
  ])('S2: the owner record %s is refused', async (text) => {
    const r = open();
    await store(r, { 'pg/walkeep/owner.json': text });
    await expect(claimOwner(r, ours, signal)).rejects.toMatchObject({ code: 'format-invalid' });
  });
});
