import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import type { CopiedBackup } from '../../operations/take-backup.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import {
  archiveBy,
  contentOf,
  fillWithTablespaces,
  newPlaces,
  recover,
  serverAt,
  shareRepository,
  signal,
  stopStarted,
  verifyBackup,
  writeChapter,
  type Content,
  type SharedRepository,
  type TestTablespace,
} from '../support/barman-cases.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import type { Outcome } from '../support/processes.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor, describeWith, postgresBin } from '../support/tools.ts';

const MiB = 1024 * 1024;
const WAL_CODECS = ['bzip2', 'snappy', 'xz'] as const;
const DATA_CODECS = ['bzip2', 'snappy'] as const;

describeWith(['versitygw', 'barman'], 'bzip2, snappy and xz', () => {
  let s3: S3Server;
  beforeAll(async () => {
    s3 = await startS3();
  });

  describeEachMajor(
    'by walkeep, for barman-cloud',
    (major) => {
      let shared: SharedRepository;
      let source: Postgres;
      let tablespaces: TestTablespace[];
      let atEnd: Content;
      /** Every archived file as PostgreSQL had it. */
      let ledger: string;
      const taken: Partial<Record<(typeof DATA_CODECS)[number], CopiedBackup>> = {};

      beforeAll(async () => {
        shared = shareRepository(s3, 'codecs-by-walkeep');
        ledger = makeTempDir('ledger');
        source = await createPostgres({ major });
        await shared.apply('snappy');
        await archiveBy(source, `${shared.walkeepArchiveCommand(source)} && cp "%p" ${ledger}/%f`);
        tablespaces = await fillWithTablespaces(source);
        for (const codec of DATA_CODECS) {
          const change = { backupName: codec, codec, jobs: 2, maxPartBytes: 2 * MiB };
          taken[codec] = await shared.takeBackup(source, change);
        }
        for (const codec of WAL_CODECS) {
          await shared.apply(codec);
          await writeChapter(source, `archived with ${codec}`);
          await source.waitUntilArchived(await source.switchWal());
        }
        atEnd = await contentOf(source);
        await source.stop();
      });

      it('E5: wal-restore gives back the bytes of every file that PostgreSQL archived', async () => {
        const into = makeTempDir('wal');
        const keys = Object.keys(await shared.objects());
        for (const suffix of ['bz2', 'snappy', 'xz']) {
          expect(
            keys.some((key) => key.startsWith('wals/') && key.endsWith(`.${suffix}`)),
            suffix,
          ).toBe(true);
        }
        const spool = ['--spool-dir', makeTempDir('spool')];
        // barman-cloud never fetches the file that says where a backup began
        for (const name of readdirSync(ledger).filter((one) => !one.endsWith('.backup'))) {
          const fetched = await shared.barman('barman-cloud-wal-restore', spool, [name, join(into, name)]);
          expect(fetched, name).toMatchObject({ code: 0 });
          expect(readFileSync(join(into, name)).equals(readFileSync(join(ledger, name))), name).toBe(true);
        }
      });

      it.for(DATA_CODECS)(
        'E5, O2: barman-cloud restores a backup in %s, over WAL in all of them',
        async (codec) => {
          const places = newPlaces(tablespaces);
          await succeeded(shared.restoreByBarman(codec, places));
          const verified = await verifyBackup(shared, major, taken[codec]?.backupId ?? '', places.pgdata);
          if (verified) expect(verified).toMatchObject({ code: 0, stderr: '' });
          const restored = await recover(major, places.pgdata, {
            restore_command: shared.barmanRestoreCommand(),
          });
          expect(await contentOf(restored)).toEqual(atEnd);
          await restored.stop();
        },
      );
    },
    [15],
  );

  describeEachMajor(
    'by barman-cloud, for walkeep',
    (major) => {
      let shared: SharedRepository;
      let source: Postgres;
      let tablespaces: TestTablespace[];
      let atEnd: Content;
      let ledger: string;

      beforeAll(async () => {
        shared = shareRepository(s3, 'codecs-by-barman');
        ledger = makeTempDir('ledger');
        const archive = (codec: string) =>
          archiveBy(source, `${shared.barmanArchiveCommand(`--${codec}`)} && cp "%p" ${ledger}/%f`);
        source = await createPostgres({ major });
        await archive('snappy');
        tablespaces = await fillWithTablespaces(source);
        for (const codec of DATA_CODECS) {
          const options = ['--name', codec, `--${codec}`, '--max-archive-size', '2MB', '--jobs', '2'];
          await succeeded(shared.barmanBackup(source, ...options));
        }
        for (const codec of WAL_CODECS) {
          await archive(codec);
          await writeChapter(source, `archived with ${codec}`);
          await source.waitUntilArchived(await source.switchWal());
        }
        atEnd = await contentOf(source);
        await source.stop();
      });

      it('E5: every file that PostgreSQL archived is read, with the bytes it had', async () => {
        const codecs = new Set<string>();
        for (const name of readdirSync(ledger)) {
          const [object] = await findWal(shared.repository, name, signal);
          expect(object, name).toBeDefined();
          if (object === undefined) continue;
          codecs.add(object.codec);
          const bytes = await readWal(shared.repository, object, 16 * MiB, signal);
          expect(readFileSync(join(ledger, name)).equals(bytes), name).toBe(true);
        }
        expect([...codecs].toSorted()).toEqual([...WAL_CODECS]);
      });

      it.for(DATA_CODECS)(
        'E5, O2: walkeep restores a backup in %s, over WAL in all of them',
        async (codec) => {
          const places = newPlaces(tablespaces);
          onCleanUp(() => stopStarted(major, places.pgdata));
          const sockets = makeTempDir('sock');
          const settings = [`unix_socket_directories=${sockets}`, 'listen_addresses=', 'port=5432'];
          const start = ['--start', '--postgres-bin', postgresBin(major)];
          const words = [...shared.fromUrl, '--backup-id', codec, ...start];
          await succeeded(
            shared.restoreByWalkeep(places, ...words, ...settings.flatMap((one) => ['--set', one])),
          );
          expect(await contentOf(serverAt(sockets))).toEqual(atEnd);
          await stopStarted(major, places.pgdata);
        },
      );
    },
    [15],
  );
});

async function succeeded(running: Promise<Outcome>): Promise<Outcome> {
  const outcome = await running;
  expect(outcome).toMatchObject({ code: 0 });
  return outcome;
}
