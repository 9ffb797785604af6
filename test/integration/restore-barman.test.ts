import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { restore } from '../../operations/restore.ts';
import { recoveryCommandLine } from '../../operations/wal-command-lines.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { barmanCloud, s3Arguments } from '../support/barman.ts';
import { idsUpTo, readCanary, startCanary } from '../support/canary.ts';
import { createPostgres, openPostgres } from '../support/postgres.ts';
import { startS3 } from '../support/s3.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { availableMajors, describeWith, toolPath } from '../support/tools.ts';

const signal = new AbortController().signal;

describeWith(['barman', 'versitygw'], 'a backup that barman-cloud took', () => {
  describe.each(availableMajors().slice(0, 1))('of PostgreSQL %i', (major) => {
    it.each(['gzip', 'lz4'])(
      'E5: is restored by walkeep, with tablespaces, to a time inside a gap (%s)',
      async (codec) => {
        const s3 = await startS3();
        // PostgreSQL's archiver, barman and wal-fetch find the keys where CNPG puts them.
        Object.assign(process.env, s3.environment);
        const words = s3Arguments(s3).join(' ');
        const flag = `--${codec}`;
        const postgres = await createPostgres({
          major,
          archiveCommand: `${join(toolPath('barman'), 'barman-cloud-wal-archive')} ${flag} ${words} s3://${s3.bucket}/clusters pg-main %p`,
        });
        const location = join(makeTempDir('ts'), 'ts');
        mkdirSync(location);
        giveToServerUser(location);
        await postgres.psql(`CREATE TABLESPACE ts LOCATION '${location}'`);
        await postgres.psql('CREATE TABLE elsewhere TABLESPACE ts AS SELECT generate_series(1, 3000) AS n');
        const canary = await startCanary(postgres);
        await canary.waitFor(3);
        const options = [flag, '--immediate-checkpoint', '--name', 'by-barman'];
        const taken = await barmanCloud(
          'barman-cloud-backup',
          [...options, ...s3Arguments(s3), `s3://${s3.bucket}/clusters`, 'pg-main'],
          { s3, postgres },
        );
        expect(taken).toMatchObject({ code: 0 });
        const middle = canary.commits.length + 2;
        await canary.waitFor(middle + 3);
        const moment = canary.momentAfter(middle).toISOString();
        await canary.stop();
        await postgres.waitUntilArchived(await postgres.switchWal(), 120_000);
        await postgres.stop();
        for (const name of readdirSync(location)) rmSync(join(location, name), { recursive: true });

        const config = {
          kind: 's3',
          bucket: s3.bucket,
          prefix: 'clusters',
          endpointUrl: s3.endpointUrl,
          region: s3.region,
        } as const;
        const repository = createRepository(openStore(config), 'pg-main');
        const plan = await planFromRepository(repository, { target: { targetTime: moment } }, { signal });
        expect(plan.backupName).toBe('by-barman');
        const targetDirectory = join(makeTempDir('restored'), 'data');
        const store = { destinationPath: `s3://${s3.bucket}/clusters`, endpointURL: s3.endpointUrl };
        const line = recoveryCommandLine({
          recoveryFile: 'walkeep_recovery.json',
          stateDirectory: makeTempDir('state'),
        });
        const restored = await restore(
          {
            repository,
            store: config,
            restoreCommand: line,
            reference: { namespace: 'default', serverName: 'pg-main', barmanObjectStore: store },
          },
          { plan, targetDirectory },
          { signal },
        );
        expect(restored).toMatchObject({
          isVerified: false,
          tablespaces: [{ name: 'ts', directory: location }],
        });
        await repository.close();
        const copy = await openPostgres({ major, dataDirectory: targetDirectory });
        await copy.start();
        await copy.waitUntilPromoted(120_000);
        expect(await readCanary(copy)).toEqual(idsUpTo(middle));
        const [row] = await copy.psql<{ n: string }>('SELECT count(*) AS n FROM elsewhere');
        expect(row?.n).toBe('3000');
        await copy.stop();
        await s3.stop();
      },
      400_000,
    );
  });
});
