/**
 * Fault 32: EIO and ENOSPC at fsync, rename, link, write and close, at every such call in turn, of every operation on a
 * repository in a directory. And once by the kernel's own answer, where strace can inject it.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { inspectBackups } from '../../repository/backup-parts.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { aged, keysOf, putFourBackups, segmentsOf } from '../operations/sweep-bench.ts';
import { makeTempDir } from '../support/temp.ts';
import { postgresBin, repositoryRoot } from '../support/tools.ts';
import { makeSegment, MiB } from '../support/wal-segment.ts';
import { makeBareSite, NEVER, segment, type BareSite } from './bare-site.ts';
import { onFailingDisk, type DiskCall, type DiskFault } from './failing-disk.ts';

const CALLS: DiskCall[] = ['fsync', 'rename', 'link', 'write', 'close'];
const SLOT = new Date('2026-11-24T02:00:00Z');
const OLD_MS = 2 * 3_600_000;

/** Every call, and of many a sample: `most` of them, each in turn with the two errors. */
async function atEachCall<Fixture, Result>(
  call: DiskCall,
  make: () => Promise<Fixture>,
  work: (fixture: Fixture) => Promise<Result>,
  judge: (fixture: Fixture, ended: PromiseSettledResult<Result>, fault: DiskFault) => Promise<void>,
  most = 12,
): Promise<number> {
  const counted = await make();
  const { calls } = await onFailingDisk({ call, nth: 0, code: 'EIO' }, () => work(counted));
  const step = Math.max(1, calls / most);
  let failures = 0;
  for (let at = 1; at <= calls; at += step) {
    const fault: DiskFault = { call, nth: Math.floor(at), code: failures % 2 === 0 ? 'EIO' : 'ENOSPC' };
    const fixture = await make();
    const { ended, failed } = await onFailingDisk(fault, () => work(fixture));
    if (failed) failures += 1;
    await judge(fixture, ended, fault);
  }
  return failures;
}

/** A site whose repository is a directory, with four segments in it. */
async function directorySite(): Promise<BareSite> {
  const site = makeBareSite({ inner: createFilesystemStore(makeTempDir('disk')) });
  for (let number = 1; number <= 4; number += 1) await site.push(segment(number));
  return site;
}

async function requireWholeWal(site: BareSite, name: string): Promise<void> {
  for (const object of await findWal(site.repository, name, NEVER)) {
    const bytes = await readWal(site.repository, object, MiB, NEVER);
    expect(Buffer.compare(bytes, makeSegment(name)), name).toBe(0);
  }
}

describe('a disk that fails under', () => {
  it.for(CALLS)(
    'A1, A5, E4, fault 32: archiving, at %s: exits 1 to 125 or is whole, and heals',
    async (call) => {
      const failures = await atEachCall(
        call,
        directorySite,
        (site) => site.push(segment(5)),
        async (site, ended) => {
          if (ended.status === 'fulfilled')
            expect(await findWal(site.repository, segment(5), NEVER)).toHaveLength(1);
          await requireWholeWal(site, segment(5));
          expect(await site.pushExit(segment(5))).toBe(0);
          expect(await findWal(site.repository, segment(5), NEVER)).toHaveLength(1);
        },
      );
      if (call !== 'rename') expect(failures).toBeGreaterThan(0);
    },
  );

  it.for(CALLS)(
    'B1, B2, E4, fault 32: a backup, at %s: is recorded and restores, or counts for nothing',
    { timeout: 120_000 },
    async (call) => {
      const failures = await atEachCall(
        call,
        directorySite,
        (site) => site.backUp(),
        async (site, ended) => {
          const usable = (await site.protection()).usable.map(({ backupId }) => backupId);
          if (ended.status === 'fulfilled') expect(usable).toEqual([ended.value]);
          if (usable.length > 0) await site.restore();
          const next = await site.backUp();
          expect((await site.protection()).usable.at(-1)?.backupId).toBe(next);
          await site.restore();
        },
        3,
      );
      if (call !== 'rename') expect(failures).toBeGreaterThan(0);
    },
  );

  it.for(CALLS)(
    'C1, C2, fault 32: a restore, at %s: is whole, or does not start and begins anew',
    { timeout: 120_000 },
    async (call) => {
      const site = await directorySite();
      await site.backUp();
      const failures = await atEachCall(
        call,
        async () => join(makeTempDir('target'), 'data'),
        (into) => site.restore({ into }),
        async (into, ended) => {
          if (ended.status === 'rejected') {
            if (call !== 'close') expect(isBackupError(ended.reason), String(ended.reason)).toBe(true);
            // Behind the last step all is there, and only its durability is in doubt: no second restore goes over it.
            const isComplete = existsSync(join(into, 'global/pg_control'));
            if (isComplete)
              await expect(site.restore({ into })).rejects.toMatchObject({ code: 'directory-not-empty' });
            else await site.restore({ into });
          }
          expect(existsSync(join(into, 'global/pg_control'))).toBe(true);
          expect(readFileSync(join(into, 'base/5/16384'), 'utf8')).toBe('x'.repeat(20_000));
        },
      );
      if (call !== 'link') expect(failures).toBeGreaterThan(0);
    },
  );

  it('C2, fault 32: a restore whose files the kernel could not write does not start, and says so', async () => {
    const site = await directorySite();
    await site.backUp();
    const programs = makeTempDir('programs');
    writeFileSync(
      join(programs, 'sync'),
      '#!/bin/sh\necho "sync: error syncing: Input/output error" >&2\nexit 1\n',
    );
    chmodSync(join(programs, 'sync'), 0o755);
    const path = process.env['PATH'];
    process.env['PATH'] = `${programs}:${path}`;
    const into = join(makeTempDir('target'), 'data');
    try {
      await expect(site.restore({ into })).rejects.toMatchObject({
        code: 'data-unreadable',
        message: expect.stringContaining('could not be written'),
      });
    } finally {
      process.env['PATH'] = path;
    }
    expect(existsSync(join(into, 'global/pg_control'))).toBe(false);
    await site.restore({ into });
  });

  it.for(CALLS)('C3, fault 32: wal-fetch, at %s: 0 and whole, or more than 125 and nothing', async (call) => {
    const site = await directorySite();
    const failures = await atEachCall(
      call,
      async () => undefined,
      () => site.fetchExit(segment(3)),
      async (_, ended) => {
        const code = ended.status === 'fulfilled' ? ended.value : -1;
        expect(code === 0 || code > 125, String(code)).toBe(true);
      },
    );
    if (call !== 'link') expect(failures).toBeGreaterThan(0);
  });

  it.for(CALLS)(
    'C6, fault 32: a verification, at %s: is not tried, and nothing is called damaged',
    { timeout: 120_000 },
    async (call) => {
      const site = await directorySite();
      await site.backUp();
      const { calls } = await onFailingDisk({ call, nth: 0, code: 'EIO' }, () => site.restore());
      for (let nth = 1; nth <= calls; nth += Math.max(1, Math.floor(calls / 5))) {
        const { ended, failed } = await onFailingDisk({ call, nth, code: 'EIO' }, () =>
          site.verify({ binDirectory: postgresBin(15) }),
        );
        const { result = '', why = '' } = ended.status === 'fulfilled' ? ended.value : {};
        if (failed && /EIO|i\/o error/i.test(why)) expect(result, why).toBe('not-tried');
      }
    },
  );

  it.for(CALLS)(
    'D3, D4, E4, fault 32: a sweep, at %s: nothing that counts is hurt, and the next one does the same set',
    { timeout: 120_000 },
    async (call) => {
      const failures = await atEachCall(
        call,
        async () => {
          const store = createFilesystemStore(makeTempDir('disk'));
          const old = aged(store, (key) => (/\/(base|wals|tombstones)\//.test(key) ? OLD_MS : 0));
          const site = makeBareSite({ inner: old });
          const ids = await putFourBackups(site.repository);
          await site.sweep();
          return { site, ids };
        },
        ({ site }) => site.sweep(),
        async ({ site, ids }) => {
          const r = site.repository;
          const whole = async () =>
            (await listBackups(r, NEVER))
              .filter(({ info }) => info !== undefined)
              .map(({ backupId }) => backupId);
          expect(await whole()).toEqual(expect.arrayContaining(ids.slice(2)));
          const folders = await inspectBackups(r, NEVER);
          for (const id of await whole()) expect(folders.get(id)?.parts, id).toHaveLength(2);
          await site.sweep();
          expect(await whole()).toEqual(ids.slice(2));
          expect(await segmentsOf(r)).toEqual(Array.from({ length: 20 }, (_, index) => index + 30));
        },
        2,
      );
      if (call !== 'link') expect(failures).toBeGreaterThan(0);
    },
  );

  it.for(CALLS)('F6, E4, fault 32: a slot, at %s: has one outcome', async (call) => {
    await atEachCall(
      call,
      directorySite,
      (site) => site.slot(SLOT),
      async (site) => {
        expect([await site.slot(SLOT), await site.slot(SLOT)]).toEqual(['ran', 'ran']);
        expect(
          (await keysOf(site.repository, { own: true })).filter((key) => key.includes('/slots/')),
        ).toHaveLength(1);
      },
      6,
    );
  });

  it.for(CALLS)(
    'E4, F5, F7, fault 32: what is declared, at %s: is the old manifest or the new one, never half',
    async (call) => {
      const manifest = (name: string) =>
        clusterSchema.parse({
          apiVersion: 'postgresql.cnpg.io/v1',
          kind: 'Cluster',
          metadata: { name: 'pg' },
          spec: { backup: { barmanObjectStore: { destinationPath: `file:///srv/${name}` } } },
        });
      const read = async (root: string) => {
        const { applied, problem } = (await openStateDirectory(root).clusters.list())[0] ?? {};
        expect(problem).toBeUndefined();
        return applied?.manifest.spec.backup?.barmanObjectStore?.destinationPath;
      };
      const failures = await atEachCall(
        call,
        async () => {
          const root = makeTempDir('state');
          await openStateDirectory(root).clusters.save(manifest('old'));
          return root;
        },
        (root) => openStateDirectory(root).clusters.save(manifest('new')),
        async (root, ended) => {
          if (ended.status === 'rejected')
            expect(isBackupError(ended.reason), String(ended.reason)).toBe(true);
          expect(['file:///srv/old', 'file:///srv/new']).toContain(await read(root));
          await openStateDirectory(root).clusters.save(manifest('new'));
          expect(await read(root)).toBe('file:///srv/new');
          const files = readdirSync(root, { recursive: true }).map(String);
          expect(files.filter((name) => name.includes('.tmp-'))).toEqual([]);
        },
      );
      if (call !== 'link') expect(failures).toBeGreaterThan(0);
    },
  );
});

describe('the kernel’s own answer', () => {
  /** Puts one object into a directory, in a process of its own, with the n-th such call of it failing. */
  const put = (directory: string, call: string, nth: number, code: string) => {
    const program = `
      import { createFilesystemStore } from '${repositoryRoot}/stores/filesystem.ts';
      await createFilesystemStore(${JSON.stringify(directory)})
        .put('a/b/object', Buffer.alloc(100_000, 7), { signal: new AbortController().signal, ifAbsent: true })
        .then(() => console.log('stored'), (error) => console.log(error.code));`;
    const inject = [`trace=${call}`, `inject=${call}:error=${code}:when=${nth}`].flatMap((what) => [
      '-e',
      what,
    ]);
    const traced = join(makeTempDir('trace'), 'calls');
    const node = [process.execPath, '--input-type=module', '-e', program];
    const { stdout, status, stderr } = spawnSync('strace', ['-f', '-qq', '-o', traced, ...inject, ...node], {
      encoding: 'utf8',
    });
    const calls = existsSync(traced) ? readFileSync(traced, 'utf8') : '';
    return { said: stdout.trim(), status, stderr, injected: calls.includes('(INJECTED)') };
  };

  it(
    'E4, fault 32: EIO and ENOSPC at each fsync, mkdir and link of a put: no object, or a whole one (needs strace)',
    { timeout: 120_000 },
    ({ skip }) => {
      const probe = put(makeTempDir('probe'), 'fsync', 1, 'EIO');
      if (!probe.injected) return skip(`strace can not inject a failure here: ${probe.stderr.slice(0, 200)}`);
      expect(probe.said).toBe('store-unavailable');
      const said = new Set<string>();
      for (const [call, code] of [
        ['fsync', 'EIO'],
        ['link,linkat', 'ENOSPC'],
      ] as const) {
        for (let nth = 1; nth <= 8; nth += 1) {
          const directory = makeTempDir('traced');
          const { said: answer, injected } = put(directory, call, nth, code);
          if (!injected) break;
          said.add(`${code} ${answer}`);
          const objects = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) =>
            entry.isFile(),
          );
          for (const { parentPath, name } of objects) {
            expect(`${parentPath}/${name}`).toBe(join(directory, 'a/b/object'));
            expect(readFileSync(join(parentPath, name)).equals(Buffer.alloc(100_000, 7))).toBe(true);
          }
          // Again, as whoever was not told that it is stored does it.
          expect(put(directory, 'fsync', 1_000, 'EIO').said).toMatch(/^(stored|already-exists)$/);
        }
      }
      expect([...said].toSorted()).toEqual(['EIO store-unavailable', 'ENOSPC store-full']);
    },
  );
});
