import { describe, expect, it } from 'vitest';
import type { Host } from '../../cli/host.ts';
import { findDeclared, requireDeclared, whatChanged } from '../../cli/sweep-rules.ts';
import { rulesOf } from '../../operations/sweep-declared.ts';
import type { TemporalClient } from '../../cli/temporal-client.ts';
import { BackupError } from '../../core/errors.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import type { DesireAnswer } from '../../workflows/interface.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

const ASKED = { namespace: 'default', cluster: 'pg' };

function policy(keepLast: number) {
  return backupPolicySchema.parse({
    apiVersion: WALKEEP_API,
    kind: 'BackupPolicy',
    metadata: { name: 'p' },
    spec: { clusters: ['pg'], retention: { keepLast } },
  });
}

const DESIRE: DesireAnswer = {
  cluster: clusterSchema.parse(clusterManifest('pg')),
  policy: policy(9),
  schedules: [],
  verifications: [],
};

const notFound = () => Object.assign(new Error('workflow not found'), { name: 'WorkflowNotFoundError' });
const away = () => new BackupError('temporal-unavailable', 'Temporal at nowhere does not answer');

interface Asking {
  readonly describe?: () => { status: { name: string } };
  readonly query?: () => DesireAnswer;
  readonly connect?: () => void;
}

/** A host that keeps an older policy than the keeper declares. */
async function host(asking: () => Asking): Promise<Host> {
  const state = makeTempDir('state');
  await applyTestCluster(state, { name: 'pg', destinationPath: 'file:///srv/backups' });
  await openStateDirectory(state).backupPolicies.save(policy(2));
  const handle = {
    describe: async () => (asking().describe ?? (() => ({ status: { name: 'RUNNING' } })))(),
    query: async () => (asking().query ?? (() => DESIRE))(),
  };
  const client = { workflow: { getHandle: () => handle } };
  const temporal = { client, call: (_what: string, calls: (given: unknown) => unknown) => calls(client) };
  return {
    state: openStateDirectory(state),
    temporal: async () => {
      asking().connect?.();
      return temporal as unknown as TemporalClient;
    },
  } as unknown as Host;
}

const failing = (error: () => Error) => () => {
  throw error();
};
const ENDED: Asking = { describe: () => ({ status: { name: 'CANCELED' } }) };
const GONE: Asking = { describe: failing(notFound) };
const SILENT: Asking = { query: failing(away) };
const BROKEN: Asking = { query: failing(() => new Error('[TMPRL1100] nondeterminism')) };
const DENIED: Asking = { describe: failing(() => new Error('7 PERMISSION_DENIED: no')) };
const AWAY: Asking = { connect: failing(away) };
const FROZEN: Asking = { describe: failing(away) };

describe('what is declared about a cluster', () => {
  it('D3: is what its keeper says, with its doubt, whatever this host keeps', async () => {
    const doubt = 'a hold is not placed yet';
    for (const local of [true, false]) {
      const declared = await requireDeclared(await host(() => ({})), ASKED, local);
      expect(declared).not.toHaveProperty('caution');
      expect(rulesOf(declared)).toMatchObject({ policy: { keepLast: 9 } });
      expect(rulesOf(declared)).not.toHaveProperty('doubt');
    }
    const doubting = await host(() => ({ query: () => ({ ...DESIRE, doubt }) }));
    for (const declared of [
      await findDeclared(doubting, ASKED),
      await requireDeclared(doubting, ASKED, true),
    ])
      expect(rulesOf(declared)).toMatchObject({ policy: { keepLast: 9 }, doubt });
  });

  it.for([
    ['runs and does not answer', SILENT, 'worker-missing', 'worker-missing'],
    ['runs and fails', BROKEN, 'worker-missing', 'worker-missing'],
    ['may run, which Temporal does not tell', DENIED, 'worker-missing', 'worker-missing'],
    ['has ended', ENDED, 'cluster-unknown', 'files'],
    ['never was', GONE, 'cluster-unknown', 'files'],
    ['can not be asked, Temporal is away', AWAY, 'temporal-unavailable', 'files'],
    ['can not be asked, Temporal is frozen', FROZEN, 'temporal-unavailable', 'files'],
  ] as const)('D3: a keeper that %s', async ([, asking, without, withLocal]) => {
    const here = await host(() => asking);
    const shown = await findDeclared(here, ASKED);
    expect(shown.caution).toContain('the files of this host, which may be out of date');
    expect(rulesOf(shown)).toMatchObject({ policy: { keepLast: 2 } });

    const refused = requireDeclared(here, ASKED, false);
    await expect(refused).rejects.toMatchObject({
      code: without,
      message: expect.stringContaining('nothing was deleted'),
    });
    const local = requireDeclared(here, ASKED, true);
    if (withLocal === 'files') expect(rulesOf(await local)).toMatchObject({ policy: { keepLast: 2 } });
    else
      await expect(local).rejects.toMatchObject({
        code: withLocal,
        hint: expect.stringContaining('start walkeep worker'),
      });
  });

  it('D3: what a keeper that has ended knew counts for nothing, also where this host keeps nothing', async () => {
    const here = await host(() => ENDED);
    await here.state.clusters.remove('default', 'pg');
    await expect(requireDeclared(here, ASKED, true)).rejects.toMatchObject({ code: 'cluster-unknown' });
  });
});

describe('what is declared may change while a sweep deletes', () => {
  it.for([
    ['nothing new', {}, undefined],
    ['another policy', { query: () => ({ ...DESIRE, policy: policy(10) }) }, 'has changed meanwhile'],
    ['a doubt', { query: () => ({ ...DESIRE, doubt: 'a hold waits' }) }, 'a hold waits'],
    ['the Cluster is deleted', ENDED, 'deleted meanwhile'],
    ['no answer, which is no news', SILENT, undefined],
    ['Temporal goes away, which is no news', FROZEN, undefined],
    ['no answer for five minutes', SILENT, 'has not said for 5m', 300_000],
    ['Temporal is away for five minutes', FROZEN, 'has not said for 5m', 300_000],
    ['an answer after five minutes', {}, undefined, 300_000],
  ] as const)('D3: by the keeper: %s', async ([, later, says, afterMs = 299_999]) => {
    let asking: Asking = {};
    let clock = 0;
    const here = await host(() => asking);
    const before = await requireDeclared(here, ASKED, true, () => clock);
    asking = later;
    clock = afterMs;
    const changed = await whatChanged(here, ASKED, before);
    if (says === undefined) expect(changed).toBeUndefined();
    else expect(changed).toContain(says);
  });

  it.for([
    ['still none', GONE, undefined],
    ['a keeper', {}, 'has a keeper again'],
    ['a keeper that does not answer', SILENT, 'has a keeper again'],
    ['Temporal goes away', FROZEN, undefined],
  ] as const)('D3: by the files of this host: %s', async ([, later, says]) => {
    let asking: Asking = GONE;
    const here = await host(() => asking);
    const before = await requireDeclared(here, ASKED, true);
    asking = later;
    const changed = await whatChanged(here, ASKED, before);
    if (says === undefined) expect(changed).toBeUndefined();
    else expect(changed).toContain(says);
  });
});
