import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canonicalJson, fingerprint, utf8Bytes } from '../../core/fingerprint.ts';
import { backupSchema } from '../../manifests/backup.ts';
import { clusterSchema, type ClusterManifest } from '../../manifests/cluster.ts';
import type { InstanceFacts } from '../../workflows/interface.ts';
import {
  applyTo,
  instancesBehind,
  LIMITS,
  markBegun,
  newKeeper,
  nextBackup,
  noteBackup,
  noteInstance,
  type KeeperState,
} from '../../workflows/keeper-state.ts';
import { statusOf } from '../../workflows/keeper-status.ts';
import { backupManifest, clusterManifest } from './fake-cluster.ts';

const NOW = '2026-11-24T02:00:00Z';

function manifest(spec: Record<string, unknown> = {}): ClusterManifest {
  return clusterSchema.parse(clusterManifest('main', spec));
}

function backup(name: string, spec: Record<string, unknown> = {}) {
  return backupSchema.parse(backupManifest(name, 'main', spec));
}

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
    const event = fc.oneof(
      fc.record({ what: fc.constant('apply' as const), n: fc.nat(500) }),
      fc.record({ what: fc.constant('end' as const), n: fc.nat(500) }),
      fc.record({ what: fc.constant('instance' as const), n: fc.nat(500) }),
    );
    fc.assert(
      fc.property(fc.array(event, { minLength: 100, maxLength: 400 }), (events) => {
        const padding = 'x'.repeat(LIMITS.manifestBytes - 1_000);
        let state = newKeeper(manifest({ imageName: padding }));
        for (const { what, n } of events) {
          const name = `backup-with-a-rather-long-name-${n}`;
          if (what === 'instance')
            state = noteInstance(state, facts(`instance-${n}`, { host: 'a-host.example.org' }), NOW);
          if (what === 'end')
            state = noteBackup(state, name, { phase: 'failed', error: long, stoppedAt: NOW }, NOW);
          if (what === 'apply' && state.backups.length < LIMITS.waiting) {
            state = applyTo(state, { backups: [backup(name)] }).state;
          }
        }
        expect(utf8Bytes(canonicalJson(state))).toBeLessThan(64 * 1024);
        expect(utf8Bytes(canonicalJson(statusOf(state, 'default', Date.parse(NOW))))).toBeLessThan(64 * 1024);
      }),
      { numRuns: 20 },
    );
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
