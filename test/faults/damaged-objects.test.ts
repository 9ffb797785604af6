/** Faults 25 and 27: a bit turned in an object, an object cut, an object empty. Every operation, without a server. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { slotBackupName, slotStamp } from '../../core/slots.ts';
import { repairWal } from '../../operations/repair-wal.ts';
import { writeBackupRecord } from '../../repository/backup-record.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { backupInfoKey, walKey } from '../../repository/layout.ts';
import { writeOutcome } from '../../repository/outcome.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { compressBytes } from '../../streams/codec.ts';
import { aged, idOf, keysOf, putBenchBackup, putBenchWal } from '../operations/sweep-bench.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';
import { makeBareSite, NEVER, segment, SERVER, type BareSite } from './bare-site.ts';
import { contentsOf, damage, emptied, flipped, halved } from './wild-stores.ts';

const SLOT = new Date('2026-11-24T02:00:00Z');
const OLD_MS = 2 * 3_600_000;
const WAYS = [
  { why: 'fault 25: a bit turned', change: flipped(300) },
  { why: 'fault 27: cut', change: halved },
  { why: 'fault 27: empty', change: emptied },
];
const CODECS = ['none', 'gzip'] as const;
const withCodec = WAYS.flatMap((way) => CODECS.map((codec) => ({ ...way, codec })));

let site: BareSite;
let backupId: string;
beforeEach(async () => {
  site = makeBareSite();
  for (let number = 1; number <= 4; number += 1) await site.push(segment(number));
  backupId = await site.backUp();
});

describe('a part of a base backup', () => {
  it.for(withCodec)(
    'C2, C6, $why, as $codec: restores nothing that starts, and is named',
    async ({ why, change, codec }) => {
      const other = makeBareSite({ inner: site.inner, codec });
      const id = await other.backUp();
      for (const name of [0, 1].map(
        (index) => `data${index === 0 ? '' : '_0001'}.tar${codec === 'gzip' ? '.gz' : ''}`,
      )) {
        const key = `${SERVER}/base/${id}/${name}`;
        const whole = (await contentsOf(site.inner, key)).get(key)!;
        // In the bytes of a file, uncompressed, where nothing but the recorded hash tells.
        const isInAFile = why.includes('25') && codec === 'none' && name.includes('_0001');
        await damage(site.inner, key, isInAFile ? flipped(5_000) : change);
        const into = join(makeTempDir('damaged'), 'data');
        await expect(other.restore({ into }), name).rejects.toMatchObject({
          code: expect.stringMatching(/object-damaged|format-invalid/),
          message: expect.stringContaining(name),
        });
        expect(existsSync(join(into, 'global/pg_control'))).toBe(false);
        await site.inner.put(key, whole, { signal: NEVER });
      }
      await other.restore();
    },
  );

  it.for(WAYS)(
    'B1, $why: the next backup is taken all the same, and it is the one that is restored',
    async ({ change }) => {
      await damage(site.inner, `${SERVER}/base/${backupId}/data.tar.gz`, change);
      const next = await site.backUp();
      expect(next > backupId).toBe(true);
      await site.restore();
      expect(await site.slot(SLOT)).toBe('ran');
    },
  );
});

describe('the record of a backup', () => {
  const RECORDS = [`${SERVER}/base/ID/backup.info`, `${SERVER}/walkeep/backups/ID/objects.json`];
  const cases = [{ why: 'fault 27: cut', change: halved }, WAYS[2]!].flatMap((way) =>
    RECORDS.map((record) => ({ ...way, record })),
  );

  it.for(cases)(
    'C1, C6, $why, $record: nothing is restored, the verification names it',
    async ({ change, record }) => {
      const key = record.replace('ID', backupId);
      await damage(site.inner, key, change);
      const into = join(makeTempDir('damaged'), 'data');
      await expect(site.restore({ into })).rejects.toThrow(/backup|objects\.json/);
      expect(existsSync(into)).toBe(false);
      expect(await site.verify()).toMatchObject({ result: 'damaged', why: expect.stringContaining(key) });
    },
  );

  it('B5, C1, fault 25: whatever bit is turned in one, what is restored is the backup, or nothing', async () => {
    for (const record of RECORDS) {
      const key = record.replace('ID', backupId);
      const whole = (await contentsOf(site.inner, key)).get(key)!;
      for (let at = 0; at < whole.length; at += Math.ceil(whole.length / 40)) {
        await site.inner.put(key, flipped(at)(whole), { signal: NEVER });
        const into = join(makeTempDir('flipped'), 'data');
        const restored = await site.restore({ into }).catch(() => undefined);
        if (restored !== undefined) expect(existsSync(join(restored, 'backup_label'))).toBe(true);
        else expect(existsSync(join(into, 'global/pg_control'))).toBe(false);
      }
      await site.inner.put(key, whole, { signal: NEVER });
    }
  });

  it.for(cases)(
    'B1, A1, F6, F7, $why, $record: archiving, backups and slots go on, and it is shown',
    async ({ change, record }) => {
      await damage(site.inner, record.replace('ID', backupId), change);
      expect(await site.pushExit(segment(5))).toBe(0);
      const next = await site.backUp();
      await site.restore();
      expect(await site.slot(SLOT)).toBe('ran');
      const { entries, usable } = await site.protection();
      expect(usable.at(-1)?.backupId).toBe(next);
      if (record.endsWith('backup.info')) {
        expect(entries.find((entry) => entry.backupId === backupId)?.problem).toBeDefined();
      }
    },
  );
});

describe('a WAL object', () => {
  const spoil = async (number: number, codec: 'none' | 'gzip', change: (bytes: Buffer) => Uint8Array) => {
    const key = walKey(SERVER, segment(number), codec);
    await site.inner.delete([walKey(SERVER, segment(number), 'none')], { signal: NEVER });
    await site.inner.put(key, await compressBytes(codec, makeSegment(segment(number))), { signal: NEVER });
    await damage(site.inner, key, change);
    return key;
  };

  it.for(withCodec)(
    'A3, $why, as $codec: is not confirmed, and archiving goes on',
    async ({ codec, change }) => {
      const key = await spoil(4, codec, change);
      const before = (await contentsOf(site.inner, key)).get(key);
      expect(await site.pushExit(segment(4))).toBe(1);
      expect((await contentsOf(site.inner, key)).get(key)).toEqual(before);
      expect(await site.pushExit(segment(5))).toBe(0);
    },
  );

  it.for(withCodec.filter(({ codec, why }) => codec === 'gzip' || why.startsWith('fault 27')))(
    'A3, A6, F7, $why, as $codec: an audit names it, and it is sent again',
    async ({ codec, change }) => {
      await spoil(4, codec, change);
      const { damages } = await site.audit();
      expect(damages).toMatchObject([{ kind: 'damaged', first: segment(4) }]);
      const repaired = await repairWal(
        {
          instance: 'pg-1',
          repository: async () => site.repository,
          pgWalDirectory: site.pgWal,
          codec,
          identity: async () => ({ systemId: SYSTEM_ID, segmentSize: MiB }),
        },
        damages,
        { signal: NEVER },
      );
      // A made segment holds no records, so only a copy that contradicts itself shows that ours is the right one.
      expect(repaired).toMatchObject([{ outcome: 'repaired' }]);
      const [found] = await findWal(site.repository, segment(4), NEVER);
      expect(
        Buffer.compare(await readWal(site.repository, found!, MiB, NEVER), makeSegment(segment(4))),
      ).toBe(0);
      expect((await site.audit()).damages).toEqual([]);
    },
  );

  it.for(withCodec)(
    'C3, $why, as $codec: wal-fetch is more than 125, and leaves nothing',
    async ({ codec, why, change }) => {
      // In the header, where an uncompressed segment has what tells it from others.
      await spoil(4, codec, why.includes('25') && codec === 'none' ? flipped(10) : change);
      expect(await site.fetchExit(segment(4))).toBeGreaterThan(125);
      expect(await site.fetchExit(segment(4), { isStandby: true })).toBeLessThanOrEqual(125);
    },
  );

  it.for(withCodec)(
    'B1, $why, as $codec: of a backup’s own WAL keeps it from counting; older WAL does not',
    async ({ codec, why, change }) => {
      const ofHeader = why.includes('25') && codec === 'none' ? flipped(10) : change;
      await spoil(1, codec, ofHeader);
      await site.backUp();
      await spoil(2, codec, ofHeader);
      await expect(site.backUp()).rejects.toMatchObject({
        code: expect.stringMatching(/object-damaged|wal-missing/),
      });
      expect((await listBackups(site.repository, NEVER)).length).toBe(2);
    },
  );
});

describe('the record of a slot or of an outcome', () => {
  const earlier = new Date(SLOT.getTime() - 3_600_000);
  const keyOf = (slot: Date) => `${SERVER}/walkeep/slots/hourly/${slotStamp(slot)}.json`;

  it.for(WAYS)(
    'F6, $why: does not keep the next slots from running, and is decided by nobody a second time',
    async ({ change }) => {
      expect(await site.slot(earlier)).toBe('ran');
      await damage(site.inner, keyOf(earlier), (bytes) => change(bytes.subarray(0, 250)));
      expect(await site.slot(SLOT)).toBe('ran');
      await expect(site.slot(earlier)).rejects.toMatchObject({ code: 'format-invalid' });
    },
  );

  it('F6, fault 27: an outcome that was cut is that of a Backup that has ended', async () => {
    expect(await site.slot(earlier)).toBe('ran');
    expect(await site.slot(SLOT)).toContain('asks about');
    const backupName = slotBackupName('hourly', earlier);
    const outcome = {
      version: 1 as const,
      backupName,
      status: { phase: 'completed' },
      recordedAt: earlier.toISOString(),
    };
    await writeOutcome(site.repository, outcome, { mode: 'create', signal: NEVER });
    const [key = ''] = [...(await contentsOf(site.inner)).keys()].filter((name) =>
      name.includes(`${backupName}.json`),
    );
    await damage(site.inner, key, halved);
    expect(await site.slot(SLOT)).toBe('ran');
  });
});

describe('the owner record', () => {
  it.for([WAYS[1]!, WAYS[2]!])(
    'A4, D3, $why: nothing is archived or swept by guesswork, and it is named',
    async ({ change }) => {
      await damage(site.inner, `${SERVER}/walkeep/owner.json`, change);
      await expect(site.push(segment(5))).rejects.toThrow(/owner\.json/);
      const before = await keysOf(site.repository);
      const report = await site.sweep().catch((error: unknown) => ({ refused: String(error) }));
      expect(report.refused).toContain('owner.json');
      expect(await keysOf(site.repository)).toEqual(before);
    },
  );
});

describe('a sweep', () => {
  const NOW = Date.now();

  it.for([
    { why: 'fault 27: cut', change: halved, kept: [3, 2] },
    { why: 'fault 27: empty', change: emptied, kept: [3, 2] },
    { why: 'undamaged', change: (bytes: Buffer) => bytes, kept: [2] },
  ])(
    'D2, $why: a damaged backup does not count for what is to be kept, and the one before it stays',
    async ({ change, kept }) => {
      const inner = createMemoryStore();
      const old = aged(inner, (key) => (/\/(base|wals|tombstones)\//.test(key) ? OLD_MS : 0));
      const due = makeBareSite({ inner: old });
      for (const [index, daysOld] of [4, 3, 2].entries())
        await putBenchBackup(due.repository, { at: 10 + index * 10, daysOld }, NOW);
      await putBenchWal(due.repository, 5, 40);
      const newest = idOf(2, NOW);
      const part = { codec: 'none' as const, plainBytes: 10, storedBytes: 10, members: 1 };
      const about = { walkeepVersion: '0.0.0', cluster: 'pg', instance: 'pg-1', postgresVersion: 150_020 };
      const sha256 = createHash('sha256').digest('hex');
      await writeBackupRecord(
        due.repository,
        {
          version: 1,
          backupId: newest,
          systemId: SYSTEM_ID,
          parts: ['data.tar', 'data_0001.tar'].map((name) => ({
            ...part,
            name,
            plainSha256: sha256,
            storedSha256: sha256,
          })),
          pageChecksumFailures: [],
          ...about,
        },
        NEVER,
      );
      await damage(inner, `${SERVER}/base/${newest}/data_0001.tar`, change);
      for (let round = 0; round < 3; round += 1) await due.sweep({ rules: { keepLast: 1, minimum: 1 } });
      const listed = (await listBackups(due.repository, NEVER)).filter(({ info }) => info !== undefined);
      expect(listed.map((entry) => entry.backupId)).toEqual(kept.map((daysOld) => idOf(daysOld, NOW)));
    },
  );

  it.for(WAYS)(
    'D3, $why: with the record of one damaged nothing at all is deleted, and it is said',
    async ({ change, why }) => {
      const inner = createMemoryStore();
      const old = aged(inner, (key) => (/\/(base|wals|tombstones)\//.test(key) ? OLD_MS : 0));
      const due = makeBareSite({ inner: old });
      for (const [index, daysOld] of [4, 3, 2].entries())
        await putBenchBackup(due.repository, { at: 10 + index * 10, daysOld }, NOW);
      await putBenchWal(due.repository, 5, 40);
      await due.sweep();
      // The first of the record is the name of a field: turned, it is no field that we know or need.
      await damage(
        inner,
        backupInfoKey(SERVER, idOf(2, NOW)),
        why.includes('25') ? turned('status=DONE') : change,
      );
      const before = await keysOf(due.repository);
      const report = await due.sweep();
      expect(report.refused).toContain(idOf(2, NOW));
      expect(await keysOf(due.repository)).toEqual(before);
    },
  );
});

/** One bit of the value behind the `=`. */
const turned = (line: string) => (bytes: Buffer) =>
  flipped(bytes.indexOf(line) + line.indexOf('=') + 1)(bytes);
