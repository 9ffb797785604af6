import { expect, it } from 'vitest';
import type { Host } from '../../cli/host.ts';
import { findBackups, requireNamed } from '../../cli/known-backups.ts';
import type { TemporalClient } from '../../cli/temporal-client.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { clusterWorkflowId } from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

/** A host where nothing was applied, and a Temporal with the keeper of `shop`. */
function hostWith(manifest: () => Promise<unknown>): Host {
  const list = async function* () {
    yield await Promise.resolve({ workflowId: clusterWorkflowId('default', 'shop') });
  };
  const query = async ({ name }: { name: string }) =>
    name === 'manifest' ? { manifest: await manifest(), revision: 1 } : { backups: [] };
  const client = { workflow: { list, getHandle: () => ({ query }) } } as unknown as TemporalClient['client'];
  const temporal = { call: (_what: string, work: (c: typeof client) => Promise<unknown>) => work(client) };
  const resolver = () => Promise.reject(new Error('there is no Secret "keys" here'));
  return {
    state: openStateDirectory(makeTempDir('state')),
    resolver: { resolve: resolver } as unknown as Host['resolver'],
    temporal: () => Promise.resolve(temporal as unknown as TemporalClient),
  } as Partial<Host> as Host;
}

it('a cluster that was applied elsewhere is asked for, and its repository that can not be read is no empty list', async () => {
  const manifest = clusterManifest('shop');
  const known = await findBackups(
    hostWith(() => Promise.resolve(manifest)),
    'default',
  );
  expect(known.unread).toBeDefined();
  expect(known.silent.join()).toMatch(/the repository of shop/);
  expect(() => requireNamed(known, 'default', 'before-all')).toThrow(/is not known/);
});

it('a keeper that does not say its manifest leaves the list a part', async () => {
  const known = await findBackups(
    hostWith(() => Promise.reject(new Error('worker away'))),
    'default',
  );
  expect(known.silent.join()).toMatch(/the manifest of shop/);
  expect(known.unread).toBeDefined();
});
