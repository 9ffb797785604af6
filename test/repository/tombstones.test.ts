import { describe, expect, it } from 'vitest';
import { formatBackupInfo } from '../../repository/backup-info.ts';
import { listBackups, readCatalogue } from '../../repository/catalogue.ts';
import { createRepository } from '../../repository/repository.ts';
import {
  beginDeletion,
  concludeDeletion,
  isBeingDeleted,
  listGraves,
  listTombstones,
  markedBackup,
  placeTombstone,
  readGrave,
  readMark,
  readTombstone,
  stopDeletion,
  takeBackTombstone,
  type Tombstone,
} from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { done } from './records/done.ts';

const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');
const ID = '20261122T222531';
const tombstone = (more: Partial<Tombstone> = {}): Tombstone => ({
  version: 1,
  backupId: ID,
  reasons: ['no rule keeps it'],
  epoch: 3,
  markedAt: '2026-11-24T10:00:00Z',
  backup: markedBackup(done, 4711),
  ...more,
});

describe('tombstones', () => {
  it('D4: the first mark stays, so that its grace period does not begin anew', async () => {
    const r = open();
    await placeTombstone(r, tombstone(), signal);
    const before = (await listTombstones(r, signal)).get(ID);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await placeTombstone(r, tombstone({ epoch: 4 }), signal);
    expect((await listTombstones(r, signal)).get(ID)).toEqual(before);
    expect(await readTombstone(r, ID, signal)).toMatchObject({ epoch: 3, backup: { sizeBytes: 4711 } });
  });

  it('D4: tells since when and under which grace period; those of older versions tell none', async () => {
    const r = open();
    expect(await readMark(r, ID, signal)).toBeUndefined();
    await placeTombstone(r, tombstone(), signal);
    const markedAt = (await listTombstones(r, signal)).get(ID)?.markedAt;
    expect(await readMark(r, ID, signal)).toEqual({ markedAt, graceMs: 0 });
    await takeBackTombstone(r, ID, signal);
    await placeTombstone(r, tombstone({ graceMs: 3_600_000 }), signal);
    expect(await readMark(r, ID, signal)).toMatchObject({ graceMs: 3_600_000 });
    await concludeDeletion(r, ID, signal);
    expect(await readGrave(r, ID, signal)).toMatchObject({ graceMs: 3_600_000 });
  });

  it('D4: a backup that is being deleted is none: listed as a problem, whatever its record says', async () => {
    const r = open();
    await r.store.put(`pg/base/${ID}/backup.info`, Buffer.from(formatBackupInfo({ ...done, backupId: ID })), {
      signal,
    });
    await placeTombstone(r, tombstone(), signal);
    expect((await listBackups(r, signal))[0]).toMatchObject({
      info: { status: 'DONE' },
      tombstone: { markedAt: expect.any(Date) },
    });
    await beginDeletion(r, ID, signal);
    await beginDeletion(r, ID, signal);
    expect(await isBeingDeleted(r, ID, signal)).toBe(true);
    const [entry] = await listBackups(r, signal);
    expect(entry).toMatchObject({ problem: expect.stringContaining('it is being deleted') });
    expect(entry).not.toHaveProperty('info');
    expect((await readCatalogue(r, signal))[0]).toMatchObject({ info: { status: 'DONE' } });

    await stopDeletion(r, ID, signal);
    expect((await listBackups(r, signal))[0]?.info).toBeDefined();
    await takeBackTombstone(r, ID, signal);
    await takeBackTombstone(r, ID, signal);
    expect((await listBackups(r, signal))[0]).not.toHaveProperty('tombstone');
  });

  it('D4: the mark becomes a gravestone, and doing it again changes nothing', async () => {
    const r = open();
    await placeTombstone(r, tombstone(), signal);
    await beginDeletion(r, ID, signal);
    await concludeDeletion(r, ID, signal);
    await concludeDeletion(r, ID, signal);
    expect((await listTombstones(r, signal)).size).toBe(0);
    expect([...(await listGraves(r, signal))]).toEqual([ID]);
    expect(await readGrave(r, ID, signal)).toMatchObject({
      backup: { status: 'DONE', systemId: done.systemId },
      deletedAt: expect.any(String),
    });
  });

  it('passes over objects that are none', async () => {
    const r = open();
    for (const name of ['x.json', `${ID}.txt`, ID, `${ID}.json.bak`])
      await r.store.put(`pg/walkeep/tombstones/${name}`, Buffer.from('?'), { signal });
    expect((await listTombstones(r, signal)).size).toBe(0);
  });
});
