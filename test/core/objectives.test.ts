import { describe, expect, it, test } from 'vitest';
import type { AuditReport } from '../../core/audit.ts';
import {
  judgeObjectives,
  rpoSeconds,
  type ArchivingState,
  type ObjectiveFacts,
} from '../../core/objectives.ts';

const NOW = Date.UTC(2026, 10, 24, 12);
const ago = (text: string) => {
  const [, count, unit] = /^(\d+)([smhd])$/.exec(text) as unknown as [string, string, 's' | 'm' | 'h' | 'd'];
  const ms = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit];
  return new Date(NOW - Number(count) * ms).toISOString();
};

function audit(more: Partial<AuditReport> = {}): AuditReport {
  return {
    at: ago('2h'),
    intervals: [
      {
        timeline: 1,
        backupId: '20261124T020000',
        fromLsn: '0/2000000',
        toLsn: '0/9000000',
        toTime: ago('3h'),
        lastSegment: '000000010000000000000008',
      },
    ],
    damages: [],
    backups: 1,
    segments: 8,
    walBytes: 1,
    newestBackup: { backupId: '20261124T020000', endedAt: ago('10h') },
    newestVerified: { id: '20261123T020000', at: ago('1d') },
    newestSegment: { name: '000000010000000000000008', storedAt: ago('150m') },
    segmentsRead: 0,
    needsBackup: false,
    warnings: [],
    ...more,
  };
}

function archiving(more: Partial<ArchivingState> = {}): ArchivingState {
  return {
    at: ago('30m'),
    health: 'working',
    instance: 'pg-1',
    waitingFiles: 0,
    lastArchivedAt: ago('40m'),
    ...more,
  };
}

function judge(more: Partial<ObjectiveFacts> = {}): string[] {
  return judgeObjectives({
    objectives: { rpo: '10m', backupAge: '26h', provenAge: '8d' },
    audit: audit(),
    archiving: archiving(),
    now: NOW,
    since: ago('90d'),
    ...more,
  });
}

describe('the age of the newest restorable moment', () => {
  test.for<{
    why: string;
    report?: Partial<AuditReport>;
    state?: Partial<ArchivingState> | undefined;
    minutes: number | undefined;
  }>([
    { why: 'nothing waits: it counts from the look that saw so', state: {}, minutes: 30 },
    { why: 'nothing was ever asked for, and nothing waits', state: { health: 'idle' }, minutes: 30 },
    { why: 'files wait: from the last that was stored', state: { waitingFiles: 2 }, minutes: 40 },
    { why: 'archiving fails', state: { health: 'failing', waitingFiles: 2 }, minutes: 40 },
    { why: 'nothing is heard of archiving: from the newest segment', state: undefined, minutes: 150 },
    {
      why: 'a hole at the end: what is archived behind it does not count',
      report: { needsBackup: true },
      state: {},
      minutes: 180,
    },
    { why: 'nothing can be restored', report: { intervals: [] }, state: {}, minutes: undefined },
    {
      why: 'a clock that is ahead makes it 0, never less',
      state: { at: new Date(NOW + 60_000).toISOString() },
      minutes: 0,
    },
  ])('F6: $why', ({ report, state, minutes }) => {
    const seconds = rpoSeconds(audit(report), state && archiving(state), NOW);
    expect(seconds).toBe(minutes === undefined ? undefined : minutes * 60);
  });
});

describe('objectives', () => {
  test.for<{ why: string; facts: Partial<ObjectiveFacts>; says: readonly RegExp[] }>([
    { why: 'all is well', facts: {}, says: [] },
    {
      why: 'an idle database is not in breach, however old its newest segment is',
      facts: { archiving: archiving({ lastArchivedAt: ago('20h') }) },
      says: [],
    },
    {
      why: 'a worker that was just started and has nothing to do is not in breach',
      facts: { archiving: { at: ago('1m'), health: 'idle', waitingFiles: 0 } },
      says: [],
    },
    {
      why: 'what worked at the last report counts as seen there: news of a failure would have come',
      facts: { archiving: archiving({ at: ago('50m'), waitingFiles: 1, lastArchivedAt: ago('51m') }) },
      says: [],
    },
    {
      why: 'archiving that was behind when it reported',
      facts: {
        audit: audit({ newestSegment: { name: 'x', storedAt: ago('40h') }, intervals: [] }),
        archiving: archiving({ at: ago('1m'), waitingFiles: 9, lastArchivedAt: ago('20m') }),
      },
      says: [/newest WAL in the store .*20m ago .*pg-1 is working, 9 files wait.*rpo is 10m/],
    },
    {
      why: 'archiving that fails, before rpo has passed',
      facts: {
        archiving: archiving({
          at: ago('5m'),
          health: 'failing',
          lastArchivedAt: ago('6m'),
          waitingFiles: 1,
        }),
      },
      says: [],
    },
    {
      why: 'archiving that fails for longer',
      facts: {
        archiving: archiving({
          at: ago('25m'),
          health: 'failing',
          lastArchivedAt: ago('26m'),
          waitingFiles: 3,
        }),
      },
      says: [/26m ago .*failing, 3 files wait/],
    },
    {
      why: 'archiving that never stored anything',
      facts: {
        audit: audit({ intervals: [], needsBackup: false }),
        archiving: { at: ago('25m'), health: 'failing', waitingFiles: 3 },
      },
      says: [/no WAL has reached the store/],
    },
    {
      why: 'a worker that fell silent',
      facts: { archiving: archiving({ at: ago('3h') }) },
      says: [/has not reported since .*3h ago/],
    },
    {
      why: 'the agent does not run',
      facts: {
        archiving: archiving({ at: ago('1m'), health: 'off', lastArchivedAt: ago('3h') }),
        audit: audit({ intervals: [] }),
      },
      says: [/3h ago .*is off/],
    },
    {
      why: 'an instance that waits for a restore archives nothing',
      facts: { archiving: { at: ago('1m'), health: 'off', role: 'absent', waitingFiles: 0 } },
      says: [],
    },
    {
      why: 'a hole at the end of the window',
      facts: { audit: audit({ needsBackup: true }) },
      says: [/hole, and no base backup begins behind it.*rpo is 10m/],
    },
    {
      why: 'an old backup',
      facts: { audit: audit({ newestBackup: { backupId: 'x', endedAt: ago('27h') } }) },
      says: [/ended 1d 3h ago; backupAge is 26h/],
    },
    {
      why: 'an old backup, and a newer one that was heard of since the audit',
      facts: {
        audit: audit({ newestBackup: { backupId: 'x', endedAt: ago('27h') } }),
        lastBackupAt: ago('1h'),
      },
      says: [],
    },
    {
      why: 'an old proof',
      facts: { audit: audit({ newestVerified: { id: 'x', at: ago('9d') } }) },
      says: [/9d ago; provenAge is 8d/],
    },
    {
      why: 'an old proof, and a newer one',
      facts: { audit: audit({ newestVerified: { id: 'x', at: ago('9d') } }), lastProvenAt: ago('1d') },
      says: [],
    },
  ])('F6: $why', ({ facts, says }) => {
    const said = judge(facts);
    expect(said).toHaveLength(says.length);
    for (const [index, text] of says.entries()) expect(said[index]).toMatch(text);
  });

  const { newestBackup: _, newestVerified: __, ...bare } = audit({ intervals: [], backups: 0 });

  it('F6: a cluster that was just applied is in breach of nothing; each age counts from then', () => {
    const idle = { at: ago('1m'), health: 'idle' as const, waitingFiles: 0 };
    const at = (since: string) => judge({ audit: bare, archiving: idle, since });
    expect(at(ago('1h'))).toEqual([]);
    expect(at(ago('27h'))).toEqual([expect.stringMatching(/no base backup that can be restored/)]);
    expect(at(ago('9d'))).toEqual([
      expect.stringMatching(/no base backup/),
      expect.stringMatching(/no backup was ever proven/),
    ]);
  });

  it('F6: before the first audit and the first report nothing is claimed, and silence comes up by itself', () => {
    const facts = { objectives: { rpo: '10m', backupAge: '26h', provenAge: '8d' }, now: NOW };
    expect(judgeObjectives({ ...facts, since: ago('5m') })).toEqual([]);
    expect(judgeObjectives({ ...facts, since: ago('2h') })).toEqual([
      expect.stringMatching(/no report of WAL archiving/),
    ]);
  });

  it('refuses an objective that is no duration', () => {
    expect(() => judge({ objectives: { rpo: 'soon', backupAge: '26h', provenAge: '8d' } })).toThrow(
      /not a duration/,
    );
  });
});
