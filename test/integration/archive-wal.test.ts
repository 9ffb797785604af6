import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { archiveCommand, restoreCommand } from '../../core/wal-commands.ts';
import { thisInstallation } from '../../operations/installation.ts';
import { createRepository } from '../../repository/repository.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { openStore } from '../../stores/open-store.ts';
import type { Codec } from '../../streams/codec.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { startLoad } from '../support/canary.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { startProcess, type Process } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import type { AgentProcessOptions } from '../support/wal-agent-process.ts';

const { signal } = new AbortController();
const CODEC: Codec = 'zstd';

/** A repository in a directory, the manifest that names it, and a ledger of every file that was answered with 0. */
class Archive {
  readonly directory: string;
  readonly state = makeTempDir('state');
  readonly socketPath = join(makeTempDir('agent'), 'run', 'a.sock');
  readonly #ledger = makeTempDir('ledger');

  constructor(directory = makeTempDir('archive')) {
    this.directory = directory;
  }

  /**
   * Makes a server archive here. The ledger keeps a copy of each file at the moment the command said 0.
   *
   * @param environment assignments in front of the command, such as `PATH=/nowhere`
   */
  async serve(postgres: Postgres, environment = ''): Promise<void> {
    await applyTestCluster(this.state, {
      name: 'pg',
      destinationPath: `file://${this.directory}`,
      walCompression: CODEC,
    });
    const { shellClient, fullClient } = thisInstallation();
    const options = ['--cluster', 'pg', '--pgdata', postgres.dataDirectory, '--state', this.state];
    const line = archiveCommand({ shellClient, socket: this.socketPath, fullClient, options });
    const ledger = this.#ledger;
    const noted = `(${environment} ${line}); s=$?; if [ $s = 0 ]; then cp "%p" ${ledger}/%f; else echo "$s %f" >> ${ledger}/refused; fi; exit $s`;
    postgres.configure({ archive_command: noted });
    await postgres.reload();
  }

  /** The value of `restore_command` for a copy that recovers from here. */
  restoreLine(postgres: Postgres, environment = ''): string {
    const { shellClient, fullClient } = thisInstallation();
    const options = ['--cluster', 'pg', '--pgdata', postgres.dataDirectory, '--state', this.state];
    return `${environment} ${restoreCommand({ shellClient, socket: this.socketPath, fullClient, options })}`;
  }

  async startedAgent(postgres: Postgres, maxParallel = 2): Promise<Process> {
    const options: AgentProcessOptions = {
      socketPath: this.socketPath,
      pgdata: postgres.dataDirectory,
      directory: this.directory,
      server: 'pg',
      codec: CODEC,
      maxParallel,
    };
    const script = join(repositoryRoot, 'test/support/wal-agent-process.ts');
    const agent = startProcess(process.execPath, [script, JSON.stringify(options)], { user: serverUser });
    await until('the agent to listen', () => agent.output().includes('listening'));
    return agent;
  }

  /** Names that were answered with 0. */
  confirmed(): string[] {
    return readdirSync(this.#ledger)
      .filter((name) => name !== 'refused')
      .toSorted();
  }

  /** Exit codes other than 0, as they came. */
  refused(): number[] {
    const path = join(this.#ledger, 'refused');
    if (!existsSync(path)) return [];
    const lines = readFileSync(path, 'utf8').trim().split('\n');
    return lines.map((line) => Number(line.split(' ')[0]));
  }

  /** O1: each file that was answered 0 is in the archive, once, and equal. */
  async requireLedger(): Promise<string[]> {
    const repository = createRepository(openStore({ kind: 'file', directory: this.directory }), 'pg');
    const names = this.confirmed();
    for (const name of names) {
      const found = await findWal(repository, name, signal);
      expect(found, name).toHaveLength(1);
      const [object] = found;
      const bytes = object && (await readWal(repository, object, 64 << 20, signal));
      expect(bytes && Buffer.compare(bytes, readFileSync(join(this.#ledger, name))), name).toBe(0);
    }
    return names;
  }

  /** Every stored file, with its size. */
  contents(): string[] {
    return readdirSync(this.directory, { recursive: true }).map(String).toSorted();
  }
}

/** Fills and closes `count` segments. */
async function fill(postgres: Postgres, count: number): Promise<string> {
  let last = '';
  for (let at = 0; at < count; at++) {
    await postgres.psql('CREATE TABLE IF NOT EXISTS filler (t text)');
    await postgres.psql('INSERT INTO filler SELECT md5(i::text) FROM generate_series(1, 500) i');
    last = await postgres.switchWal();
  }
  return last;
}

async function archiver(postgres: Postgres): Promise<{ failed: number; last: string | null }> {
  const [row] = await postgres.psql<{ failed: string; last: string | null }>(
    'SELECT failed_count AS failed, last_archived_wal AS last FROM pg_stat_archiver',
  );
  return { failed: Number(row?.failed), last: row?.last ?? null };
}

const waiting = (postgres: Postgres) =>
  readdirSync(join(postgres.dataDirectory, 'pg_wal/archive_status')).filter((name) =>
    name.endsWith('.ready'),
  );

const create = (major: Postgres['major'] = 15) => createPostgres({ major, segmentSizeMiB: 1 });

describeEachMajor('archiving', (major) => {
  it('A1, A4: segments, a backup label, a partial and a history arrive through the agent', async () => {
    const archive = new Archive();
    const primary = await create(major);
    await archive.serve(primary);
    const agent = await archive.startedAgent(primary);
    const standby = await primary.createStandby();
    await primary.psql("SELECT pg_backup_start('label', true); SELECT pg_backup_stop(false)");
    const last = await fill(primary, 3);
    await primary.waitUntilArchived(last);
    await primary.psql("INSERT INTO filler VALUES ('begins the segment in which the timeline ends')");
    const arrived = () => standby.psql("SELECT 1 FROM filler WHERE t LIKE 'begins%'");
    await until('the standby to have it', async () => (await arrived()).length === 1);
    await primary.stop('immediate');
    await agent.stop();

    // the standby takes over: the same system, a new timeline, another data directory
    const successor = await archive.startedAgent(standby);
    await archive.serve(standby);
    await standby.promote();
    const after = await fill(standby, 2);
    await standby.waitUntilArchived(after);
    expect(successor.output()).toContain(`${after} archived`);
    expect(archive.refused()).toEqual([]);

    const names = await archive.requireLedger();
    expect(names).toEqual(expect.arrayContaining([last, after, '00000002.history']));
    expect(names.some((name) => name.endsWith('.backup'))).toBe(true);
    expect(names.some((name) => name.endsWith('.partial'))).toBe(true);
  });
});

describe('archiving under load', () => {
  it('A1, A5: agent killed and restarted in the middle: no segment is lost, none is refused', async () => {
    const archive = new Archive();
    const postgres = await create();
    await archive.serve(postgres);
    let agent = await archive.startedAgent(postgres);
    const load = await startLoad(postgres);
    for (let round = 0; round < 3; round++) {
      const before = archive.confirmed().length;
      await until('some archived', () => archive.confirmed().length >= before + 4, { timeoutMs: 60_000 });
      await agent.kill9();
      const alone = archive.confirmed().length;
      await until('some more by the full client', () => archive.confirmed().length >= alone + 2, {
        timeoutMs: 60_000,
      });
      agent = await archive.startedAgent(postgres);
    }
    await load?.stop();
    await postgres.waitUntilArchived(await fill(postgres, 1));
    expect(archive.refused()).toEqual([]);
    const names = await archive.requireLedger();
    expect(names.length).toBeGreaterThan(15);
    // A6: without a gap
    const segments = names
      .filter((name) => name.length === 24)
      .map((name) => Number.parseInt(name.slice(16), 16));
    expect(segments).toEqual(segments.map((_, at) => (segments[0] ?? 0) + at));
  });

  it('A5: an agent that is stopped (SIGSTOP) costs seconds, not the archive', async () => {
    const archive = new Archive();
    const postgres = await create();
    await archive.serve(postgres);
    const agent = await archive.startedAgent(postgres);
    await postgres.waitUntilArchived(await fill(postgres, 2));
    agent.signal('SIGSTOP');
    const begin = performance.now();
    await postgres.waitUntilArchived(await fill(postgres, 1));
    expect(performance.now() - begin).toBeLessThan(30_000);
    agent.signal('SIGCONT');
    await postgres.waitUntilArchived(await fill(postgres, 2));
    expect(archive.refused()).toEqual([]);
    await archive.requireLedger();
  });

  it('A1: a curl that is killed or loses half of its answers never confirms what is not there', async () => {
    const archive = new Archive();
    const postgres = await create();
    await archive.serve(postgres, `PATH=${badCurl()}:$PATH`);
    await archive.startedAgent(postgres);
    await postgres.waitUntilArchived(await fill(postgres, 12));
    expect(archive.refused()).toEqual([]);
    expect((await archive.requireLedger()).length).toBeGreaterThanOrEqual(12);
  });

  it('A1: a host without curl archives by the full client', async () => {
    const archive = new Archive();
    const postgres = await create();
    await archive.serve(postgres, `PATH=${makeTempDir('bin')}; export PATH;`);
    const agent = await archive.startedAgent(postgres);
    // `cp` of the ledger runs outside of the parentheses, with PostgreSQL's own PATH
    await postgres.waitUntilArchived(await fill(postgres, 2));
    expect(agent.output()).not.toContain('archived');
    expect(archive.refused()).toEqual([]);
    expect((await archive.requireLedger()).length).toBeGreaterThanOrEqual(2);
  });
});

describe('recovering through the agent', () => {
  it.for([
    { why: 'as it should be', prepare: () => '' },
    { why: 'with a curl that is killed and cuts its answers', prepare: () => `PATH=${badCurl()}:$PATH` },
    { why: 'without curl', prepare: () => `PATH=${makeTempDir('bin')}` },
  ])('C3, C4: $why, every archived row comes back', async ({ prepare }) => {
    const { archive, rows, copy } = await archivedRows(10);
    copy.configure({ restore_command: archive.restoreLine(copy, prepare()) });
    await archive.startedAgent(copy);
    await copy.start();
    await copy.waitUntilPromoted();
    expect(await countRows(copy)).toBe(rows);
  });

  it('C3, C4: with an agent that is stopped and killed on the way, every archived row comes back', async () => {
    const { archive, rows, copy } = await archivedRows(10);
    copy.configure({ restore_command: archive.restoreLine(copy) });
    const agent = await archive.startedAgent(copy);
    copy.launch();
    await until('some fetched', () => agent.output().split('fetched').length > 3);
    agent.signal('SIGSTOP');
    const killed = setTimeout(() => void agent.kill9(), 6_000);
    await copy.waitUntilPromoted(90_000);
    clearTimeout(killed);
    expect(await countRows(copy)).toBe(rows);
  });

  it('C3: a hole in the archive stops the recovery instead of ending it early', async () => {
    const { archive, copy, segments } = await archivedRows(6);
    const hole = segments.at(-3) ?? '';
    rmSync(join(archive.directory, 'pg/wals', hole.slice(0, 16), `${hole}.zst`));
    copy.configure({ restore_command: archive.restoreLine(copy) });
    await archive.startedAgent(copy);
    const ended = await copy.launch().ended;
    expect(ended.code).not.toBe(0);
    expect(copy.log()).toContain('wal-hole');
    expect(existsSync(join(copy.dataDirectory, 'recovery.signal'))).toBe(true);
  });
});

/** A server that archived `count` segments and is gone, and a copy of its beginning that is to recover from them. */
async function archivedRows(count: number) {
  const archive = new Archive();
  const primary = await create();
  await archive.serve(primary);
  const agent = await archive.startedAgent(primary);
  const dataDirectory = join(makeTempDir('copy'), 'data');
  await primary.run('pg_basebackup', [
    '-D',
    dataDirectory,
    '-X',
    'none',
    '-c',
    'fast',
    '--no-sync',
    '--no-manifest',
  ]);
  await primary.waitUntilArchived(await fill(primary, count));
  await primary.stop('immediate');
  await agent.stop();
  const copy = await openPostgres({ major: 15, dataDirectory });
  copy.configure({ archive_mode: 'off' });
  writeFileSync(join(copy.dataDirectory, 'recovery.signal'), '');
  giveToServerUser(join(copy.dataDirectory, 'recovery.signal'));
  const segments = archive.confirmed().filter((name) => name.length === 24);
  return { archive, copy, rows: count * 500, segments };
}

async function countRows(postgres: Postgres): Promise<number> {
  const [row] = await postgres.psql<{ count: string }>('SELECT count(*) FROM filler');
  return Number(row?.count);
}

/** A directory with a curl that, by turns, is killed before or after it asks, cuts its answer, or works. */
function badCurl(): string {
  const bin = makeTempDir('bin');
  const real = execFileSync('/bin/sh', ['-c', 'command -v curl']).toString().trim();
  const script = `#!/bin/sh
n=$(cat ${bin}/n 2>/dev/null || echo 0); echo $(( (n + 1) % 5 )) > ${bin}/n
case $n in
0) kill -9 $$ ;;
1) ${real} "$@" > /dev/null; kill -9 $$ ;;
2) ${real} "$@" | cut -c 1-20; exit 0 ;;
3) printf 'walkeep archived'; exit 0 ;;
*) exec ${real} "$@" ;;
esac
`;
  writeFileSync(join(bin, 'curl'), script);
  chmodSync(join(bin, 'curl'), 0o755);
  return bin;
}

describe('archiving what does not belong here', () => {
  it('A4: the WAL of a second cluster is refused, by the agent and by the full client, and nothing changes', async () => {
    const archive = new Archive();
    const first = await create();
    await archive.serve(first);
    await first.waitUntilArchived(await fill(first, 2));
    await first.stop();
    const before = archive.contents();

    const second = await create();
    const foreign = new Archive(archive.directory);
    await foreign.serve(second);
    await fill(second, 2);
    await until('refusals', async () => (await archiver(second)).failed >= 1, { timeoutMs: 60_000 });
    const agent = await foreign.startedAgent(second);
    await until('refusals by the agent', () => agent.output().includes('failed'), { timeoutMs: 90_000 });
    expect(foreign.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
    expect(foreign.confirmed()).toEqual([]);
    expect(archive.contents()).toEqual(before);
    expect(waiting(second).length).toBeGreaterThanOrEqual(2);
    expect(second.log()).toMatch(/belongs to .*system/);
  });

  it('A7: two servers promoted to one timeline: the second one’s history and segments are refused', async () => {
    const archive = new Archive();
    const primary = await create();
    await archive.serve(primary);
    const standbys = [await primary.createStandby(), await primary.createStandby()] as const;
    await primary.waitUntilArchived(await fill(primary, 2));
    await primary.stop('immediate');

    const [first, second] = standbys;
    await archive.serve(first);
    await first.promote();
    const last = await fill(first, 2);
    await first.waitUntilArchived(last);
    const other = new Archive(archive.directory);
    await other.serve(second);
    // a later end of the first timeline: another history under the same name
    await second.promote();
    await fill(second, 2);
    await until('refusals', async () => (await archiver(second)).failed >= 1, { timeoutMs: 60_000 });
    expect(other.confirmed().filter((name) => name.startsWith('00000002') && name.length === 24)).toEqual([]);
    await archive.requireLedger();
  });
});

describe('archiving to a full disk', () => {
  const small = mountSmall();

  it.skipIf(small === undefined)(
    'A5: exits 1 to 125, WAL stays, and it heals when there is room',
    async () => {
      const archive = new Archive(small);
      const postgres = await create();
      await archive.serve(postgres);
      await archive.startedAgent(postgres);
      const random =
        "INSERT INTO filler SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 4000) i, generate_series(1, 4) j GROUP BY j";
      await fill(postgres, 1);
      for (let at = 0; at < 12; at++) await postgres.psql(`${random}; SELECT pg_switch_wal()`);
      await until('a full disk', async () => (await archiver(postgres)).failed >= 1, { timeoutMs: 90_000 });
      expect(archive.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
      expect(waiting(postgres).length).toBeGreaterThan(0);
      await archive.requireLedger();

      execFileSync('mount', ['-o', 'remount,size=256m', small ?? '']);
      await until('everything archived', () => waiting(postgres).length === 0, { timeoutMs: 120_000 });
      await archive.requireLedger();
    },
  );
});

/** A file system of 3 MiB, where we may mount one; elsewhere the test is an announced skip. */
function mountSmall(): string | undefined {
  const directory = makeTempDir('small');
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=3m,mode=755', 'tmpfs', directory], { stdio: 'ignore' });
  } catch {
    process.stderr.write('skipped: no tmpfs of a set size can be mounted here\n');
    return undefined;
  }
  giveToServerUser(directory);
  onCleanUp(() => void execFileSync('umount', ['--lazy', directory]));
  const repository = join(directory, 'archive');
  mkdirSync(repository);
  giveToServerUser(repository);
  return directory;
}
