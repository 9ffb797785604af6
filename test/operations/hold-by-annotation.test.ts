import { beforeEach, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { holdForRestore } from '../../operations/hold-backup.ts';
import { setAnnotatedHold } from '../../operations/hold-by-annotation.ts';
import { SWEEP_LEASE } from '../../operations/sweep.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { listHolds } from '../../repository/holds.ts';
import { readKeep, writeKeep } from '../../repository/keeps.ts';
import { backupInfoKey, backupPrefix } from '../../repository/layout.ts';
import { takeLease } from '../../repository/lease.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { beginDeletion, isBeingDeleted, stopDeletion } from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { keysOf, putBenchBackup } from './sweep-bench.ts';

const { signal } = new AbortController();

describe('a hold that a Backup asks for by its annotation', () => {
  let r: Repository;
  let backupId: string;
  beforeEach(async () => {
    r = createRepository(createMemoryStore(), 'pg');
    backupId = await putBenchBackup(r, { at: 1, daysOld: 3 });
  });
  const hold = (reason: string | null, repository = r) =>
    setAnnotatedHold(repository, { backupId, reason }, signal);
  const remove = (...names: string[]) =>
    r.store.delete(
      names.map((name) => `${backupPrefix(r.server, backupId)}${name}`),
      { signal },
    );
  const sweeping = () => takeLease(r, SWEEP_LEASE, { signal, holder: 'a sweep' });
  const isHeld = async () =>
    (await listHolds(r, signal)).length === 2 && (await readKeep(r, backupId, signal)) === 'full';
  const allKeys = () => keysOf(r, { own: true });

  it('D1: is heeded by every walkeep and, as a keep, by stock tools, until it is taken back', async () => {
    for (let twice = 0; twice < 2; twice += 1) await hold('before the migration');
    expect((await listHolds(r, signal)).map((one) => one.backupId)).toEqual([backupId, backupId]);
    expect((await listHolds(r, signal))[0]?.reason).toContain('before the migration');
    expect(await readKeep(r, backupId, signal)).toBe('full');
    for (let twice = 0; twice < 2; twice += 1) await hold(null);
    expect(await listHolds(r, signal)).toEqual([]);
    expect(await readKeep(r, backupId, signal)).toBeUndefined();
  });

  it('D1: taking it back leaves a keep that somebody else had put there', async () => {
    await writeKeep(r, backupId, 'standalone', signal);
    await hold('x');
    await hold(null);
    expect(await readKeep(r, backupId, signal)).toBe('standalone');
    expect(await listHolds(r, signal)).toEqual([]);
  });

  it('D1: of a backup that is gone, or half gone, it is refused, and nothing is written', async () => {
    await beginDeletion(r, backupId, signal);
    await remove('data.tar');
    let before = await allKeys();
    await expect(hold('x')).rejects.toMatchObject({ code: 'backup-unusable' });
    expect(await allKeys()).toEqual(before);
    await remove('data_0001.tar', 'backup.info');
    before = await allKeys();
    await expect(hold('x')).rejects.toMatchObject({
      code: 'backup-unusable',
      message: expect.stringContaining('is not in'),
    });
    await stopDeletion(r, backupId, signal);
    await expect(hold('x')).rejects.toMatchObject({ code: 'backup-unusable' });
    expect((await allKeys()).some((key) => key.includes('/holds/') || key.endsWith('/keep'))).toBe(false);
  });

  it('D1: while a sweep may still spare the backup it is placed and tried again: what became of it counts', async () => {
    await beginDeletion(r, backupId, signal);
    const lease = await sweeping();
    await expect(hold('x')).rejects.toMatchObject({ code: 'lease-held', retryable: true });
    expect(await isHeld()).toBe(true);
    await stopDeletion(r, backupId, signal);
    await hold('x');
    await lease.release();
    expect(await isHeld()).toBe(true);
  });

  it('D1: one that the sweep did not spare came too late, and is taken back with the annotation', async () => {
    await beginDeletion(r, backupId, signal);
    const lease = await sweeping();
    await expect(hold('x')).rejects.toMatchObject({ code: 'lease-held' });
    await remove('data.tar');
    await expect(hold('x')).rejects.toMatchObject({ code: 'backup-unusable' });
    await lease.release();
    await remove('data_0001.tar', 'backup.info');
    await expect(hold('x')).rejects.toMatchObject({ code: 'backup-unusable' });
    await hold(null);
    expect(await listHolds(r, signal)).toEqual([]);
    expect((await keysOf(r)).filter((key) => key.startsWith('base/'))).toEqual([]);
  });

  it('D1: the deletion of its backup between placing it and the last look is not missed', async () => {
    const sweptMeanwhile = (work: () => Promise<void>) => ({
      ...r.store,
      async put(...args: Parameters<typeof r.store.put>) {
        const done = await r.store.put(...args);
        if (args[0].endsWith('/keep')) await work();
        return done;
      },
    });
    const dead = sweptMeanwhile(async () => {
      await beginDeletion(r, backupId, signal);
      await remove('data.tar');
    });
    await expect(hold('x', { ...r, store: dead })).rejects.toMatchObject({ code: 'backup-unusable' });
    expect(await isBeingDeleted(r, backupId, signal)).toBe(true);

    backupId = await putBenchBackup(r, { at: 5, daysOld: 1 });
    const ended = sweptMeanwhile(() => r.store.delete([backupInfoKey(r.server, backupId)], { signal }));
    await expect(hold('x', { ...r, store: ended })).rejects.toMatchObject({ code: 'backup-unusable' });
  });

  it('D4: a whole backup that a sweep which died left as being deleted is one again, once it is held', async () => {
    await beginDeletion(r, backupId, signal);
    await expect(holdForRestore(r, backupId, '/srv/restored', signal)).rejects.toMatchObject({
      code: 'backup-unusable',
      hint: expect.stringContaining('walkeep keep CLUSTER BACKUP'),
    });
    await hold('x');
    expect(await isHeld()).toBe(true);
    expect((await listBackups(r, signal))[0]?.problem).toBeUndefined();
  });

  it('S6: with a key that may not delete it is held all the same', async () => {
    await beginDeletion(r, backupId, signal);
    const store = {
      ...r.store,
      delete: () => Promise.reject(new BackupError('access-denied', 'this key may not delete')),
    };
    await hold('x', { ...r, store });
    expect(await isHeld()).toBe(true);
    expect(await isBeingDeleted(r, backupId, signal)).toBe(true);
  });
});
