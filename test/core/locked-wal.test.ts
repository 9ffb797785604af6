import { describe, expect, it } from 'vitest';
import { LockedWal, withLockedWal } from '../../core/locked-wal.ts';
import type { PlannedWal } from '../../core/retention-facts.ts';

const lock = (untilMs: number) => ({ why: `locked until ${untilMs}`, untilMs });
const range = (first: number, last: number, decision: PlannedWal['decision'] = 'delete'): PlannedWal => ({
  timeline: 1,
  first: BigInt(first),
  last: BigInt(last),
  decision,
  reason: 'planned',
});
const short = (ranges: readonly PlannedWal[]) =>
  ranges.map(({ first, last, decision, reason }) => `${first}-${last} ${decision}: ${reason}`);

describe('WAL that the store has locked', () => {
  it('D7: is a range of its own for each run, with the longest lock', () => {
    const locked = new LockedWal();
    for (const [number, until] of [
      [3, 7],
      [4, 9],
      [4, 8],
      [6, 7],
    ] as const)
      locked.add(lock(until), { timeline: 1, number: BigInt(number) });
    locked.add(lock(1));
    expect(short(withLockedWal([range(1, 10)], locked.runs))).toEqual([
      '1-2 delete: planned',
      '3-4 keep: locked until 9',
      '5-5 delete: planned',
      '6-6 keep: locked until 7',
      '7-10 delete: planned',
    ]);
    expect(locked.warnings).toEqual([
      'of the WAL that nobody needs, 4 segments and 1 files beside them stay, and timeline histories with them; the longest: locked until 9',
    ]);
  });

  it('D7: may reach over what was planned for other reasons, and changes only what would go', () => {
    const locked = new LockedWal();
    for (let number = 2n; number <= 8n; number += 1n) locked.add(lock(5), { timeline: 1, number });
    const planned = [range(1, 3), range(4, 5, 'keep'), range(6, 9), { ...range(1, 9), timeline: 2 }];
    expect(short(withLockedWal(planned, locked.runs))).toEqual([
      '1-1 delete: planned',
      '2-3 keep: locked until 5',
      '4-5 keep: planned',
      '6-8 keep: locked until 5',
      '9-9 delete: planned',
      '1-9 delete: planned',
    ]);
  });

  it('F4: takes memory for a thousand runs at most, and counts the rest', () => {
    const locked = new LockedWal();
    for (let number = 0n; number < 100_000n; number += 1n) locked.add(lock(5), { timeline: 1, number });
    expect(locked.runs).toHaveLength(1);
    for (let number = 200_000n; number < 204_000n; number += 2n) locked.add(lock(5), { timeline: 1, number });
    expect(locked.runs).toHaveLength(1000);
    expect(locked.count).toBe(102_000);
    expect(locked.warnings[0]).toContain('102000 segments stay (1001 of them are in no range');
  });
});
