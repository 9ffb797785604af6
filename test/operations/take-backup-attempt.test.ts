import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  claimAttempt,
  clearAttempt,
  deleteParts,
  partFilesKey,
  saveDetails,
  settleAttempt,
  type AttemptDetails,
} from '../../operations/backup-attempt.ts';
import type { BackupPorts } from '../../operations/backup-ports.ts';
import { discardBackup } from '../../operations/discard-backup.ts';
import { recordBackup } from '../../operations/record-backup.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const signal = new AbortController().signal;
const owner = { backupName: 'b', cluster: 'c', namespace: 'n', instance: 'i' };
const at = (seconds: number) => new Date(Date.UTC(2026, 10, 25, 1, 2, 3) + seconds * 1000);

function open() {
  const store = createMemoryStore();
  const repository = createRepository(store, 'srv');
  const keys = async () => {
    const found: string[] = [];
    for await (const { key } of store.list('', { signal })) found.push(key);
    return found;
  };
  const put = (key: string) => store.put(key, Buffer.from('x'), { signal });
  return { store, repository, keys, put };
}

describe('claimAttempt', () => {
  it('is the second in UTC', async () => {
    const { repository } = open();
    expect(await claimAttempt(repository, owner, { now: at(0), signal })).toBe('20261125T010203');
  });

  it('D6: is never older than what is there, backup or attempt, whatever the clock says', async () => {
    const { repository, put } = open();
    await put('srv/base/20261125T020000/backup.info');
    expect(await claimAttempt(repository, owner, { now: at(0), signal })).toBe('20261125T020001');
    expect(await claimAttempt(repository, owner, { now: at(-86_400), signal })).toBe('20261125T020002');
    await put('srv/base/20261231T235959/data.tar');
    expect(await claimAttempt(repository, owner, { now: at(0), signal })).toBe('20270101T000000');
  });

  it('F1: many at once in one second all get ids of their own', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 2, maxLength: 12 }),
        async (clocks) => {
          const { repository } = open();
          const ids = await Promise.all(
            clocks.map((clock) => claimAttempt(repository, owner, { now: at(clock), signal })),
          );
          expect(new Set(ids).size).toBe(ids.length);
          const next = await claimAttempt(repository, owner, { now: at(-100), signal });
          expect(ids.every((id) => id < next)).toBe(true);
        },
      ),
      { numRuns: 30 },
    );
  });

  it('says who made it', async () => {
    const { repository, store } = open();
    const id = await claimAttempt(repository, owner, { now: at(0), signal });
    const body = await store.get(`srv/walkeep/attempts/${id}.json`, { signal });
    let text = '';
    for await (const piece of body!) text += Buffer.from(piece).toString();
    expect(JSON.parse(text)).toMatchObject({ backupId: id, ...owner, pid: process.pid });
  });
});

describe('clearing away', () => {
  const ID = '20261125T010203';
  const details = (): AttemptDetails => ({
    version: 1,
    owner,
    copied: {
      backupId: ID,
      backupName: 'b',
      beginLsn: '0/2000028',
      endLsn: '0/2000100',
      beginWal: '000000010000000000000002',
      endWal: '000000010000000000000002',
      timeline: 1,
      systemId: '7',
      beginTime: '2026-11-25T01:02:03.000Z',
      endTime: '2026-11-25T01:02:04.000Z',
      segmentSize: 16 << 20,
      postgresVersion: 150_000,
      fromStandby: false,
      bytes: 0,
      storedBytes: 0,
      files: 0,
      pageChecksumFailures: 0,
    },
    backupLabel: 'x',
    tablespaceMap: '',
    tablespaces: [],
    parts: [],
    pageChecksumFailures: [],
    skipped: [],
    dataChecksums: true,
    pgdata: '/srv/pg',
    copySeconds: 1,
    jobs: 1,
  });

  async function withAttempt() {
    const all = open();
    await claimAttempt(all.repository, owner, { now: at(0), signal });
    for (const key of [
      `srv/base/${ID}/data.tar.gz`,
      `srv/base/${ID}/16385_0001.tar.gz`,
      partFilesKey('srv', ID, 'data.tar.gz'),
    ]) {
      await all.put(key);
    }
    await all.put('srv/base/20261125T010204/data.tar.gz');
    await all.put('srv/walkeep/attempts/20261125T010204/copied.json');
    return all;
  }

  it('removes the tars and notes of this attempt only; its id stays taken', async () => {
    const { repository, keys } = await withAttempt();
    await discardBackup({ repository: () => Promise.resolve(repository) }, ID);
    expect(await keys()).toEqual([
      'srv/base/20261125T010204/data.tar.gz',
      'srv/walkeep/attempts/20261125T010203.json',
      'srv/walkeep/attempts/20261125T010203/verdict',
      'srv/walkeep/attempts/20261125T010204/copied.json',
    ]);
    await discardBackup({ repository: () => Promise.resolve(repository) }, ID);
  });

  it('B2: never touches a backup that has a record', async () => {
    const { repository, keys, put } = await withAttempt();
    await put(`srv/base/${ID}/backup.info`);
    const before = await keys();
    await discardBackup({ repository: () => Promise.resolve(repository) }, ID);
    expect(await keys()).toEqual(before);
  });

  it('B2: of recording and discarding at once, one happens: whoever says it first', async () => {
    const { repository, store, keys } = await withAttempt();
    await settleAttempt(repository, ID, 'record', { signal });
    const before = await keys();
    await discardBackup({ repository: () => Promise.resolve(repository) }, ID);
    expect(await keys()).toEqual(before);

    await store.delete([`srv/walkeep/attempts/${ID}/verdict`], { signal });
    await saveDetails(repository, details(), { signal });
    const late = createRepository(
      {
        ...store,
        // the record is on its way, past the look at its details, when the attempt is discarded
        get: async (key, options) => {
          const found = await store.get(key, options);
          if (key.endsWith('copied.json'))
            await discardBackup({ repository: () => Promise.resolve(repository) }, ID);
          return found;
        },
      },
      'srv',
    );
    const ports = { repository: () => Promise.resolve(late), walkeepVersion: '1' } as unknown as BackupPorts;
    await expect(recordBackup(ports, details().copied, { signal })).rejects.toMatchObject({
      code: 'backup-unusable',
    });
    const after = await keys();
    expect(after).not.toContain(`srv/base/${ID}/data.tar.gz`);
    expect(after).not.toContain(`srv/base/${ID}/backup.info`);
  });

  it('leaves alone what is no tar', async () => {
    const { repository, keys, put } = await withAttempt();
    await put(`srv/base/${ID}/annotations/keep`);
    await deleteParts(repository, ID, signal);
    await clearAttempt(repository, ID, signal);
    expect((await keys()).filter((key) => key.includes(`base/${ID}`))).toEqual([
      `srv/base/${ID}/annotations/keep`,
    ]);
  });
});
