/**
 * O4 over the stores: one planted secret of each kind, everything at its most verbose, all that is done with a store,
 * and all of that once more with what the store refuses.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { beforeAll, expect, it } from 'vitest';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { freePort, runProcess, startProcess, type Outcome } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { availableMajors, describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { archiveBy, clusterManifest, createMachine } from '../support/walkeep.ts';
import { makeSegment } from '../support/wal-bytes.ts';
import { SECRET_PLACES, type SecretPlace } from './secret-places.ts';
import {
  describeRunning,
  lookFor,
  lookInto,
  requireSilentFiles,
  requireSilentHistories,
  watchProcesses,
} from './secrets-oracle.ts';
import { paceQuickly } from './site.ts';

/** What a user may set to see more, of us and of what we are made of. */
const VERBOSE = {
  WALKEEP_LOG_LEVEL: 'trace',
  AZURE_LOG_LEVEL: 'verbose',
  GOOGLE_SDK_NODE_LOGGING: '*',
  NODE_DEBUG: 'http,https,tls,net,undici,fetch',
  DEBUG: '*',
};
const SERVERS = /versitygw|azurite|fake-gcs-server|temporal\nserver|openssl/;

describeWith(['temporal', 'versitygw', 'azurite', 'fake-gcs-server'], 'planted secrets', () => {
  let temporal: TemporalServer;
  let client: Client;
  let postgres: Postgres;

  beforeAll(async () => {
    paceQuickly();
    const [major = 15] = availableMajors();
    [temporal, postgres] = await Promise.all([
      startTemporal(),
      createPostgres({ major, segmentSizeMiB: 1, config: { archive_timeout: 0 } }),
    ]);
    client = await temporal.client();
  });

  it.each(Object.keys(SECRET_PLACES))('S1, O4: none of %s is shown by anything', async (kind) => {
    const place = await SECRET_PLACES[kind]!();
    const site = await startVerboseSite(kind, place);
    await site.work();
    const refused = await site.fail();
    await site.dropIns();
    const look = lookFor(place.secrets());
    // It did what it is to be trusted with, and was refused.
    expect(refused).toMatch(/access-denied|config-invalid/);
    for (const [what, text] of await site.readable()) look(what, text);
    for (const text of site.running) lookInto(look, 'a running workflow', text);
    expect(await requireSilentHistories(look, client)).toBeGreaterThan(3);
    expect(requireSilentFiles(look, site.state)).toBeGreaterThan(1);
    expect(requireSilentFiles(look, site.restored)).toBeGreaterThan(100);
  });

  async function archivingFailures(): Promise<number> {
    const [row] = await postgres.psql<{ failed: number }>(
      'SELECT failed_count::int AS failed FROM pg_stat_archiver',
    );
    return row?.failed ?? 0;
  }

  async function isArchived(name: string): Promise<boolean> {
    const [row] = await postgres.psql<{ last: string | null }>(
      'SELECT last_archived_wal AS last FROM pg_stat_archiver',
    );
    return (row?.last ?? '') >= name;
  }

  async function startVerboseSite(kind: string, place: SecretPlace) {
    for (const [name, value] of Object.entries({ ...VERBOSE, ...place.environment }))
      process.env[name] = value;
    const machine = createMachine({ temporal, postgres });
    const env = {
      ...process.env,
      ...postgres.environment,
      ...temporal.environment,
      WALKEEP_STATE: machine.state,
    };
    for (const name of Object.keys({ ...VERBOSE, ...place.environment })) delete process.env[name];

    const program = join(repositoryRoot, 'scripts/walkeep');
    // The drop-ins are told by their environment, and their starter asks readlink where it is.
    const watch = watchProcesses({ environment: /cloud-wal-|^readlink\n/, all: SERVERS });
    const log = join(makeTempDir('log'), 'worker.log');
    const address = `127.0.0.1:${await freePort()}`;
    const args = ['worker', '--cluster', kind, '--instance', `${kind}-1`, '--pgdata', postgres.dataDirectory];
    // Its whole log, not the last of it.
    const worker = startProcess(
      '/bin/sh',
      ['-c', 'exec "$@" >>"$0" 2>&1', log, program, ...args, '--metrics', address, '--grace', '2'],
      { user: serverUser, env },
    );
    const answers = async (path: string) => (await fetch(`http://${address}${path}`)).text();
    await until('the worker to be ready', async () => (await fetch(`http://${address}/readyz`)).ok, {
      timeoutMs: 90_000,
      everyMs: 200,
    });

    const texts: [string, string][] = [];
    const running: string[] = [];
    const keep = (what: string, { stdout, stderr }: Outcome) =>
      void texts.push([`the output of ${what}`, stdout + stderr]);
    async function run(...command: string[]): Promise<Outcome> {
      const outcome = await machine.walkeep(...command);
      keep(`walkeep ${command.join(' ')}`, outcome);
      return outcome;
    }
    async function succeed(...command: string[]): Promise<string> {
      const { code, stdout, stderr } = await run(...command);
      if (code !== 0) throw new Error(`walkeep ${command.join(' ')} ended with ${code}:\n${stderr}${stdout}`);
      return stdout;
    }
    async function apply(
      values: Readonly<Record<string, string>>,
      barmanObjectStore = place.barmanObjectStore,
    ): Promise<void> {
      const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'planted' }, stringData: values };
      const cluster = clusterManifest(kind, { backup: { barmanObjectStore } });
      const file = join(makeTempDir('manifest'), `${randomUUID()}.yaml`);
      writeFileSync(file, [secret, cluster].map((one) => JSON.stringify(one)).join('\n---\n'), {
        mode: 0o600,
      });
      giveToServerUser(file);
      await succeed('apply', '-f', file);
    }
    const restored = join(makeTempDir('restored'), 'data');
    const segments: string[] = [];

    return {
      state: machine.state,
      restored,
      running,
      /** All that is done with a store. */
      async work() {
        await apply(place.right);
        await archiveBy(machine, kind, postgres);
        const name = await postgres.switchWal();
        segments.push(name);
        await postgres.waitUntilArchived(name);
        const waiting = run(
          'backup',
          kind,
          '--name',
          `${kind}-one`,
          '--immediate-checkpoint',
          '--wait',
          '-o',
          'json',
        );
        const timer = setInterval(() => {
          void describeRunning(client).then(
            (told) => running.push(...told),
            () => undefined,
          );
        }, 300);
        expect(await waiting).toMatchObject({ code: 0 });
        clearInterval(timer);
        await succeed('status', kind, '-o', 'json');
        await succeed('get', 'backups', '-o', 'json');
        await succeed('describe', 'backup', `${kind}-one`);
        await succeed('sweep', kind, '--dry-run', '-o', 'json');
        await succeed('audit', kind, '-o', 'json');
        await run('sweep', kind, '--yes', '-o', 'json');
        await run('check', kind, '-o', 'json');
        await succeed('restore', kind, '--target-directory', restored, '-o', 'json');
        const target = join(makeTempDir('fetched'), 'segment');
        giveToServerUser(join(target, '..'));
        await succeed('wal-fetch', '--cluster', kind, name, target);
        expect(existsSync(target)).toBe(true);
      },
      /** All of it again, with what the store refuses. @returns what was said */
      async fail(): Promise<string> {
        if (place.wrong) await apply(place.wrong, place.wrongObjectStore);
        place.refuse?.();
        const said: string[] = [];
        const target = join(makeTempDir('fetched'), 'segment');
        giveToServerUser(join(target, '..'));
        for (const command of [
          ['wal-fetch', '--cluster', kind, segments[0] ?? '', target],
          ['get', 'backups', '-o', 'json'],
          ['check', kind, '-o', 'json'],
          ['sweep', kind, '--dry-run', '-o', 'json'],
          ['sweep', kind, '--dry-run'],
          ['restore', kind, '--target-directory', join(makeTempDir('never'), 'data')],
        ]) {
          const { stdout, stderr } = await run(...command);
          said.push(stdout, stderr);
        }
        // A worker keeps the token it has: only where the Secret is another does this fail.
        if (place.wrong) {
          const before = await archivingFailures();
          const name = await postgres.switchWal();
          const { code } = await run(
            'backup',
            kind,
            '--name',
            `${kind}-two`,
            '--immediate-checkpoint',
            '--wait',
          );
          expect(code).not.toBe(0);
          // Who has the store open goes on with what is good there still, unless the store itself is another.
          const isOver = async () => (await archivingFailures()) > before || (await isArchived(name));
          await until('archiving to be refused, or to go on', isOver, { timeoutMs: 60_000 });
          await apply(place.right);
        }
        place.allow?.();
        await postgres.waitUntilArchived(await postgres.switchWal(), 120_000);
        await run('logs', kind, '-o', 'json');
        return said.join('\n');
      },
      async dropIns() {
        if (!place.dropIn) return;
        const cwd = makeTempDir('drop-in');
        const name = '000000010000000000000001';
        mkdirSync(join(cwd, 'pg_wal'));
        writeFileSync(join(cwd, 'pg_wal', name), makeSegment(name));
        giveToServerUser(join(cwd, 'pg_wal'));
        const { args: its, right, wrong } = place.dropIn;
        for (const [word, last] of [
          ['archive', [`pg_wal/${name}`]],
          ['restore', [name, join(cwd, 'back')]],
        ] as const) {
          for (const credentials of [right, wrong]) {
            const path = join(repositoryRoot, `scripts/walkeep-cloud-wal-${word}`);
            const outcome = await runProcess(path, [...its, kind, ...last], {
              cwd,
              user: serverUser,
              env: { PATH: process.env['PATH'], ...VERBOSE, ...credentials },
            });
            keep(`walkeep-cloud-wal-${word}`, outcome);
            expect(outcome.code === 0, outcome.stderr).toBe(credentials === right);
          }
        }
      },
      /** Everything that anybody can read, once all is done. */
      async readable(): Promise<Iterable<readonly [string, string]>> {
        for (const path of ['/metrics', '/healthz', '/readyz']) texts.push([path, await answers(path)]);
        running.push(...(await describeRunning(client)));
        const { code } = await worker.stop('SIGTERM', 60_000);
        expect(code).toBe(0);
        texts.push(["PostgreSQL's log", postgres.log()], ["the worker's log", readFileSync(log, 'utf8')]);
        // It was verbose indeed.
        expect(texts.at(-1)?.[1]).toMatch(/"level":"(debug|trace)"/);
        const processes = watch.stop();
        expect([...processes.keys()].some((key) => key.includes('cmdline'))).toBe(true);
        return [...texts, ...processes];
      },
    };
  }
});
