import { describe, expect, it } from 'vitest';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import type { ApplyInput, KnownInstance } from '../../workflows/interface.ts';
import { adopt, doubtOf, hasToBeAsked, noteNamed, noteSent } from '../../workflows/keeper-adoption.ts';
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
  seenAt: NOW,
  ...more,
});
const names = (state: KeeperState) => {
  const { policy: rules, schedules } = desireOf(state);
  return [rules?.spec.retention.keepLast, ...schedules.map(({ metadata }) => metadata.name)];
};

describe('a keeper that is begun anew', () => {
  it('D3: asks before it replaces anything, and lets nothing be deleted until it was answered', () => {
    const state = begun();
    expect(hasToBeAsked(state, facts({ revision: 3 }))).toBe(true);
    expect(doubtOf(state)).toContain('no worker has told yet');
    const told = adopt(state, { ...none, policy: policy('p', 9), schedules: [schedule('s')] }, 3);
    expect(names(told)).toEqual([9, 's']);
    expect(doubtOf(told)).toBeUndefined();
    expect(told.revision).toBeGreaterThan(state.revision);
    expect(hasToBeAsked(told, facts({ revision: 3 }))).toBe(false);
  });

  it('knows enough when a worker holds just what is declared, or is of a version that held no more', () => {
    const state = begun();
    expect(
      doubtOf(noteInstance(state, facts({ revision: 1, fingerprint: state.fingerprint }), NOW)),
    ).toBeUndefined();
    expect(doubtOf(noteInstance(state, facts({ revision: 1, fingerprint: 'another' }), NOW))).toBeDefined();
    expect(doubtOf(adopt(state, undefined, 1))).toBeUndefined();
  });

  it('D3: what was applied meanwhile counts, what was taken back stays away', () => {
    const applied = apply(begun(), {
      policy: policy('mine', 1),
      scheduledBackups: [schedule('a')],
      remove: [{ kind: 'ScheduledBackup', name: 'gone' }],
    });
    const held = { ...none, policy: policy('old', 9), schedules: [schedule('gone'), schedule('s')] };
    expect(names(adopt(applied, held, 3))).toEqual([1, 'a', 's']);
    // Applied again after all, it is there.
    const again = apply(applied, { scheduledBackups: [schedule('gone')] });
    expect(names(adopt(again, held, 3))).toEqual([1, 'a', 'gone', 's']);
  });

  it('D3: of several workers the newest revision counts, and one that is older than what was sent is not asked', () => {
    const first = adopt(begun(), { ...none, policy: policy('p', 2), schedules: [schedule('old')] }, 3);
    expect(hasToBeAsked(first, facts({ revision: 7 }))).toBe(true);
    const second = adopt(first, { ...none, policy: policy('p', 8), schedules: [schedule('new')] }, 7);
    expect(names(second)).toEqual([8, 'new']);
    const sent = noteSent(second, 30);
    expect(hasToBeAsked(sent, facts({ revision: 20 }))).toBe(false);
    expect(hasToBeAsked(sent, facts({ revision: 31 }))).toBe(true);
    // An apply makes it its own: no worker changes it any more.
    const own = apply(second, { policy: policy('p', 4) });
    expect(names(adopt(own, { ...none, policy: policy('p', 99) }, 40))).toEqual([4]);
  });

  it('D3: a policy that can not be read keeps everything, until one is applied or taken back', () => {
    const damaged = { ...none, schedules: [schedule('s')], problem: 'the BackupPolicy "p" can not be read' };
    const torn = adopt(begun(), damaged, undefined);
    expect(doubtOf(torn)).toBe(damaged.problem);
    expect(names(torn)).toEqual([undefined, 's']);
    const applied = apply(torn, { policy: policy('p', 6) });
    const known = adopt(applied, damaged, undefined);
    expect(doubtOf(known)).toBeUndefined();
    expect(names(known)).toEqual([6, 's']);
  });

  it('one that was never lost asks nobody', () => {
    const { careful: _careful, besidesUnknown: _unknown, ...state } = begun();
    expect(hasToBeAsked(state, facts({ revision: 100 }))).toBe(false);
    expect(adopt(state, undefined, 1).adoption).toBeDefined();
  });
});
