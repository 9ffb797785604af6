/**
 * Faults 17, 20 and 33 where they happen, between walkeep and a real S3 server: a way that stalls or is a black hole, a
 * proxy that answers 200 with an error, and a line of 1 Mbit/s. Every operation, without PostgreSQL.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { beforeAll, afterEach, describe, expect, it } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import { parseWalFileName } from '../../core/segment.ts';
import { DEFAULT_PUSH_DEADLINE_MS } from '../../operations/archive-wal.ts';
import { DEFAULT_FETCH_DEADLINE_MS } from '../../operations/fetch-wal.ts';
import { createUploads } from '../../operations/wal-uploads.ts';
import { createArchiveSource } from '../../operations/archive-source.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { findWal } from '../../repository/wal.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { retrying } from '../../stores/retrying.ts';
import { S3_TIMEOUTS, type S3Timeouts } from '../../stores/s3-client.ts';
import { createS3Store } from '../../stores/s3.ts';
import type { Codec } from '../../streams/codec.ts';
import { aged, keysOf, putFourBackups } from '../operations/sweep-bench.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { startProcess } from '../support/processes.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { MiB, SYSTEM_ID } from '../support/wal-segment.ts';
import { makeBareSite, NEVER, segment, type BareSite } from './bare-site.ts';
import { startProxy, type Proxy } from './proxy.ts';
import { startWeather, type Weather } from './weather.ts';

/** Each a hundredth of what it is in service, about. */
const SHORT: S3Timeouts = { connectMs: 300, idleMs: 300, callMs: 1_500, completeMs: 1_500 };
const SLOT = new Date('2026-11-24T02:00:00Z');
const OLD_MS = 2 * 3_600_000;
let prefixes = 0;

describeWith('versitygw', 'the way to the store', () => {
  let s3: S3Server;
  let proxy: Proxy;
  let weather: Weather;
  beforeAll(async () => {
    s3 = await startS3();
    proxy = await startProxy(s3.endpointUrl);
    weather = await startWeather(s3.endpointUrl);
  });
  afterEach(() => {
    proxy.heal();
    proxy.limit();
    weather.become({});
  });

  function storeAt(endpointUrl: string, prefix: string, timeouts?: S3Timeouts): ObjectStore {
    const credentials = {
      accessKeyId: new Secret(s3.accessKeyId),
      secretAccessKey: new Secret(s3.secretAccessKey),
    };
    const store = createS3Store(
      { kind: 's3', bucket: s3.bucket, prefix, endpointUrl, credentials },
      timeouts,
    );
    onCleanUp(() => store.close());
    return timeouts ? retrying(store, { withinMs: 500, firstPauseMs: 20 }) : retrying(store);
  }

  /** The same repository by the good way, and by the other one. */
  async function sites(by: string, timeouts?: S3Timeouts, codec: Codec = 'none') {
    const prefix = `p${(prefixes += 1)}`;
    const good = makeBareSite({ inner: storeAt(s3.endpointUrl, prefix), codec: 'none' });
    for (let number = 1; number <= 3; number += 1) await good.push(segment(number), { codec });
    return { good, bad: good.through(storeAt(by, prefix, timeouts)) };
  }

  const fails = async (work: Promise<unknown>, withinMs: number) => {
    const begin = performance.now();
    const [ended] = await Promise.allSettled([work]);
    const error: unknown = ended?.status === 'rejected' ? ended.reason : 'it succeeded';
    expect(isBackupError(error, 'store-unavailable', 'deadline-exceeded'), String(error)).toBe(true);
    expect(performance.now() - begin).toBeLessThan(withinMs);
  };

  async function requireNothingHappens(good: BareSite, bad: BareSite): Promise<void> {
    const backupId = await good.backUp();
    const before = await keysOf(good.repository);
    expect(await bad.pushExit(segment(4), { deadlineMs: 2_000 })).toBe(1);
    expect(await bad.fetchExit(segment(3), { deadlineMs: 2_000 })).toBeGreaterThan(125);
    expect(await bad.fetchExit(segment(7), { deadlineMs: 2_000 })).toBeGreaterThan(125);
    expect(await bad.fetchExit(segment(7), { deadlineMs: 2_000, isStandby: true })).toBeLessThanOrEqual(125);
    await fails(bad.restore(), 10_000);
    expect(await bad.verify()).toMatchObject({ result: 'not-tried', mayTryAgain: true });
    await fails(bad.sweep(), 10_000);
    await fails(bad.slot(SLOT), 10_000);
    await fails(bad.protection(), 10_000);
    expect(await keysOf(good.repository)).toEqual(before);
    expect((await good.protection()).usable.map((info) => info.backupId)).toEqual([backupId]);
  }

  async function requireHealed(bad: BareSite): Promise<void> {
    expect(await bad.pushExit(segment(4))).toBe(0);
    expect(await bad.fetchExit(segment(4), { deadlineMs: 20_000 })).toBe(0);
    await bad.backUp({ walDeadlineMs: 20_000 });
    await bad.restore();
    expect([await bad.slot(SLOT), await bad.slot(SLOT)]).toEqual(['ran', 'ran']);
  }

  describe('stalls (fault 17)', () => {
    it('A5, E2, fault 17: the limits in service are those that PostgreSQL can wait for', () => {
      // The client of archive_command may have waited ten seconds for an agent before.
      expect(DEFAULT_PUSH_DEADLINE_MS + 10_000).toBeLessThan(60_000);
      expect(DEFAULT_FETCH_DEADLINE_MS).toBeLessThanOrEqual(120_000);
      expect(S3_TIMEOUTS.connectMs).toBeLessThanOrEqual(10_000);
      expect(S3_TIMEOUTS.idleMs).toBeLessThan(S3_TIMEOUTS.callMs);
    });

    it.for([
      { why: 'takes a request and never answers', bytes: 0, direction: 'received' },
      { why: 'accepts and takes nothing', bytes: 0, direction: 'sent' },
    ] as const)(
      'A5, C3, C6, D3, F6, F7, E2, fault 17: one that $why: each ends within its limits, nothing changes, and it heals',
      { timeout: 120_000 },
      async ({ bytes, direction }) => {
        const { good, bad } = await sites(proxy.url, SHORT);
        proxy.stallAfter(bytes, direction);
        await fails(bad.backUp(), 10_000);
        await requireNothingHappens(good, bad);
        proxy.heal();
        await requireHealed(bad);
      },
    );

    it(
      'B1, A5, E2, fault 17: one that stalls in the middle of uploads: nothing of them counts, and it heals',
      { timeout: 120_000 },
      async () => {
        const { good, bad } = await sites(proxy.url, SHORT);
        proxy.stallAfter(12_000, 'sent');
        // The part is tried four times, with pauses.
        await fails(bad.backUp(), 60_000);
        expect(await bad.pushExit(segment(4), { deadlineMs: 3_000 })).toBe(1);
        expect(await findWal(good.repository, segment(4), NEVER)).toEqual([]);
        expect((await good.protection()).usable).toEqual([]);
        proxy.heal();
        await requireHealed(bad);
      },
    );

    it(
      'C1, C2, C3, C6, E2, fault 17: one that stalls in the middle of downloads: what can be resumed is, nothing half is used, and it heals',
      { timeout: 120_000 },
      async () => {
        const { good, bad } = await sites(proxy.url, SHORT);
        await good.backUp();
        proxy.stallAfter(12_000, 'received');
        // It goes on where it stalled, some kilobytes a time: not to the end of a segment before the deadline.
        const restored = await bad.restore();
        expect(readFileSync(join(restored, 'base/5/16384'), 'utf8')).toBe('x'.repeat(20_000));
        expect(await bad.fetchExit(segment(3), { deadlineMs: 3_000 })).toBeGreaterThan(125);
        expect((await bad.verify({ deadline: '5s' })).result).toBe('not-tried');
        proxy.heal();
        await requireHealed(bad);
      },
    );

    it(
      'E2, A5, C3, D3, fault 17: a host that does not even answer a connection is given up after the limit for that',
      { timeout: 60_000 },
      async () => {
        const url = await startBlackHole();
        const { good, bad } = await sites(url, SHORT);
        await fails(bad.backUp(), 10_000);
        await requireNothingHappens(good, bad);
      },
    );

    it(
      'D3, D4, fault 17: a sweep whose store stalls in the middle deletes no more, and the next one does the set',
      { timeout: 120_000 },
      async () => {
        const prefix = `p${(prefixes += 1)}`;
        const old = (store: ObjectStore) =>
          aged(store, (key) => (/\/(base|wals|tombstones)\//.test(key) ? OLD_MS : 0));
        const good = makeBareSite({ inner: old(storeAt(s3.endpointUrl, prefix)) });
        const ids = await putFourBackups(good.repository);
        await good.sweep();
        const bad = good.through(old(storeAt(proxy.url, prefix, SHORT)));
        // Each connection dies after some kilobytes: listings come, and then no more.
        proxy.stallAfter(40_000, 'received');
        await bad.sweep().catch((error: unknown) => expect(isBackupError(error)).toBe(true));
        const listed = (await listBackups(good.repository, NEVER)).filter(({ info }) => info !== undefined);
        expect(listed.map(({ backupId }) => backupId)).toEqual(expect.arrayContaining(ids.slice(2)));
        proxy.heal();
        await until('the set to be gone', async () => {
          await good.sweep().catch(() => undefined);
          return (await listBackups(good.repository, NEVER)).length === 2;
        });
      },
    );
  });

  describe('answers 200 with an error (fault 20)', () => {
    it.for([false, true])(
      'A1, B1, B2, F6, E2, fault 20: with the ETag of a success: %s: nothing of it is confirmed or counted',
      { timeout: 120_000 },
      async (withETag) => {
        const { good, bad } = await sites(weather.url, SHORT);
        weather.become({ swallows: '/wals/', withETag });
        expect(await bad.pushExit(segment(4), { deadlineMs: 4_000 })).toBe(1);
        expect(await findWal(good.repository, segment(4), NEVER)).toEqual([]);
        for (const swallows of ['/data_0001.tar', '/backup.info']) {
          weather.become({ swallows, withETag });
          await expect(bad.backUp(), swallows).rejects.toMatchObject({
            code: expect.stringMatching(/store-unavailable|object-missing/),
          });
          expect((await good.protection()).usable, swallows).toEqual([]);
        }
        weather.become({ swallows: '/slots/', withETag });
        const decided = await bad.slot(SLOT).catch(() => 'not decided');
        expect(['ran', 'not decided']).toContain(decided);
        weather.become({});
        await requireHealed(bad);
      },
    );
  });

  describe('has 1 Mbit/s (fault 33)', () => {
    const RATE = 125_000;

    it(
      'A1, B1, C1, C3, C6, D4, F6, F7, fault 33: every operation ends well, in its time',
      { timeout: 180_000 },
      async () => {
        const { good, bad } = await sites(proxy.url, undefined, 'gzip');
        proxy.limit(RATE, true);
        expect(await bad.pushExit(segment(4))).toBe(0);
        await good.push(segment(5), { codec: 'gzip' });
        const backupId = await bad.backUp({ walDeadlineMs: 60_000 });
        await bad.restore();
        expect(await bad.fetchExit(segment(4), { deadlineMs: 60_000 })).toBe(0);
        expect(await bad.verify()).toMatchObject({ why: expect.stringContaining('no PostgreSQL 15') });
        expect((await bad.sweep()).refused).toBeUndefined();
        expect(await bad.slot(SLOT)).toBe('ran');
        expect((await bad.protection()).usable.map((info) => info.backupId)).toEqual([backupId]);
        expect((await good.protection()).usable).toHaveLength(1);
      },
    );

    it(
      'A2, A5, fault 33: a segment that takes longer than PostgreSQL waits is sent once; each question that ends before says so',
      { timeout: 120_000 },
      async () => {
        const { good, bad } = await sites(proxy.url);
        const identity = async () => ({ systemId: SYSTEM_ID, segmentSize: MiB });
        const source = createArchiveSource(async () => ({
          revision: '1',
          open: async () => ({
            repository: bad.repository,
            storage: { codec: 'none' as const },
            maxParallel: 1,
          }),
        }));
        const uploads = createUploads({ pgdata: good.pgdata, source, identity, signal: NEVER });
        const file = parseWalFileName(segment(5));
        if (!file) throw new Error('no WAL file');
        proxy.limit(RATE, true);
        let refused = 0;
        await until(
          'the segment to be confirmed',
          async () => {
            const asked = uploads.ensure(file, AbortSignal.timeout(1_500));
            return asked.then(
              () => true,
              () => ((refused += 1), false),
            );
          },
          { timeoutMs: 60_000 },
        );
        expect(refused).toBeGreaterThan(1);
        expect(uploads.counts()).toMatchObject({ files: 1, failed: 0, running: 0 });
        expect(await findWal(good.repository, segment(5), NEVER)).toHaveLength(1);
        await uploads.settled();
      },
    );
  });
});

/** A port whose queue of connections is full, and stays so: the next one that asks hears nothing at all. */
async function startBlackHole(): Promise<string> {
  const program = `const s = require('node:net').createServer(); s.listen(0, '127.0.0.1', 0, () => console.log(s.address().port))`;
  const listening = startProcess(process.execPath, ['-e', program]);
  const port = Number(await until('the port', () => /^\d+$/m.exec(listening.output())?.[0]));
  listening.signal('SIGSTOP');
  const fillers: Socket[] = [];
  for (let number = 0; number < 8; number += 1) {
    const filler = connect(port, '127.0.0.1').on('error', () => undefined);
    fillers.push(filler);
    await Promise.race([once(filler, 'connect'), new Promise((resolve) => setTimeout(resolve, 100))]);
  }
  onCleanUp(async () => {
    for (const filler of fillers) filler.destroy();
    await listening.kill9();
  });
  return `http://127.0.0.1:${port}`;
}
