import { writeFileSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import type { SweepReport } from '../../core/sweep-report.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { SWEEP_LEASE } from '../../operations/sweep.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { takeLease } from '../../repository/lease.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { beginDeletion } from '../../repository/tombstones.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { freePort, runProcess, type Outcome } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { keysOf, makeOld, NEVER, putFourBackups } from '../operations/sweep-bench.ts';

describe('walkeep sweep', { timeout: 60_000 }, () => {
  let directory: string;
  let state: string;
  let r: Repository;
  let ids: string[];
  let walkeep: (...args: string[]) => Promise<Outcome>;

  beforeEach(async () => {
    directory = makeTempDir('sweep');
    state = makeTempDir('state');
    r = createRepository(createFilesystemStore(directory), 'pg');
    ids = await putFourBackups(r);
    makeOld(directory, 2 * 3_600_000);
    await applyTestCluster(state, { name: 'pg', destinationPath: `file://${directory}` });
    // nobody listens there
    const address = `127.0.0.1:${await freePort()}`;
    walkeep = (...args) =>
      runProcess(process.execPath, [join(repositoryRoot, 'cli/main.ts'), ...args, '--state', state], {
        env: { ...process.env, TEMPORAL_ADDRESS: address, NO_COLOR: '1' },
        input: '',
      });
  });

  const applyPolicy = () =>
    openStateDirectory(state).backupPolicies.save(
      backupPolicySchema.parse({
        apiVersion: WALKEEP_API,
        kind: 'BackupPolicy',
        metadata: { name: 'p', namespace: 'default' },
        spec: {
          clusters: ['pg'],
          attempts: { deadline: '1h' },
          retention: { keepLast: 2, daily: 0, weekly: 0, monthly: 0, yearly: 0, minimum: 1, grace: '1h' },
        },
      }),
    );

  it('D3: a cluster without a policy is told that everything stays', async () => {
    const { code, stdout } = await walkeep('sweep', 'pg', '--dry-run');
    expect(code).toBe(0);
    expect(stdout).toMatch(/4 kept, 0 to mark, 0 waiting, 0 to delete/);
  });

  it('D3: with Temporal away it shows a table, deletes only with --local, and asks before it does', async () => {
    await applyPolicy();
    const before = await keysOf(r, { own: true });
    const plan = await walkeep('sweep', 'pg', '--dry-run');
    expect(plan, plan.stderr).toMatchObject({ code: 0 });
    expect(plan.stdout).toMatch(/^BACKUP ID +NAME +ENDED +SIZE +DECISION +DUE +BECAUSE$/m);
    expect(plan.stdout).toMatch(new RegExp(`^${ids[0]} .* mark .*`, 'm'));
    expect(plan.stdout).toMatch(/^FIRST WAL +LAST WAL +SEGMENTS +DECISION +BECAUSE$/m);

    expect(plan.stderr).toMatch(/nobody listens there; .* the files of this host, which may be out of date/);

    const unasked = await walkeep('sweep', 'pg', '--local');
    expect(unasked).toMatchObject({ code: 2, stderr: expect.stringContaining('--yes') });
    const refused = await walkeep('sweep', 'pg', '--yes');
    expect(refused).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/Temporal at .*: nothing was deleted.*add --local/),
    });
    expect(await keysOf(r, { own: true })).toEqual(before);

    const first = await walkeep('sweep', 'pg', '--yes', '--local');
    expect(first, first.stderr).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('the files of this host'),
    });
    makeOld(join(directory, 'pg/walkeep/tombstones'), 2 * 3_600_000);
    const second = await walkeep('sweep', 'pg', '--yes', '--local', '-o', 'json');
    expect(second, second.stderr).toMatchObject({ code: 0 });
    expect((JSON.parse(second.stdout) as SweepReport).counts).toMatchObject({ deletedBackups: 2 });
    expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
    expect(await walkeep('sweep', 'pg', '--local')).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('nothing to do'),
    });
  });

  it('D3: a policy of this host that can not be read deletes nothing', async () => {
    await applyPolicy();
    const [file = ''] = readdirSync(state, { recursive: true, encoding: 'utf8' }).filter((name) =>
      /polic.*json$/.test(name),
    );
    expect(file).not.toBe('');
    mkdirSync(state, { recursive: true });
    writeFileSync(join(state, file), '{"half');
    expect(await walkeep('sweep', 'pg', '--yes', '--local')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('BackupPolicy'),
    });
    expect(await listBackups(r, NEVER)).toHaveLength(4);
  });

  it('D3: a refusal is said, and is no success', async () => {
    await applyPolicy();
    await r.store.put('pg/base/20200101T000000/backup.info', Buffer.from('garbage'), { signal: NEVER });
    const { code, stdout } = await walkeep('sweep', 'pg', '--dry-run');
    expect(code).toBe(9);
    expect(stdout).toContain('Nothing is deleted: ');
    expect(stdout).not.toMatch(/nothing is deleted: nothing is deleted/i);
  });

  it('E5: keep and release are barman’s, by id', async () => {
    const [oldest = ''] = ids;
    expect(await walkeep('keep', 'pg', oldest, '--standalone')).toMatchObject({ code: 0 });
    expect((await listBackups(r, NEVER))[0]).toMatchObject({ backupId: oldest, keep: 'standalone' });
    expect(await walkeep('release', 'pg', oldest)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('released'),
    });
    expect((await listBackups(r, NEVER))[0]).not.toHaveProperty('keep');
    expect(await walkeep('keep', 'pg', '20200101T000000')).toMatchObject({ code: 4 });
  });

  it('D4: keep makes a whole backup that was left as being deleted one again, and of a half-deleted one writes nothing', async () => {
    const [oldest = '', second = ''] = ids;
    for (const id of [oldest, second]) await beginDeletion(r, id, NEVER);
    await r.store.delete([`pg/base/${second}/data.tar`], { signal: NEVER });
    const before = await keysOf(r, { own: true });
    expect(await walkeep('keep', 'pg', second)).toMatchObject({
      code: 9,
      stderr: expect.stringContaining('is being deleted already'),
    });
    expect(await keysOf(r, { own: true })).toEqual(before);

    const sweeping = await takeLease(r, SWEEP_LEASE, { signal: NEVER, holder: 'a sweep' });
    expect(await walkeep('keep', 'pg', oldest)).toMatchObject({
      code: 9,
      stderr: expect.stringMatching(/whether it spares it is seen when it has ended.*do the same again/s),
    });
    await sweeping.release();
    expect(await walkeep('keep', 'pg', oldest)).toMatchObject({ code: 0 });
    const [entry] = await listBackups(r, NEVER);
    expect(entry).toMatchObject({ backupId: oldest, keep: 'full' });
    expect(entry?.problem).toBeUndefined();
  });
});
