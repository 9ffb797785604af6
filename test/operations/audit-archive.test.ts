import { setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, describe, expect, it, test } from 'vitest';
import { cutReport, isWhole, type AuditReport } from '../../core/audit.ts';
import { parseLsn } from '../../core/lsn.ts';
import { segmentAt, segmentName } from '../../core/segment.ts';
import { auditArchive, type AuditOptions, type AuditRequest } from '../../operations/audit-archive.ts';
import { recordsEnd } from '../../postgres/wal-end.ts';
import { readAuditRecord } from '../../repository/audit-record.ts';
import { writeBackupInfo } from '../../repository/catalogue.ts';
import { walKey } from '../../repository/layout.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { writeVerification } from '../../repository/verifications.ts';
import { faulty } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { compressBytes, type Codec } from '../../streams/codec.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';
import { makeWal } from '../support/wal-with-records.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const systemId = SYSTEM_ID.toString();
const name = (number: number, timeline = 1) => segmentName(timeline, BigInt(number), MiB);
/** Later than what was stored just now can be on its way. */
const HOUR = 3_600_000;

let store: ObjectStore;
let repository: Repository;

beforeEach(async () => {
  // The store's clock at a question is an hour after what a test has put there.
  store = aged(createMemoryStore());
  repository = createRepository(store, 'pg');
  await claimOwner(repository, { systemId, segmentSize: MiB }, signal);
});

function aged(inner: ObjectStore): ObjectStore {
  return {
    ...inner,
    head: async (key, options) => {
      const found = await inner.head(key, options);
      const isClock = key.endsWith('/walkeep/clock');
      return found && isClock ? { ...found, modifiedAt: new Date(found.modifiedAt.getTime() + HOUR) } : found;
    },
  };
}

async function put(fileName: string, bytes: Uint8Array, codec: Codec = 'gzip'): Promise<void> {
  await store.put(walKey('pg', fileName, codec), await compressBytes(codec, bytes), { signal });
}

async function putSegments(first: number, last: number, timeline = 1): Promise<void> {
  for (let number = first; number <= last; number++)
    await put(name(number, timeline), makeSegment(name(number, timeline)));
}

/** A backup that lies in segment `number`. */
async function putBackup(backupId: string, number: number, timeline = 1): Promise<void> {
  const [beginLsn, endLsn] = [`0/${number.toString(16)}00028`, `0/${number.toString(16)}01000`].map(parseLsn);
  if (beginLsn === undefined || endLsn === undefined) return;
  await store.put(`pg/base/${backupId}/data.tar`, Buffer.from('x'), { signal });
  const info = {
    backupId,
    status: 'DONE' as const,
    beginTime: new Date('2026-11-22T22:25:31Z'),
    endTime: new Date(Date.UTC(2026, 10, 22, 23, number)),
    beginLsn,
    endLsn,
    beginWal: segmentAt(timeline, beginLsn, MiB),
    endWal: segmentAt(timeline, endLsn, MiB),
    timeline,
    systemId,
    version: 150_020,
    segmentSize: MiB,
    tablespaces: [],
    backupLabel: 'x',
    serverName: 'cloud',
    pgdata: '/srv/source',
    unknown: {},
  };
  await writeBackupInfo(repository, info, signal);
}

const audit = (request: Partial<AuditRequest> = {}, options: Partial<AuditOptions> = {}, r = repository) =>
  auditArchive(r, { read: 'all', ...request }, { signal, ...options });

const intervals = ({ intervals: all }: AuditReport) =>
  all.map(({ timeline, backupId, toLsn }) => `${timeline}: ${backupId} to ${toLsn}`);
const damages = ({ damages: all }: AuditReport) =>
  all.map(({ kind, first, last, count }) => `${kind} ${first}${first === last ? '' : `-${last}`} (${count})`);

async function contents(): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const { key } of store.list('pg/', { signal })) {
    if (key.startsWith('pg/walkeep/')) continue;
    const pieces: Uint8Array[] = [];
    for await (const piece of (await store.get(key, { signal })) ?? []) pieces.push(piece);
    found[key] = Buffer.concat(pieces).toString('base64');
  }
  return found;
}

describe('auditArchive', () => {
  it('A6: an archive without a gap is one interval, and whole', async () => {
    await putBackup('20261122T222531', 2);
    await putBackup('20261122T230000', 6);
    await putSegments(1, 9);
    const report = await audit();
    expect(intervals(report)).toEqual(['1: 20261122T222531 to 0/A00000']);
    expect(report).toMatchObject({
      backups: 2,
      segments: 9,
      segmentsRead: 9,
      needsBackup: false,
      damages: [],
      newestBackup: { backupId: '20261122T230000', endedAt: '2026-11-22T23:06:00.000Z' },
      newestSegment: { name: name(9) },
    });
    expect(isWhole(report)).toBe(true);
    expect((await readAuditRecord(repository, signal))?.report).toEqual(report);
  });

  it('A6, fault 26: a missing segment is named, the interval ends there, and a base backup is asked for', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 4);
    await putSegments(7, 9);
    const report = await audit();
    expect(damages(report)).toEqual([`missing ${name(5)}-${name(6)} (2)`]);
    expect(report.damages[0]?.detail).toContain(name(7));
    expect(intervals(report)).toEqual(['1: 20261122T222531 to 0/500000']);
    expect(report.needsBackup).toBe(true);
    await putBackup('20261122T230000', 8);
    const after = await audit();
    expect(intervals(after)).toEqual(['1: 20261122T222531 to 0/500000', '1: 20261122T230000 to 0/A00000']);
    expect(after.needsBackup).toBe(false);
  });

  test.for<{ why: string; bytes: () => Promise<Uint8Array> | Uint8Array; codec: Codec; says: RegExp }>([
    {
      why: 'fault 25: a flipped bit in a compressed object',
      codec: 'gzip',
      bytes: async () => {
        const stored = Uint8Array.from(await compressBytes('gzip', makeSegment(name(5))));
        stored[stored.length >> 1] = (stored[stored.length >> 1] ?? 0) ^ 4;
        return stored;
      },
      says: /undecodable/,
    },
    { why: 'fault 27: empty', codec: 'zstd', bytes: () => new Uint8Array(), says: /undecodable|wrong-size/ },
    {
      why: 'fault 27: a cut compressed object',
      codec: 'zstd',
      bytes: async () => (await compressBytes('zstd', makeSegment(name(5)))).subarray(0, 400),
      says: /undecodable/,
    },
    {
      why: 'fault 27: a cut plain object',
      codec: 'none',
      bytes: () => makeSegment(name(5)).subarray(0, 8192),
      says: /wrong-size/,
    },
    {
      why: 'fault 27: longer than a segment',
      codec: 'none',
      bytes: () => Buffer.concat([makeSegment(name(5)), Buffer.from('x')]),
      says: /wrong-size/,
    },
    {
      why: 'the segment of another name',
      codec: 'none',
      bytes: () => makeSegment(name(6)),
      says: /misplaced/,
    },
    { why: 'no WAL at all', codec: 'none', bytes: () => new Uint8Array(MiB).fill(65), says: /misplaced/ },
    {
      why: 'fault 28: whole, and of another cluster',
      codec: 'none',
      bytes: () => makeSegment(name(5), { systemId: 4711n }),
      says: /foreign.*4711/,
    },
  ])('A3, A6, $why: is named, does not count, and is left as it is', async ({ bytes, codec, says }) => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 4);
    await putSegments(6, 9);
    await store.put(walKey('pg', name(5), codec), await bytes(), { signal });
    const before = await contents();
    const report = await audit({ read: 'new' });
    expect(damages(report)).toEqual([`damaged ${name(5)} (1)`]);
    expect(report.damages[0]?.detail).toMatch(says);
    expect(intervals(report)).toEqual(['1: 20261122T222531 to 0/500000']);
    expect(report.needsBackup).toBe(true);
    expect(await contents()).toEqual(before);
  });

  it('A6, fault 25: a flipped bit in a plain segment is found by the checksums of its records', async () => {
    await putBackup('20261122T222531', 2);
    for (let number = 1; number <= 4; number++) await put(name(number), makeWal(name(number)), 'none');
    const flipped = makeWal(name(3));
    flipped[20_000] = (flipped[20_000] ?? 0) ^ 1;
    await put(name(3), flipped, 'none');
    const report = await audit();
    expect(damages(report)).toEqual([`damaged ${name(3)} (1)`]);
    expect(report.damages[0]?.detail).toMatch(/breaks-off/);
    // Of the last segment nobody can say where its records were to end.
    const last = makeWal(name(4));
    last[20_000] = (last[20_000] ?? 0) ^ 1;
    await put(name(3), makeWal(name(3)), 'none');
    await put(name(4), last, 'none');
    expect(damages(await audit())).toEqual([]);
  });

  it('A6: two whole copies of other bytes are no copy; beside a whole one a damaged one is named', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 9);
    await put(name(5), makeSegment(name(5)), 'zstd');
    expect(isWhole(await audit())).toBe(true);
    await put(name(5), makeSegment(name(5), { seed: 9 }), 'zstd');
    const ambiguous = await audit();
    expect(ambiguous.damages[0]?.detail).toMatch(/\.gz and .*\.zst have different contents/);
    expect(intervals(ambiguous)).toEqual(['1: 20261122T222531 to 0/500000']);
    expect(damages(await audit({ read: 'none' }))).toEqual([`damaged ${name(5)} (1)`]);
    await store.put(walKey('pg', name(5), 'zstd'), Buffer.from('damaged'), { signal });
    const beside = await audit();
    expect(beside.damages[0]?.detail).toMatch(/another copy is whole/);
    expect(intervals(beside)).toEqual(['1: 20261122T222531 to 0/A00000']);
    expect(isWhole(beside)).toBe(false);
  });

  it('A6, A7: a lost history of a timeline is named', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 5);
    await putSegments(5, 9, 2);
    const history = Buffer.from('1\t0/580000\tno recovery target specified\n');
    const lost = await audit();
    expect(damages(lost)).toEqual(['missing 00000002.history (1)']);
    expect(lost.needsBackup).toBe(true);
    await put('00000002.history', history, 'none');
    const whole = await audit();
    expect(isWhole(whole)).toBe(true);
    expect(intervals(whole)).toEqual(['1: 20261122T222531 to 0/600000', '2: 20261122T222531 to 0/A00000']);
    await put('00000002.history', Buffer.from('nonsense'), 'none');
    expect(damages(await audit())).toEqual(['damaged 00000002.history (1)']);
  });

  it('damaged WAL that no backup needs is told of, and is no hole', async () => {
    await putBackup('20261122T222531', 5);
    await putSegments(1, 9);
    await store.put(walKey('pg', name(2), 'gzip'), Buffer.from('damaged'), { signal });
    const report = await audit();
    expect(isWhole(report)).toBe(true);
    expect(report.warnings.join()).toContain(`${name(2)} is damaged, and no backup needs it`);
  });

  it('a backup without its tars is not counted', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 9);
    await store.delete(['pg/base/20261122T222531/data.tar'], { signal });
    const report = await audit();
    expect(report).toMatchObject({ backups: 0, intervals: [], needsBackup: true });
    expect(report.warnings.join()).toContain('data.tar is missing');
  });

  it('a gap in front of what was stored just now may close while the audit looks', async () => {
    const fresh = createMemoryStore();
    for await (const { key } of store.list('pg/', { signal }))
      await fresh.put(key, (await store.get(key, { signal })) ?? new Uint8Array(), { signal });
    store = fresh;
    repository = createRepository(store, 'pg');
    await putBackup('20261122T222531', 2);
    await putSegments(1, 4);
    await putSegments(6, 6);
    expect(damages(await audit({}, { settleMs: 0 }))).toEqual([`missing ${name(5)} (1)`]);
    const [report] = await Promise.all([audit(), sleep(300).then(() => putSegments(5, 5))]);
    expect(report).toMatchObject({ damages: [], needsBackup: false, intervals: [{ toLsn: '0/700000' }] });
  });

  it('D3: a listing that fails makes no audit, and keeps the one before', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 9);
    const before = await audit();
    for (const fault of [
      { on: 'list', does: 'cut', matching: '/wals/', afterBytes: 3 },
      { on: 'folders', does: 'error', matching: '/wals/' },
      { on: 'get', does: 'error', matching: name(4) },
    ] as const) {
      const failing = createRepository(faulty(store, [fault]), 'pg');
      await expect(audit({}, {}, failing)).rejects.toMatchObject({ code: 'store-unavailable' });
    }
    expect((await readAuditRecord(repository, signal))?.report).toEqual(before);
  });

  it('names the newest verification that succeeded', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 3);
    const verification = {
      version: 1 as const,
      namespace: 'default',
      cluster: 'pg',
      startedAt: '2026-11-23T00:00:00Z',
      endedAt: '2026-11-23T00:10:00Z',
      host: 'h',
      instance: 'pg-1',
      target: { kind: 'end' },
      walkeepVersion: '0',
      checks: [],
      warnings: [],
    };
    await writeVerification(
      repository,
      { ...verification, id: '20261123T000000', result: 'verified' },
      signal,
    );
    await writeVerification(
      repository,
      { ...verification, id: '20261124T000000', result: 'damaged' },
      signal,
    );
    expect((await audit()).newestVerified).toEqual({ id: '20261123T000000', at: '2026-11-23T00:10:00Z' });
  });
});

describe('what is read', () => {
  it('new: each segment once, and what was damaged again until it is not', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 5);
    expect((await audit({ read: 'new' })).segmentsRead).toBe(5);
    expect((await audit({ read: 'new' })).segmentsRead).toBe(0);
    await putSegments(6, 7);
    expect((await audit({ read: 'none' })).segmentsRead).toBe(0);
    expect((await audit({ read: 'new' })).segmentsRead).toBe(2);
    await store.put(walKey('pg', name(3), 'gzip'), Buffer.from('damaged'), { signal });
    const found = await audit({ read: 'all' });
    expect(found.segmentsRead).toBe(7);
    expect(damages(found)).toEqual([`damaged ${name(3)} (1)`]);
    expect(damages(await audit({ read: 'none' }))).toEqual([`damaged ${name(3)} (1)`]);
    const again = await audit({ read: 'new' });
    expect([again.segmentsRead, damages(again).length]).toEqual([1, 1]);
    await put(name(3), makeSegment(name(3)));
    const healed = await audit({ read: 'none' });
    expect([healed.segmentsRead, damages(healed)]).toEqual([1, []]);
  });

  it('new: as many bytes as it may, and the next audit goes on', async () => {
    await putBackup('20261122T222531', 2);
    for (let number = 1; number <= 12; number++) await put(name(number), makeWal(name(number)), 'none');
    const first = await audit({ read: 'new' }, { maxNewBytes: 5 * MiB });
    expect(first.segmentsRead).toBeLessThan(12);
    expect(first.warnings.join()).toMatch(/segments were not read yet/);
    const second = await audit({ read: 'new' });
    expect(first.segmentsRead + second.segmentsRead).toBe(12);
  });

  it('none: sizes alone tell of what is cut or empty', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 4);
    await put(name(5), makeSegment(name(5)).subarray(0, 4096), 'none');
    await store.put(walKey('pg', name(6), 'gzip'), new Uint8Array(), { signal });
    await putSegments(7, 7);
    const report = await audit({ read: 'none' });
    expect(damages(report)).toEqual([`damaged ${name(5)} (1)`, `damaged ${name(6)} (1)`]);
    expect(report.segmentsRead).toBe(0);
  });

  it('A6: after a round of repairs what was sent again is read, and the report says what became of each damage', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 3);
    await putSegments(5, 5);
    await store.put(walKey('pg', name(6), 'gzip'), Buffer.from('damaged'), { signal });
    await putSegments(9, 9);
    const done = { kind: 'missing' as const, timeline: 1, count: 1, instance: 'pg-1' };
    const repaired = (number: number) => ({
      ...done,
      outcome: 'repaired' as const,
      first: name(number),
      last: name(number),
    });
    const pending = { ...done, outcome: 'pending' as const, first: name(7), last: name(8), count: 2 };
    const round = { repairs: [repaired(5), repaired(6), pending], unasked: [] };
    const all = await audit({ read: 'none', round, readBefore: 10 });
    // 6 was said to be repaired and is not; 4 nobody had; 7 and 8 are coming.
    expect(all.damages.map(({ first, repair }) => [first, repair])).toEqual([
      [name(5), 'repaired'],
      [name(4), 'impossible'],
      [name(6), 'impossible'],
    ]);
    expect(all.segmentsRead).toBe(12);
    const unasked = [{ instance: 'pg-2', reason: 'no worker takes work' }];
    const refused = {
      ...done,
      outcome: 'refused' as const,
      first: name(6),
      last: name(6),
      detail: 'of another cluster',
    };
    const some = await audit({ read: 'none', round: { repairs: [refused, pending], unasked } });
    expect(some.damages.map(({ first, repair }) => [first, repair])).toEqual([
      [name(4), 'not-tried'],
      [name(6), 'not-tried'],
    ]);
    expect(some.damages[1]?.detail).toMatch(/pg-1: of another cluster; pg-2 could not be asked: no worker/);
    await put(name(4), makeSegment(name(4)));
    await put(name(6), makeSegment(name(6)));
    const coming = await audit({ read: 'none', round: { repairs: [pending], unasked: [] } });
    expect(coming).toMatchObject({ damages: [], needsBackup: false });
  });

  it('E3: a record of an earlier audit that can not be read costs a second reading, no audit', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 3);
    await store.put('pg/walkeep/audit.json', Buffer.from('{'), { signal });
    const report = await audit({ read: 'new' });
    expect(report.segmentsRead).toBe(3);
    expect(report.warnings.join()).toContain('what earlier audits read is not known');
  });
});

describe('a report', () => {
  it('F4: is cut to what a payload may hold, the oldest entries first, and says so', async () => {
    await putBackup('20261122T222531', 2);
    await putSegments(1, 3);
    const report = await audit();
    const damage = (at: number) => ({
      kind: 'missing' as const,
      timeline: 1,
      first: name(at),
      last: name(at),
      count: 1,
      detail: 'x'.repeat(400),
    });
    const [interval] = report.intervals;
    const long: AuditReport = {
      ...report,
      damages: Array.from({ length: 900 }, (_, at) => damage(at)),
      intervals: Array.from({ length: 900 }, () => interval as NonNullable<typeof interval>),
    };
    const cut = cutReport(long);
    expect(JSON.stringify(cut).length).toBeLessThanOrEqual(40 * 1024);
    expect(cut.damages.at(-1)?.first).toBe(name(899));
    expect(cut.damages.length).toBeGreaterThan(20);
    expect(cut.intervals.length).toBeGreaterThan(20);
    expect(cut.warnings.join()).toMatch(/more older damages are not listed/);
    expect(cutReport(report)).toEqual(report);
  });
});

describe('recordsEnd', () => {
  it.each([
    ['a switch', makeWal(name(3)), 'end'],
    ['a record that goes on in the next segment', makeWal(name(3), { records: 9999 }), 'end'],
    ['nothing more, though there is room', makeWal(name(3), { isSwitched: false }), 'early'],
    ['no record at all', makeSegment(name(3)), 'unknown'],
  ])('%s', (_, bytes, end) => {
    expect(recordsEnd(bytes)).toBe(end);
  });
});
