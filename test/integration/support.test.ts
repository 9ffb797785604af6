import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, it } from 'vitest';
import { barmanCloud, s3Arguments } from '../support/barman.ts';
import { idsUpTo, readCanary, startCanary, startLoad } from '../support/canary.ts';
import { createPostgres, openPostgres } from '../support/postgres.ts';
import { startProcess } from '../support/processes.ts';
import { startS3 } from '../support/s3.ts';
import { serverUser } from '../support/server-user.ts';
import { startTemporal } from '../support/temporal.ts';
import { describeEachMajor, describeWith } from '../support/tools.ts';

describeEachMajor('the test environment', (major) => {
  it('runs a server, a standby, a canary under load, and survives kill -9', async () => {
    const primary = await createPostgres({ major, segmentSizeMiB: 1, archiveCommand: 'test -f "%p"' });
    expect(statSync(primary.dataDirectory).uid).toBe(serverUser?.uid ?? process.getuid?.());
    const [facts] = await primary.psql<{ version: string; size: string; checksums: string }>(
      `SELECT current_setting('server_version_num') AS version, current_setting('wal_segment_size') AS size,
              current_setting('data_checksums') AS checksums`,
    );
    expect(facts).toEqual({ version: expect.stringMatching(`^${major}`), size: '1MB', checksums: 'on' });

    const load = await startLoad(primary);
    const canary = await startCanary(primary, { gapMs: 20 });
    await canary.waitFor(10);
    await primary.waitUntilArchived(await primary.switchWal());
    const standby = await primary.createStandby();
    await canary.waitFor(20);
    await primary.kill9();
    expect(primary.isRunning()).toBe(false);
    const commits = await canary.stop();
    await load?.stop();

    await primary.start();
    const found = await readCanary(primary);
    // What was acknowledged is there; one more may be whose acknowledgement was cut off.
    expect(found.slice(0, commits.length)).toEqual(idsUpTo(commits.length));
    expect(found.length - commits.length).toBeLessThanOrEqual(1);

    await standby.promote();
    expect(await standby.switchWal()).toMatch(/^00000002/);
    await standby.stop();
    const again = await openPostgres({ major, dataDirectory: standby.dataDirectory });
    await again.start();
    expect((await readCanary(again)).length).toBeGreaterThanOrEqual(10);
  });

  it('says why a server does not start', async () => {
    const server = await createPostgres({ major, dataChecksums: false });
    expect(await server.psql('SHOW data_checksums')).toEqual([{ data_checksums: 'off' }]);
    await server.stop();
    server.configure({ no_such_setting: 1 });
    await expect(server.start()).rejects.toThrow('no_such_setting');
  });
});

describeWith('versitygw', 'the S3 server', () => {
  it('keeps objects over kill -9', async () => {
    const s3 = await startS3();
    const client = s3.client();
    await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: 'a/b', Body: 'x' }));
    await s3.kill9();
    await s3.start();
    const listed = await client.send(new ListObjectsV2Command({ Bucket: s3.bucket }));
    expect(listed.Contents?.map(({ Key }) => Key)).toEqual(['a/b']);
  });
});

describeWith(['versitygw', 'barman'], 'barman-cloud', () => {
  it('lists an empty server', async () => {
    const s3 = await startS3();
    const outcome = await barmanCloud(
      'barman-cloud-backup-list',
      [...s3Arguments(s3), '--format', 'json', `s3://${s3.bucket}/x`, 'main'],
      { s3 },
    );
    expect(outcome).toMatchObject({ code: 0, stdout: expect.stringContaining('backups_list') });
  });
});

describeWith('temporal', 'the Temporal server', () => {
  it('keeps its workflows over kill -9', async () => {
    const temporal = await startTemporal();
    const client = await temporal.client();
    await client.workflow.start('nobodyRunsThis', {
      taskQueue: 'nowhere',
      workflowId: 'kept',
      searchAttributes: { WalkeepCluster: ['main'] },
    });
    await temporal.kill9();
    await temporal.start();
    expect(await temporal.cli('workflow', 'describe', '--workflow-id', 'kept')).toContain('nobodyRunsThis');
  });
});

it('a process of a test ends with it, by its own process id', async () => {
  const sleeper = startProcess('sleep', ['600']);
  await sleep(50);
  expect(sleeper.isRunning()).toBe(true);
  expect(await sleeper.stop()).toEqual({ code: 143, signal: 'SIGTERM' });
});
