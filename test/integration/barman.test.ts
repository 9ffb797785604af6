import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { beforeAll, expect, it } from 'vitest';
import { copyBackup, type CopiedBackup } from '../../operations/take-backup.ts';
import { listBackups, listParts, readBackup } from '../../repository/catalogue.ts';
import {
  archiveBy,
  asCloudNativePgReads,
  contentOf,
  fillWithTablespaces,
  momentBetween,
  newPlaces,
  openRestored,
  recover,
  serverAt,
  shareRepository,
  signal,
  stopStarted,
  tablespaceLinks,
  verifyBackup,
  writeChapter,
  type Content,
  type NewPlaces,
  type SharedRepository,
  type TestTablespace,
} from '../support/barman-cases.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import type { Outcome } from '../support/processes.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor, describeWith, postgresBin, type Major } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const MiB = 1024 * 1024;

describeWith(['versitygw', 'barman'], 'barman-cloud', () => {
  let s3: S3Server;
  beforeAll(async () => {
    s3 = await startS3();
  });

  describeEachMajor(
    'reads what walkeep writes',
    (major) => {
      let shared: SharedRepository;
      let source: Postgres;
      let tablespaces: TestTablespace[];
      /** Every archived file as PostgreSQL had it when walkeep said yes. */
      let ledger: string;
      let plain: CopiedBackup;
      let parts: CopiedBackup;
      let newest: CopiedBackup;
      let moment: string;
      let atMoment: Content;
      let onTimeline2: Content;

      const archiveCommand = (server: Pick<Postgres, 'dataDirectory'>) =>
        `${shared.walkeepArchiveCommand(server)} && cp "%p" ${ledger}/%f`;

      beforeAll(async () => {
        shared = shareRepository(s3, 'written-by-walkeep');
        ledger = makeTempDir('ledger');
        source = await createPostgres({ major });
        await archiveBy(source, archiveCommand(source));
        await shared.apply('gzip');
        tablespaces = await fillWithTablespaces(source);
        plain = await shared.takeBackup(source, { backupName: 'plain', codec: 'none', jobs: 1 });
        await shared.apply('zstd');
        await writeChapter(source, 'archived with zstd');
        const many = { jobs: 4, maxPartBytes: MiB };
        parts = await shared.takeBackup(source, { backupName: 'parts', codec: 'gzip', ...many });
        await shared.apply('lz4');
        await writeChapter(source, 'archived with lz4');
        newest = await shared.takeBackup(source, { backupName: 'newest', codec: 'lz4', ...many });
        await writeChapter(source, 'before the moment');
        atMoment = await contentOf(source);
        moment = await momentBetween(source);
        await writeChapter(source, 'after the moment');
        await source.waitUntilArchived(await source.switchWal());
      });

      const restoreByBarman = async (backup: string): Promise<NewPlaces> => {
        const places = newPlaces(tablespaces);
        await succeeded(shared.restoreByBarman(backup, places));
        return places;
      };

      const requireAsItWas = async (backup: CopiedBackup, { pgdata, tablespaces: moved }: NewPlaces) => {
        expect((statSync(pgdata).mode & 0o777).toString(8)).toMatch(/^7[05]0$/);
        expect(existsSync(join(pgdata, 'tablespace_map'))).toBe(false);
        const info = await readBackup(shared.repository, backup.backupId, signal);
        expect(readFileSync(join(pgdata, 'backup_label'), 'utf8')).toBe(info?.backupLabel);
        expect(tablespaceLinks(pgdata)).toEqual(moved.map(({ location }) => location));
        const verified = await verifyBackup(shared, major, backup.backupId, pgdata);
        if (verified) expect(verified).toMatchObject({ code: 0, stderr: '' });
      };

      it('E5: the parts are those asked for: one tar for each tablespace, or many', async () => {
        const counts = await Promise.all(
          [plain, parts, newest].map(
            async ({ backupId }) => (await listParts(shared.repository, backupId, signal)).length,
          ),
        );
        // one pipeline: data, what is read last, two tablespaces
        expect(counts[0]).toBe(4);
        expect(Math.min(...counts.slice(1))).toBeGreaterThan(15);
      });

      it('E5: backup-list and backup-show tell the backups, in what CloudNativePG parses of it', async () => {
        const table = await shared.barman('barman-cloud-backup-list');
        expect(table.code).toBe(0);
        const rows = table.stdout.trim().split('\n').slice(1);
        expect(rows.map((row) => row.trim().split(/\s{2,}/))).toEqual(
          [plain, parts, newest].map(({ backupId, backupName, beginWal }) => [
            backupId,
            expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/),
            beginWal,
            backupName,
          ]),
        );
        const list = await shared.barman('barman-cloud-backup-list', ['--format', 'json']);
        const read = (JSON.parse(list.stdout) as { backups_list: unknown[] }).backups_list.map(
          asCloudNativePgReads,
        );
        expect(read).toEqual([plain, parts, newest].map(asRecorded));
        const show = await shared.barman('barman-cloud-backup-show', ['--format', 'json'], ['parts']);
        const shown = JSON.parse(show.stdout) as Record<string, unknown>;
        expect(Object.keys(shown)).toEqual(['cloud']);
        expect(asCloudNativePgReads(shown['cloud'])).toEqual(asRecorded(parts));
      });

      it('E5, O2: restore by id, uncompressed, recovers to a moment', async () => {
        const places = await restoreByBarman(plain.backupId);
        await requireAsItWas(plain, places);
        const restored = await recover(major, places.pgdata, {
          restore_command: shared.barmanRestoreCommand(),
          recovery_target_time: moment,
          recovery_target_action: 'promote',
        });
        expect(await contentOf(restored)).toEqual(atMoment);
        expect(tablespaceLinks(places.pgdata)).toEqual(places.tablespaces.map(({ location }) => location));
        await restored.stop();
      });

      it('E5, O2, A7: restore of latest, lz4 in many parts, is a standby; promoted, it goes on archiving', async () => {
        const places = await restoreByBarman('latest');
        await requireAsItWas(newest, places);
        const standby = await openRestored(major, places.pgdata, 'standby.signal', {
          primary_conninfo: `host=${source.socketDirectory} user=postgres`,
          restore_command: shared.barmanRestoreCommand(),
          archive_mode: true,
          archive_command: archiveCommand({ dataDirectory: places.pgdata }),
        });
        await standby.start();
        await writeChapter(source, 'streamed');
        const expected = await contentOf(source);
        await until('it to arrive', async () => isDeepStrictEqual(await contentOf(standby), expected));
        await source.stop('immediate');
        await standby.promote();
        await writeChapter(standby, 'timeline 2');
        onTimeline2 = await contentOf(standby);
        await standby.waitUntilArchived(await standby.switchWal());
        await standby.stop();
        // the old primary comes back and archives the segment in which timeline 2 began: it lies beside its partial
        await source.start();
        const whole = await source.switchWal();
        await source.waitUntilArchived(whole);
        await source.stop();
        expect(readdirSync(ledger)).toEqual(
          expect.arrayContaining([whole, `${whole}.partial`, '00000002.history']),
        );
      });

      it('E5, O2: restore by name, gzip in many parts, follows the history to timeline 2', async () => {
        const places = await restoreByBarman('parts');
        await requireAsItWas(parts, places);
        const restored = await recover(major, places.pgdata, {
          restore_command: shared.barmanRestoreCommand(),
        });
        expect(await contentOf(restored)).toEqual(onTimeline2);
        const [row] = await restored.psql('select timeline_id as timeline from pg_control_checkpoint()');
        expect(row).toEqual({ timeline: 3 });
        await restored.stop();
      });

      it('E5: wal-restore gives back the bytes of every kind and codec; a whole segment comes before its partial', async () => {
        const [partial = ''] = readdirSync(ledger).filter((name) => name.endsWith('.partial'));
        const wanted = [
          plain.beginWal,
          parts.beginWal,
          newest.beginWal,
          partial.slice(0, 24),
          '00000002.history',
        ];
        const suffixes = Object.keys(await shared.objects()).map((key) => /[^/]*$/.exec(key)?.[0]);
        expect(suffixes).toEqual(
          expect.arrayContaining([
            `${plain.beginWal}.gz`,
            `${parts.beginWal}.zst`,
            `${newest.beginWal}.lz4`,
            `${partial}.lz4`,
            '00000002.history.lz4',
          ]),
        );
        const into = makeTempDir('wal');
        const fetch = (name: string) =>
          shared.barman(
            'barman-cloud-wal-restore',
            ['--spool-dir', makeTempDir('spool')],
            [name, join(into, name)],
          );
        for (const name of wanted) {
          expect(await fetch(name), name).toMatchObject({ code: 0 });
          const same = readFileSync(join(into, name)).equals(readFileSync(join(ledger, name)));
          expect(same, name).toBe(true);
        }
        expect(await fetch('0000000100000000000000FF')).toMatchObject({ code: 1 });
        expect(await fetch('foo')).toMatchObject({ code: 3 });
      });

      it('E5: check-wal-archive sees that the archive is in use, and that another one is not', async () => {
        expect(await shared.barman('barman-cloud-check-wal-archive')).toMatchObject({ code: 1 });
        const other = shareRepository(s3, 'never-used');
        expect(await other.barman('barman-cloud-check-wal-archive')).toMatchObject({ code: 0 });
      });

      it('E5: what backup-keep keeps and releases, walkeep reads', async () => {
        const keeps = async () =>
          Object.fromEntries(
            (await listBackups(shared.repository, signal)).map(({ backupId, keep }) => [backupId, keep]),
          );
        const keep = (option: string[], backup: string) =>
          shared.barman('barman-cloud-backup-keep', option, [backup]);
        expect(await keep(['--target', 'full'], plain.backupId)).toMatchObject({ code: 0 });
        expect(await keep(['--target', 'standalone'], 'parts')).toMatchObject({ code: 0 });
        expect((await keep(['--status'], 'parts')).stdout).toContain('standalone');
        expect(await keeps()).toEqual({
          [plain.backupId]: 'full',
          [parts.backupId]: 'standalone',
          [newest.backupId]: undefined,
        });
        for (const { backupId } of [plain, parts]) {
          expect(await keep(['--release'], backupId)).toMatchObject({ code: 0 });
        }
        expect(Object.values(await keeps())).toEqual([undefined, undefined, undefined]);
      });

      it('E4, E5: the same objects in a directory are a repository of walkeep', async () => {
        const directory = shared.copyToDirectory();
        const places = newPlaces(tablespaces);
        const from = [shared.server, '--repository', `file://${directory}`, '--backup-id', 'newest'];
        const { stdout } = await succeeded(shared.restoreByWalkeep(places, ...from));
        expect(stdout).toContain(newest.backupId);
        const postgres = await started(major, places.pgdata);
        expect(await contentOf(postgres)).toEqual(onTimeline2);
        await postgres.stop();
      });

      it('E5: backup-delete removes what it always removes, and what is left is whole for both', async () => {
        const before = await shared.objects();
        const policy = ['--retention-policy', 'REDUNDANCY 1'];
        expect(await shared.barman('barman-cloud-backup-delete', policy)).toMatchObject({ code: 0 });
        const isGone = (key: string) => {
          if (key.startsWith('base/')) return !key.startsWith(`base/${newest.backupId}/`);
          const name = /^wals\/[^/]*\/(.*)$/.exec(key)?.[1];
          return name !== undefined && name < newest.beginWal;
        };
        const left = Object.entries(before).filter(([key]) => !isGone(key));
        expect(await shared.objects()).toEqual(Object.fromEntries(left));
        const entries = await listBackups(shared.repository, signal);
        expect(entries.map(({ backupId }) => backupId)).toEqual([newest.backupId]);
        const plan = await shared.walkeep('restore', ...shared.fromUrl, '--plan');
        expect(plan).toMatchObject({ code: 0, stdout: expect.stringContaining(newest.backupId) });
      });
    },
    [15],
  );

  describeEachMajor(
    'writes what walkeep reads',
    (major) => {
      let shared: SharedRepository;
      let source: Postgres;
      let tablespaces: TestTablespace[];
      let moment: string;
      let atMoment: Content;
      let atEnd: Content;
      let written: Record<string, string>;

      const archiveByBarman = (codec: string) => archiveBy(source, shared.barmanArchiveCommand(codec));
      const backUp = async (name: string, ...options: string[]) => {
        await succeeded(shared.barmanBackup(source, '--name', name, ...options));
      };

      beforeAll(async () => {
        shared = shareRepository(s3, 'written-by-barman');
        source = await createPostgres({ major });
        await archiveByBarman('--gzip');
        tablespaces = await fillWithTablespaces(source);
        await backUp('gzipped', '--gzip');
        await archiveByBarman('--zstd');
        await writeChapter(source, 'archived with zstd');
        await backUp('lz4-parts', '--lz4', '--max-archive-size', '2MB', '--jobs', '2');
        await archiveByBarman('--lz4');
        await writeChapter(source, 'archived with lz4');
        await backUp('bare-parts', '--max-archive-size', '10MB', '--min-chunk-size', '6MB', '--jobs', '2');
        await writeChapter(source, 'before the moment');
        atMoment = await contentOf(source);
        moment = await momentBetween(source);
        await writeChapter(source, 'after the moment');
        atEnd = await contentOf(source);
        await source.waitUntilArchived(await source.switchWal());
        await succeeded(shared.barman('barman-cloud-backup-keep', ['--target', 'full'], ['gzipped']));
        written = await shared.objects();
        await shared.apply('zstd');
      });

      it('E5: its backups are listed, by the command line too, and reading leaves everything as it was', async () => {
        const entries = await listBackups(shared.repository, signal);
        expect(entries.map(({ info, problem }) => [info?.backupName, info?.status, problem])).toEqual(
          ['gzipped', 'lz4-parts', 'bare-parts'].map((name) => [name, 'DONE', undefined]),
        );
        const infos = entries.map(({ info }) => info);
        for (const info of infos) {
          expect(info?.tablespaces.map(({ name, location }) => ({ name, location }))).toEqual(tablespaces);
        }
        const counts = await Promise.all(
          entries.map(async ({ backupId }) => (await listParts(shared.repository, backupId, signal)).length),
        );
        expect(counts[0]).toBe(3);
        expect(Math.min(...counts.slice(1))).toBeGreaterThan(4);
        const listed = await succeeded(shared.walkeep('get', 'backups', '-o', 'json'));
        const kept = { annotations: { 'walkeep.io/keep': 'full' } };
        expect(JSON.parse(listed.stdout)).toMatchObject({
          items: entries.map(({ backupId }, at) => ({
            metadata: { name: infos[at]?.backupName, ...(at === 0 ? kept : {}) },
            spec: { cluster: { name: shared.server } },
            status: { phase: 'completed', backupId },
          })),
        });
        expect(await shared.objects()).toEqual(written);
      });

      it('E5, C4, O2: walkeep restore of the applied cluster: lz4 in many parts, to a moment', async () => {
        const places = newPlaces(tablespaces);
        const target = ['--backup-id', 'lz4-parts', '--target-time', moment];
        await succeeded(shared.restoreByWalkeep(places, shared.server, ...target));
        const postgres = await started(major, places.pgdata);
        expect(await contentOf(postgres)).toEqual(atMoment);
        await postgres.stop();
      });

      it('E4, E5, O2: walkeep restore from a copy in a directory: uncompressed in many parts, to the end', async () => {
        const places = newPlaces(tablespaces);
        const url = `file://${shared.copyToDirectory()}`;
        const from = [shared.server, '--repository', url, '--backup-id', 'bare-parts'];
        await succeeded(shared.restoreByWalkeep(places, ...from));
        const postgres = await started(major, places.pgdata);
        expect(await contentOf(postgres)).toEqual(atEnd);
        await postgres.stop();
        expect(await shared.objects()).toEqual(written);
      });

      it('A4, E5: another cluster is refused: whose repository it is, barman’s records tell', async () => {
        const foreign = await createPostgres({ major });
        await archiveBy(foreign, shared.walkeepArchiveCommand(foreign));
        const copying = copyBackup(shared.backupPorts(foreign), shared.backupInput(foreign), { signal });
        await expect(copying).rejects.toMatchObject({ code: 'wal-foreign' });
        await foreign.switchWal();
        const refusal = /wal-foreign: .* belongs to the cluster with system identifier/;
        await until('a refusal', () => refusal.test(foreign.log()), { timeoutMs: 60_000 });
        await foreign.stop('immediate');
        expect(await shared.objects()).toEqual(written);
      });

      it('A4, E5: walkeep goes on archiving and backing up there, and changes nothing that was there', async () => {
        await archiveBy(source, shared.walkeepArchiveCommand(source));
        await writeChapter(source, 'archived by walkeep');
        const segment = await source.switchWal();
        await source.waitUntilArchived(segment);
        const { 'walkeep/owner.json': owner, 'walkeep/store.json': found, ...rest } = await shared.objects();
        expect([owner, found]).not.toContain(undefined);
        const folder = segment.slice(0, 16);
        const key = `wals/${folder}/${segment}.zst`;
        expect(rest).toEqual({ ...written, [key]: rest[key] });
        expect(rest[key]).toBeDefined();

        const copied = await shared.takeBackup(source, { backupName: 'by-walkeep', codec: 'lz4' });
        await writeChapter(source, 'after the backup of walkeep');
        await source.waitUntilArchived(await source.switchWal());
        expect(await shared.objects()).toMatchObject(written);
        const listed = await shared.barman('barman-cloud-backup-list');
        expect(listed.stdout.trim().split('\n').at(-1)).toContain(copied.backupId);
      });

      it('E5, F5, O2: walkeep restore from the URL alone: gzip, the oldest, to the end over the WAL of both', async () => {
        const expected = await contentOf(source);
        const places = newPlaces(tablespaces);
        onCleanUp(() => stopStarted(major, places.pgdata));
        const sockets = makeTempDir('sock');
        const settings = [`unix_socket_directories=${sockets}`, 'listen_addresses=', 'port=5432'];
        const from = [...shared.fromUrl, '--backup-id', 'gzipped'];
        const start = ['--start', '--postgres-bin', postgresBin(major)];
        const restored = await succeeded(
          shared.restoreByWalkeep(places, ...from, ...start, ...settings.flatMap((one) => ['--set', one])),
        );
        expect(restored.stderr).toContain('no recorded hashes');
        expect(restored.stdout).toContain('recovered');
        expect(await contentOf(serverAt(sockets))).toEqual(expected);
        expect(tablespaceLinks(places.pgdata)).toEqual(places.tablespaces.map(({ location }) => location));
        await stopStarted(major, places.pgdata);
      });

      it('B2, E5: one that barman-cloud began and never ended is shown, and never restored', async () => {
        await shared.barmanBackupKilled(source, 'killed');
        const last = (await listBackups(shared.repository, signal)).at(-1);
        expect(last?.info?.status).toBe('STARTED');
        const plan = await shared.walkeep('restore', ...shared.fromUrl, '--plan');
        expect(plan).toMatchObject({ code: 0, stdout: expect.stringContaining('by-walkeep') });
        const id = last?.backupId ?? '';
        const refused = await shared.walkeep('restore', ...shared.fromUrl, '--backup-id', id, '--plan');
        expect(refused.code).not.toBe(0);
        expect(refused.stderr).toContain(id);
      });
    },
    [15],
  );

  describeEachMajor(
    'and walkeep, both from a standby, with segments of 1 MiB',
    (major) => {
      it('B1, E5, O2: each restores what the other took, to the end', async () => {
        const shared = shareRepository(s3, 'from-a-standby');
        await shared.apply('lz4');
        const primary = await createPostgres({ major, segmentSizeMiB: 1 });
        await archiveBy(primary, shared.walkeepArchiveCommand(primary));
        await primary.psql('create table story (id int generated always as identity, chapter text)');
        const standby = await primary.createStandby();
        const write = (chapter: string) =>
          primary.psql(
            `insert into story (chapter) select '${chapter}' || g from generate_series(1, 6000) g`,
          );
        await write('before');
        const ours = await shared.takeBackup(standby, { backupName: 'ours' }, primary);
        expect(ours).toMatchObject({ fromStandby: true, segmentSize: MiB });
        await write('between');
        await succeeded(shared.barmanBackup(standby, '--name', 'theirs', '--gzip'));
        await write('after');
        const expected = await contentOf(primary);
        await primary.waitUntilArchived(await primary.switchWal());
        await standby.stop();
        await primary.stop();

        const [first, second] = [newPlaces([]), newPlaces([])];
        await succeeded(shared.restoreByBarman('ours', first));
        const settings = { restore_command: shared.barmanRestoreCommand() };
        const restored = await recover(major, first.pgdata, settings);
        expect(await contentOf(restored)).toEqual(expected);
        await restored.stop();
        await succeeded(shared.restoreByWalkeep(second, shared.server, '--backup-id', 'theirs'));
        const again = await started(major, second.pgdata);
        expect(await contentOf(again)).toEqual(expected);
        await again.stop();
      });
    },
    [15],
  );

  describeEachMajor(
    'and walkeep in one repository',
    (major) => {
      it('E5, O2: each restores what the other took, to the end', async () => {
        const shared = shareRepository(s3, `both-${major}`);
        await shared.apply('gzip');
        const source = await createPostgres({ major });
        await archiveBy(source, shared.walkeepArchiveCommand(source));
        const tablespaces = await fillWithTablespaces(source);
        const ours = await shared.takeBackup(source, { backupName: 'ours' });
        await writeChapter(source, 'between');
        await succeeded(shared.barmanBackup(source, '--name', 'theirs', '--gzip'));
        await writeChapter(source, 'after both');
        const expected = await contentOf(source);
        await source.waitUntilArchived(await source.switchWal());
        await source.stop();

        const first = newPlaces(tablespaces);
        await succeeded(shared.restoreByBarman('ours', first));
        const verified = await verifyBackup(shared, major, ours.backupId, first.pgdata);
        if (verified) expect(verified).toMatchObject({ code: 0, stderr: '' });
        const byBarman = await recover(major, first.pgdata, {
          restore_command: shared.barmanRestoreCommand(),
        });
        expect(await contentOf(byBarman)).toEqual(expected);
        await byBarman.stop();

        const second = newPlaces(tablespaces);
        await succeeded(shared.restoreByWalkeep(second, shared.server, '--backup-id', 'theirs'));
        const byWalkeep = await started(major, second.pgdata);
        expect(await contentOf(byWalkeep)).toEqual(expected);
        await byWalkeep.stop();
      });
    },
    [16, 17, 18],
  );
});

/** A server on a directory that `walkeep restore` left ready, its recovery at its end. */
async function started(major: Major, dataDirectory: string): Promise<Postgres> {
  const postgres = await openPostgres({ major, dataDirectory });
  await postgres.start();
  await postgres.waitUntilPromoted();
  return postgres;
}

/** @returns the outcome of a program that had to end well, else fails with all it wrote */
async function succeeded(running: Promise<Outcome>): Promise<Outcome> {
  const outcome = await running;
  expect(outcome).toMatchObject({ code: 0 });
  return outcome;
}

/** What CloudNativePG is to find in the JSON about a backup. */
function asRecorded(copied: CopiedBackup) {
  return {
    id: copied.backupId,
    name: copied.backupName,
    begin: Date.parse(copied.beginTime),
    end: Date.parse(copied.endTime),
    isDone: true,
    beginWal: copied.beginWal,
    endWal: copied.endWal,
    beginLsn: copied.beginLsn,
    endLsn: copied.endLsn,
    systemId: copied.systemId,
    timeline: copied.timeline,
    error: '',
  };
}
