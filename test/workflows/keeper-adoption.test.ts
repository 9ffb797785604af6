import { describe, expect, it } from 'vitest';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import type { HeldBesides } from '../../manifests/desire.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import type { ApplyInput, KnownInstance } from '../../workflows/interface.ts';
import { adopt, doubtOf, hasToBeAsked, noteNamed } from '../../workflows/keeper-adoption.ts';
import {
  applyTo,
  desireOf,
  newKeeper,
  noteInstance,
  type KeeperState,
} from '../../workflows/keeper-state.ts';
import { clusterManifest } from './fake-cluster.ts';

const NOW = '2026-11-24T02:00:00Z';

function policy(name: string, keepLast = 5) {
  return backupPolicySchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'BackupPolicy',
    metadata: { name },
    spec: { clusters: ['main'], retention: { keepLast } },
  });
}

function schedule(name: string) {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name },
    spec: { schedule: '0 0 2 * * *', cluster: { name: 'main' } },
  });
}

const begun = (): KeeperState => ({
  ...newKeeper(clusterSchema.parse(clusterManifest('main')), NOW),
  careful: true,
  besidesUnknown: true,
});
const none = { schedules: [], verifications: [] };
const apply = (state: KeeperState, input: ApplyInput) => noteNamed(applyTo(state, input).state, input);
const facts = (more: Partial<KnownInstance> = {}): KnownInstance => ({
  instance: 'main-1',
  role: 'primary',
  host: 'h',
  version: '0',
  searchAttributes: true,
  keepsBesides: true,
  seenAt: NOW,
  ...more,
});
const names = (state: KeeperState) => {
  const { policy: rules, schedules } = desireOf(state);
  return [rules?.spec.retention.keepLast, ...schedules.map(({ metadata }) => metadata.name)];
};

/** As a worker tells it. */
const tells = (instance: string, held: HeldBesides, revision?: number) => ({
  instance,
  held,
  ...(revision !== undefined && { revision }),
});
const isAsked = (state: KeeperState, instance: string) => hasToBeAsked(state, facts({ instance }));

describe('a keeper that is begun anew', () => {
  it('D3: asks before it replaces anything, and lets nothing be deleted until it was answered', () => {
    const state = begun();
    expect(isAsked(state, 'a')).toBe(true);
    expect(doubtOf(state)).toContain('no worker has told yet');
    const told = adopt(state, tells('a', { ...none, policy: policy('p', 9), schedules: [schedule('s')] }, 3));
    expect(names(told)).toEqual([9, 's']);
    expect(doubtOf(told)).toBeUndefined();
    expect(told.revision).toBeGreaterThan(state.revision);
    expect(isAsked(told, 'a')).toBe(false);
  });

  it('knows enough when a worker that keeps such things holds just what is declared; an older one says nothing', () => {
    const state = begun();
    const report = (more: Partial<KnownInstance>) =>
      noteInstance(state, facts({ revision: 1, ...more }), NOW);
    expect(doubtOf(report({ fingerprint: state.fingerprint }))).toBeUndefined();
    expect(doubtOf(report({ fingerprint: 'another' }))).toBeDefined();
    // Of 0.1.0: it ignores what it is sent besides, so it need not be asked, and its word is no proof.
    const old = { fingerprint: state.fingerprint, keepsBesides: false };
    expect(doubtOf(report(old))).toBeDefined();
    expect(hasToBeAsked(state, facts(old))).toBe(false);
  });

  it('D3: each worker is asked once, however late it comes and whatever this keeper has counted to by then', () => {
    const empty = adopt(begun(), tells('b', none));
    expect(doubtOf(empty)).toBeUndefined();
    // b was given several revisions since, and says so.
    const later = { ...empty, revision: 9 };
    const given = noteInstance(
      later,
      facts({ instance: 'b', revision: 9, fingerprint: later.fingerprint }),
      NOW,
    );
    expect(isAsked(given, 'a')).toBe(true);
    const told = adopt(given, tells('a', { ...none, policy: policy('p', 9), schedules: [schedule('s')] }, 3));
    expect(names(told)).toEqual([9, 's']);
    expect([isAsked(told, 'a'), isAsked(told, 'b')]).toEqual([false, false]);
  });

  it('D3: what was applied meanwhile counts, what was taken back stays away', () => {
    const applied = apply(begun(), {
      policy: policy('p', 1),
      scheduledBackups: [schedule('a')],
      remove: [{ kind: 'ScheduledBackup', name: 'gone' }],
    });
    const held = { ...none, policy: policy('p', 9), schedules: [schedule('gone'), schedule('s')] };
    expect(names(adopt(applied, tells('a', held, 3)))).toEqual([1, 'a', 's']);
    // Applied again after all, it is there.
    const again = apply(applied, { scheduledBackups: [schedule('gone')] });
    expect(names(adopt(again, tells('a', held, 3)))).toEqual([1, 'a', 'gone', 's']);
  });

  it('D3: of several workers the newest revision counts; of an older one a policy where none is known', () => {
    const first = adopt(
      begun(),
      tells('a', { ...none, policy: policy('p', 2), schedules: [schedule('old')] }, 3),
    );
    const second = adopt(
      first,
      tells('b', { ...none, policy: policy('p', 8), schedules: [schedule('new')] }, 7),
    );
    expect(names(second)).toEqual([8, 'new']);
    const third = adopt(
      second,
      tells('c', { ...none, policy: policy('p', 1), schedules: [schedule('older')] }, 5),
    );
    expect(names(third)).toEqual([8, 'new']);
    const bare = adopt(begun(), tells('b', { ...none, schedules: [schedule('new')] }, 7));
    const kept = adopt(
      bare,
      tells('a', { ...none, policy: policy('p', 2), schedules: [schedule('old')] }, 3),
    );
    expect(names(kept)).toEqual([2, 'new']);
    // An apply makes it its own: no worker changes it any more.
    const own = apply(second, { policy: policy('p', 4) });
    expect(names(adopt(own, tells('c', { ...none, policy: policy('p', 99) }, 40)))).toEqual([4]);
  });

  it('D3: a policy that can not be read keeps everything, until one is applied or taken back', () => {
    const damaged = { ...none, schedules: [schedule('s')], problem: 'the BackupPolicy "p" can not be read' };
    // Whoever answered first.
    for (const before of [begun(), adopt(begun(), tells('b', none))]) {
      const torn = adopt(before, tells('a', damaged));
      expect(doubtOf(torn)).toBe(damaged.problem);
      expect(names(torn)).toEqual([undefined, 's']);
      // Another one that holds just what is declared does not know it either.
      const other = noteInstance(torn, facts({ instance: 'b', fingerprint: torn.fingerprint }), NOW);
      expect(doubtOf(other)).toBe(damaged.problem);
      const applied = apply(torn, { policy: policy('p', 6) });
      expect(isAsked(applied, 'a')).toBe(true);
      const known = adopt(applied, tells('a', damaged));
      expect(doubtOf(known)).toBeUndefined();
      expect(names(known)).toEqual([6, 's']);
    }
  });

  it('D3: what there is no place for is said, and nothing is deleted until somebody decides', () => {
    const applied = apply(begun(), { policy: policy('mine', 1) });
    const held = { ...none, policy: policy('old', 9) };
    const torn = adopt(applied, tells('a', held, 3));
    expect(doubtOf(torn)).toContain(
      'a worker holds BackupPolicy/old besides what is declared, for which there is no place; ' +
        'take back what is not wanted: walkeep delete backuppolicy old --cluster main',
    );
    expect(torn.unplaced).toEqual(['BackupPolicy/old']);
    expect(names(torn)).toEqual([1]);
    const remove = [{ kind: 'BackupPolicy' as const, name: 'old' }];
    expect(applyTo(torn, { remove }).result.objects).toMatchObject([{ name: 'old', outcome: 'deleted' }]);
    const decided = apply(torn, { remove });
    expect(isAsked(decided, 'a')).toBe(true);
    expect(doubtOf(adopt(decided, tells('a', held, 3)))).toBeUndefined();

    const many = apply(begun(), { scheduledBackups: ['a', 'b', 'c'].map(schedule) });
    const ten = { ...none, schedules: Array.from({ length: 10 }, (_, n) => schedule(`held-${n}`)) };
    expect(doubtOf(adopt(many, tells('a', ten, 3)))).toContain('ScheduledBackup/held-7');
  });

  it('one that was never lost asks nobody', () => {
    const { careful: _careful, besidesUnknown: _unknown, ...state } = begun();
    expect(isAsked(state, 'a')).toBe(false);
  });
});
