import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import {
  chooseVerification,
  measure,
  type VerificationTarget,
} from '../../operations/verification-choice.ts';
import { Damage, objectIn } from '../../operations/verification-damage.ts';
import { cleanLeftovers, createScratch, removeScratch } from '../../operations/verification-scratch.ts';
import { verifyBackup, type VerifyPorts, type VerifyRequest } from '../../operations/verify-backup.ts';
import { backupInfoKey, ownKey, walKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { beginDeletion, listTombstones } from '../../repository/tombstones.ts';
import { listHolds } from '../../repository/holds.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { putBackup } from '../support/hand-made-backup.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment } from '../support/wal-segment.ts';

const NEVER = new AbortController().signal;
const THIRD = '000000010000000000000003';
const SECOND = '000000010000000000000002';

let store: ObjectStore;
let repository: Repository;
beforeEach(() => {
  store = createMemoryStore();
  repository = createRepository(store, 'pg');
});

const wanted = (more: Partial<VerificationTarget> = {}): VerificationTarget => ({
  backup: 'latest',
  target: 'end',
  seed: 'seed',
  ...more,
});

async function damageOf(work: Promise<unknown>): Promise<Damage['check']> {
  const error: unknown = await work.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(Damage);
  return (error as Damage).check;
}

describe('what a verification reads before it downloads anything', () => {
  it('chooses a backup and plans the way to the end', async () => {
    await putBackup(repository, { backupId: '20261121T000000' });
    const backupId = await putBackup(repository);
    const { plan, info } = await chooseVerification(repository, wanted(), { signal: NEVER });
    expect(plan).toMatchObject({ backupId, lastSegment: THIRD, target: { kind: 'end' } });
    expect(info.backupId).toBe(backupId);
    const oldest = await chooseVerification(repository, wanted({ backup: 'oldest' }), { signal: NEVER });
    expect(oldest.plan.backupId).toBe('20261121T000000');
    const size = await measure(repository, oldest, { wholeRepository: true, signal: NEVER });
    expect(size.repositoryBytes).toBeGreaterThan(size.storedBytes);
    expect(size.scratchBytes).toBeGreaterThan(2 << 20);
  });

  it('C6: a record that can’t be read, WAL that is missing, parts that are gone: damage, named', async () => {
    const backupId = await putBackup(repository);
    const record = backupInfoKey('pg', backupId);
    const kept = await bytesOf(store, record);

    await store.put(record, Buffer.from('status=DONE\nnonsense'), { signal: NEVER });
    expect(await damageOf(chooseVerification(repository, wanted(), { signal: NEVER }))).toMatchObject({
      name: 'record',
      object: record,
    });
    await store.put(record, kept, { signal: NEVER });

    await store.delete([walKey('pg', SECOND, 'none')], { signal: NEVER });
    expect(await damageOf(chooseVerification(repository, wanted(), { signal: NEVER }))).toMatchObject({
      name: 'wal',
      object: SECOND,
    });
  });

  it('C6: a tar that is gone is damage, named', async () => {
    const backupId = await putBackup(repository);
    await store.delete([`pg/base/${backupId}/data.tar.gz`], { signal: NEVER });
    const check = await damageOf(chooseVerification(repository, wanted(), { signal: NEVER }));
    expect(`${check.object} ${check.detail}`).toContain('data.tar');
  });

  it('C6: a history that can’t be read hides a timeline: damage, named', async () => {
    await putBackup(repository);
    await store.put(walKey('pg', '00000002.history', 'none'), Buffer.from('not a history'), {
      signal: NEVER,
    });
    expect(await damageOf(chooseVerification(repository, wanted(), { signal: NEVER }))).toMatchObject({
      name: 'histories',
      object: '00000002.history',
    });
  });

  it('a backup that is being deleted is not chosen; one that is only named by mistake is no damage', async () => {
    const first = await putBackup(repository, { backupId: '20261121T000000' });
    const second = await putBackup(repository);
    await beginDeletion(repository, second, NEVER);
    expect((await listTombstones(repository, NEVER)).get(second)?.deletingSince).toBeDefined();
    expect((await chooseVerification(repository, wanted(), { signal: NEVER })).plan.backupId).toBe(first);
    await expect(
      chooseVerification(repository, wanted({ backup: 'nobody' }), { signal: NEVER }),
    ).rejects.toMatchObject({
      code: 'backup-unknown',
    });
  });

  it('an empty repository is no damage', async () => {
    await expect(chooseVerification(repository, wanted(), { signal: NEVER })).rejects.toMatchObject({
      code: 'verification-impossible',
    });
  });

  it.for([
    {
      message: 'pg/base/20261121T000000/data_0001.tar.gz: the hash differs',
      object: 'pg/base/20261121T000000/data_0001.tar.gz',
    },
    { message: `the way has a hole: ${THIRD} is missing`, object: THIRD },
    { message: '00000002.history is empty', object: '00000002.history' },
    { message: 'backup x is not whole: data.tar.zst has 3 bytes', object: 'data.tar.zst' },
    { message: 'something else', object: undefined },
  ])('names $object', ({ message, object }) => {
    expect(objectIn(message).object).toBe(object);
  });
});

async function bytesOf(from: ObjectStore, key: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of (await from.get(key, { signal: NEVER })) ?? []) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function keysEndingIn(from: ObjectStore, name: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of from.list('', { signal: NEVER })) if (key.endsWith(`/${name}`)) keys.push(key);
  return keys;
}

describe('a verification without any PostgreSQL', () => {
  let root: string;
  beforeEach(() => {
    root = join(makeTempDir('scratch'), 's');
  });
  const request: VerifyRequest = {
    id: '20261125T040000-abc',
    seed: 'seed',
    namespace: 'default',
    cluster: 'pg',
    backup: 'latest',
    target: 'end',
    checks: { manifest: true, pageChecksums: true, amcheck: false, queries: [] },
    readBudget: '20%',
    scratch: { directory: null, minFree: '0%' },
    deadline: '1m',
  };
  const ports = (): VerifyPorts => ({
    repository,
    reference: { namespace: 'default', serverName: 'pg', barmanObjectStore: {} },
    restoreCommand: () => 'false',
    scratchRoot: root,
    binDirectory: '/nowhere',
    instance: 'pg-1',
    walkeepVersion: '0',
  });
  const left = async () => [existsSync(root) ? readdirSync(root) : [], await listHolds(repository, NEVER)];

  it('C6: comes to “not tried”, leaves nothing, and holds nothing', async () => {
    const backupId = await putBackup(repository);
    const { verification } = await verifyBackup(ports(), request, { signal: NEVER });
    expect(verification).toMatchObject({ result: 'not-tried', backupId, checks: [] });
    expect(verification.error).toContain('there is no PostgreSQL 15');
    expect(await left()).toEqual([[], []]);
  });

  it('D5: holds the backup and its WAL while it reads, and looks whether it is being deleted afterwards', async () => {
    const backupId = await putBackup(repository);
    const seen: string[] = [];
    const watched: ObjectStore = {
      ...store,
      put: (key, body, options) => (seen.push(`put ${key}`), store.put(key, body, options)),
      head: (key, options) => (seen.push(`head ${key}`), store.head(key, options)),
      delete: (keys, options) => (seen.push(`delete ${keys.join()}`), store.delete(keys, options)),
    };
    repository = createRepository(watched, 'pg');
    await verifyBackup(ports(), request, { signal: NEVER });
    const hold = ownKey('pg', 'holds', `verification-${request.id}.json`);
    const deleting = ownKey('pg', 'tombstones', `${backupId}.deleting`);
    expect(seen.filter((line) => !line.startsWith('head') || line.endsWith('deleting'))).toEqual([
      `put ${hold}`,
      `head ${deleting}`,
      `delete ${hold}`,
    ]);
  });

  it('D5: a backup whose deletion began is left alone, and not called damaged', async () => {
    const backupId = await putBackup(repository);
    await beginDeletion(repository, backupId, NEVER);
    const { verification } = await verifyBackup(ports(), { ...request, backup: backupId }, { signal: NEVER });
    expect(verification.result).toBe('not-tried');
    expect(await left()).toEqual([[], []]);
  });

  it('C6: damage that the catalogue shows names the backup, whatever the target is', async () => {
    const backupId = await putBackup(repository);
    await store.delete([walKey('pg', SECOND, 'none')], { signal: NEVER });
    for (const target of ['end', 'random', { targetImmediate: true }] as const) {
      const { verification } = await verifyBackup(ports(), { ...request, target }, { signal: NEVER });
      expect(verification).toMatchObject({
        result: 'damaged',
        backupId,
        checks: [{ name: 'wal', result: 'failed', object: SECOND }],
      });
    }
  });

  it.for([
    { what: 'a segment of it', lacks: SECOND },
    { what: 'its tar', lacks: 'data.tar.gz' },
    { what: 'the history of a timeline', lacks: '00000002.history' },
  ])(
    'C6: $what that no listing shows is asked for by name: there after all, it is no damage',
    async ({ lacks }) => {
      await putBackup(repository);
      const newer = '000000020000000000000003';
      await store.put(walKey('pg', newer, 'none'), makeSegment(newer), { signal: NEVER });
      const history = Buffer.from('1\t0/300100\tpromoted\n');
      await store.put(walKey('pg', '00000002.history', 'none'), history, { signal: NEVER });
      const all: ObjectStore = repository.store;
      repository = createRepository(
        {
          ...all,
          async *list(prefix, options) {
            for await (const object of all.list(prefix, options))
              if (!object.key.endsWith(`/${lacks}`)) yield object;
          },
        },
        'pg',
      );
      const late = await verifyBackup(ports(), request, { signal: NEVER });
      expect(late, late.verification.error).toMatchObject({
        mayTryAgain: true,
        verification: { result: 'not-tried' },
      });
      expect(late.verification.error).toMatch(new RegExp(`lacked .*/${lacks}, which is there`));
      const [key] = await keysEndingIn(all, lacks);
      await all.delete([key as string], { signal: NEVER });
      const gone = await verifyBackup(ports(), request, { signal: NEVER });
      expect(gone).toMatchObject({ mayTryAgain: false, verification: { result: 'damaged' } });
      expect(gone.verification.error).toContain(lacks.replace('.gz', ''));
    },
  );

  it('C6: a store that fails is “not tried”, and may be tried again', async () => {
    await putBackup(repository);
    const failing: ObjectStore = {
      ...store,
      folders: () => {
        throw new BackupError('store-unavailable', 'it does not answer');
      },
    };
    repository = createRepository(failing, 'pg');
    const outcome = await verifyBackup(ports(), request, { signal: NEVER });
    expect(outcome).toMatchObject({ mayTryAgain: true, verification: { result: 'not-tried' } });
  });

  it('an abort is thrown, not judged', async () => {
    await putBackup(repository);
    const stop = AbortSignal.abort(new Error('enough'));
    await expect(verifyBackup(ports(), request, { signal: stop })).rejects.toThrow('enough');
  });

  it('C1: a scratch directory that is there is not used, and only what verifications made is removed', async () => {
    const scratch = await createScratch(root, request.id, 'default/pg');
    await expect(createScratch(root, request.id, 'default/pg')).rejects.toThrow(/EEXIST/);
    mkdirSync(join(root, '20200101T000000'));
    mkdirSync(join(root, '20200102T000000'));
    writeFileSync(join(root, '20200102T000000', 'mine'), '');
    // This very process is at work in it.
    await expect(cleanLeftovers(root, request.id)).rejects.toMatchObject({ code: 'lease-held' });
    await removeScratch(scratch);
    await cleanLeftovers(root, request.id);
    expect(readdirSync(root)).toEqual(['20200102T000000']);
  });
});
