import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { applyCommand } from '../../cli/apply.ts';
import { backupWorkflowId, clusterWorkflowId, desireQuery } from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import { eventually, newWorld, startInstance, startTemporal } from '../workflows/fake-cluster.ts';

let temporal: TestWorkflowEnvironment;
beforeAll(async () => {
  temporal = await startTemporal();
  vi.stubEnv('TEMPORAL_ADDRESS', temporal.address);
  vi.stubEnv('TEMPORAL_NAMESPACE', 'default');
}, 60_000);
afterEach(() => vi.restoreAllMocks());
afterAll(async () => {
  vi.unstubAllEnvs();
  await temporal?.teardown();
});

const CLUSTER = (name: string) => `---
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: ${name}}
spec: {backup: {barmanObjectStore: {destinationPath: file:///srv/backups}}}
`;
const BACKUP = (target: string) => `---
apiVersion: postgresql.cnpg.io/v1
kind: Backup
metadata: {name: b}
spec: {cluster: {name: strict}, target: ${target}}
`;
const SECRET = `---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {a: b}
`;

it('D1: one document that a keeper refuses, or a hold that nobody would place, and none of the files is applied; a dry run says the same', async () => {
  const instance = await startInstance({ connection: temporal.nativeConnection }, newWorld(), {
    cluster: 'strict',
    instance: 'strict-1',
  });
  const state = makeTempDir('state');
  const file = join(makeTempDir('manifests'), 'all.yaml');
  vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const apply = (text: string, ...more: string[]) => {
    writeFileSync(file, text);
    return applyCommand().parseAsync(['-f', file, '--state', state, ...more], { from: 'user' });
  };
  const keeperOf = (name: string) => temporal.client.workflow.getHandle(clusterWorkflowId('default', name));
  try {
    await apply(CLUSTER('strict') + BACKUP('primary'));
    const changed = SECRET + CLUSTER('aaa') + CLUSTER('strict') + BACKUP('prefer-standby');
    for (const more of [['--dry-run'], []]) {
      await expect(apply(changed, ...more), more.join()).rejects.toMatchObject({
        code: 'manifest-invalid',
        message: expect.stringContaining('immutable'),
      });
    }
    expect(existsSync(join(state, 'secrets'))).toBe(false);
    await expect(keeperOf('aaa').describe()).rejects.toMatchObject({ name: 'WorkflowNotFoundError' });
    await keeperOf('strict').terminate();
    // what an ended keeper knew binds nobody
    await apply(CLUSTER('strict') + BACKUP('prefer-standby'), '--dry-run');

    // Nobody would place it.
    const held = BACKUP('primary').replace('{name: b}', "{name: held, annotations: {walkeep.io/hold: ''}}");
    for (const more of [['--dry-run'], []]) {
      await expect(apply(SECRET + held, ...more), more.join()).rejects.toMatchObject({
        code: 'manifest-invalid',
        message: expect.stringMatching(/"held".*no keeper of default\/strict runs/),
      });
    }
    expect(existsSync(join(state, 'secrets'))).toBe(false);
    const run = temporal.client.workflow.getHandle(backupWorkflowId('default', 'held'));
    await expect(run.describe()).rejects.toMatchObject({ name: 'WorkflowNotFoundError' });
  } finally {
    await keeperOf('strict')
      .terminate()
      .catch(() => undefined);
    await instance.stop();
  }
}, 90_000);

it('D3: a policy that names a cluster no longer is refused, and a new keeper says what it took over', async () => {
  const world = newWorld();
  const instances = await Promise.all(
    ['one', 'two'].map((cluster) =>
      startInstance({ connection: temporal.nativeConnection }, world, {
        cluster,
        instance: `${cluster}-1`,
        queues: cluster === 'one' ? ['workflows', 'cluster', 'instance'] : ['cluster', 'instance'],
      }),
    ),
  );
  const state = makeTempDir('state');
  const file = join(makeTempDir('manifests'), 'all.yaml');
  const said: string[] = [];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => said.push(String(text)) > 0);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const apply = (text: string) => {
    writeFileSync(file, text);
    return applyCommand().parseAsync(['-f', file, '--state', state], { from: 'user' });
  };
  const policy = (clusters: string) => `---
apiVersion: walkeep.io/v1
kind: BackupPolicy
metadata: {name: p}
spec: {clusters: [${clusters}], retention: {keepLast: 4}}
`;
  const keeperOf = (name: string) => temporal.client.workflow.getHandle(clusterWorkflowId('default', name));
  try {
    await apply(CLUSTER('one') + CLUSTER('two') + policy('one, two'));
    await eventually('Temporal lists both', async () => {
      let found = 0;
      for await (const _ of temporal.client.workflow.list({
        query: `WorkflowType = 'cluster' AND ExecutionStatus = 'Running' AND WorkflowId IN ('cluster/default/one', 'cluster/default/two')`,
      }))
        found += 1;
      return found === 2;
    });
    await expect(apply(SECRET + policy('one'))).rejects.toMatchObject({
      code: 'manifest-invalid',
      message: expect.stringContaining('no longer names "two", which goes by it; nothing was applied'),
      hint: expect.stringContaining('walkeep delete backuppolicy p --cluster two'),
    });
    expect(existsSync(join(state, 'secrets'))).toBe(false);
    const { policy: kept } = await keeperOf('two').query(desireQuery);
    expect(kept?.spec.clusters).toEqual(['one', 'two']);

    await keeperOf('two').terminate();
    said.length = 0;
    await apply(CLUSTER('two'));
    expect(said.join('')).toContain('backuppolicy.walkeep.io/p taken over: a worker of two held it');
  } finally {
    for (const name of ['one', 'two'])
      await keeperOf(name)
        .terminate()
        .catch(() => undefined);
    for (const instance of instances) await instance.stop();
  }
}, 90_000);
