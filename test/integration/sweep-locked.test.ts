/** Sweeps of a bucket with object lock and versions, as AWS has them together. */
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutObjectLegalHoldCommand,
  PutObjectRetentionCommand,
} from '@aws-sdk/client-s3';
import { expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { sweep } from '../../operations/sweep.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { aged, benchRules, keysOf, NEVER, putFourBackups, segmentsOf } from '../operations/sweep-bench.ts';
import { startS3 } from '../support/s3.ts';
import { describeWith } from '../support/tools.ts';

const HOUR = 3_600_000;

describeWith('versitygw', 'a bucket with object lock', () => {
  it('D7: a backup with a locked tar and a segment on hold stay, are said, and no marker hides them', async () => {
    const s3 = await startS3({ versioning: true });
    const client = s3.client();
    const Bucket = 'locking';
    await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: true }));
    const { endpointUrl, accessKeyId, secretAccessKey } = s3;
    const store = openStore({
      kind: 's3',
      bucket: Bucket,
      prefix: '',
      endpointUrl,
      credentials: { accessKeyId: new Secret(accessKeyId), secretAccessKey: new Secret(secretAccessKey) },
    });
    const run = (folders: string) => {
      const old = aged(store, (key) => (new RegExp(`/(${folders})/`).test(key) ? 2 * HOUR : 0));
      return sweep(createRepository(old, 'pg'), benchRules(), { signal: NEVER, holder: 'test' });
    };
    const r = createRepository(store, 'pg');
    const ids = await putFourBackups(r);
    await run('base|wals');
    const until = new Date(Math.floor(Date.now() / 1000) * 1000 + HOUR);
    const tar = `pg/base/${ids[1]}/data_0001.tar`;
    await client.send(
      new PutObjectRetentionCommand({
        Bucket,
        Key: tar,
        Retention: { Mode: 'GOVERNANCE', RetainUntilDate: until },
      }),
    );
    const segment = `pg/wals/0000000100000000/00000001000000000000000C.gz`;
    await client.send(new PutObjectLegalHoldCommand({ Bucket, Key: segment, LegalHold: { Status: 'ON' } }));

    const report = await run('base|wals|tombstones');
    const fate = (id: string | undefined) => report.backups.find(({ backupId }) => backupId === id);
    expect(fate(ids[1])).toMatchObject({
      decision: 'wait',
      dueAt: until.toISOString(),
      reasons: [
        `the store keeps it: locked until ${until.toISOString()}`,
        expect.anything(),
        expect.anything(),
      ],
    });
    expect(fate(ids[0])).toMatchObject({ decision: 'delete' });
    expect((await keysOf(r)).filter((key) => key.includes(ids[1] ?? ''))).toHaveLength(3);
    // of the first backup: what the second one does not need, but for the segment on hold
    expect((await segmentsOf(r)).slice(0, 2)).toEqual([12, 20]);
    expect(report.warnings).toContainEqual(expect.stringMatching(/1 segments stay.*legal hold/));
    const { DeleteMarkers = [] } = await client.send(
      new ListObjectVersionsCommand({ Bucket, Prefix: 'pg/' }),
    );
    const hidden = DeleteMarkers.map(({ Key = '' }) => Key);
    expect(hidden.filter((key) => key === segment || key.includes(ids[1] ?? ''))).toEqual(
      hidden.filter((key) => key.includes(`tombstones/${ids[1]}.deleting`)),
    );
    // what the sweep did not try: this server refuses or hides, and never removes it
    await client.send(new DeleteObjectCommand({ Bucket, Key: tar })).catch(() => undefined);
    const { Versions = [] } = await client.send(new ListObjectVersionsCommand({ Bucket, Prefix: tar }));
    expect(Versions).toHaveLength(1);
    client.destroy();
    await store.close();
  });
});
