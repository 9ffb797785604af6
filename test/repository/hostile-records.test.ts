/** S2 for records: whoever can write into the repository can write anything into one. */
import fc from 'fast-check';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { readAuditRecord, writeAuditRecord } from '../../repository/audit-record.ts';
import { inspectBackups } from '../../repository/backup-parts.ts';
import { readBackupRecord } from '../../repository/backup-record.ts';
import { listBackups, readBackup } from '../../repository/catalogue.ts';
import { listHolds, placeHold } from '../../repository/holds.ts';
import { backupPrefix } from '../../repository/layout.ts';
import { readKeeps, writeKeep } from '../../repository/keeps.ts';
import { listOutcomes, writeOutcome } from '../../repository/outcome.ts';
import { claimOwner, readOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { readSweptBy, writeSweptBy } from '../../repository/swept-by.ts';
import {
  isBeingDeleted,
  listTombstones,
  markedBackup,
  placeTombstone,
  readMark,
} from '../../repository/tombstones.ts';
import { listVerifications, writeVerification } from '../../repository/verifications.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { dataMembers, putBackup } from '../support/hand-made-backup.ts';
import { SYSTEM_ID } from '../support/wal-segment.ts';

const { signal } = new AbortController();
const ID = '20261122T222531';
const MiB = 1024 * 1024;
vi.setConfig({ testTimeout: 120_000 });

let repository: Repository;
/** Every record, by key, as it should be. */
const records = new Map<string, Buffer>();

const READERS: Readonly<Record<string, (r: Repository) => Promise<unknown>>> = {
  readBackup: (r) => readBackup(r, ID, signal),
  listBackups: (r) => listBackups(r, signal),
  readBackupRecord: (r) => readBackupRecord(r, ID, signal),
  inspectBackups: (r) => inspectBackups(r, signal),
  readKeeps: (r) => readKeeps(r, signal),
  listHolds: (r) => listHolds(r, signal),
  listTombstones: (r) => listTombstones(r, signal),
  readMark: (r) => readMark(r, ID, signal),
  isBeingDeleted: (r) => isBeingDeleted(r, ID, signal),
  readOwner: (r) => readOwner(r, signal),
  claimOwner: (r) => claimOwner(r, { systemId: SYSTEM_ID, segmentSize: MiB }, signal),
  readSweptBy: (r) => readSweptBy(r, signal),
  listOutcomes: (r) => listOutcomes(r, signal),
  listVerifications: (r) => listVerifications(r, signal),
  readAuditRecord: (r) => readAuditRecord(r, signal),
};

beforeAll(async () => {
  repository = createRepository(createMemoryStore(), 'pg');
  const r = repository;
  const at = '2026-11-22T22:25:31Z';
  await putBackup(r, { tars: { 'data.tar.gz': dataMembers() } });
  await writeKeep(r, ID, 'full', signal);
  await placeHold(
    r,
    { id: 'h', kind: 'restore', backupId: ID, reason: 'test', lastsMs: 5, timelines: [1] },
    signal,
  );
  const info = (await readBackup(r, ID, signal))!;
  await placeTombstone(
    r,
    {
      version: 1,
      backupId: ID,
      reasons: ['x'],
      epoch: 1,
      markedAt: at,
      graceMs: 1,
      backup: markedBackup(info, 5),
    },
    signal,
  );
  await claimOwner(r, { systemId: SYSTEM_ID, segmentSize: MiB }, signal);
  await writeSweptBy(r, { version: 1, policy: 'p' }, signal);
  await writeOutcome(
    r,
    { version: 1, backupName: 'b', status: { phase: 'completed', deep: { a: [1] } }, recordedAt: at },
    { mode: 'create', signal },
  );
  const names = { namespace: 'default', cluster: 'pg', host: 'h', instance: 'pg-1', walkeepVersion: '0' };
  const proof = {
    version: 1,
    id: 'v-1',
    result: 'verified',
    startedAt: at,
    endedAt: at,
    warnings: [],
  } as const;
  const checks = [{ name: 'c', result: 'passed', seconds: 1 }] as const;
  await writeVerification(r, { ...proof, ...names, checks, target: { kind: 'latest' } }, signal).catch(
    () => undefined,
  );
  const none = { intervals: [], damages: [], backups: 1, segments: 3, walBytes: 3, segmentsRead: 0 };
  const report = { at, ...none, needsBackup: false, warnings: [] };
  await writeAuditRecord(r, { version: 1, report, read: [], damaged: [] }, signal);
  for await (const { key } of r.store.list('', { signal })) {
    if (/\/wals\/|\.tar/.test(key)) continue;
    records.set(key, await collectBytes((await r.store.get(key, { signal }))!, MiB));
  }
});

/** Every reader gives a value that can be passed on, or says what is wrong: nothing else. */
async function judge(key: string, bytes: Buffer): Promise<void> {
  const before = records.get(key);
  await repository.store.put(key, bytes, { signal });
  try {
    for (const [name, read] of Object.entries(READERS)) {
      try {
        JSON.stringify(await read(repository), (_, value: unknown) =>
          typeof value === 'bigint' ? String(value) : value,
        );
      } catch (error) {
        if (!isBackupError(error)) throw new Error(`${name} of ${key}`, { cause: error });
        // It goes into logs and results.
        expect(error.message.length).toBeLessThan(5000);
      }
    }
    expect(Object.prototype).not.toHaveProperty('polluted');
  } finally {
    if (before) await repository.store.put(key, before, { signal });
    else await repository.store.delete([key], { signal });
  }
}

const HOSTILE: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  0.5,
  1e308,
  Number.MAX_SAFE_INTEGER + 2,
  '',
  '../../x',
  '/etc/passwd',
  'a\0b',
  '\ud800',
  '9'.repeat(400),
  '9999-99-99T99:99:99Z',
  '+275760-09-13T00:00:00Z',
  'FFFFFFFFFFFFFFFFFFFFFFFF',
  'FFFFFFFF/FFFFFFFF',
  '9/99999999999',
  'x'.repeat(20_000),
  [],
  {},
  [[[[]]]],
  { toString: null, constructor: { prototype: { polluted: 1 } } },
  JSON.parse('{"__proto__": {"polluted": 1}, "length": 1e9}'),
];

/** Any field of a JSON record is another, gone, or has company. */
function changed(value: unknown, path: readonly number[], put: unknown): unknown {
  const [first, ...rest] = path;
  if (first === undefined || typeof value !== 'object' || value === null) return put;
  const entries = Object.entries(value);
  if (entries.length === 0) return put;
  const at = first % (entries.length + 1);
  const next = entries.flatMap(([key, old], n): [string, unknown][] => {
    if (n !== at) return [[key, old]];
    return put === undefined && rest.length === 0 ? [] : [[key, changed(old, rest, put)]];
  });
  if (at === entries.length) next.push(['__proto__', put]);
  // As text: an assignment would set the prototype instead.
  return Array.isArray(value) ? next.map(([, one]) => one) : Object.fromEntries(next);
}

describe('a record that somebody else wrote', () => {
  it('S2: has a value that is refused by name, or one within its schema', async () => {
    const keys = [...records.keys()];
    expect(keys.length).toBeGreaterThanOrEqual(8);
    const json = keys.filter((key) => key.endsWith('.json'));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...json),
        fc.array(fc.nat(40), { maxLength: 4 }),
        fc.oneof(fc.constantFrom(...HOSTILE, undefined), fc.jsonValue()),
        async (key, path, put) => {
          const record = changed(JSON.parse(String(records.get(key))), path, put);
          await judge(key, Buffer.from(JSON.stringify(record) ?? ''));
        },
      ),
      { numRuns: 600 },
    );
  });

  it('S2: has any line of backup.info', async () => {
    const key = `${backupPrefix('pg', ID)}backup.info`;
    const lines = String(records.get(key)).trimEnd().split('\n');
    const values = fc.oneof(
      fc.constantFrom(...HOSTILE.map((one) => (typeof one === 'string' ? one : JSON.stringify(one)))),
      fc.constantFrom(
        'None',
        'True',
        "[('a', 1, '/x')]",
        "[('../x', -1, None)]",
        "[('x', 16384, '/a'), ('x', 16384, '/a')]",
      ),
      fc.constantFrom(
        "{'x': {'y': []}}",
        "'unended",
        '((((',
        "b'\\x00'",
        '1e999',
        '-0',
        '0x7f',
        '2026-13-45 99:99:99+99:99',
      ),
      fc.string({ maxLength: 60 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.nat(lines.length - 1), values, fc.boolean(), async (at, value, isTwice) => {
        const name = lines[at]?.split('=')[0];
        const line = `${name}=${value}`;
        await judge(key, Buffer.from(lines.toSpliced(at, isTwice ? 0 : 1, line).join('\n')));
      }),
      { numRuns: 300 },
    );
  });

  it('S2: is any bytes at all', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...records.keys()),
        fc.uint8Array({ maxLength: 300 }),
        async (key, bytes) => judge(key, Buffer.from(bytes)),
      ),
      { numRuns: 150 },
    );
  });

  it.each([
    ['lists without an end', '['.repeat(100_000)],
    ['lists in lists', '['.repeat(100_000) + ']'.repeat(100_000)],
    ['objects in objects', '{"a":'.repeat(30_000) + '1' + '}'.repeat(30_000)],
    ['one long number', '9'.repeat(200_000)],
    ['zeros', '\0'.repeat(200_000)],
    [
      'a status that is deep',
      `{"version":1,"backupName":"b","recordedAt":"2026-11-22T22:25:31Z","status":{"x":${'['.repeat(50_000)}${']'.repeat(50_000)}}}`,
    ],
  ])('S2: is %s: each is judged within a second or two', async (_, text) => {
    for (const key of records.keys()) {
      const begin = process.cpuUsage();
      await judge(key, Buffer.from(text));
      if (key.endsWith('backup.info'))
        await judge(key, Buffer.from(`[backup]\ntablespaces=${text.replaceAll('\0', 'x')}`));
      const { user, system } = process.cpuUsage(begin);
      expect((user + system) / 1000).toBeLessThan(3000);
    }
  });

  it('S2: lies under a name that no version wrote', async () => {
    const names = fc.constantFrom(
      '..',
      '.',
      '',
      '__proto__',
      'constructor',
      `${ID}x`,
      'ü',
      'a b',
      'x'.repeat(200),
      ID,
    );
    const folders = fc.constantFrom(
      'base',
      'walkeep/holds',
      'walkeep/tombstones',
      'walkeep/outcomes',
      'walkeep/verifications',
    );
    const ends = fc.constantFrom(
      '',
      '.json',
      '/backup.info',
      '/data.tar',
      '/data_99999999999.tar',
      '/annotations/keep',
      '.deleting',
    );
    await fc.assert(
      fc.asyncProperty(folders, names, ends, async (folder, name, end) => {
        const key = `pg/${folder}/${name}${end}`;
        fc.pre(!records.has(key) && !key.endsWith('/') && !/\/\.\.?(\/|$)|\/\//.test(key));
        await judge(key, Buffer.from('{}'));
      }),
      { numRuns: 150 },
    );
  });
});
