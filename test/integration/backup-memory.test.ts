import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import type { MeasuredOrder } from '../operations/measured-child.ts';
import { inputFor, SERVER } from '../operations/take-backup-bench.ts';
import { fillDatabase } from '../support/made-database.ts';
import { measured, starterEnvironment } from '../support/measure.ts';
import { createPostgres } from '../support/postgres.ts';
import { startS3 } from '../support/s3.ts';
import { serverUser } from '../support/server-user.ts';
import { availableMajors, describeWith } from '../support/tools.ts';

const CHILD = fileURLToPath(new URL('../operations/measured-child.ts', import.meta.url));
/** Nothing is archived: the backup's WAL is put into the repository from there. */
const KEEPS_WAL = { wal_keep_size: '512MB', max_wal_size: '4GB' };
const MiB = 1024 * 1024;

describeWith('versitygw', 'the memory of a backup', () => {
  it('stays below 512 MiB with 4 jobs to S3, of what does not compress (scripts/bench measures more)', async () => {
    const [major] = availableMajors();
    const [s3, server] = await Promise.all([
      startS3(),
      createPostgres({ major: major!, archiveCommand: 'true', config: KEEPS_WAL }),
    ]);
    await fillDatabase(server, 300 * MiB, 'random');
    const { bucket, endpointUrl, region, accessKeyId, secretAccessKey } = s3;
    const order: MeasuredOrder = {
      store: {
        kind: 's3',
        bucket,
        prefix: '',
        endpointUrl,
        region,
        credentials: { accessKeyId, secretAccessKey },
      },
      server: SERVER,
      backup: {
        environment: server.environment,
        input: inputFor(server, { jobs: 4, codec: 'lz4', maxPartBytes: 64 * MiB }),
      },
    };
    const { peakProcessMiB } = await measured(process.execPath, [CHILD], {
      input: JSON.stringify(order),
      user: serverUser,
      env: { ...process.env, ...starterEnvironment() },
    });
    console.log(`peak of the process: ${Math.round(peakProcessMiB)} MiB`);
    expect(peakProcessMiB).toBeGreaterThan(50);
    expect(peakProcessMiB).toBeLessThan(512);
  });
});
