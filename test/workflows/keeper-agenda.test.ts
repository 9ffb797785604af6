import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AuditReport } from '../../core/audit.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { scheduledVerificationSchema } from '../../manifests/scheduled-verification.ts';
import {
  dueWork,
  keeperPace,
  nextRunsOf,
  nextWorkAt,
  noteAgenda,
  noteSchedules,
  noteSlot,
  noteSlotsChecked,
  schedulesFingerprint,
  withAgenda,
} from '../../workflows/keeper-agenda.ts';
import { giveUpOutcome, noteWritten, unwrittenOutcomes } from '../../workflows/keeper-outcomes.ts';
import {
  applyTo,
  newKeeper,
  noteBackup,
  noteInstance,
  type KeeperState,
} from '../../workflows/keeper-state.ts';
import { clusterManifest } from './fake-cluster.ts';

const BORN = '2026-11-24T00:00:00Z';
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

function at(text: string): number {
  return Date.parse(text);
}

function rfc(ms: number): string {
  return new Date(ms).toISOString().replace('.000Z', 'Z');
}

function schedule(name: string, text: string, more: Record<string, unknown> = {}) {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name },
    spec: { schedule: text, cluster: { name: 'main' }, ...more },
  });
}

function verification(name: string, text: string) {
  return scheduledVerificationSchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'ScheduledVerification',
    metadata: { name },
    spec: { schedule: text, cluster: { name: 'main' } },
  });
}

function keeper(input: Parameters<typeof applyTo>[1] = {}): KeeperState {
  const cluster = clusterSchema.parse(clusterManifest('main'));
  const born = newKeeper(cluster, BORN);
  const met = noteInstance(
    born,
    { instance: 'main-1', role: 'primary', host: 'h', version: '0', searchAttributes: true },
    BORN,
  );
  return withAgenda(applyTo(met, { cluster, ...input }).state, BORN);
}

const kinds = (state: KeeperState, now: number) =>
  dueWork(state, now, keeperPace(state)).map(({ kind }) => kind);

describe('what the keeper does when', () => {
  it('nothing, as long as no worker with a database is there', () => {
    const cluster = clusterSchema.parse(clusterManifest('main'));
    const alone = withAgenda(newKeeper(cluster, BORN), BORN);
    expect(nextWorkAt(alone, at(BORN) + 100 * HOUR, keeperPace(alone))).toBeUndefined();
  });

  it('sweeps once a day, and soon after a Backup', () => {
    const state = keeper();
    expect(kinds(state, at(BORN) + 23 * HOUR)).not.toContain('sweep');
    expect(kinds(state, at(BORN) + 24 * HOUR)).toContain('sweep');
    const backedUp = noteBackup(
      noteAgenda(state, { sweptAt: rfc(at(BORN) + HOUR) }),
      'b',
      { phase: 'completed', stoppedAt: rfc(at(BORN) + 90 * MINUTE) },
      BORN,
    );
    expect(kinds(backedUp, at(BORN) + 91 * MINUTE)).not.toContain('sweep');
    expect(kinds(backedUp, at(BORN) + 120 * MINUTE)).toContain('sweep');
  });

  it('F2: how a Backup ended is written until it is written, later and later, and not for ever at once', () => {
    const failed = { phase: 'failed', error: 'denied', stoppedAt: BORN } as const;
    expect(kinds(noteBackup(keeper(), 'b', failed, BORN), at(BORN) + HOUR)).not.toContain('outcome');
    const open = noteBackup(keeper(), 'b', failed, BORN, true);
    expect(dueWork(open, at(BORN), keeperPace(open))).toContainEqual({ kind: 'outcome', name: 'b' });
    const putOff = noteAgenda(open, { outcomesNotBefore: rfc(at(BORN) + HOUR), outcomeFailures: 1 });
    expect(kinds(putOff, at(BORN) + 59 * MINUTE)).not.toContain('outcome');
    expect(nextWorkAt(putOff, at(BORN), keeperPace(putOff))).toBeLessThanOrEqual(at(BORN) + HOUR);
    expect(kinds(putOff, at(BORN) + HOUR)).toContain('outcome');
    const done = noteWritten(putOff, 'b');
    expect(kinds(done, at(BORN) + HOUR)).not.toContain('outcome');
    expect(done.agenda).not.toHaveProperty('outcomesNotBefore');
    // Asked how it stands it tells it a second time; completed it is recorded.
    expect(kinds(noteBackup(open, 'b', failed, BORN), at(BORN) + HOUR)).toContain('outcome');
    const completed = noteBackup(open, 'b', { phase: 'completed' }, BORN);
    expect(kinds(completed, at(BORN) + HOUR)).not.toContain('outcome');
    // One that can never be written keeps the others waiting no longer, and does not hurry them.
    const two = noteBackup(putOff, 'c', failed, BORN, true);
    expect(unwrittenOutcomes(giveUpOutcome(two, 'b'))).toEqual(['c']);
    expect(giveUpOutcome(two, 'b').agenda).toEqual(two.agenda);
  });

  it('A6: a hole that nobody can fill asks for one Backup, and not for another while that one runs', () => {
    const audit: AuditReport = {
      at: rfc(at(BORN) + HOUR),
      intervals: [],
      damages: [],
      backups: 1,
      segments: 3,
      walBytes: 0,
      segmentsRead: 0,
      needsBackup: true,
      warnings: [],
    };
    const state = { ...keeper(), audit };
    const now = at(BORN) + 2 * HOUR;
    expect(kinds(state, now)).toContain('gap-backup');
    expect(kinds(noteAgenda(state, { gapBackupAt: rfc(now) }), now + HOUR)).not.toContain('gap-backup');
    const closed = noteBackup(state, 'b', { phase: 'completed', stoppedAt: rfc(now) }, BORN);
    expect(kinds(closed, now + 10 * HOUR)).not.toContain('gap-backup');
  });

  it('the schedules are made true when they differ from what Temporal has, once', () => {
    expect(kinds(keeper(), at(BORN))).not.toContain('schedules');
    const state = keeper({ scheduledBackups: [schedule('daily', '0 0 2 * * *')] });
    expect(kinds(state, at(BORN))).toContain('schedules');
    const made = noteSchedules(state, schedulesFingerprint(state), [{ name: 'daily' }], at(BORN));
    expect(kinds(made, at(BORN))).not.toContain('schedules');
    const removed = applyTo(made, { remove: [{ kind: 'ScheduledBackup', name: 'daily' }] }).state;
    expect(kinds(withAgenda(removed, BORN), at(BORN))).toContain('schedules');
  });

  it('a verification is due once a slot, and after an outage once', () => {
    const state = keeper({ verifications: [verification('weekly', '0 0 4 * * *')] });
    expect(kinds(state, at('2026-11-24T03:59:59Z'))).not.toContain('verification');
    expect(kinds(state, at('2026-11-24T04:00:00Z'))).toContain('verification');
    const late = at('2026-11-27T12:00:00Z');
    expect(kinds(state, late).filter((kind) => kind === 'verification')).toHaveLength(1);
    const begun = noteAgenda(state, { verified: { weekly: rfc(late) } });
    expect(kinds(begun, late)).not.toContain('verification');
    expect(kinds(begun, at('2026-11-28T04:00:00Z'))).toContain('verification');
  });

  it('F6: slots that nobody told of are looked for, those that were told of are not', () => {
    const state = keeper({ scheduledBackups: [schedule('hourly', '0 0 * * * *')] });
    const told = noteSlot(state, { scheduledBackup: 'hourly', slot: '2026-11-24T01:00:00Z', outcome: 'ran' });
    expect(kinds(told, at('2026-11-24T01:30:00Z'))).not.toContain('slots');
    expect(kinds(told, at('2026-11-24T02:14:59Z'))).not.toContain('slots');
    expect(kinds(told, at('2026-11-24T02:15:00Z'))).toContain('slots');
    // one in between is not forgotten because a later one was told of
    const later = noteSlot(told, { scheduledBackup: 'hourly', slot: '2026-11-24T03:00:00Z', outcome: 'ran' });
    expect(kinds(later, at('2026-11-24T03:01:00Z'))).toContain('slots');
    const checked = noteSlotsChecked(later, 'hourly', '2026-11-24T03:00:00Z');
    expect(kinds(checked, at('2026-11-24T03:01:00Z'))).not.toContain('slots');
  });

  it('F6: what was due while a schedule was suspended, or had another text, is not missed', () => {
    const state = keeper({ scheduledBackups: [schedule('s', '0 0 * * * *', { suspend: true })] });
    const resumedAt = '2026-11-24T10:30:00Z';
    const resumed = withAgenda(
      applyTo(withAgenda(state, resumedAt), { scheduledBackups: [schedule('s', '0 0 * * * *')] }).state,
      resumedAt,
    );
    expect(kinds(resumed, at('2026-11-24T10:59:00Z'))).not.toContain('slots');
    const changed = withAgenda(
      applyTo(resumed, { scheduledBackups: [schedule('s', '0 */5 * * * *')] }).state,
      '2026-11-24T20:01:00Z',
    );
    expect(kinds(changed, at('2026-11-24T20:04:00Z'))).not.toContain('slots');
  });

  it('the time to wake is the time of the first thing that is due', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 40 * 24 * 60 }), (minutes) => {
        const state = keeper({
          scheduledBackups: [schedule('daily', '0 0 2 * * *')],
          verifications: [verification('weekly', '0 0 4 * * 0')],
        });
        const made = noteSchedules(state, schedulesFingerprint(state), [], at(BORN));
        const now = at(BORN) + minutes * MINUTE;
        const next = nextWorkAt(made, now, keeperPace(made)) ?? Number.POSITIVE_INFINITY;
        expect(dueWork(made, now, keeperPace(made)).length > 0).toBe(next <= now);
        if (next > now && Number.isFinite(next)) expect(kinds(made, next).length).toBeGreaterThan(0);
      }),
    );
  });

  it('says what comes next, soonest first', () => {
    const state = keeper({ scheduledBackups: [schedule('daily', '0 0 2 * * *')] });
    const runs = nextRunsOf(state, at(BORN) + HOUR);
    expect(runs[0]).toEqual({ what: 'backup by daily', at: '2026-11-24T02:00:00Z' });
    expect(runs.map((run) => run.at)).toEqual(runs.map((run) => run.at).toSorted());
  });
});
