import { expect, it } from 'vitest';
import {
  archiveBy,
  contentOf,
  newPlaces,
  serverAt,
  shareRepository,
  stopStarted,
  writeChapter,
} from '../support/barman-cases.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { createPostgres } from '../support/postgres.ts';
import type { S3Server } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor, postgresBin } from '../support/tools.ts';
import { startS3ServerDouble } from '../stores/s3-server-double.ts';

/** A server that passes over If-None-Match, as tests that want a real one are given it. */
async function startWeakS3() {
  const double = await startS3ServerDouble({ ignoresCondition: true });
  onCleanUp(() => double.close());
  const { endpointUrl = '', bucket } = double.config;
  const keys = { accessKeyId: 'weak-key', secretAccessKey: 'weak-secret' };
  const environment = {
    AWS_ACCESS_KEY_ID: keys.accessKeyId,
    AWS_SECRET_ACCESS_KEY: keys.secretAccessKey,
    AWS_REGION: 'us-east-1',
  };
  const s3 = { endpointUrl, bucket, region: 'us-east-1', ...keys, environment } as unknown as S3Server;
  return { double, s3 };
}

describeEachMajor(
  'a store that ignores If-None-Match',
  (major) => {
    it('E3, O2, fault 24: WAL is archived, a backup taken, and both restored, and nothing of ours is ever put twice', async () => {
      const { double, s3 } = await startWeakS3();
      const shared = shareRepository(s3, 'weak');
      await shared.apply('gzip');
      const source = await createPostgres({ major });
      await archiveBy(source, shared.walkeepArchiveCommand(source));
      await source.psql(`create table story (id int generated always as identity, chapter text);
        create table in_spaced (id int, t text); create table in_default (id int)`);
      const backups = [await shared.takeBackup(source), await shared.takeBackup(source)];
      await writeChapter(source, 'after the backups');
      await source.waitUntilArchived(await source.switchWal());
      expect(new Set(backups.map(({ backupId }) => backupId)).size).toBe(2);

      const expected = await contentOf(source);
      await source.stop();
      const places = newPlaces([]);
      onCleanUp(() => stopStarted(major, places.pgdata));
      const sockets = makeTempDir('sock');
      const settings = [`unix_socket_directories=${sockets}`, 'listen_addresses=', 'port=5432'];
      const restored = await shared.restoreByWalkeep(
        places,
        ...shared.fromUrl,
        '--start',
        '--postgres-bin',
        postgresBin(major),
        ...settings.flatMap((one) => ['--set', one]),
      );
      expect(restored.code, restored.stderr).toBe(0);
      expect(await contentOf(serverAt(sockets))).toEqual(expected);

      const folder = `${double.config.prefix}clusters/prod/weak/`;
      const created = double.seen
        .filter(
          ({ method, key, query }) => method === 'PUT' && !query.has('partNumber') && key.startsWith(folder),
        )
        .map(({ key }) => key.slice(folder.length))
        .filter((key) => /^(wals\/|base\/.*backup\.info$|walkeep\/(owner|attempts\/))/.test(key));
      expect(created.length).toBeGreaterThan(5);
      expect(created.toSorted()).toEqual([...new Set(created)].toSorted());
      expect([...double.objects.keys()].filter((key) => /\/walkeep\/(turns|probe)\//.test(key))).toEqual([]);
      expect(
        JSON.parse(double.objects.get(`${folder}walkeep/store.json`)?.bytes.toString() ?? ''),
      ).toMatchObject({
        ifAbsent: 'no',
      });
    });
  },
  [15],
);
