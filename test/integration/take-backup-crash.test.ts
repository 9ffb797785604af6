import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import { FAILPOINTS } from '../../core/failpoint.ts';
import { confirmBackup, copyBackup, recordBackup, type CopiedBackup } from '../../operations/take-backup.ts';
import { listBackups } from '../../repository/catalogue.ts';
import {
  createBench,
  inputFor,
  leftovers,
  NEVER,
  SERVER,
  unpack,
  type BackupBench,
} from '../operations/take-backup-bench.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { startProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const CHILD = fileURLToPath(new URL('../operations/take-backup-child.ts', import.meta.url));
const PLACES = FAILPOINTS.filter((name) => name.startsWith('backup.'));

async function runUntilKilled(
  bench: BackupBench,
  server: Postgres,
  place: string,
): Promise<CopiedBackup | undefined> {
  const copiedFile = join(makeTempDir(), 'copied.json');
  const { directory } = bench;
  const order = {
    directory,
    server: SERVER,
    environment: server.environment,
    input: inputFor(server),
    copiedFile,
  };
  const child = startProcess(process.execPath, [CHILD, JSON.stringify(order)], {
    env: { ...process.env, WALKEEP_FAILPOINT: `${place}:kill` },
  });
  expect(await child.ended, child.output()).toMatchObject({ signal: 'SIGKILL' });
  return existsSync(copiedFile) ? (JSON.parse(readFileSync(copiedFile, 'utf8')) as CopiedBackup) : undefined;
}

describeEachMajor(
  'a backup whose process is killed',
  (major) => {
    let bench: BackupBench;
    let server: Postgres;
    beforeAll(async () => {
      bench = createBench();
      server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
    });

    it.for(PLACES)(
      'B2, F2, O3: at %s, is not listed unless it was recorded, and leaves nothing at the server',
      async (place) => {
        const listed = async () =>
          (await listBackups(bench.repository, NEVER)).map(({ backupId }) => backupId);
        const before = await listed();
        const copied = await runUntilKilled(bench, server, place);
        await until('the server to be left alone', async () => {
          const { sessions, locks } = await leftovers(server);
          return sessions + locks === 0;
        });
        const after = await listed();
        expect(after.slice(before.length)).toEqual(place === 'backup.recorded' ? [copied!.backupId] : []);

        const ports = bench.ports(server);
        if (copied) {
          // The next attempt of the same activity goes on where the dead one was.
          if (place !== 'backup.recorded')
            await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 30_000 });
          await recordBackup(ports, copied, { signal: NEVER });
          expect(await listed()).toEqual([...before, copied.backupId]);
        } else {
          // A new attempt meets nothing of the dead one.
          const again = await copyBackup(ports, inputFor(server), { signal: NEVER });
          await confirmBackup(ports, again, { signal: NEVER, deadlineMs: 30_000 });
          await recordBackup(ports, again, { signal: NEVER });
          expect(await listed()).toEqual([...before, again.backupId]);
        }
      },
    );

    it('O2: each backup that counts can be unpacked', async () => {
      const backups = await listBackups(bench.repository, NEVER);
      expect(backups).toHaveLength(PLACES.length);
      for (const backup of backups) {
        expect(existsSync(join(await unpack(bench, backup), 'global', 'pg_control'))).toBe(true);
      }
    });
  },
  [15],
);
