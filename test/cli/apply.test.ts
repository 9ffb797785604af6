import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { applyCommand } from '../../cli/apply.ts';
import { clusterWorkflowId } from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import { newWorld, startInstance, startTemporal } from '../workflows/fake-cluster.ts';

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

it('one document that a keeper refuses, and none of the files is applied; a dry run says the same', async () => {
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
  } finally {
    await keeperOf('strict')
      .terminate()
      .catch(() => undefined);
    await instance.stop();
  }
}, 90_000);
