import type { Client } from '@temporalio/client';
import { NativeConnection } from '@temporalio/worker';
import { beforeAll, expect, it } from 'vitest';
import { onCleanUp } from '../support/cleanup.ts';
import { tctl } from '../support/starters.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { clusterManifest, newWorld, quiet, startInstance } from '../workflows/fake-cluster.ts';

/** Temporal's former command line, 1.15: what is its own way of doing things must not matter to workflows. */
describeWith(['temporal', 'tctl'], 'tctl', () => {
  let temporal: TemporalServer;
  let client: Client;

  beforeAll(async () => {
    quiet();
    temporal = await startTemporal();
    client = await temporal.client();
    const connection = await NativeConnection.connect({ address: temporal.address });
    const world = newWorld();
    world.manifests.set('main-1:default/main', { manifest: clusterManifest('main'), revision: 1 });
    const worker = await startInstance({ connection }, world, { cluster: 'main', instance: 'main-1' });
    onCleanUp(async () => {
      await worker.stop();
      await connection.close();
    });
  });

  const start = async (type: string, workflowId: string, ...args: string[]): Promise<string> =>
    tctl(
      temporal,
      'workflow',
      'start',
      '--taskqueue',
      'walkeep',
      '--workflow_type',
      type,
      '--workflow_id',
      workflowId,
      ...args,
    );
  const resultOf = async (workflowId: string): Promise<unknown> =>
    client.workflow.getHandle(workflowId).result();

  it('null for a field is no value: the default is taken', async () => {
    await start(
      'baseBackup',
      'backup/default/nulls',
      '--input',
      '{"cluster":"main","target":null,"name":null}',
    );
    expect(await resultOf('backup/default/nulls')).toMatchObject({ phase: 'completed', backupName: 'nulls' });
  });

  it('no input, null and an input of another kind end at once, saying what is expected', async () => {
    for (const [name, ...input] of [
      ['none'],
      ['null', '--input', 'null'],
      ['text', '--input', '"main"'],
      ['list', '--input', '["main"]'],
      ['two', '--input', '{"cluster":"main","clutser":"x"}'],
    ] as const) {
      const workflowId = `backup/default/${name}`;
      await start('baseBackup', workflowId, ...input);
      await expect(resultOf(workflowId)).rejects.toMatchObject({
        cause: { type: 'input-invalid', message: expect.stringContaining('"production-postgres"') },
      });
    }
  });

  it('a cron start has five fields, waits for its time, and is ended by terminate', async () => {
    const workflowId = 'backup/default/nightly';
    await start('baseBackup', workflowId, '--input', '{"cluster":"main"}', '--cron', '0 2 * * *');
    const { events } = await client.workflow.getHandle(workflowId).fetchHistory();
    const started = events?.[0]?.workflowExecutionStartedEventAttributes;
    expect(started?.cronSchedule).toBe('0 2 * * *');
    expect(Number(started?.firstWorkflowTaskBackoff?.seconds)).toBeGreaterThan(0);
    await tctl(temporal, 'workflow', 'terminate', '--workflow_id', workflowId);
    await expect(
      start('baseBackup', 'backup/default/six', '--input', '{"cluster":"main"}', '--cron', '0 0 2 * * *'),
    ).rejects.toThrow(/cron/i);
  });

  it('queries, signals and lists work', async () => {
    const keeper = 'cluster/default/main';
    await start('cluster', keeper, '--input', JSON.stringify(clusterManifest('main')));
    const query = async () =>
      tctl(temporal, 'workflow', 'query', '--workflow_id', keeper, '--query_type', 'status');
    await until('the keeper to know its instance', async () => (await query()).includes('main-1'));
    await tctl(
      temporal,
      'workflow',
      'signal',
      '--workflow_id',
      keeper,
      '--name',
      'whoIsThere',
      '--input',
      '{"replyTo":"nobody"}',
    );
    const listed = await until('it to be listed', async () => {
      const text = await tctl(temporal, 'workflow', 'list', '--open', '--query', "WalkeepCluster = 'main'");
      return text.includes('cluster/') ? text : undefined;
    });
    expect(listed).toContain('walkeep');
    await tctl(temporal, 'workflow', 'cancel', '--workflow_id', keeper);
    await expect(resultOf(keeper)).rejects.toThrow(/cancel/i);
  });
});
