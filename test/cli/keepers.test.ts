import { expect, it } from 'vitest';
import type { Host } from '../../cli/host.ts';
import { knownClusters, knownClustersAtBest } from '../../cli/keepers.ts';
import type { TemporalClient } from '../../cli/temporal-client.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { clusterWorkflowId } from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

/** Temporal with so many keepers, whose listing breaks off after some. */
function temporalWith(keepers: number, breaksAfter = Infinity): Pick<TemporalClient, 'call'> {
  const list = async function* () {
    for (let at = 0; at < keepers; at++) {
      if (at >= breaksAfter) throw new Error('PERMISSION_DENIED: Request unauthorized.');
      yield await Promise.resolve({ workflowId: clusterWorkflowId(at % 2 ? 'default' : 'other', `c${at}`) });
    }
  };
  const client = { workflow: { list } } as unknown as TemporalClient['client'];
  return { call: (_what, calls) => calls(client) };
}

async function hostWith(cluster: string): Promise<Host> {
  const state = openStateDirectory(makeTempDir('state'));
  await state.clusters.save(clusterManifest(cluster));
  return { state } as Partial<Host> as Host;
}

it('every keeper of the namespace is known, however many there are, and what this host knows', async () => {
  const known = await knownClusters(await hostWith('here'), temporalWith(5_000), 'default');
  expect(known).toHaveLength(2_501);
  expect(known).toEqual(expect.arrayContaining(['here', 'c1', 'c4999']));
});

it('a listing that fails, or breaks off, is no answer: nothing is changed by a part of it', async () => {
  const host = await hostWith('here');
  for (const breaksAfter of [0, 10])
    await expect(knownClusters(host, temporalWith(20, breaksAfter), 'default')).rejects.toMatchObject({
      code: 'temporal-unavailable',
      message: expect.stringMatching(/does not list the keepers.*PERMISSION_DENIED.*; nothing was changed/),
    });
  expect(await knownClustersAtBest(host, temporalWith(20, 10), 'default')).toEqual(['here']);
});
