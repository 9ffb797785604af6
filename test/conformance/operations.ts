import { existsSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { benchRules } from '../operations/sweep-bench.ts';
import { fetchWal } from '../../operations/fetch-wal.ts';
import { sweep } from '../../operations/sweep.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { listBackups, readBackup } from '../../repository/catalogue.ts';
import { releaseKeep, writeKeep } from '../../repository/keeps.ts';
import { claimOwner, readOwner } from '../../repository/owner.ts';
import { CODEC_SUFFIX } from '../../streams/codec.ts';
import { asCloudNativePgReads } from '../support/barman-cases.ts';
import { makeTempDir } from '../support/temp.ts';
import { baseCodecOf, type Cell, type Operation, type Reason, REASONS } from './cells.ts';
import type { Folder } from './places.ts';
import {
  requireRecoveryByBarman,
  requireRecoveryByWalkeep,
  requireWhole,
  restoreByBarman,
  restoreByWalkeep,
} from './restores.ts';
import { filesOf } from './same-files.ts';
import type { Source } from './source.ts';
import { codecOption, countTars, signal, write, type Taken, type Written } from './written.ts';

/** A cell at work: what its operations share. */
export interface Bench {
  readonly cell: Cell;
  readonly source: Source;
  readonly folder: Folder;
  /** Beside it, never written. */
  readonly unused: Folder;
  written?: Written;
}

/** One operation of a cell. @param reason when it is known not to work: then that is seen */
type Step = (bench: Bench & { readonly written: Written }, reason: Reason | undefined) => Promise<void>;

/** Does what a column of the matrix says, and throws when it did not come out as expected. */
export async function runOperation(
  operation: Operation,
  bench: Bench,
  reason: Reason | undefined,
): Promise<void> {
  if (operation === 'write') return writeCell(bench, reason);
  const { written } = bench;
  if (written === undefined) throw new Error('there is nothing to be read: it was not written');
  const steps = bench.cell.writer === 'walkeep' ? BARMAN_READS : WALKEEP_READS;
  await steps[operation]({ ...bench, written }, reason);
}

async function writeCell(bench: Bench, reason: Reason | undefined): Promise<void> {
  const { cell, source, folder } = bench;
  if (reason !== undefined) return requireNoOption(bench);
  bench.written = await write(cell, source, folder);
  const tars = await countTars(folder, bench.written.first);
  if (cell.shape === 'parts') expect(tars).toBeGreaterThan(2);
  const suffix = CODEC_SUFFIX[cell.codec];
  const keys = await folder.keys();
  const isWal = (key: string) => key.startsWith('wals/');
  expect(keys.filter(isWal).every((key) => key.endsWith(suffix))).toBe(true);
  const isTar = (key: string) => /^base\/.*\.tar/.test(key);
  const tarSuffix = `.tar${CODEC_SUFFIX[baseCodecOf(cell)]}`;
  expect(keys.filter(isTar).every((key) => key.endsWith(tarSuffix))).toBe(true);
  if (cell.writer === 'walkeep' && cell.codec === 'xz') requireXzBaseIsRefused();
}

async function requireNoOption({ cell, source, folder }: Bench): Promise<void> {
  const option = codecOption(cell.codec);
  const [segment = ''] = source.archived().filter((name) => /^[0-9A-F]{24}$/.test(name));
  const file = join(source.ledger, segment);
  const refusals = [
    await folder.barman('barman-cloud-wal-archive', option, [file]),
    await folder.barman('barman-cloud-backup', option, [], source.postgres),
  ];
  for (const { code, stderr } of refusals) {
    expect(code).toBe(3);
    expect(stderr).toContain(`unrecognized arguments: ${option.join(' ')}`);
  }
  expect(await folder.keys()).toEqual([]);
}

/** No reader has tars with xz, so walkeep writes none. */
function requireXzBaseIsRefused(): void {
  const spec = {
    backup: { barmanObjectStore: { destinationPath: 's3://b/p', data: { compression: 'xz' } } },
  };
  const manifest = { apiVersion: 'postgresql.cnpg.io/v1', kind: 'Cluster', metadata: { name: 'xz' }, spec };
  expect(() => clusterSchema.parse(manifest)).toThrow(/compression/);
}

// ---- barman-cloud reads what walkeep wrote -------------------------------------------------------------------------

const BARMAN_READS: Record<Exclude<Operation, 'write'>, Step> = {
  async list({ cell, folder, written }) {
    const list = await folder.barman('barman-cloud-backup-list', ['--format', 'json']);
    expect(list).toMatchObject({ code: 0 });
    const { backups_list: backups } = JSON.parse(list.stdout) as { backups_list: unknown[] };
    expect(backups.map(asCloudNativePgReads)).toEqual(written.copied.map(asShownBy(cell)));
  },

  async show({ cell, folder, written }) {
    const show = await folder.barman('barman-cloud-backup-show', ['--format', 'json'], ['older']);
    expect(show).toMatchObject({ code: 0 });
    const shown = JSON.parse(show.stdout) as Record<string, unknown>;
    expect(asCloudNativePgReads(shown['cloud'])).toEqual(written.copied.map(asShownBy(cell))[0]);
  },

  async restore({ cell, source, folder, written }, reason) {
    const restored = await restoreByBarman(folder, source, written.first);
    if (reason === REASONS.baseNotFound) {
      expect(restored.outcome).toMatchObject({ code: 1 });
      expect(existsSync(join(restored.pgdata, 'PG_VERSION'))).toBe(false);
      return;
    }
    expect(restored.outcome).toMatchObject({ code: 0 });
    await requireWhole(folder, cell.major, written.first, restored);
    const ours = await restoreByWalkeep(folder, source, written.first);
    expect(filesOf(restored.pgdata)).toEqual(filesOf(ours.pgdata));
    removeAll(ours.pgdata);
    // what is restored is whole, and has no WAL to recover with
    if (reason === undefined) await requireRecoveryByBarman(folder, source, restored, written);
    removeAll(restored.pgdata);
  },

  async 'wal-restore'({ source, folder, written }, reason) {
    const into = makeTempDir('wal');
    const fetch = (name: string) => folder.fetchByBarman(name, join(into, name));
    for (const name of chosenWal(written)) {
      const outcome = await fetch(name);
      if (reason === undefined) {
        expect(outcome, name).toMatchObject({ code: 0 });
        expect(readFileSync(join(into, name)).equals(readFileSync(join(source.ledger, name))), name).toBe(
          true,
        );
      } else {
        expect(outcome, name).toMatchObject({ code: 1 });
        expect(existsSync(join(into, name))).toBe(false);
      }
    }
    expect(await fetch('0000000100000000000000FF')).toMatchObject({ code: 1 });
  },

  async keep({ folder, written }) {
    await requireKeepsBothWays(folder, written);
  },

  async 'check-wal-archive'({ folder, unused }, reason) {
    const used = await folder.barman('barman-cloud-check-wal-archive');
    expect(used).toMatchObject({ code: reason === undefined ? 1 : 0 });
    expect(await unused.barman('barman-cloud-check-wal-archive')).toMatchObject({ code: 0 });
  },

  async delete({ cell, folder, written }, reason) {
    const before = await folder.keys();
    const policy = ['--retention-policy', 'REDUNDANCY 1'];
    expect(await folder.barman('barman-cloud-backup-delete', policy)).toMatchObject({ code: 0 });
    const isGone = whatBarmanDeletes(cell, written, reason);
    expect(await folder.keys()).toEqual(before.filter((key) => !isGone(key)));
    await requireOnly(folder, written.second);
  },
};

/**
 * Which objects go with the first backup, by barman-cloud's rules: its record and its tars; and WAL before the second
 * one began, but not on the timeline of the first where the second is on another.
 */
function whatBarmanDeletes(cell: Cell, { first, second }: Written, reason: Reason | undefined) {
  const tars = reason === REASONS.tarsStay ? /^backup\.info$/ : /^(backup\.info|[^/]*\.tar[^/]*)$/;
  const walStays = reason !== undefined && cell.release === '3.10.0';
  return (key: string): boolean => {
    const own = `base/${first.backupId}/`;
    if (key.startsWith(own)) return tars.test(key.slice(own.length));
    const name = /^wals\/[0-9A-F]{16}\/(.*)$/.exec(key)?.[1];
    if (name === undefined || walStays || name >= second.beginWal) return false;
    return first.timeline === second.timeline || Number.parseInt(name.slice(0, 8), 16) !== first.timeline;
  };
}

// ---- walkeep reads what barman-cloud wrote -------------------------------------------------------------------------

const WALKEEP_READS: Record<Exclude<Operation, 'write'>, Step> = {
  async list({ folder, written }) {
    const entries = await listBackups(folder.repository, signal);
    const [first, second] = [written.first, written.second];
    expect(entries.map(({ backupId, info }) => [backupId, info?.backupName, info?.status])).toEqual([
      [first.backupId, 'older', 'DONE'],
      [second.backupId, 'newer', 'DONE'],
    ]);
  },

  async show({ folder, written }) {
    const show = await folder.barman(
      'barman-cloud-backup-show',
      ['--format', 'json'],
      [written.first.backupId],
    );
    expect(show).toMatchObject({ code: 0 });
    const theirs = asCloudNativePgReads((JSON.parse(show.stdout) as Record<string, unknown>)['cloud']);
    const info = await readBackup(folder.repository, written.first.backupId, signal);
    expect(theirs).toMatchObject({
      id: info?.backupId,
      name: info?.backupName,
      beginWal: info?.beginWal,
      endWal: info?.endWal,
      timeline: info?.timeline,
      systemId: info?.systemId,
    });
  },

  async restore({ source, folder, written }) {
    const ours = await restoreByWalkeep(folder, source, written.first);
    const theirs = await restoreByBarman(folder, source, written.first);
    expect(theirs.outcome).toMatchObject({ code: 0 });
    expect(filesOf(ours.pgdata)).toEqual(filesOf(theirs.pgdata));
    removeAll(theirs.pgdata);
    await requireRecoveryByWalkeep(source, ours, written);
    removeAll(ours.pgdata);
  },

  async 'wal-restore'({ source, folder, written }) {
    const into = makeTempDir('wal');
    const ports = { repository: () => Promise.resolve(folder.repository), deadlineMs: 30_000 };
    for (const name of written.wal) {
      expect(await fetchWal(ports, name, join(into, name), { signal })).toEqual({ outcome: 'fetched' });
      expect(readFileSync(join(into, name)).equals(readFileSync(join(source.ledger, name))), name).toBe(true);
    }
    const absent = `${written.second.beginWal.slice(0, 8)}000000FF000000FE`;
    expect(await fetchWal(ports, absent, join(into, absent), { signal })).toEqual({ outcome: 'absent' });
  },

  async keep({ folder, written }) {
    await requireKeepsBothWays(folder, written);
  },

  /** Ours is asked by whoever writes first: whose repository is this? */
  async 'check-wal-archive'({ source, folder, unused }) {
    const stranger = { systemId: '7000000000000000001', segmentSize: 16 * 1024 * 1024 };
    const before = await folder.keys();
    const refused = await claimOwner(folder.repository, stranger, signal).catch((error: unknown) => error);
    expect(isBackupError(refused, 'wal-foreign')).toBe(true);
    expect(await folder.keys()).toEqual(before);
    const own = { ...stranger, systemId: source.systemId };
    expect(await claimOwner(folder.repository, own, signal)).toMatchObject(own);
    expect(await readOwner(unused.repository, signal)).toBeUndefined();
    expect(await claimOwner(unused.repository, stranger, signal)).toMatchObject(stranger);
  },

  async delete({ folder, written }) {
    const before = (await folder.keys()).filter((key) => !key.startsWith('walkeep/'));
    const { first, second } = written;
    const byUs = { signal, holder: 'matrix', lease: { settleMs: 50 } };
    expect((await sweep(folder.repository, KEEP_ONE, byUs)).counts).toMatchObject({ marked: 1 });
    await sleep(KEEP_ONE.graceMs + 500);
    expect((await sweep(folder.repository, KEEP_ONE, byUs)).counts).toMatchObject({ deletedBackups: 1 });
    const after = (await folder.keys()).filter((key) => !key.startsWith('walkeep/'));
    const isGone = (key: string): boolean => {
      if (key.startsWith(`base/${first.backupId}/`)) return true;
      const name = /^wals\/[0-9A-F]{16}\/(.*)$/.exec(key)?.[1];
      // labels stay as long as there is anything of their timeline
      return name !== undefined && name < second.beginWal && !name.includes('.backup');
    };
    expect(after).toEqual(before.filter((key) => !isGone(key)));
    await requireOnly(folder, second);
  },
};

/** What is marked goes a second later. */
const KEEP_ONE = { ...benchRules({ keepLast: 1 }), graceMs: 1000 };

// ---- of both -------------------------------------------------------------------------------------------------------

async function requireKeepsBothWays(folder: Folder, { first }: Written): Promise<void> {
  const { repository } = folder;
  const keep = (option: readonly string[]) =>
    folder.barman('barman-cloud-backup-keep', option, [first.backupId]);
  const seenByUs = async () =>
    (await listBackups(repository, signal)).find(({ backupId }) => backupId === first.backupId)?.keep;
  expect(await keep(['--target', 'full'])).toMatchObject({ code: 0 });
  expect(await seenByUs()).toBe('full');
  await releaseKeep(repository, first.backupId, signal);
  expect((await keep(['--status'])).stdout).toContain('nokeep');
  await writeKeep(repository, first.backupId, 'standalone', signal);
  expect((await keep(['--status'])).stdout).toContain('standalone');
  expect(await keep(['--release'])).toMatchObject({ code: 0 });
  expect(await seenByUs()).toBeUndefined();
}

/** Both tools list the one that is left. */
async function requireOnly(folder: Folder, { backupId }: Taken): Promise<void> {
  const ours = await listBackups(folder.repository, signal);
  expect(ours.map((entry) => [entry.backupId, entry.problem])).toEqual([[backupId, undefined]]);
  const list = await folder.barman('barman-cloud-backup-list', ['--format', 'json']);
  const { backups_list: theirs } = JSON.parse(list.stdout) as { backups_list: unknown[] };
  expect(theirs.map((one) => asCloudNativePgReads(one).id)).toEqual([backupId]);
}

/** The first and the last segment, the newest history, and the segment in which the timeline ended. */
function chosenWal({ wal, first }: Written): string[] {
  const segments = wal.filter((name) => /^[0-9A-F]{24}$/.test(name)).toSorted();
  const history = wal
    .filter((name) => name.endsWith('.history'))
    .toSorted()
    .at(-1);
  return [...new Set([first.beginWal, segments.at(-1), history])].filter((name) => name !== undefined);
}

/** What CloudNativePG is to find in the JSON about a backup of ours; the oldest release spells no times for it. */
function asShownBy({ release }: Cell) {
  const spellsTimes = release !== '3.10.0';
  return (copied: Written['copied'][number]) => ({
    id: copied.backupId,
    name: copied.backupName,
    begin: spellsTimes ? Date.parse(copied.beginTime) : undefined,
    end: spellsTimes ? Date.parse(copied.endTime) : undefined,
    isDone: spellsTimes,
    beginWal: copied.beginWal,
    endWal: copied.endWal,
    beginLsn: copied.beginLsn,
    endLsn: copied.endLsn,
    systemId: copied.systemId,
    timeline: copied.timeline,
    error: '',
  });
}

/** Restored directories are tens of MiB each, and there are hundreds. */
function removeAll(pgdata: string): void {
  rmSync(dirname(pgdata), { recursive: true, force: true });
}
