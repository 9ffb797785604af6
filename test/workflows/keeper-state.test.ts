import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canonicalJson, fingerprint, utf8Bytes } from '../../core/fingerprint.ts';
import { backupSchema } from '../../manifests/backup.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { clusterSchema, type ClusterManifest } from '../../manifests/cluster.ts';
import type { InstanceFacts } from '../../workflows/interface.ts';
import { adopt, noteNamed } from '../../workflows/keeper-adoption.ts';
import { noteAgenda, noteSlot, withAgenda } from '../../workflows/keeper-agenda.ts';
import { awaitedHold, giveUpHold, noteHold, unmadeHolds } from '../../workflows/keeper-holds.ts';
import { LIMITS } from '../../workflows/keeper-limits.ts';
import {
  noteWritten,
  outcomeOf,
  outcomesToKeep,
  unwrittenOutcomes,
} from '../../workflows/keeper-outcomes.ts';
import { fitting } from '../../workflows/keeper-size.ts';
import {
  applyTo,
  desireOf,
  instancesBehind,
  markBegun,
  newKeeper,
  nextBackup,
  noteArchiving,
  noteAudit,
  noteBackup,
  noteInstance,
  noteSweep,
  noteVerification,
  type KeeperState,
} from '../../workflows/keeper-state.ts';
import { problemsOf, statusOf } from '../../workflows/keeper-status.ts';
import { backupManifest, clusterManifest } from './fake-cluster.ts';

const NOW = '2026-11-24T02:00:00Z';

function manifest(spec: Record<string, unknown> = {}): ClusterManifest {
  return clusterSchema.parse(clusterManifest('main', spec));
}

function backup(name: string, spec: Record<string, unknown> = {}, hold?: string) {
  const plain = backupManifest(name, 'main', spec);
  const annotations = hold === undefined ? {} : { 'walkeep.io/hold': hold };
  return backupSchema.parse({ ...plain, metadata: { ...plain.metadata, annotations } });
}

const NONE = { schedules: [], verifications: [] };

function facts(instance: string, more: Partial<InstanceFacts> = {}): InstanceFacts {
  return { instance, role: 'primary', host: 'h', version: '0', searchAttributes: true, ...more };
}

describe('keeper state', () => {
  it('applying the same again changes nothing, whatever was applied', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.stringMatching(/^b[a-z0-9]{1,8}$/), { maxLength: 10 }), (names) => {
        const input = { cluster: manifest(), backups: names.map((name) => backup(name)) };
        const once = applyTo(newKeeper(manifest()), input).state;
        const twice = applyTo(once, input);
        expect(twice.state).toEqual(once);
        expect(twice.result.objects.every((object) => object.outcome === 'unchanged')).toBe(true);
      }),
    );
  });

  it('a recovery is begun again when the manifest was corrected, and not when the same is applied', () => {
    const begun = { ...newKeeper(manifest()), recoveryBegun: true };
    expect(applyTo(begun, { cluster: manifest() }).state.recoveryBegun).toBe(true);
    const corrected = applyTo(begun, { cluster: manifest({ instances: 5 }) });
    expect(corrected.state.recoveryBegun).toBe(false);
  });

  it('F4: stays below 64 KiB, whatever happens to it', () => {
    const long = 'ä'.repeat(2_000);
    const name = (n: number) => `${'a-name-as-long-as-names-may-be-'.repeat(8).slice(0, 232)}x${n}`;
    const damage = {
      kind: 'missing',
      timeline: 1,
      first: 'f'.repeat(24),
      last: 'f'.repeat(24),
      count: 3,
      detail: long,
    };
    const many = <Item>(item: Item): Item[] => Array.from({ length: 60 }, () => item);
    const happen: ((state: KeeperState, n: number) => KeeperState)[] = [
      (state, n) =>
        noteInstance(
          state,
          facts(name(n), { host: long, version: long, fingerprint: 'f'.repeat(16), revision: n }),
          NOW,
        ),
      (state, n) =>
        noteBackup(state, name(n), { phase: 'failed', error: long, startedAt: NOW, stoppedAt: NOW }, NOW),
      (state, n) =>
        noteBackup(
          state,
          name(n),
          { phase: 'failed', method: 'volumeSnapshot', error: long, startedAt: NOW, stoppedAt: NOW },
          NOW,
          true,
        ),
      (state, n) =>
        noteBackup(state, name(n), { phase: 'completed', backupId: '20261124T020000', stoppedAt: NOW }, NOW),
      (state, n) =>
        state.backups.length < LIMITS.waiting
          ? applyTo(state, { backups: [backup(name(n), {}, n % 3 === 0 ? long : undefined)] }).state
          : state,
      (state) => noteSweep(state, { at: NOW, dryRun: false, refused: long, counts: {} } as never),
      (state) => noteArchiving(state, { instance: 'i', at: NOW, lastError: long } as never),
      (state) =>
        noteAudit(state, {
          at: NOW,
          intervals: many({ timeline: 1, from: NOW, to: NOW, backupId: long, backupName: long }),
          damages: many(damage),
          warnings: many(long),
        } as never),
      (state, n) =>
        noteVerification(state, {
          id: 'i',
          name: name(n),
          error: long,
          checks: many({ name: long, result: 'failed', object: long, detail: long }),
          warnings: many(long),
          target: { kind: 'latest', value: long },
        } as never),
      (state, n) => adopt(state, { instance: name(n), held: { ...NONE, problem: long }, revision: n }),
      (state, n) => giveUpHold(state, name(n), long),
      (state) =>
        noteAgenda(state, {
          holdProblem: 'x'.repeat(400),
          knownSchedules: schedules.map(({ metadata }) => metadata.name),
        }),
      (state, n) =>
        noteSlot(withAgenda(state, NOW), {
          scheduledBackup: schedules[n % schedules.length]?.metadata.name ?? '',
          slot: '2026-11-24T03:00:00Z',
          outcome: 'missed',
          reason: long,
          backupName: name(n),
        }),
      (state, n) => noteNamed(state, { remove: [{ kind: 'ScheduledBackup', name: `${name(n)}-removed` }] }),
    ];
    const schedules = Array.from({ length: 8 }, (_, n) =>
      scheduledBackupSchema.parse({
        apiVersion: 'postgresql.cnpg.io/v1',
        kind: 'ScheduledBackup',
        metadata: { name: `${name(0).slice(0, 180)}x${n}` },
        spec: { schedule: '0 0 2 * * *', cluster: { name: 'main' } },
      }),
    );
    fc.assert(
      fc.property(
        fc.array(fc.record({ what: fc.nat(happen.length - 1), n: fc.nat(500) }), {
          minLength: 100,
          maxLength: 400,
        }),
        (events) => {
          const padding = 'x'.repeat(LIMITS.manifestBytes - 2_000);
          let state = applyTo(newKeeper(manifest({ imageName: padding })), {
            scheduledBackups: schedules,
          }).state;
          for (const { what, n } of events) state = happen[what]?.(state, n) ?? state;
          const carried = fitting(state);
          expect(utf8Bytes(canonicalJson(carried))).toBeLessThan(64 * 1024);
          expect(desireOf(carried)).toEqual(desireOf(state));
          expect(carried.backups).toEqual(state.backups);
          expect(unmadeHolds(carried)).toEqual(unmadeHolds(state));
          expect(unwrittenOutcomes(carried)).toEqual(expect.arrayContaining([...outcomesToKeep(state)]));
          expect(utf8Bytes(canonicalJson(statusOf(carried, 'default', Date.parse(NOW))))).toBeLessThan(
            64 * 1024,
          );
        },
      ),
      // To look for the smallest counterexample takes minutes, of which no timeout would hear.
      { numRuns: 30, endOnFailure: true },
    );
  });

  it('D1: a hold that is not placed yet is not forgotten, however many Backups end after it', () => {
    let state = applyTo(newKeeper(manifest()), { backups: [backup('kept', {}, '')] }).state;
    const done = { phase: 'completed', backupId: '20260124T020000', stoppedAt: NOW } as const;
    state = noteBackup(state, 'kept', done, NOW);
    expect(unmadeHolds(state)).toMatchObject([{ name: 'kept', reason: 'walkeep.io/hold' }]);
    for (let n = 0; n < 15; n += 1) state = noteBackup(state, `later-${n}`, done, NOW);
    expect(state.ended).toHaveLength(LIMITS.ended + 1);
    expect(awaitedHold(state)).toBe('kept');
    state = noteHold(state, 'kept', 'walkeep.io/hold');
    expect(awaitedHold(state)).toBeUndefined();
    expect(noteBackup(state, 'last', done, NOW).ended).toHaveLength(LIMITS.ended);
  });

  it('F2: how a Backup ended is not forgotten before it is written, those that can be applied again last of all', () => {
    const failed = { phase: 'failed', error: 'denied', stoppedAt: NOW } as const;
    let state = applyTo(newKeeper(manifest()), { backups: [backup('by-hand')] }).state;
    state = noteBackup(state, 'by-hand', failed, NOW, true);
    for (let n = 0; n < 40; n += 1) state = noteBackup(state, `scheduled-${n}`, failed, NOW, true);
    expect(unwrittenOutcomes(state)[0]).toBe('by-hand');
    for (let n = 0; n < LIMITS.ended; n += 1) state = noteBackup(state, `written-${n}`, failed, NOW);
    const open = unwrittenOutcomes(state);
    expect(open).toHaveLength(LIMITS.unwritten);
    expect([open[0], open.at(-1)]).toEqual(['by-hand', 'scheduled-39']);
    // When the state is large, too; and the reason, which nobody else knows.
    const padding = 'x'.repeat(LIMITS.stateBytes - utf8Bytes(canonicalJson(state)) + 600);
    const carried = fitting({ ...state, manifest: manifest({ imageName: padding }) });
    expect(utf8Bytes(canonicalJson(carried))).toBeLessThanOrEqual(LIMITS.stateBytes);
    expect(carried.ended.length).toBeLessThan(state.ended.length);
    expect(unwrittenOutcomes(carried)).toEqual(open);
    expect(carried.ended[0]).toMatchObject({ name: 'by-hand', error: 'denied' });
    expect(carried.ended.at(-1)).not.toHaveProperty('error');
    state = noteWritten(state, 'by-hand');
    expect(noteBackup(state, 'last', failed, NOW).ended.map(({ name }) => name)).not.toContain('by-hand');
  });

  it('F2: an outcome that the keeper writes has what its run would have written', () => {
    const failed = { phase: 'failed', startedAt: NOW, stoppedAt: NOW } as const;
    const write = (state: KeeperState) => outcomeOf(state.ended.find(({ name }) => name === 'b')!);
    const applied = applyTo(newKeeper(manifest()), {
      backups: [backup('b', { method: 'volumeSnapshot' })],
    }).state;
    const of = { backupName: 'b', ...failed };
    expect(write(noteBackup(applied, 'b', failed, NOW, true))).toEqual({ ...of, method: 'volumeSnapshot' });
    const told = noteBackup(newKeeper(manifest()), 'b', { ...failed, method: 'plugin' }, NOW, true);
    expect(write(told)).toEqual({ ...of, method: 'plugin' });
    expect(write(noteBackup(told, 'b', { ...failed, error: 'why' }, NOW))).toEqual({
      ...of,
      method: 'plugin',
      error: 'why',
    });
    expect(noteWritten(told, 'b').ended[0]).not.toHaveProperty('method');
  });

  it('D1: a Backup that waits with a hold may have been taken long ago: it is waited for', () => {
    const state = applyTo(newKeeper(manifest()), { backups: [backup('old', {}, 'why')] }).state;
    expect(awaitedHold(state)).toBe('old');
    const found = noteBackup(state, 'old', { phase: 'completed', backupId: '20260124T020000' }, NOW);
    expect(unmadeHolds(found)).toMatchObject([{ name: 'old', reason: 'why' }]);
    const late = giveUpHold(found, 'old', 'it is being deleted already');
    expect(awaitedHold(late)).toBeUndefined();
    expect(problemsOf(late, Date.parse(NOW)).join()).toContain('came too late');
    // Another annotation is another wish.
    expect(awaitedHold(applyTo(late, { backups: [backup('old', {}, 'again')] }).state)).toBe('old');
  });

  it('D1: what of a hold was placed too late is taken back with the annotation', () => {
    const applied = applyTo(newKeeper(manifest()), { backups: [backup('late', {}, 'why')] }).state;
    const running = noteBackup(applied, 'late', { phase: 'running', startedAt: NOW }, NOW);
    const done = noteBackup(running, 'late', { phase: 'completed', backupId: '20260124T020000' }, NOW);
    const late = giveUpHold(done, 'late', 'it is gone');
    expect(unmadeHolds(late)).toEqual([]);
    const taken = applyTo(late, { backups: [backup('late')] }).state;
    expect(unmadeHolds(taken)).toMatchObject([{ name: 'late', reason: null }]);
    expect(unmadeHolds(noteHold(taken, 'late', null))).toEqual([]);
  });

  it('D1, F4: none of as many holds as can wait is forgotten; what there is no room for is refused', () => {
    const done = { phase: 'completed', backupId: '20260124T020000', stoppedAt: NOW } as const;
    const failed = { phase: 'failed', method: 'volumeSnapshot', startedAt: NOW, stoppedAt: NOW } as const;
    const longest = (n: number) => `${'x'.repeat(250)}${n + 100}`;
    const reason = 'r'.repeat(LIMITS.holdBytes);
    let state = newKeeper(manifest({ imageName: 'x'.repeat(LIMITS.manifestBytes - 2_000) }));
    const round = (from: number, count: number, hold?: string) => {
      const names = Array.from({ length: count }, (_, n) => longest(from + n));
      for (const name of names) state = applyTo(state, { backups: [backup(name, {}, hold)] }).state;
      for (const name of names) state = noteBackup(state, name, done, NOW);
    };
    round(0, LIMITS.waiting, reason);
    expect(unmadeHolds(state)).toHaveLength(LIMITS.waiting);
    // Those without one push none of them out.
    for (let n = 0; n < 2 * LIMITS.ended; n += 1)
      state = noteBackup(
        state,
        longest(100 + n),
        { ...failed, error: 'e'.repeat(LIMITS.textBytes) },
        NOW,
        true,
      );
    round(200, LIMITS.ended, reason);
    expect(unmadeHolds(state)).toHaveLength(LIMITS.waiting + LIMITS.ended);
    const carried = fitting(state);
    expect(unmadeHolds(carried)).toEqual(unmadeHolds(state));
    expect(unwrittenOutcomes(carried)).toEqual([...outcomesToKeep(state)]);
    expect(unwrittenOutcomes(carried)).toHaveLength(LIMITS.unwritten);
    expect(utf8Bytes(canonicalJson(carried))).toBeLessThan(64 * 1024);
    for (const hold of [undefined, 'why'])
      expect(() => applyTo(state, { backups: [backup('one-more', {}, hold)] })).toThrow(
        /"one-more": the holds .* of 42 Backups are not made true .* no more can be remembered/,
      );
    // What is remembered may still change.
    expect(applyTo(state, { backups: [backup(longest(0), {}, 'why')] }).result.objects[0]?.outcome).toBe(
      'configured',
    );
    state = noteHold(state, longest(0), reason);
    expect(() => applyTo(state, { backups: [backup('one-more', {}, 'why')] })).not.toThrow();
  });

  it('one Backup at a time, in the order they were applied', () => {
    let state: KeeperState = applyTo(newKeeper(manifest()), { backups: [backup('b2'), backup('b1')] }).state;
    expect(nextBackup(state)?.name).toBe('b2');
    state = markBegun(state, 'b2');
    expect(nextBackup(state)).toBeUndefined();
    state = noteBackup(state, 'b2', { phase: 'running', startedAt: NOW }, NOW);
    expect(nextBackup(state)).toBeUndefined();
    state = noteBackup(state, 'b2', { phase: 'completed', backupId: '20260124T020000' }, NOW);
    expect(nextBackup(state)?.name).toBe('b1');
    expect(state.lastSuccessfulBackup).toBe(NOW);
  });

  it('the name of a Backup that was started by hand is taken', () => {
    const state = noteBackup(newKeeper(manifest()), 'by-hand', { phase: 'completed' }, NOW);
    const { result } = applyTo(state, { backups: [backup('by-hand')] });
    expect(result.objects[0]?.outcome).toBe('unchanged');
  });

  it('a BackupSpec is immutable', () => {
    const { state } = applyTo(newKeeper(manifest()), { backups: [backup('b1')] });
    expect(() => applyTo(state, { backups: [backup('b1', { target: 'primary' })] })).toThrow(/immutable/);
  });

  it.for([
    { why: 'a worker that holds nothing', held: {}, revision: 1, behind: true },
    {
      why: 'a worker that holds the applied manifest',
      held: { revision: 1, fingerprint: 'same' },
      revision: 1,
      behind: false,
    },
    {
      why: 'the same manifest under a later revision',
      held: { revision: 7, fingerprint: 'same' },
      revision: 7,
      behind: false,
    },
    {
      why: 'another manifest under a later revision',
      held: { revision: 7, fingerprint: 'other' },
      revision: 8,
      behind: true,
    },
    {
      why: 'another manifest under the same revision',
      held: { revision: 1, fingerprint: 'other' },
      revision: 2,
      behind: true,
    },
  ])('$why', ({ held, revision, behind }) => {
    const start = newKeeper(manifest());
    const report = facts(
      'i1',
      held.fingerprint === 'same' ? { ...held, fingerprint: start.fingerprint } : held,
    );
    const state = noteInstance(start, report, NOW);
    expect(state.revision).toBe(revision);
    expect(instancesBehind(state).length).toBe(behind ? 1 : 0);
  });

  it('a fingerprint does not depend on the order of keys, and shows every change', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.string(), (value, key) => {
        const reversed = Object.fromEntries(Object.entries(value).toReversed());
        expect(fingerprint(reversed)).toBe(fingerprint(value));
        expect(fingerprint({ ...value, [`${key}+`]: 'new' })).not.toBe(fingerprint(value));
      }),
    );
  });
});
