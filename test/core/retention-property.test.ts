import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  planRetention,
  type RetentionBackup,
  type RetentionFacts,
  type RetentionPlan,
} from '../../core/retention.ts';
import { randomCatalogue, SEGMENT, type Catalogue } from '../support/random-catalogue.ts';
import {
  allTimelines,
  archiveAfter,
  archiveBefore,
  departure,
  isRestorable,
  probedTimeline,
  reachableTargets,
  type Archive,
} from '../support/retention-oracle.ts';

const SIZE = BigInt(SEGMENT);
const RUNS = 1000;
const TIMEOUT_MS = 120_000;

interface Case {
  readonly catalogue: Catalogue;
  readonly facts: RetentionFacts;
  readonly plan: RetentionPlan;
  readonly before: Archive;
  readonly after: Archive;
  readonly kept: readonly RetentionBackup[];
}

function caseOf(catalogue: Catalogue, facts = catalogue.facts): Case {
  const plan = planRetention(facts);
  const gone = idsOf(plan, 'delete');
  return {
    catalogue: { ...catalogue, facts },
    facts,
    plan,
    before: archiveBefore(catalogue),
    after: archiveAfter(catalogue, plan),
    kept: facts.backups.filter(({ backupId }) => !gone.has(backupId)),
  };
}

function idsOf(plan: RetentionPlan, ...decisions: string[]): Set<string> {
  return new Set(
    plan.backups.flatMap(({ decision, backupId }) =>
      decisions.some((one) => one === decision) ? [backupId] : [],
    ),
  );
}

/** As if every tombstone had been there for long: all that may go goes. */
function longAfter({ facts }: Catalogue): RetentionFacts {
  const tombstonedAt = new Date(facts.now - facts.graceMs - 1);
  return { ...facts, backups: facts.backups.map((backup) => ({ ...backup, tombstonedAt })) };
}

/** Runs a promise over many catalogues, each as it is and with all tombstones due; tells how often something was deleted. */
function forEachCatalogue(check: (one: Case) => void, runs = RUNS): { deleting: number; refused: number } {
  const tally = { deleting: 0, refused: 0 };
  fc.assert(
    fc.property(randomCatalogue, (catalogue) => {
      for (const facts of [catalogue.facts, longAfter(catalogue)]) {
        const one = caseOf(catalogue, facts);
        if (one.kept.length < facts.backups.length) tally.deleting++;
        if (one.plan.refused !== undefined) tally.refused++;
        check(one);
      }
    }),
    { numRuns: runs },
  );
  return tally;
}

const isAlone = ({ keep, backupId }: RetentionBackup, plan: RetentionPlan) =>
  keep === 'standalone' && plan.backups.find((one) => one.backupId === backupId)?.reasons.length === 1;

describe('over random catalogues', () => {
  it(
    'D1: no segment is deleted that a kept backup needs, no history on the way, and no backup that it is built on',
    { timeout: TIMEOUT_MS },
    () => {
      const tally = forEachCatalogue(({ catalogue, plan, kept, before, after }) => {
        for (const backup of kept) {
          const { status, timeline = 0, beginLsn = 0n, endLsn = 0n } = backup;
          if (status !== 'DONE') continue;
          const alone = isAlone(backup, plan);
          for (const key of before.segments) {
            const [other = 0, number = 0] = key.split(':').map(Number);
            const left = other === timeline ? undefined : departure(other, timeline, catalogue);
            const isOn = other === timeline || (left !== undefined && left >= beginLsn);
            const isNeeded = alone ? other === timeline && BigInt(number) <= (endLsn - 1n) / SIZE : isOn;
            if (isNeeded && BigInt(number) >= beginLsn / SIZE && !after.segments.has(key))
              expect.fail(`${key} is deleted, and backup ${backup.backupId} needs it`);
          }
          if (alone) continue;
          for (const other of before.histories) {
            const left = departure(other, timeline, catalogue);
            if (left !== undefined && left >= beginLsn) expect(after.histories).toContain(other);
          }
          if (before.histories.has(timeline)) expect(after.histories).toContain(timeline);
        }
      });
      // the promise would be cheap if nothing were ever deleted
      expect(tally.deleting).toBeGreaterThan(RUNS / 2);
      expect(tally.refused).toBeGreaterThan(RUNS / 20);
    },
  );

  it(
    'D1, C4: every kept backup reaches every target LSN on every timeline that it reached before',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ catalogue, plan, kept, before, after }) => {
        for (const backup of kept) {
          if (backup.status !== 'DONE') continue;
          for (const timeline of allTimelines(catalogue)) {
            const could = reachableTargets(backup, timeline, before, catalogue);
            const can = reachableTargets(backup, timeline, after, catalogue);
            if (!isAlone(backup, plan)) expect(can).toEqual(could);
            else if (timeline === backup.timeline && could.length > 0) expect(can.length).toBeGreaterThan(0);
          }
          // recovery to the latest timeline asks for histories one after the other
          const newest = probedTimeline(backup.timeline ?? 1, before);
          expect(probedTimeline(backup.timeline ?? 1, after)).toBe(newest);
        }
      });
    },
  );

  it(
    'D2: each system that had restorable full backups keeps the minimum of them, and without any nothing is deleted',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ catalogue, facts, plan, kept, before, after }) => {
        const minimum = Math.max(1, facts.policy?.minimum ?? 1);
        const could = facts.backups.filter((backup) => isRestorable(backup, before, catalogue));
        const can = kept.filter((backup) => isRestorable(backup, after, catalogue));
        for (const system of new Set(could.map(({ systemId }) => systemId))) {
          const had = could.filter(({ systemId }) => systemId === system).length;
          const has = can.filter(({ systemId }) => systemId === system).length;
          expect(has).toBeGreaterThanOrEqual(Math.min(had, minimum));
          // what is only marked stays in the end just as well
          const remain = idsOf(plan, 'keep', 'undecided');
          const lasting = can.filter(({ systemId, backupId }) => systemId === system && remain.has(backupId));
          expect(lasting.length).toBeGreaterThanOrEqual(Math.min(had, minimum));
        }
        if (could.length === 0) requireNothingDeleted(plan);
      });
    },
  );

  it(
    'the window: every moment in it that could be reached can still be reached when all that may go is gone',
    { timeout: TIMEOUT_MS },
    () => {
      let moments = 0;
      forEachCatalogue(({ catalogue, facts, kept, before, after }) => {
        if (!catalogue.isHonest || facts.windowMs === undefined) return;
        const begin = facts.now - facts.windowMs;
        const reach = (backups: readonly RetentionBackup[], archive: Archive, timeline: number) =>
          new Set(
            backups
              .filter((backup) => isRestorable(backup, archive, catalogue))
              .flatMap((backup) => reachableTargets(backup, timeline, archive, catalogue)),
          );
        for (const timeline of allTimelines(catalogue)) {
          const could = reach(facts.backups, before, timeline);
          const can = reach(kept, after, timeline);
          for (const moment of catalogue.moments) {
            if (moment.timeline !== timeline || moment.time < begin || !could.has(moment.lsn)) continue;
            moments++;
            if (!can.has(moment.lsn))
              expect.fail(`${new Date(moment.time).toISOString()} on timeline ${timeline} is out of reach`);
          }
        }
      });
      expect(moments).toBeGreaterThan(RUNS);
    },
  );

  it(
    'D3: a refusal, an unreadable record, an unknown timeline and a missing policy delete and mark nothing',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ facts, plan, catalogue }) => {
        const used = [...facts.backups.map(({ timeline = 1 }) => timeline), ...facts.segments.timelines()];
        const lowest = Math.min(...used);
        const isUnknown = used.some(
          (timeline) =>
            timeline > lowest &&
            !facts.histories.has(timeline) &&
            !allTimelines(catalogue).some(
              (other) => facts.histories.has(other) && departure(other, timeline, catalogue) !== undefined,
            ),
        );
        if (isUnknown && lowest === 1) expect(plan.refused).toContain('unknown');
        if (facts.backups.some(({ problem }) => problem !== undefined))
          expect(plan.refused).toContain('unreadable');
        if (plan.refused !== undefined) requireNothingDeleted(plan);
        const { policy: _, windowMs: __, ...without } = facts;
        requireNothingDeleted(planRetention(without));
        const undecidable = planRetention({ ...facts, undecidable: 'somebody doubts' });
        expect(undecidable.refused).toContain('somebody doubts');
        requireNothingDeleted(undecidable);
      });
    },
  );

  it(
    'D4: the same facts give the same plan, in whatever order they are listed',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ facts, plan }) => {
        expect(planRetention(facts)).toEqual(plan);
        const turned = planRetention({
          ...facts,
          backups: facts.backups.toReversed(),
          histories: new Map([...facts.histories].toReversed()),
          partials: facts.partials?.toReversed(),
          labels: facts.labels?.toReversed(),
        });
        const fates = ({ backups }: RetentionPlan) =>
          backups.map(({ backupId, decision }) => [backupId, decision]);
        expect(fates(turned)).toEqual(fates(plan));
        expect(turned.wal).toEqual(plan.wal);
      }, RUNS / 4);
    },
  );

  it(
    'D4: a sweep that stopped half-way is finished by the next one, which keeps the same backups',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ catalogue, facts, plan }) => {
        // a wrong time of a kept backup may be believed when the one that contradicts it is gone
        if (!catalogue.isHonest) return;
        const gone = idsOf(plan, 'delete');
        // one was deleted, of the others the first tar at least, nothing of the WAL
        const [first] = gone;
        const backups = facts.backups
          .filter(({ backupId }) => backupId !== first)
          .map((backup) => (gone.has(backup.backupId) ? { ...backup, deletionBegan: true } : backup));
        if (gone.size === 0) return;
        const next = planRetention({ ...facts, backups });
        expect(next.refused).toBeUndefined();
        const rest = [...gone].filter((id) => id !== first);
        for (const id of rest) expect(idsOf(next, 'delete')).toContain(id);
        for (const id of idsOf(plan, 'keep')) expect(idsOf(next, 'keep')).toContain(id);
      });
    },
  );

  it(
    'D4: a tombstone waits for its grace, and is taken back when something keeps the backup again',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ facts, plan }) => {
        const now = Math.min(facts.now, facts.storeNow ?? facts.now);
        // a mark of its own, longer grace period changes nothing but when its backup goes
        const longer = planRetention({
          ...facts,
          backups: facts.backups.map((backup) => ({ ...backup, markGraceMs: facts.graceMs + 1000 })),
        });
        for (const { backupId, decision, dueAt } of longer.backups) {
          const backup = facts.backups.find((one) => one.backupId === backupId);
          if (decision !== 'delete' && decision !== 'wait') continue;
          if (backup?.deletionBegan === true || backup?.tombstonedAt === undefined) continue;
          const due = backup.tombstonedAt.getTime() + facts.graceMs + 1000;
          if (decision === 'delete') expect(due).toBeLessThanOrEqual(now);
          else expect(dueAt ?? Infinity).toBeGreaterThanOrEqual(due);
        }
        const stays = [plan, longer].map((one) => idsOf(one, 'keep', 'undecided'));
        if (plan.refused === undefined && longer.refused === undefined) expect(stays[1]).toEqual(stays[0]);
        for (const { backupId, decision, takeBack, dueAt } of plan.backups) {
          const backup = facts.backups.find((one) => one.backupId === backupId);
          const tombstone = backup?.tombstonedAt?.getTime();
          if (decision === 'delete' && backup?.deletionBegan !== true)
            expect((tombstone ?? now) + facts.graceMs).toBeLessThanOrEqual(now);
          if (decision === 'mark') {
            expect(tombstone).toBeUndefined();
            expect(dueAt ?? Infinity).toBeGreaterThanOrEqual(now + facts.graceMs);
          }
          if (decision === 'wait') expect(tombstone).toBeDefined();
          if (takeBack) expect([decision, tombstone === undefined]).toEqual(['keep', false]);
          if (decision === 'keep' && tombstone !== undefined && plan.refused === undefined)
            expect(takeBack).toBe(true);
        }
      });
    },
  );

  it(
    'D5: what runs, what is held and what is younger than the grace period is out of reach',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ catalogue, facts, plan }) => {
        const going = idsOf(plan, 'mark', 'wait', 'delete');
        for (const backup of facts.backups) {
          const { status, hold, beginTime, endTime, storedAt, deletionBegan } = backup;
          const newest = Math.max(
            ...[beginTime, endTime, storedAt].map((time) => time?.getTime() ?? -Infinity),
          );
          const runs = status === 'STARTED' && newest > facts.now - facts.deadlineMs;
          const isYoung = newest > facts.now - facts.graceMs;
          if (hold !== undefined || ((runs || isYoung) && deletionBegan !== true))
            expect(going).not.toContain(backup.backupId);
        }
        for (const { timeline, last, decision } of plan.wal) {
          if (decision === 'keep') continue;
          expect(last < (facts.youngFrom.get(timeline) ?? last + 1n)).toBe(true);
          for (const held of facts.walHolds ?? [])
            if (
              held.timeline === timeline ||
              (departure(timeline, held.timeline, catalogue) ?? -1n) >= held.from * SIZE
            )
              expect(last < held.from).toBe(true);
        }
      });
    },
  );

  it('D6: the names of backups decide nothing', { timeout: TIMEOUT_MS }, () => {
    forEachCatalogue(({ facts, plan }) => {
      const name = (id: string) => `${id.split('').toReversed().join('')}x`;
      const renamed = planRetention({
        ...facts,
        backups: facts.backups.map((backup) => ({
          ...backup,
          backupId: name(backup.backupId),
          ...(backup.parentBackupId === undefined ? {} : { parentBackupId: name(backup.parentBackupId) }),
        })),
      });
      for (const decision of ['keep', 'mark', 'wait', 'delete'])
        expect(idsOf(renamed, decision)).toEqual(new Set([...idsOf(plan, decision)].map(name)));
    }, RUNS / 4);
  });

  it('D6: one clock that lies makes nothing old that the other keeps', { timeout: TIMEOUT_MS }, () => {
    const shift = fc.record({
      clock: fc.constantFrom('endTime', 'storedAt'),
      days: fc.integer({ min: -400, max: 400 }),
      which: fc.nat(20),
    });
    fc.assert(
      fc.property(randomCatalogue, shift, (catalogue, { clock, days, which }) => {
        const backups = catalogue.facts.backups.map((backup) => ({
          ...backup,
          storedAt: backup.endTime,
        }));
        const honest = { ...catalogue.facts, backups };
        const before = idsOf(planRetention(honest), 'keep');
        const lying = backups.map((backup, index) => {
          const time = backup[clock as 'endTime'];
          // one, some, or all of them
          return time === undefined || (which < 10 && index % (which + 1) !== 0)
            ? backup
            : { ...backup, [clock]: new Date(time.getTime() + days * 86_400_000) };
        });
        const after = planRetention({ ...honest, backups: lying });
        if (after.refused !== undefined) return requireNothingDeleted(after);
        const counts = (id: string) =>
          isRestorable(
            backups.find(({ backupId }) => backupId === id) as RetentionBackup,
            archiveBefore(catalogue),
            catalogue,
          );
        const going = idsOf(after, 'mark', 'wait', 'delete');
        for (const id of before) if (counts(id) && planWasByRule(honest, id)) expect(going).not.toContain(id);
      }),
      { numRuns: RUNS },
    );
  });

  it(
    'A7: histories and .backup files outlive the last object of their timeline and its descendants',
    { timeout: TIMEOUT_MS },
    () => {
      forEachCatalogue(({ catalogue, plan, kept, after }) => {
        const used = new Set([
          ...kept.flatMap(({ timeline, status }) =>
            status === 'DONE' && timeline !== undefined ? [timeline] : [],
          ),
          ...[...after.segments, ...after.partials].map((key) => Number(key.split(':')[0])),
        ]);
        const isOver = (timeline: number) =>
          [...used].every(
            (other) => other !== timeline && departure(other, timeline, catalogue) === undefined,
          );
        for (const { decision, timeline } of [...plan.histories, ...plan.labels])
          if (decision === 'delete') expect(isOver(timeline)).toBe(true);
      });
    },
  );
});

/** Kept for more than being young or in a stretch of time: those do follow the clocks. */
function planWasByRule(facts: RetentionFacts, id: string): boolean {
  const reasons = planRetention(facts).backups.find(({ backupId }) => backupId === id)?.reasons ?? [];
  return reasons.some((reason) => /window|keepLast|daily|weekly|monthly|yearly|newest/.test(reason));
}

function requireNothingDeleted(plan: RetentionPlan): void {
  expect(idsOf(plan, 'mark', 'wait', 'delete').size).toBe(0);
  expect(plan.backups.some(({ takeBack }) => takeBack) && plan.refused !== undefined).toBe(false);
  for (const { decision } of [...plan.wal, ...plan.partials, ...plan.labels, ...plan.histories])
    expect(decision).toBe('keep');
}
