import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { beforeAll, expect, it } from 'vitest';
import { idsUpTo, readCanary, startCanary, type Commit } from '../support/canary.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { createPostgres, openPostgres } from '../support/postgres.ts';
import { runProcess, runSuccessfully } from '../support/processes.ts';
import { createTestArchive, type TestArchive } from '../support/restored.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor, postgresBin, repositoryRoot } from '../support/tools.ts';

describeEachMajor('walkeep restore', (major) => {
  let archive: TestArchive;
  let commits: readonly Commit[];
  let moment: string;
  let middle: number;
  let backupId: string;
  const state = makeTempDir('state');

  beforeAll(async () => {
    archive = createTestArchive('production-postgres');
    const postgres = await createPostgres({ major, archiveCommand: archive.archiveCommand });
    const canary = await startCanary(postgres);
    await canary.waitFor(3);
    ({ backupId } = await archive.takeBackup(postgres, { name: 'nightly' }));
    middle = canary.commits.length + 2;
    await canary.waitFor(middle + 3);
    moment = canary.momentAfter(middle).toISOString();
    commits = await canary.stop();
    await postgres.waitUntilArchived(await postgres.switchWal());
    await postgres.stop();
  });

  const walkeep = (...args: string[]) => walkeepWith({}, ...args);
  const walkeepWith = (more: NodeJS.ProcessEnv, ...args: string[]) =>
    runProcess(process.execPath, [`${repositoryRoot}/cli/main.ts`, ...args], {
      env: { ...process.env, WALKEEP_STATE: state, ...more },
      timeoutMs: 120_000,
    });
  const fromUrl = () => ['restore', 'production-postgres', '--repository', `file://${archive.directory}`];

  it('--plan shows what would be done and touches nothing', async () => {
    const text = await walkeep(...fromUrl(), '--target-time', moment, '--plan');
    expect(text).toMatchObject({ code: 0 });
    expect(text.stdout).toContain(`backup    ${backupId} (nightly)`);
    expect(text.stdout).toContain('the last commit up to and including');
    const json = await walkeep(...fromUrl(), '--plan', '-o', 'json');
    expect(JSON.parse(json.stdout)).toMatchObject({
      plan: { backupId, targetTimeline: 1, target: { kind: 'end' } },
    });
  });

  it('C4: a moment out of reach is refused in one line that names one within reach, with its own exit code', async () => {
    const refused = await walkeep(...fromUrl(), '--target-time', '2020-01-01', '--plan');
    expect(refused.code).toBe(9);
    expect(refused.stderr.trim().split('\n')).toHaveLength(1);
    expect(refused.stderr).toContain(`the end of backup ${backupId}`);
    expect((await walkeep(...fromUrl(), '--target-xid', '5', '--plan')).stderr).toContain('--backup-id');
    expect((await walkeep(...fromUrl())).code).toBe(2);
  });

  it('F5, C4, O2: restores and starts from the repository alone: exactly the commits before the moment', async () => {
    const directory = join(makeTempDir('cli'), 'data');
    const sockets = makeTempDir('sock');
    const settings = [
      '--set',
      `unix_socket_directories=${sockets}`,
      '--set',
      'listen_addresses=',
      '--set',
      'port=5432',
    ];
    const run = await walkeep(
      ...fromUrl(),
      '-D',
      directory,
      '--target-time',
      moment,
      ...settings,
      '--start',
      '--postgres-bin',
      postgresBin(major),
      '-o',
      'json',
    );
    onCleanUp(async () => {
      if (existsSync(join(directory, 'postmaster.pid'))) {
        await runSuccessfully(
          join(postgresBin(major), 'pg_ctl'),
          ['-D', directory, '-m', 'immediate', 'stop'],
          { user: serverUser, cwd: '/' },
        );
      }
    });
    expect(run.stderr + run.stdout).not.toContain("can't fetch");
    expect(run.code).toBe(0);
    const { recovery, restored } = JSON.parse(run.stdout) as {
      recovery: Record<string, string>;
      restored: { warnings: string[] };
    };
    expect(restored.warnings).toEqual([]);
    expect(recovery).toMatchObject({
      state: 'promoted',
      timeline: 2,
      reason: expect.stringContaining('before'),
    });
    const client = new pg.Client({ host: sockets, port: 5432, user: 'postgres', database: 'postgres' });
    await client.connect();
    const { rows } = await client.query<{ id: string }>('SELECT id FROM canary ORDER BY id');
    await client.end();
    expect(rows.map(({ id }) => Number(id))).toEqual(idsUpTo(middle));
    // Once more into the same directory: refused, and the server goes on.
    const again = await walkeep(...fromUrl(), '-D', directory);
    expect(again.code).toBe(9);
    expect(again.stderr).toContain('holds a PostgreSQL server');
  });

  it('C4: a recovery that can’t reach its target fails, and says how far it came', async () => {
    const directory = join(makeTempDir('cli'), 'data');
    const run = await walkeep(
      ...fromUrl(),
      '-D',
      directory,
      '--target-name',
      'never made',
      '--backup-id',
      'nightly',
      '--start',
      '--postgres-bin',
      postgresBin(major),
    );
    expect(run.code).not.toBe(0);
    expect(run.stderr).toMatch(/recovery ended before configured recovery target was reached/);
    expect(run.stderr).toMatch(
      /it came at least to LSN 0\/[0-9A-F]+ on timeline 1, the last transaction ended/,
    );
  });

  it('C2: killed anywhere, the directory does not start, and the same command begins it anew', async () => {
    const directory = join(makeTempDir('cli'), 'data');
    const restore = [
      'restore',
      'production-postgres',
      '--repository',
      `file://${archive.directory}`,
      '-D',
      directory,
    ];
    for (const place of [
      'restore.before-write',
      'restore.unpacked',
      'restore.settings-written',
      'restore.label-in-place',
    ]) {
      const killed = await walkeepWith({ WALKEEP_FAILPOINT: `${place}:kill` }, ...restore);
      expect(killed.signal, place).toBe('SIGKILL');
      if (!existsSync(directory)) continue;
      const start = await runProcess(join(postgresBin(major), 'postgres'), ['-D', directory], {
        user: serverUser,
      });
      expect(start.code, place).not.toBe(0);
      expect(start.stderr, place).toMatch(
        /could not find the database system|does not exist|not a valid data directory|could not (access|open)/,
      );
    }
    const behind = await walkeepWith({ WALKEEP_FAILPOINT: 'restore.activated:kill' }, ...restore);
    expect(behind.signal).toBe('SIGKILL');
    // Complete: it may have been started meanwhile, so it is never written over.
    const again = await walkeep(...restore);
    expect(again).toMatchObject({ code: 9 });
    expect(again.stderr).toContain('complete restore');
    const restored = await openPostgres({ major, dataDirectory: directory });
    await restored.start();
    await restored.waitUntilPromoted();
    expect(await readCanary(restored)).toEqual(idsUpTo(commits.length));
    await restored.stop();
  });

  it('a manifest with bootstrap.recovery drives it', async () => {
    const file = join(makeTempDir('manifest'), 'cluster.yaml');
    writeFileSync(
      file,
      `apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: reborn}
spec:
  instances: 1
  storage: {size: 1Gi}
  bootstrap:
    recovery:
      source: production-postgres
      recoveryTarget: {targetTime: "${moment}"}
  externalClusters:
    - name: production-postgres
      barmanObjectStore: {destinationPath: "file://${archive.directory}"}
`,
    );
    const run = await walkeep('restore', '-f', file, '--plan', '-o', 'json');
    expect(run.code).toBe(0);
    expect(JSON.parse(run.stdout)).toMatchObject({
      plan: { backupId, target: { kind: 'time', value: moment.replace(/0*Z$/, 'Z') } },
    });
    const other = await walkeep(
      'restore',
      'reborn',
      '-f',
      file,
      '--target-lsn',
      commits[middle]?.lsn as string,
      '--plan',
      '-o',
      'json',
    );
    expect(JSON.parse(other.stdout)).toMatchObject({ plan: { target: { kind: 'lsn' } } });
  });

  it('the directory’s owner reads what the recovery needs, and nobody else', async () => {
    const parent = makeTempDir('cli');
    const directory = join(parent, 'new', 'data');
    mkdirSync(join(parent, 'new'));
    giveToServerUser(join(parent, 'new'));
    const run = await walkeep(...fromUrl(), '-D', directory);
    expect(run).toMatchObject({ code: 0 });
    expect(run.stdout).toContain('pg_ctl');
    expect(statSync(join(directory, 'walkeep_recovery.json')).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(directory, 'postgresql.auto.conf'), 'utf8')).toMatch(
      /restore_command = '.*walkeep-wal fetch - %f "%p" .*--recovery walkeep_recovery.json/,
    );
  });
});
