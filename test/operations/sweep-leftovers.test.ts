import { beforeEach, describe, expect, it } from 'vitest';
import { claimAttempt, settleAttempt } from '../../operations/backup-attempt.ts';
import { sweep } from '../../operations/sweep.ts';
import { placeHold, listHolds } from '../../repository/holds.ts';
import { ownKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { aged, benchRules, keysOf, NEVER, putFourBackups } from './sweep-bench.ts';

const HOUR = 3_600_000;
const OWNER = { backupName: 'a', cluster: 'pg', namespace: 'default', instance: 'pg-1' };

describe('what belongs to no backup', () => {
  let r: Repository;
  let ages: [RegExp, number][];

  beforeEach(async () => {
    ages = [];
    const ageOf = (key: string) => ages.find(([wanted]) => wanted.test(key))?.[1] ?? 0;
    r = createRepository(aged(createMemoryStore(), ageOf), 'pg');
    await putFourBackups(r);
    ages = [[/\/(base|wals)\/(?!.*0102)/, 24 * HOUR]];
  });

  /** An attempt that uploaded two tars and then died. */
  async function attempt(): Promise<string> {
    const backupId = await claimAttempt(r, OWNER, { now: new Date('2027-01-02T01:02:03Z'), signal: NEVER });
    for (const key of [
      `pg/base/${backupId}/data.tar`,
      `pg/base/${backupId}/data_0001.tar`,
      ownKey('pg', 'attempts', backupId, 'data.tar.files.gz'),
    ])
      await r.store.put(key, Buffer.from('x'), { signal: NEVER });
    return backupId;
  }
  const run = () => sweep(r, benchRules({ keepLast: 9 }), { signal: NEVER, holder: 'test' });
  const about = async (id: string) => (await keysOf(r, { own: true })).filter((key) => key.includes(id));

  it('D5: an attempt that may still run is out of reach', async () => {
    const id = await attempt();
    // the deadline of an hour and the grace period of another one are not over
    ages = [[/\/attempts\/|0102/, 1.9 * HOUR], ...ages];
    const before = await about(id);
    expect((await run()).leftovers).toEqual([]);
    expect(await about(id)).toEqual(before);
  });

  it('D5: an attempt for which something was stored a short time ago is out of reach', async () => {
    const id = await attempt();
    ages = [[/data_0001/, 0.5 * HOUR], [/\/attempts\/|0102/, 30 * HOUR], ...ages];
    expect((await run()).leftovers).toEqual([]);
    expect(await about(id)).toHaveLength(4);
  });

  it('F2: what a dead attempt left goes, and nobody can record it any more; its id stays taken', async () => {
    const id = await attempt();
    ages = [[/\/attempts\/|0102/, 2.1 * HOUR], ...ages];
    expect((await run()).leftovers).toEqual([`the dead attempt ${id}: its tars and notes`]);
    expect(await about(id)).toEqual([`walkeep/attempts/${id}.json`, `walkeep/attempts/${id}/verdict`]);
    await expect(settleAttempt(r, id, 'record', { signal: NEVER })).rejects.toMatchObject({
      code: 'already-exists',
    });
    expect((await run()).leftovers).toEqual([]);
  });

  it('D3: an attempt that was about to be recorded is left alone, and it is said', async () => {
    const id = await attempt();
    await settleAttempt(r, id, 'record', { signal: NEVER });
    ages = [[/\/attempts\/|0102/, 30 * HOUR], ...ages];
    const report = await run();
    expect(report.leftovers).toEqual([]);
    expect(report.warnings.join()).toContain(`attempt ${id} was about to be recorded when it died`);
    expect((await about(id)).filter((key) => key.startsWith('base/'))).toHaveLength(2);
  });

  it('H9: a folder of another tool without a record is left alone, and it is said', async () => {
    await r.store.put('pg/base/20270102T010203/data.tar.gz', Buffer.from('x'), { signal: NEVER });
    ages = [[/0102/, 300 * HOUR], ...ages];
    const report = await run();
    expect(report.warnings.join()).toContain('base/20270102T010203 has no backup.info');
    expect(await about('20270102T010203')).toHaveLength(1);
  });

  it('holds that are long over go', async () => {
    await placeHold(
      r,
      { id: 'old', kind: 'restore', backupId: '20261122T222531', reason: 'x', lastsMs: HOUR },
      NEVER,
    );
    await placeHold(r, { id: 'mine', kind: 'manual', backupId: '20261122T222531', reason: 'x' }, NEVER);
    ages = [[/\/holds\//, 26 * HOUR], ...ages];
    expect((await run()).leftovers).toEqual(['the hold old, which is over']);
    expect((await listHolds(r, NEVER)).map(({ id }) => id)).toEqual(['mine']);
  });
});
