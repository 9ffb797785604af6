import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { pushWal, type ArchivePorts } from '../../operations/archive-wal.ts';
import { sweep } from '../../operations/sweep.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { retrying } from '../../stores/retrying.ts';
import { startS3ServerDouble, type Oddities, type S3ServerDouble } from '../stores/s3-server-double.ts';
import { aged, benchRules, putFourBackups } from './sweep-bench.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
let double: S3ServerDouble;
const start = async (odd: Oddities) => (double = await startS3ServerDouble(odd));
afterEach(() => double.close());

/** A host with one file in its pg_wal; each push is a process of its own, as without an agent. */
function hostWith(name: string, bytes: Uint8Array) {
  const pgWalDirectory = join(makeTempDir('weak'), 'pg_wal');
  mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
  writeFileSync(join(pgWalDirectory, name), bytes);
  const ports: ArchivePorts = {
    repository: () =>
      Promise.resolve(createRepository(retrying(double.store({ idleMs: 5_000 }), { firstPauseMs: 1 }), 'pg')),
    pgWalDirectory,
    codec: 'none',
    identity: () => Promise.resolve({ systemId: SYSTEM_ID.toString(), segmentSize: MiB }),
  };
  return () => pushWal(ports, name, { signal });
}

const segment = (n: number) => `00000001000000000000${n.toString(16).toUpperCase().padStart(4, '0')}`;

describe('archiving to a store that ignores If-None-Match', () => {
  it('A3, E3, fault 24: of two that push other bytes under one name at once, one is confirmed, and what it stored stays', async () => {
    await start({ ignoresCondition: true, latencyMs: () => Math.random() * 8 });
    for (let round = 1; round <= 4; round += 1) {
      const name = segment(round);
      const bodies = [1, 2].map((seed) => makeSegment(name, { seed }));
      const results = await Promise.allSettled(bodies.map((bytes) => hostWith(name, bytes)()));
      const confirmed = results.flatMap(({ status }, at) => (status === 'fulfilled' ? [at] : []));
      for (const result of results) {
        if (result.status === 'rejected') expect(isBackupError(result.reason, 'wal-conflict')).toBe(true);
      }
      expect(confirmed).toHaveLength(1);
      const stored = double.objects.get(`pg/wals/0000000100000000/${name}`);
      expect(stored?.bytes.equals(bodies[confirmed[0] ?? 0] ?? Buffer.alloc(0))).toBe(true);
    }
  });

  it('A2, E3: of two that push equal bytes at once, both are confirmed', async () => {
    await start({ ignoresCondition: true, latencyMs: () => Math.random() * 8 });
    const bytes = makeSegment(segment(1));
    await Promise.all([hostWith(segment(1), bytes)(), hostWith(segment(1), bytes)()]);
    expect(double.objects.get(`pg/wals/0000000100000000/${segment(1)}`)?.bytes.equals(bytes)).toBe(true);
  });

  it('E3: a push without an agent reads what was found out, and does not try the store again', async () => {
    for (const ignoresCondition of [true, false]) {
      await start({ ignoresCondition });
      await hostWith(segment(1), makeSegment(segment(1)))();
      double.seen.length = 0;
      await hostWith(segment(2), makeSegment(segment(2)))();
      const calls = double.calls();
      expect(calls.filter((call) => call === 'GET pg/walkeep/store.json')).toHaveLength(1);
      expect(calls.filter((call) => call.includes('/probe/'))).toEqual([]);
      // without the condition also: the turn, who else is at it, whether the object exists, two comparisons, the turn's end
      expect(calls.length).toBeLessThanOrEqual(ignoresCondition ? 13 : 5);
      await double.close();
    }
    await start({});
  });
});

describe('a sweep on a store that ignores If-None-Match', () => {
  const OLD = 2 * 3_600_000;
  const open = (ageMs: (key: string) => number): Repository => {
    const r = createRepository(retrying(double.store({ idleMs: 5_000 }), { firstPauseMs: 1 }), 'pg');
    return { ...r, store: aged(r.store, ageMs) };
  };
  const isStored = (key: string) => /\/(base|wals)\//.test(key);
  const run = (r: Repository) => sweep(r, benchRules(), { signal, holder: 'test' });

  it('D4, E3, fault 24: marks, deletes a grace period later, and says that its lease is not exclusive', async () => {
    await start({ ignoresCondition: true });
    const ids = await putFourBackups(open(() => 0));
    const first = await run(open((key) => (isStored(key) ? OLD : 0)));
    expect(first.counts).toMatchObject({ kept: 2, marked: 2, deletedBackups: 0 });
    expect(first.warnings.join()).toMatch(/does not refuse to create what exists/);
    const late = open((key) => (isStored(key) || key.includes('/tombstones/') ? OLD : 0));
    const second = await run(late);
    expect(second.counts).toMatchObject({ kept: 2, deletedBackups: 2 });
    expect((await listBackups(late, signal)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
  });

  it('F1, E3, fault 24: of two at once one sweeps', async () => {
    await start({ ignoresCondition: true, latencyMs: () => Math.random() * 4 });
    await putFourBackups(open(() => 0));
    const swept = await Promise.allSettled([1, 2].map(() => run(open((key) => (isStored(key) ? OLD : 0)))));
    expect(swept.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
  });
});
