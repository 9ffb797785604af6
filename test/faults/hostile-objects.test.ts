/** Fault 29: hostile records, tars, histories and names in a repository. Every operation, without a server. */
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { beforeEach, describe, expect, it } from 'vitest';
import { listBackups } from '../../repository/catalogue.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { objectBody } from '../../stores/body.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { TAR_END, tarHeader } from '../../repository/tar.ts';
import { aged, keysOf, putFourBackups } from '../operations/sweep-bench.ts';
import { dataMembers, makeTar, putBackup } from '../support/hand-made-backup.ts';
import { makeTempDir } from '../support/temp.ts';
import { postgresBin } from '../support/tools.ts';
import { makeBareSite, NEVER, segment, SERVER, type BareSite } from './bare-site.ts';
import { contentsOf } from './wild-stores.ts';

const SLOT = new Date('2026-11-24T02:00:00Z');
const OLD_MS = 2 * 3_600_000;

let site: BareSite;
let backupId: string;
beforeEach(async () => {
  site = makeBareSite();
  for (let number = 1; number <= 4; number += 1) await site.push(segment(number));
  backupId = await site.backUp();
});

/** A site whose next sweep would delete two of four backups. */
async function dueSite(): Promise<BareSite> {
  const inner = createMemoryStore();
  const due = makeBareSite({
    inner: aged(inner, (key) => (/\/(base|wals|tombstones)\//.test(key) ? OLD_MS : 0)),
  });
  await putFourBackups(due.repository);
  await due.sweep();
  return due;
}

describe('a hostile record', () => {
  const RECORDS = [
    { why: 'a segment that is a path', change: { begin_wal: '../../../../etc/passwd' } },
    { why: 'a status with SQL', change: { status: "DONE'; DROP TABLE x; --" } },
    { why: 'a negative timeline', change: { timeline: '-1' } },
    { why: 'a huge segment size', change: { xlog_segment_size: '99999999999999999999' } },
    { why: 'a version of the wrong type', change: { version: '[1, 2]' } },
    { why: 'a system identifier of 10 000 digits', change: { systemid: '9'.repeat(10_000) } },
    { why: 'a tablespace that climbs', change: { tablespaces: "[('x', 16999, '/srv/../../etc')]" } },
    { why: 'a tablespace with a path as its oid', change: { tablespaces: "[('x', '../../etc', '/srv/x')]" } },
    { why: 'a literal that never ends', change: { copy_stats: '['.repeat(100_000) } },
    { why: 'an end that is no time', change: { end_time: '9999-99-99 99:99:99' } },
  ];

  async function plant(into: ObjectStore, from: string, change: Record<string, string>): Promise<string> {
    const hostile = `${Number(from.slice(0, 8)) + 1}${from.slice(8)}`;
    const whole = await contentsOf(into, `${SERVER}/base/${from}/`);
    for (const [key, bytes] of whole) {
      const isRecord = key.endsWith('/backup.info');
      const text = () =>
        Object.entries(change).reduce(
          (record, [field, value]) =>
            record.includes(`\n${field}=`)
              ? record.replace(new RegExp(`\n${field}=.*`), () => `\n${field}=${value}`)
              : `${record}${field}=${value}\n`,
          `\n${bytes.toString()}`,
        );
      const planted = isRecord ? Buffer.from(text().slice(1)) : bytes;
      await into.put(key.replace(from, hostile), planted, { signal: NEVER });
    }
    return hostile;
  }

  it.for(RECORDS)(
    'C1, C6, F7, fault 29: with $why is restored from by nobody, and named',
    async ({ change }) => {
      const hostile = await plant(site.inner, backupId, change);
      const restored = await site.restore();
      expect(existsSync(join(restored, 'backup_label'))).toBe(true);
      expect(await site.verify()).toMatchObject({ result: 'damaged', why: expect.stringContaining(hostile) });
      const { entries, usable } = await site.protection();
      expect(usable.map((info) => info.backupId)).toEqual([backupId]);
      const problem = entries.find((entry) => entry.backupId === hostile)?.problem ?? '';
      expect(problem).not.toBe('');
      expect(problem.length).toBeLessThan(1_000);
    },
  );

  it.for(RECORDS)('A1, B1, F6, fault 29: with $why stands in nobody’s way', async ({ change }) => {
    await plant(site.inner, backupId, change);
    expect(await site.pushExit(segment(5))).toBe(0);
    await site.backUp();
    await site.restore();
    expect(await site.slot(SLOT)).toBe('ran');
  });

  it.for(RECORDS)('D3, fault 29: with $why lets nothing be deleted', async ({ change }) => {
    const due = await dueSite();
    const newest = (await listBackups(due.repository, NEVER)).at(-1)?.backupId ?? '';
    const hostile = await plant(due.repository.store, newest, change);
    const before = await keysOf(due.repository);
    const report = await due.sweep();
    expect(report.refused).toContain(hostile);
    expect(await keysOf(due.repository)).toEqual(before);
  });

  it('S2, C1, C6, D3, fault 29: of 100 MB is not read to its end by anybody', async () => {
    const key = `${SERVER}/base/20991231T235959/backup.info`;
    await site.inner.put(key, Buffer.from('x'), { signal: NEVER });
    let readBytes = 0;
    const huge: ObjectStore = {
      ...site.inner,
      async get(asked, options) {
        if (asked !== key) return site.inner.get(asked, options);
        return objectBody(
          (async function* endless() {
            const piece = Buffer.alloc(64 << 10, 'x');
            for (let at = 0; at < 100 << 20; at += piece.length) {
              readBytes += piece.length;
              yield piece;
            }
          })(),
        );
      },
    };
    const wild = site.through(huge);
    const asked: [string, () => Promise<unknown>][] = [
      ['restore', () => wild.restore()],
      ['verify', () => wild.verify()],
      ['protection', () => wild.protection()],
      ['sweep', () => wild.sweep()],
    ];
    for (const [what, work] of asked) {
      readBytes = 0;
      await work();
      // Each reads it a few times.
      expect(readBytes, what).toBeLessThan(16 << 20);
    }
    expect((await wild.sweep()).refused).toContain('20991231T235959');
  });
});

/** A header with a right checksum, whatever it says. */
function header(change: (block: Buffer) => void): Buffer {
  const made = tarHeader({ path: 'x', type: 'file', size: 0, mode: 0o600, uid: 0, gid: 0, mtimeMs: 0 });
  const block = Buffer.from(made.subarray(-512));
  change(block);
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}
const named = (name: string, flag = '0', link = '') =>
  header((block) => {
    block.fill(0, 0, 100).write(name, 0, 'latin1');
    block.write(flag, 156, 'latin1');
    block.fill(0, 157, 257).write(link, 157, 'latin1');
  });
const pax = (...fields: string[]) => {
  const line = (field: string) => {
    for (let length = field.length + 2; ; length += 1) {
      const text = `${length} ${field}\n`;
      if (text.length === length) return text;
    }
  };
  const data = Buffer.from(fields.map(line).join(''));
  const size = header((block) => {
    block.fill(0, 0, 100).write('././@PaxHeader', 0, 'latin1');
    block.write('x', 156, 'latin1');
    block.write(`${data.length.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  });
  return Buffer.concat([size, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
};

describe('a hostile tar', () => {
  const TARS = [
    { why: 'a name that leaves', first: named('../../../tmp/wk-evil') },
    { why: 'an absolute name', first: named('/tmp/wk-evil') },
    { why: 'an absolute name in a pax header', first: Buffer.concat([pax('path=/tmp/wk-evil'), named('x')]) },
    { why: 'a device', first: named('sda', '3') },
    { why: 'a hard link that leaves', first: named('x', '1', '../../../../etc/passwd') },
    {
      why: 'a file through a link',
      first: Buffer.concat([named('out', '2', '/tmp'), named('out/wk-evil')]),
    },
    { why: 'a wrong checksum', first: Buffer.from(named('x')).fill('y', 0, 1) },
    {
      why: 'a sparse file of a petabyte',
      first: Buffer.concat([
        pax('GNU.sparse.major=1', 'GNU.sparse.minor=0', 'GNU.sparse.realsize=1125899906842624'),
        header((block) => void block.write('00000001000\0', 124, 'latin1')),
        Buffer.from('0\n'.padEnd(512, '\0')),
      ]),
    },
  ];

  it.for(TARS)(
    'S2, C1, C2, C6, fault 29: with $why: nothing outside is touched, nothing starts, and it is named',
    async ({ first }) => {
      const fresh = makeBareSite();
      const content = Buffer.concat([first, makeTar(dataMembers())]);
      await putBackup(createRepository(fresh.inner, SERVER), {
        tars: { 'data.tar': content },
        isRecorded: false,
      });
      const into = join(makeTempDir('hostile'), 'data');
      await expect(fresh.restore({ into })).rejects.toMatchObject({
        code: expect.stringMatching(/object-damaged|disk-full/),
        message: expect.stringContaining('data.tar'),
      });
      expect(existsSync(join(into, 'global/pg_control'))).toBe(false);
      expect(readdirSync(dirname(into))).toEqual(['data']);
      expect(existsSync('/tmp/wk-evil')).toBe(false);
      expect(await fresh.verify({ binDirectory: postgresBin(15) })).toMatchObject({
        result: 'damaged',
        why: expect.stringContaining('data.tar'),
      });
      expect(existsSync('/tmp/wk-evil')).toBe(false);
    },
  );

  it('S2, fault 29: a pipe is left out', async () => {
    const fresh = makeBareSite();
    const content = Buffer.concat([named('pipe', '6'), makeTar(dataMembers())]);
    await putBackup(createRepository(fresh.inner, SERVER), {
      tars: { 'data.tar': content },
      isRecorded: false,
    });
    expect(existsSync(join(await fresh.restore(), 'pipe'))).toBe(false);
  });

  it('S2, fault 29: a bomb in a compressed one is refused by what is recorded of it', async () => {
    const fresh = makeBareSite();
    const id = await putBackup(createRepository(fresh.inner, SERVER));
    const key = `${SERVER}/base/${id}/data.tar.gz`;
    const bomb = gzipSync(
      Buffer.concat([makeTar(dataMembers()).subarray(0, -TAR_END.length), Buffer.alloc(64 << 20)]),
    );
    await fresh.inner.put(key, bomb, { signal: NEVER });
    await expect(fresh.restore()).rejects.toMatchObject({ code: 'object-damaged' });
  });
});

describe('hostile names in the store', () => {
  /** As an S3 server would list them: it takes any key. */
  const NAMES = [
    `${SERVER}/base/../../etc/backup.info`,
    `${SERVER}/base/20261122T222531\u0007/backup.info`,
    `${SERVER}/base/20261122T222531;rm -rf /data.tar`,
    `${SERVER}/wals/0000000100000000/000000010000000000000003;reboot`,
    `${SERVER}/wals/0000000100000000/../../owner.json`,
    `${SERVER}/wals/0000000100000000/\u001b[2J000000010000000000000003`,
    `${SERVER}/wals/..history`,
    `${SERVER}/walkeep/holds/../x.json`,
    `${SERVER}/walkeep/tombstones/\u0000.json`,
    `${SERVER}/walkeep/slots/hourly/../../../x.json`,
  ];
  function listingMore(store: ObjectStore, asked: string[] = []): ObjectStore {
    const planted = (prefix: string) =>
      NAMES.filter((key) => key.startsWith(prefix)).map((key) => ({
        key,
        sizeBytes: 10,
        modifiedAt: new Date(Date.now() - OLD_MS),
      }));
    const inOrder = <Entry>(entries: Entry[], keyOf: (entry: Entry) => string) =>
      entries.toSorted((a, b) => Buffer.compare(Buffer.from(keyOf(a)), Buffer.from(keyOf(b))));
    const all = async <Entry>(entries: AsyncIterable<Entry>) => {
      const found: Entry[] = [];
      for await (const entry of entries) found.push(entry);
      return found;
    };
    const note = (key: string) => {
      if (NAMES.includes(key)) asked.push(key);
    };
    return {
      ...store,
      async *list(prefix, options) {
        yield* inOrder([...(await all(store.list(prefix, options))), ...planted(prefix)], ({ key }) => key);
      },
      async *folders(prefix, options) {
        const more = planted(prefix).map(({ key }) => key.slice(prefix.length));
        const names = more
          .filter((rest) => rest.includes('/'))
          .map((rest) => prefix + rest.slice(0, rest.indexOf('/') + 1));
        yield* inOrder(
          [...new Set([...(await all(store.folders(prefix, options))), ...names])],
          (name) => name,
        );
      },
      get: (key, options) => (note(key), store.get(key, options)),
      delete: (keys, options) => {
        keys.forEach(note);
        return store.delete(keys, options);
      },
    };
  }

  it('S2, A1, B1, C1, C3, fault 29: are never followed; archive, backup, restore and wal-fetch go on', async () => {
    const asked: string[] = [];
    const wild = site.through(listingMore(site.inner, asked));
    expect([await wild.pushExit(segment(5)), await wild.pushExit(segment(3))]).toEqual([0, 0]);
    await wild.backUp();
    await wild.restore();
    expect([await wild.fetchExit(segment(3)), await wild.fetchExit(segment(6))]).toEqual([0, 1]);
    expect(await wild.fetchExit('../../etc/passwd')).toBeGreaterThan(125);
    expect(await wild.slot(SLOT)).toBe('ran');
    expect((await wild.protection()).usable).toHaveLength(2);
    expect((await wild.verify()).result).toBe('not-tried');
    expect(asked).toEqual([]);
  });

  it('S2, D3, fault 29: a sweep deletes none of them, and what it deletes it was to delete', async () => {
    const due = await dueSite();
    const ids = (await listBackups(due.repository, NEVER)).map((entry) => entry.backupId);
    const asked: string[] = [];
    await due
      .through(listingMore(due.repository.store, asked))
      .sweep()
      .catch(() => undefined);
    expect(asked).toEqual([]);
    const left = (await listBackups(due.repository, NEVER)).map((entry) => entry.backupId);
    expect(left).toEqual(expect.arrayContaining(ids.slice(2)));
  });

  it.for(['../../etc/passwd', '000000010000000000000005; reboot', 'x'.repeat(5000), '', '.', '$(reboot)'])(
    'S2, A4, fault 29: "%s" is neither archived nor fetched',
    async (name) => {
      const before = await keysOf(site.repository);
      expect(await site.pushExit(name)).toBe(1);
      expect(await site.fetchExit(name)).toBeGreaterThan(125);
      expect(await keysOf(site.repository)).toEqual(before);
    },
  );
});

describe('hostile histories', () => {
  const line = (timeline: number) => `${timeline}\t0/400000\tno recovery target specified\n`;
  const HISTORIES = [
    { why: 'of a timeline that is its own parent', files: { 2: line(2) } },
    { why: 'of two that are each other’s parents', files: { 2: line(3), 3: line(2) } },
    { why: 'that go backwards', files: { 4: line(3) + line(1) } },
    { why: 'with a timeline beyond all numbers', files: { 2: `99999999999999999999999\t0/400000\tx\n` } },
    { why: 'of a million lines', files: { 2: line(1).repeat(200_000) } },
    { why: 'that are binary', files: { 2: '\u0000\u0001\u0002'.repeat(100) } },
  ];
  const plant = async (into: ObjectStore, files: Record<number, string>) => {
    for (const [timeline, text] of Object.entries(files)) {
      const name = `${Number(timeline).toString(16).toUpperCase().padStart(8, '0')}.history`;
      await into.put(`${SERVER}/wals/${name}`, Buffer.from(text), { signal: NEVER });
    }
  };

  it.for(HISTORIES)(
    'C1, C3, C6, D3, fault 29: $why end nothing in a circle, are named, and nothing is deleted',
    async ({ files }) => {
      await plant(site.inner, files);
      const named = /0000000[234]\.history/;
      expect(await site.verify()).toMatchObject({ result: 'damaged', why: expect.stringMatching(named) });
      // Timeline 1 is what can be restored, and it is said that another one is left out.
      await site.restore();
      if (2 in files) expect(await site.fetchExit('00000002.history')).toBeGreaterThan(125);
      expect(await site.pushExit(segment(5))).toBe(0);
      await site.backUp();
      const due = await dueSite();
      await plant(due.repository.store, files);
      const before = await keysOf(due.repository);
      expect((await due.sweep()).refused).toMatch(named);
      expect(await keysOf(due.repository)).toEqual(before);
    },
  );
});
