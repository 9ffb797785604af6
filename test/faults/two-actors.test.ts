/** Fault 2 as it does most harm: who was taken for dead wakes up while a successor works. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { confirmBackup, copyBackup, recordBackup, type CopiedBackup } from '../../operations/take-backup.ts';
import { listBackups } from '../../repository/catalogue.ts';
import {
  createBench,
  inputFor,
  NEVER,
  SERVER,
  unpack,
  type BackupBench,
} from '../operations/take-backup-bench.ts';
import type { ChildOrder } from '../operations/take-backup-child.ts';
import { requireNothingLeft } from '../support/oracles.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { startProcess, type Process } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { until } from '../support/wait.ts';
import { keepAwake, untilStopped } from './site.ts';

const CHILD = fileURLToPath(new URL('../operations/take-backup-child.ts', import.meta.url));

describe('a backup whose process is frozen and wakes up later', () => {
  let bench: BackupBench;
  let server: Postgres;
  const counted: string[] = [];

  beforeAll(async () => {
    bench = createBench();
    server = await createPostgres({ major: 15, archiveCommand: bench.archiveCommand, segmentSizeMiB: 1 });
  });

  const listed = async () => (await listBackups(bench.repository, NEVER)).map(({ backupId }) => backupId);
  const nothingLeft = () =>
    requireNothingLeft({ postgres: server, stores: [bench.directory], expectedPids: [process.pid] });

  function startFrozen(place: string): { child: Process; copied: () => CopiedBackup | undefined } {
    const copiedFile = join(makeTempDir(), 'copied.json');
    const order: ChildOrder = {
      directory: bench.directory,
      server: SERVER,
      environment: server.environment,
      input: inputFor(server),
      copiedFile,
    };
    const child = startProcess(process.execPath, [CHILD, JSON.stringify(order)], {
      env: { ...process.env, WALKEEP_FAILPOINT: `${place}:stop` },
    });
    const copied = () =>
      existsSync(copiedFile) ? (JSON.parse(readFileSync(copiedFile, 'utf8')) as CopiedBackup) : undefined;
    return { child, copied };
  }

  async function successor(): Promise<string> {
    const ports = bench.ports(server);
    const copied = await copyBackup(ports, inputFor(server, { backupName: 'successor' }), { signal: NEVER });
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 30_000 });
    await recordBackup(ports, copied, { signal: NEVER });
    return copied.backupId;
  }

  it('F1, B3: while it holds its session no successor begins, and what it finished counts once', async () => {
    const { child, copied } = startFrozen('backup.part-uploaded');
    await untilStopped(child);
    await expect(successor()).rejects.toMatchObject({ code: 'backup-in-progress', retryable: true });
    keepAwake(child);
    expect(await child.ended, child.output()).toMatchObject({ code: 0 });
    counted.push(copied()?.backupId ?? '');
    expect(await listed()).toEqual(counted);
    await nothingLeft();
  });

  it('F1, B3: its session ended under it, a successor takes over; awake, it fails and takes nothing along', async () => {
    const { child } = startFrozen('backup.part-uploaded');
    await untilStopped(child);
    await server.psql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`,
    );
    await until(
      'the lock to be free',
      async () => (await server.psql(`SELECT 1 FROM pg_locks WHERE locktype = 'advisory'`)).length === 0,
    );
    counted.push(await successor());
    keepAwake(child);
    const { code } = await child.ended;
    expect(code).not.toBe(0);
    expect(child.output()).toMatch(/backup-interrupted/);
    expect(await listed()).toEqual(counted);
    await nothingLeft();
  });

  it.for(['backup.before-record', 'backup.copied'])(
    'B2, F2: frozen at %s, it may wake up behind a successor: both count, each with its own id, once',
    async (place) => {
      const { child, copied } = startFrozen(place);
      await untilStopped(child);
      const newer = await until('the lock to be free', () => successor().catch(() => undefined), {
        timeoutMs: 30_000,
        everyMs: 500,
      });
      keepAwake(child);
      expect(await child.ended, child.output()).toMatchObject({ code: 0 });
      counted.push(copied()?.backupId ?? '', newer);
      expect(await listed()).toEqual(counted);
      await nothingLeft();
    },
  );

  it('O2: each backup that counts can be unpacked', async () => {
    for (const backupId of counted) {
      expect(existsSync(join(await unpack(bench, { backupId }), 'global/pg_control'))).toBe(true);
    }
  });
});
