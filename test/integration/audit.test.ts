/** Faults 25 to 28 in the archive of a real server: found, named, and sent again from pg_wal where that is right. */
import { existsSync, readFileSync, utimesSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import type { AuditReport } from '../../core/audit.ts';
import { Secret } from '../../core/secret.ts';
import { walKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { findWal, readWalCopy } from '../../repository/wal.ts';
import { openStore } from '../../stores/open-store.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import type { Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { startTemporal } from '../support/temporal.ts';
import { until } from '../support/wait.ts';
import { makeSegment } from '../support/wal-segment.ts';
import { createMachine, startSite, type Machine, type Site } from '../support/walkeep.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const KEEP = { wal_keep_size: '400MB' };
// The keeper takes a backup for the hole at the same time as the test: whoever is second tries again soon.
process.env['WALKEEP_PACE'] = JSON.stringify({ backoff: 1, backoffMaximum: 2 });

describe.each(['directory', 's3'] as const)('the archive of PostgreSQL 15 in %s', (kind) => {
  let site: Site;
  let standby: Postgres;
  let machine: Machine;
  let repository: Repository;
  let segments: string[];

  beforeAll(async () => {
    const temporal = await startTemporal();
    site = await startSite({
      temporal,
      major: 15,
      store: kind,
      segmentSizeMiB: 1,
      config: KEEP,
      // A plain segment has no checksum but those of its records.
      ...(kind === 's3' && { compression: { wal: 'gzip' } }),
    });
    repository = createRepository(storeOf(site), site.cluster);
    standby = await site.postgres.createStandby({ config: KEEP });
    machine = createMachine({ temporal, postgres: standby });
    if (kind === 's3') await machine.apply(...site.manifests);
    const worker = await machine.startWorker({
      cluster: site.cluster,
      instance: 'main-2',
      pgdata: standby.dataDirectory,
    });
    await worker.waitUntilReady();
    await site.backup('before-the-hole');
    segments = [];
    await site.postgres.psql('CREATE TABLE filler (t text)');
    for (let count = 0; count < 10; count++) {
      await site.postgres.psql('INSERT INTO filler SELECT md5(i::text) FROM generate_series(1, 2000) i');
      segments.push(await site.postgres.switchWal());
    }
    await site.postgres.waitUntilArchived(segments.at(-1) ?? '');
    await until('the standby to have it all', () => isIn(standby, segments.at(-1) ?? ''));
  }, 240_000);

  const store = (): ObjectStore => repository.store;
  const keyOf = async (segment: string) => (await findWal(repository, segment, signal))[0]?.key ?? '';
  const remove = async (segment: string) => store().delete([await keyOf(segment)], { signal });
  const isEqual = async (segment: string, original: Uint8Array) => {
    const [copy, ...others] = await findWal(repository, segment, signal);
    if (copy === undefined || others.length > 0) return false;
    // As it is: a directory may still have the record of the object that was there before.
    const { plain } = await readWalCopy(repository, copy, 2 * MiB, signal);
    return plain instanceof Uint8Array && Buffer.compare(plain, original) === 0;
  };
  async function put(key: string, bytes: Uint8Array): Promise<void> {
    await store().put(key, bytes, { signal });
    if (kind === 'directory') giveToServerUser(join(directoryOf(site), key));
  }
  async function damage(segment: string, change: (bytes: Buffer) => Uint8Array): Promise<void> {
    const key = await keyOf(segment);
    const pieces: Uint8Array[] = [];
    for await (const piece of (await store().get(key, { signal })) ?? []) pieces.push(piece);
    const found = await store().head(key, { signal });
    await put(key, change(Buffer.concat(pieces)));
    // a disk leaves the time as it is: it is no other file
    if (kind === 'directory' && found)
      utimesSync(join(directoryOf(site), key), found.modifiedAt, found.modifiedAt);
  }
  async function audit(...args: string[]): Promise<AuditReport & { code: number | null }> {
    const { code, stdout, stderr } = await site.machine.walkeep('audit', site.cluster, '-o', 'json', ...args);
    if (code !== 0 && code !== 10) throw new Error(`audit ended with ${code}: ${stderr}`);
    return { ...(JSON.parse(stdout) as AuditReport), code };
  }
  const told = ({ damages }: AuditReport) =>
    damages.map(({ kind: what, first, repair, source }) =>
      [what, first, repair, source].filter((part) => part !== undefined),
    );

  it('A6, A3, fault 25, 26, 27: each damage is named, and sent again by the primary or the standby that has it', async () => {
    const [, gone = '', flipped = '', cut = '', empty = '', onStandby = '', silent = ''] = segments;
    const original = (segment: string) => readFileSync(join(standby.dataDirectory, 'pg_wal', segment));
    const before = new Map(segments.map((segment) => [segment, original(segment)]));
    expect(await audit('--read', 'all')).toMatchObject({ code: 0, damages: [], needsBackup: false });
    await remove(gone);
    await damage(flipped, (bytes) => {
      bytes[20_000] = (bytes[20_000] ?? 0) ^ 8;
      return bytes;
    });
    await damage(cut, (bytes) => bytes.subarray(0, bytes.length / 2));
    await damage(empty, () => new Uint8Array());
    await remove(onStandby);
    setAside(site.postgres, onStandby);
    // Behind the switch: of a plain segment only the recorded hash speaks against it.
    await damage(silent, (bytes) => {
      bytes[bytes.length - 100] = (bytes[bytes.length - 100] ?? 0) ^ 8;
      return bytes;
    });

    const found = await audit('--read', 'all');
    expect(found.code).toBe(10);
    expect(told(found)).toEqual([
      ['missing', gone],
      ['damaged', flipped],
      ['damaged', cut],
      ['damaged', empty],
      ['missing', onStandby],
      ['damaged', silent],
    ]);
    expect(found).toMatchObject({ needsBackup: true, intervals: [{ lastSegment: segments[0] }] });

    const repaired = await audit('--read', 'all', '--repair');
    expect(repaired).toMatchObject({ code: 0, needsBackup: false });
    expect(told(repaired)).toEqual([
      ['missing', gone, 'repaired', 'main-1'],
      ['damaged', flipped, 'repaired', 'main-1'],
      ['damaged', cut, 'repaired', 'main-1'],
      ['damaged', empty, 'repaired', 'main-1'],
      ['damaged', silent, 'repaired', 'main-1'],
      ['missing', onStandby, 'repaired', 'main-2'],
    ]);
    for (const [segment, bytes] of before) expect(await isEqual(segment, bytes), segment).toBe(true);
    expect(site.worker.process.output()).toMatch(
      new RegExp(`${flipped}.* was damaged in the archive and was replaced`),
    );
    expect(await audit('--read', 'all')).toMatchObject({ code: 0, damages: [] });
    putBack(site.postgres, onStandby);
  }, 180_000);

  it('A3, A4, fault 28: foreign content under our name is named, and left as it is', async () => {
    const segment = segments[7] ?? '';
    const key = await keyOf(segment);
    const [right] = [readFileSync(join(site.postgres.dataDirectory, 'pg_wal', segment))];
    await store().delete([key], { signal });
    const foreign = makeSegment(segment, { systemId: '4711' });
    await put(walKey(site.cluster, segment, 'none'), foreign);
    const report = await audit('--read', 'all', '--repair', '--pgdata', site.postgres.dataDirectory);
    expect(report.code).toBe(10);
    expect(told(report)).toEqual([['damaged', segment, 'not-tried']]);
    expect(report.damages[0]?.detail).toMatch(/foreign.*4711/);
    expect(await isEqual(segment, foreign)).toBe(true);
    // Moved away by a person, it is a hole that this host can fill without Temporal.
    await store().delete([walKey(site.cluster, segment, 'none')], { signal });
    const filled = await audit('--repair', '--pgdata', site.postgres.dataDirectory);
    expect(filled).toMatchObject({ code: 0, needsBackup: false });
    expect(await isEqual(segment, right)).toBe(true);
  }, 120_000);

  it('A6, fault 26: what nobody has any more splits the window, and a base backup is asked for', async () => {
    const segment = segments[8] ?? '';
    await remove(segment);
    setAside(site.postgres, segment);
    setAside(standby, segment);
    const report = await audit('--repair');
    expect(report).toMatchObject({ code: 10, needsBackup: true, intervals: [{ lastSegment: segments[7] }] });
    expect(told(report)).toEqual([['missing', segment, 'impossible']]);
    // Nobody asks for it: the keeper heard of the hole and takes one of the primary. One of a standby begins at its
    // last restartpoint, which lies before the hole.
    const split = await until(
      'the Backup that the keeper takes',
      async () => {
        // Its own checkpoint is a gentle one.
        await site.postgres.psql('CHECKPOINT');
        const found = await audit();
        return found.needsBackup ? undefined : found;
      },
      { timeoutMs: 120_000, everyMs: 1_000 },
    );
    expect(split).toMatchObject({ code: 10, needsBackup: false, backups: 2 });
    expect(split.intervals).toHaveLength(2);
    const human = await site.machine.walkeep('audit', site.cluster, '--read', 'none');
    expect(human.stdout).toMatch(
      new RegExp(`Recoverable: .*from backup .*\\n.*from backup .*\\nMissing: +${segment}`),
    );
  }, 180_000);
});

/** Whether a standby has received a segment whole: it marks it as done by itself. */
function isIn({ dataDirectory }: Postgres, segment: string): boolean {
  return existsSync(join(dataDirectory, 'pg_wal/archive_status', `${segment}.done`));
}

/** As if the server had removed it; wal_keep_size keeps it from doing so itself. */
function setAside({ dataDirectory }: Postgres, segment: string): void {
  renameSync(join(dataDirectory, 'pg_wal', segment), join(dataDirectory, `aside-${segment}`));
}

function putBack({ dataDirectory }: Postgres, segment: string): void {
  renameSync(join(dataDirectory, `aside-${segment}`), join(dataDirectory, 'pg_wal', segment));
}

function directoryOf({ barmanObjectStore }: Site): string {
  return fileURLToPath(String(barmanObjectStore['destinationPath']));
}

function storeOf(site: Site): ObjectStore {
  const { barmanObjectStore, manifests } = site;
  const url = String(barmanObjectStore['destinationPath']);
  if (url.startsWith('file:')) return openStore({ kind: 'file', directory: fileURLToPath(url) });
  const secret = manifests.find((one) => 'stringData' in one) as {
    stringData: Record<'ID' | 'KEY' | 'REGION', string>;
  };
  const [bucket = '', ...prefix] = url.slice('s3://'.length).split('/');
  return openStore({
    kind: 's3',
    bucket,
    prefix: prefix.join('/'),
    endpointUrl: String(barmanObjectStore['endpointURL']),
    region: secret.stringData.REGION,
    credentials: {
      accessKeyId: new Secret(secret.stringData.ID),
      secretAccessKey: new Secret(secret.stringData.KEY),
    },
  });
}
