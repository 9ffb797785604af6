import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { idsUpTo, readCanary, startCanary } from '../support/canary.ts';
import { openPostgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { createStarters, type Starter } from '../support/starters.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeEachMajor, describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { createMachine, startSite, type Site } from '../support/walkeep.ts';

const MINUTE = 60_000;
/** Soon enough for a test; what people type is five fields. */
const CRON = '@every 2s';

/** A workflow that ends, with the input that a person would type. */
interface Case {
  readonly type: string;
  readonly id: (name: string) => string;
  readonly input: object;
  readonly result: object;
  readonly byCron: boolean;
}

const SCRATCH = makeTempDir('scratch');
const CASES: readonly Case[] = [
  {
    type: 'baseBackup',
    id: (name) => `backup/default/${name}`,
    input: { cluster: 'main', immediateCheckpoint: true },
    result: { phase: 'completed', method: 'barmanObjectStore' },
    byCron: true,
  },
  {
    type: 'scheduledBackup',
    id: (name) => `scheduled/default/${name}`,
    input: { cluster: 'main' },
    result: { phase: 'completed', method: 'barmanObjectStore' },
    byCron: true,
  },
  {
    type: 'retentionSweep',
    id: (name) => `sweep/default/main/${name}`,
    input: { cluster: 'main', dryRun: true },
    result: { dryRun: true },
    byCron: true,
  },
  {
    type: 'restoreVerification',
    id: (name) => `verification/default/main/${name}`,
    // The database of a test lies on the same file system as everything else: that has to be asked for.
    input: { cluster: 'main', scratchDirectory: SCRATCH },
    result: { result: 'verified', cluster: 'main' },
    byCron: true,
  },
  {
    type: 'walAudit',
    id: (name) => `audit/default/main/${name}`,
    input: { cluster: 'main' },
    // The temporal command line shows an empty list as null.
    result: { segments: expect.any(Number) },
    byCron: true,
  },
];
/** Those that live on; nothing of theirs is to be done again at a time. */
const LASTING = ['cluster', 'walArchiving'];
/** Started by other workflows only. */
const INNER = ['capacity'];

const exported = [
  ...readFileSync(join(repositoryRoot, 'workflows/index.ts'), 'utf8').matchAll(/^export \{ (\w+) \}/gm),
].map(([, name = '']) => name);

describeWith(['temporal', 'tctl'], 'every workflow, started by hand', () => {
  it('none is forgotten here', () => {
    const known = [...CASES.map(({ type }) => type), ...LASTING, ...INNER, 'restore'];
    expect(exported.toSorted()).toEqual(known.toSorted());
  });

  describeEachMajor(
    'with plain JSON',
    (major) => {
      let temporal: TemporalServer;
      let site: Site;
      let starters: readonly Starter[];
      const starterOf = (name: string): Starter => starters.find((one) => one.name === name)!;

      beforeAll(async () => {
        temporal = await startTemporal();
        site = await startSite({ temporal, major });
        giveToServerUser(SCRATCH);
        starters = createStarters(temporal);
        await site.backup('there-before');
      }, 3 * MINUTE);

      const query = async (workflowId: string, type: string): Promise<string> =>
        temporal.cli('workflow', 'query', '-w', workflowId, '--type', type, '-o', 'json');
      const terminate = async (workflowId: string): Promise<unknown> =>
        temporal.cli('workflow', 'terminate', '-w', workflowId).catch(() => undefined);
      const result = async (workflowId: string): Promise<unknown> => {
        const text = await temporal.cli('workflow', 'result', '-w', workflowId, '-o', 'json');
        return (JSON.parse(text) as { result: unknown }).result;
      };
      /** How often runs of this id have ended this way. */
      const count = async (workflowId: string, status: string): Promise<number> => {
        const query = `WorkflowId = '${workflowId}' AND ExecutionStatus = '${status}'`;
        const listed = JSON.parse(
          await temporal.cli('workflow', 'list', '--query', query, '-o', 'json'),
        ) as unknown[];
        return listed.length;
      };

      describe.each(['temporal', 'tctl'])('by %s', (name) => {
        it('cluster: the keeper knows its instance soon', async () => {
          const workflowId = 'cluster/default/main';
          await terminate(workflowId);
          await starterOf(name).start({ type: 'cluster', workflowId, input: site.manifests.at(-1) });
          await until(
            'the keeper to know',
            async () => (await query(workflowId, 'status')).includes('main-1'),
            {
              timeoutMs: MINUTE,
            },
          );
        });

        it('walArchiving: it shows how archiving stands', async () => {
          const workflowId = 'wal-archiving/default/main';
          await terminate(workflowId);
          await starterOf(name).start({ type: 'walArchiving', workflowId, input: { cluster: 'main' } });
          await until('a report', async () => (await query(workflowId, 'archiving')).includes('"working"'), {
            timeoutMs: MINUTE,
          });
        });

        it.each(CASES)('$type: it ends as it should', async ({ type, id, input, result: expected }) => {
          const workflowId = id(`by-${name}`);
          await starterOf(name).start({ type, workflowId, input });
          const found = await result(workflowId);
          expect(found, JSON.stringify(found)).toMatchObject(expected);
        });

        it.each(CASES.filter(({ byCron }) => byCron))(
          '$type with --cron: each run ends well, and the next one comes',
          async ({ type, id, input }) => {
            const workflowId = id(`cron-by-${name}`);
            await starterOf(name).start({ type, workflowId, input, cron: CRON });
            await until('two runs', async () => (await count(workflowId, 'Completed')) >= 2, {
              timeoutMs: 2 * MINUTE,
              everyMs: 500,
            });
            await terminate(workflowId);
            expect(await count(workflowId, 'Failed')).toBe(0);
          },
        );

        it('a wrong input ends at once, and names the field', async () => {
          for (const { type, id } of CASES) {
            const workflowId = id(`wrong-by-${name}`);
            await starterOf(name).start({ type, workflowId, input: { cluster: 7 } });
            await until(`${type} to fail`, async () => (await count(workflowId, 'Failed')) === 1);
            const shown = await temporal.cli('workflow', 'show', '-w', workflowId, '-o', 'json');
            expect(shown).toMatch(/input-invalid/);
            expect(shown).toMatch(/cluster/);
          }
        });

        it('restore: the rows of the source are there', async () => {
          const canary = await startCanary(site.postgres, { table: `canary_${name}` });
          await canary.waitFor(3);
          const commits = await canary.stop();
          await site.postgres.waitUntilArchived(await site.postgres.switchWal());
          const cluster = `copy-by-${name}`;
          const machine = createMachine({ temporal });
          const pgdata = join(makeTempDir('target'), 'data');
          const worker = await machine.startWorker({ cluster, instance: `${cluster}-1`, pgdata });
          await worker.waitUntilReady();
          const workflowId = `restore/default/${cluster}`;
          await starterOf(name).start({
            type: 'restore',
            workflowId,
            input: { cluster, source: { name: 'main', barmanObjectStore: site.barmanObjectStore } },
          });
          expect(await result(workflowId)).toMatchObject({ outcome: 'restored', isVerified: true });
          const server = await openPostgres({ major, dataDirectory: pgdata });
          await server.start();
          await server.waitUntilPromoted();
          expect(await readCanary(server, `canary_${name}`)).toEqual(idsUpTo(commits.length));
          await server.stop();
          await worker.stop();
        });
      });
    },
    [15],
  );
});
