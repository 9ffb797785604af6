import { beforeEach, describe, expect, it } from 'vitest';
import { formatCheckItems } from '../../cli/check-items.ts';
import { BackupError } from '../../core/errors.ts';
import type { CheckItem } from '../../operations/check-cluster.ts';
import { checkRepository, type RepositoryCheckOptions } from '../../operations/check-repository.ts';
import { describeRepository } from '../../operations/describe-repository.ts';
import { surveyRepository } from '../../operations/survey-repository.ts';
import { storeRecordItems } from '../../operations/store-items.ts';
import { takeLease } from '../../repository/lease.ts';
import { claimOwner } from '../../repository/owner.ts';
import { NOT_KNOWN } from '../../repository/probe-store.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { startS3ServerDouble } from '../stores/s3-server-double.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';
import { putBenchBackup, putBenchWal, putFourBackups, putHistory } from './sweep-bench.ts';

const { signal } = new AbortController();
let store: ObjectStore;
let r: Repository;
beforeEach(() => {
  store = createMemoryStore();
  r = createRepository(store, 'pg');
});

const put = (key: string, body: string | Uint8Array = 'x') =>
  r.store.put(`pg/${key}`, Buffer.from(body), { signal });
const keys = async () => {
  const found: string[] = [];
  for await (const { key } of store.list('', { signal })) found.push(key);
  return found;
};
const check = (options: Partial<RepositoryCheckOptions> = {}, of: Repository = r) =>
  checkRepository(of, { signal, now: new Date(), ...options });
const item = (items: readonly CheckItem[], name: string) => items.filter((one) => one.item === name);
const problems = (items: readonly CheckItem[]) => items.filter(({ state }) => state !== 'ok');

describe('a check of a repository', () => {
  it('E3: of a healthy one finds nothing, and writes what it found out, and no more', async () => {
    await claimOwner(r, { systemId: SYSTEM_ID, segmentSize: MiB }, signal);
    await putFourBackups(r);
    const before = await keys();
    const items = await check({ destinationPath: 's3://backups/postgres' });
    expect(problems(items)).toEqual([]);
    expect(item(items, 'may delete')[0]?.found).toBe('yes');
    expect(await keys()).toEqual([...before, 'pg/walkeep/store.json'].toSorted());
  });

  it('E3: reading only, writes nothing, and tells what was found last', async () => {
    const before = await keys();
    expect(item(await check({ readOnly: true }), 'store')[0]).toMatchObject({ state: 'unknown' });
    expect(await keys()).toEqual(before);
    await check();
    const later = await check({ readOnly: true, now: new Date(Date.now() + 3 * 86_400_000) });
    expect(item(later, 'create only')[0]?.found).toContain('tried 3 days ago');
  });

  it('E3: a directory that can’t be written is told no word of If-None-Match, and what is not known is not ok', async () => {
    await putFourBackups(r);
    const put = () => Promise.reject(new BackupError('access-denied', 'read-only file system'));
    const items = await check({}, createRepository({ ...store, put }, 'pg'));
    expect(item(items, 'may write')[0]?.state).toBe('problem');
    expect(item(items, 'create only')[0]).toMatchObject({ state: 'unknown' });
    expect(JSON.stringify(items)).not.toContain('If-None-Match');
    const now = new Date();
    const record = { version: 1, probedAt: now.toISOString(), walkeep: '0', ifAbsent: 'yes' } as const;
    const little = { ...NOT_KNOWN, ...record, multipartIfAbsent: 'yes', mayDelete: 'unknown' } as const;
    expect(item(storeRecordItems(little, now), 'store')[0]?.state).toBe('unknown');
    expect(item(storeRecordItems(little, now, { isProven: true }), 'store')[0]?.state).toBe('ok');
    expect(formatCheckItems(storeRecordItems(little, now), 'x')).toMatch(
      /no problem, 1 item is not known\.\n$/,
    );
  });

  it('an empty one is nobody’s, and that is no problem', async () => {
    const items = await check();
    expect(problems(items)).toEqual([]);
    expect(item(items, 'owner')[0]?.found).toContain('nobody’s');
  });

  it('A4: whose it is follows from what barman wrote, before walkeep claims it', async () => {
    await putFourBackups(r);
    expect(item(await check(), 'owner')[0]?.found).toContain(`not claimed by walkeep yet`);
    expect(item(await check(), 'owner')[0]?.found).toContain(SYSTEM_ID);
  });

  it('A4: backups, and WAL, of another cluster are a problem', async () => {
    await claimOwner(r, { systemId: '4711', segmentSize: MiB }, signal);
    await putBenchBackup(r, { at: 10, daysOld: 1 });
    expect(item(await check(), 'owner')[0]).toMatchObject({
      state: 'problem',
      found: expect.stringContaining(`of ${SYSTEM_ID}`),
    });
    r = createRepository((store = createMemoryStore()), 'pg');
    await claimOwner(r, { systemId: '4711', segmentSize: MiB }, signal);
    const segment = '000000010000000000000007';
    await put(`wals/0000000100000000/${segment}`, makeSegment(segment));
    expect(item(await check(), 'owner')[0]).toMatchObject({ state: 'problem' });
  });

  it('D3, E5: a record that can’t be read, and one that stops barman-cloud, are problems', async () => {
    const [first = '', second = ''] = await putFourBackups(r);
    await put(`base/${first}/backup.info`, 'no line of any record\n');
    await put(`base/${second}/backup.info`, 'status=DONE\ncolour=blue\n');
    const items = problems(await check());
    expect(items.map(({ item: name, state }) => [name, state])).toEqual([
      ['record', 'problem'],
      ['barman-cloud', 'problem'],
      ['barman-cloud', 'warning'],
    ]);
    expect(items[1]?.found).toContain(`because of ${second}: it knows no field "colour"`);
  });

  it('H5, H6, E5: second copies of WAL and strangers are found, those that trip barman’s restore are a problem', async () => {
    const [id = ''] = await putFourBackups(r);
    const segment = '000000010000000000000007';
    for (const suffix of ['', '.gz', '.partial', '.00000028.backup'])
      await put(`wals/0000000100000000/${segment}${suffix}`);
    await put('wals/0000000100000000/readme.txt');
    await put('wals/notes');
    await put(`base/${id}/data_x.json`);
    await put(`base/${id}/16384_old.tar.gz`);
    await put(`base/${id}/readme`);
    await put('elsewhere/thing');
    const items = await check();
    expect(item(items, 'one object a WAL name')[0]).toMatchObject({
      state: 'warning',
      found: `1 more than one: ${segment}`,
    });
    expect(item(items, 'strangers in a backup')[0]).toMatchObject({
      state: 'problem',
      found: expect.stringContaining(`2, such as base/${id}/16384_old.tar.gz, base/${id}/data_x.json:`),
    });
    expect(item(items, 'strangers')[0]).toMatchObject({
      state: 'warning',
      found: expect.stringContaining(`4 objects that neither tool wrote, such as base/${id}/readme`),
    });
  });

  it('E2, fault 27: WAL of no byte is a problem that a listing shows', async () => {
    await put('wals/0000000100000000/000000010000000000000007.gz', '');
    const items = await check();
    expect(item(items, 'WAL')).toMatchObject([
      { state: 'problem', found: expect.stringMatching(/^1 file is empty.*0000000007\.gz/) },
    ]);
  });

  it('E2: uploads that were forgotten are told from those that run', async () => {
    const hour = 3_600_000;
    const started = [30 * hour, hour].map((ago) => ({
      key: 'pg/base/x',
      id: String(ago),
      startedAt: new Date(Date.now() - ago),
    }));
    const unfinished = async function* () {
      yield* started;
    };
    const items = await check({}, createRepository({ ...store, unfinished }, 'pg'));
    expect(item(items, 'unfinished uploads')[0]).toMatchObject({
      state: 'warning',
      found: expect.stringMatching(/^1 older than a day/),
    });
  });

  it('F1: who sweeps is named', async () => {
    const lease = await takeLease(r, 'sweep', { signal, holder: 'the night watch' });
    expect(item(await check(), 'sweep lease')[0]?.found).toMatch(/^held by the night watch \(host /);
    await lease.release();
    expect(item(await check(), 'sweep lease')[0]?.found).toBe('free');
  });

  it('H8: a destination that ends in a slash is a warning', async () => {
    const found = async (destinationPath: string) =>
      item(await check({ destinationPath }), 'destinationPath')[0]?.state;
    expect(await found('s3://b/p/')).toBe('warning');
    expect(await found('s3://b/p')).toBe('ok');
  });

  it('S6, E3: on a store that ignores the condition, with a key that may not delete, both are said', async () => {
    const double = await startS3ServerDouble({ ignoresCondition: true, deniesDelete: true });
    onCleanUp(() => double.close());
    const items = await check({}, createRepository(double.store(), 'pg'));
    expect(item(items, 'create only')[0]).toMatchObject({
      state: 'warning',
      found: expect.stringContaining('take turns'),
    });
    expect(item(items, 'may delete')[0]).toMatchObject({
      state: 'warning',
      found: expect.stringMatching(/AccessDenied.*left behind: pg\/walkeep\/probe/),
    });
    expect(items.some(({ state }) => state === 'problem')).toBe(false);
  });

  it('of a store that does not answer says so once', async () => {
    const gone = createRepository(
      {
        ...store,
        // eslint-disable-next-line require-yield
        async *list() {
          throw new Error('nobody listens');
        },
      },
      'pg',
    );
    expect(await check({}, gone)).toEqual([
      { item: 'repository', state: 'problem', found: 'nobody listens' },
    ]);
  });
});

describe('what lies in a repository', () => {
  it('is counted by what it is, and below a prefix', async () => {
    const ids = await putFourBackups(r);
    await putBenchWal(r, 60, 61, 2);
    await putHistory(r, 2, '1\t0/3C00000\tno reason\n');
    await claimOwner(r, { systemId: SYSTEM_ID, segmentSize: MiB }, signal);
    const survey = await surveyRepository(r, signal);
    expect(survey.backups.map(({ folder, count, hasRecord }) => [folder, count, hasRecord])).toEqual(
      ids.map((id) => [id, 3, true]),
    );
    expect(survey.timelines).toMatchObject([
      { timeline: 1, count: 45, first: '000000010000000000000005', last: '000000010000000000000031' },
      { timeline: 2, count: 2, first: '00000002000000000000003C', last: '00000002000000000000003D' },
    ]);
    expect(survey.histories).toMatchObject({ count: 1, timelines: [2] });
    expect([...survey.own.keys()]).toEqual(['owner.json']);
    const wal = await surveyRepository(r, signal, { prefix: 'wals/00000002' });
    expect(wal).toMatchObject({ backups: [], timelines: [{ timeline: 2 }], histories: { count: 1 } });
  });
});

describe('a description of a repository', () => {
  it('E5: tells owner, sizes, first and last backup, timelines, the store, and what barman-cloud would see', async () => {
    const ids = await putFourBackups(r);
    await putBenchWal(r, 60, 61, 2);
    await putHistory(r, 2, '1\t0/3C00000\tno reason\n');
    await putBenchBackup(r, { at: 15, daysOld: 0.5, status: 'FAILED', name: 'broken' });
    const before = await keys();
    const found = await describeRepository(r, signal);
    expect(await keys()).toEqual(before);
    expect(found).toMatchObject({
      owner: { systemId: SYSTEM_ID, segmentSize: MiB },
      backups: { usable: 4, unusable: 1, first: { id: ids[0] }, last: { id: ids[3] } },
      timelines: [
        { timeline: 1, hasHistory: false },
        { timeline: 2, hasHistory: true, from: { timeline: 1, lsn: '0/3C00000' } },
      ],
      store: undefined,
    });
    expect(found.barman.shown.map(({ status }) => status)).toEqual([
      'DONE',
      'DONE',
      'DONE',
      'DONE',
      'FAILED',
    ]);
    expect(found.barman.shown.at(-1)?.name).toBe('broken');
    expect(JSON.parse(JSON.stringify(found))).toMatchObject({ server: 'pg' });
  });
});
