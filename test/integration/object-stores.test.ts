import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { idsUpTo, readCanary, startCanary } from '../support/canary.ts';
import { createPostgres } from '../support/postgres.ts';
import { startS3 } from '../support/s3.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal } from '../support/temporal.ts';
import { availableMajors, describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { archiveBy, clusterManifest, createMachine, restoreAndStart } from '../support/walkeep.ts';

const MINUTE = 60_000;
const PLUGIN = 'barman-cloud.cloudnative-pg.io';

describeWith('versitygw', 'an ObjectStore and the Barman plugin that refers to it', () => {
  describe.each(availableMajors().slice(0, 1))('with PostgreSQL %i', (major) => {
    it(
      'E5, C5: a Cluster archives and is backed up there, and another is recovered by externalClusters[].plugin',
      async () => {
        const [temporal, s3] = await Promise.all([startTemporal(), startS3()]);
        const postgres = await createPostgres({ major });
        const machine = createMachine({ temporal, postgres });
        const objectStore = (compression: string): object => ({
          apiVersion: 'barmancloud.cnpg.io/v1',
          kind: 'ObjectStore',
          metadata: { name: 'bucket' },
          spec: {
            retentionPolicy: '30d',
            configuration: {
              destinationPath: `s3://${s3.bucket}/deep`,
              endpointURL: s3.endpointUrl,
              s3Credentials: {
                accessKeyId: { name: 'keys', key: 'ID' },
                secretAccessKey: { name: 'keys', key: 'KEY' },
                region: { name: 'keys', key: 'REGION' },
              },
              wal: { compression },
            },
          },
        });
        const stringData = { ID: s3.accessKeyId, KEY: s3.secretAccessKey, REGION: s3.region };
        const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'keys' }, stringData };
        const plugin = (parameters: object) => ({ name: PLUGIN, isWALArchiver: true, parameters });
        const byPlugin = { method: 'plugin', pluginConfiguration: { name: PLUGIN } };

        const worker = await machine.startWorker({
          cluster: 'shop',
          instance: 'shop-1',
          pgdata: postgres.dataDirectory,
        });
        await worker.waitUntilReady();
        await machine.apply(
          secret,
          objectStore('gzip'),
          clusterManifest('shop', {
            plugins: [plugin({ barmanObjectName: 'bucket', serverName: 'shop-v1' })],
          }),
        );
        await archiveBy(machine, 'shop', postgres);
        const canary = await startCanary(postgres);
        await canary.waitFor(3);
        await machine.apply({
          apiVersion: 'postgresql.cnpg.io/v1',
          kind: 'Backup',
          metadata: { name: 'by-plugin' },
          spec: { cluster: { name: 'shop' }, ...byPlugin },
        });
        const outcome = JSON.parse(
          await until('the Backup to be there', () =>
            temporal.cli('workflow', 'result', '-w', 'backup/default/by-plugin', '-o', 'json'),
          ),
        ) as { status: string; result: object };
        expect(outcome).toMatchObject({
          status: 'COMPLETED',
          result: { phase: 'completed', serverName: 'shop-v1', destinationPath: `s3://${s3.bucket}/deep` },
        });
        expect(await machine.succeed('status', 'shop')).toMatch(/ObjectStore: +bucket/);

        // Another version of the ObjectStore alone reaches the worker, and with it the archive.
        const wals = join(s3.directory, s3.bucket, 'deep/shop-v1/wals');
        const stored = (suffix: string) =>
          readdirSync(wals, { recursive: true }).some((name) => String(name).endsWith(suffix));
        expect(stored('.gz')).toBe(true);
        expect(stored('.zst')).toBe(false);
        expect(await machine.apply(objectStore('zstd'))).toEqual([
          'objectstore.barmancloud.cnpg.io/bucket configured (kept on this host)',
          'cluster.postgresql.cnpg.io/shop configured',
        ]);
        await canary.waitFor(canary.commits.length + 3);
        const commits = await canary.stop();
        await postgres.waitUntilArchived(await postgres.switchWal());
        await until('WAL to be stored as the ObjectStore says now', () => stored('.zst'));

        const reborn = clusterManifest('reborn', {
          plugins: [plugin({ barmanObjectName: 'bucket' })],
          bootstrap: { recovery: { source: 'origin' } },
          externalClusters: [
            {
              name: 'origin',
              plugin: { name: PLUGIN, parameters: { barmanObjectName: 'bucket', serverName: 'shop-v1' } },
            },
          ],
        });
        // By a worker, as the manifest declares it …
        const pgdata = join(makeTempDir('reborn'), 'data');
        giveToServerUser(join(pgdata, '..'));
        const waiting = await machine.startWorker({ cluster: 'reborn', instance: 'reborn-1', pgdata });
        await machine.apply(reborn);
        const restored = JSON.parse(
          await until('the restore to be there', () =>
            temporal.cli('workflow', 'result', '-w', 'restore/default/reborn', '-o', 'json'),
          ),
        ) as { status: string; result: object };
        expect(restored).toMatchObject({
          status: 'COMPLETED',
          result: { outcome: 'restored', isVerified: true },
        });
        await waiting.stop();
        // … and by hand, from the manifests alone.
        const file = join(makeTempDir('files'), 'reborn.yaml');
        writeFileSync(file, [objectStore('zstd'), reborn].map((one) => JSON.stringify(one)).join('\n---\n'));
        giveToServerUser(file);
        const server = await restoreAndStart(machine, major, 'restore', 'reborn', '-f', file);
        expect(await readCanary(server)).toEqual(idsUpTo(commits.length));
        await server.remove();
      },
      5 * MINUTE,
    );
  });
});
