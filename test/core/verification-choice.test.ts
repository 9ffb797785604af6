import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  chooseMoment,
  chooseVerifiedBackup,
  exceededBudget,
  fractionOf,
  type VerifiableBackup,
} from '../../core/verification-choice.ts';

const DAY = 86_400_000;
const backups: VerifiableBackup[] = [
  { backupId: 'c', endedAt: 3 * DAY, provenAt: 9 * DAY },
  { backupId: 'a', endedAt: 1 * DAY, provenAt: 7 * DAY, backupName: 'first' },
  { backupId: 'd', endedAt: 4 * DAY, provenAt: 8 * DAY },
  { backupId: 'b', endedAt: 2 * DAY, isMarked: true },
];

describe('the choice of a backup to verify', () => {
  it.for([
    { choice: 'latest', chosen: 'd' },
    { choice: 'oldest', chosen: 'a' },
    { choice: 'stalest', chosen: 'a' },
    { choice: 'b', chosen: 'b' },
    { choice: 'first', chosen: 'a' },
    { choice: 'nobody', chosen: undefined },
  ])('$choice is $chosen', ({ choice, chosen }) => {
    expect(chooseVerifiedBackup(backups, choice, 'seed')?.backupId).toBe(chosen);
  });

  it('stalest prefers what was never proved, the newest of it', () => {
    const fresh = [...backups, { backupId: 'e', endedAt: 5 * DAY }, { backupId: 'f', endedAt: 6 * DAY }];
    expect(chooseVerifiedBackup(fresh, 'stalest', '')?.backupId).toBe('f');
  });

  it('random is the same for the same seed, reaches every backup, and never one that is marked', () => {
    const chosen = new Set<string>();
    for (let seed = 0; seed < 200; seed += 1) {
      const one = chooseVerifiedBackup(backups, 'random', `run ${seed}`)?.backupId;
      expect(chooseVerifiedBackup(backups.toReversed(), 'random', `run ${seed}`)?.backupId).toBe(one);
      chosen.add(one ?? 'none');
    }
    expect(chosen).toEqual(new Set(['a', 'c', 'd']));
  });

  it('what is marked is taken when nothing else is there', () => {
    const marked = [{ backupId: 'x', endedAt: 0, isMarked: true }];
    expect(chooseVerifiedBackup(marked, 'latest', '')?.backupId).toBe('x');
  });
});

describe('the choice of a moment', () => {
  it('lies strictly between, for any two moments and any seed', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 10n ** 16n), fc.bigInt(0n, 10n ** 16n), fc.string(), (a, b, seed) => {
        const [from, to] = a < b ? [a, b] : [b, a];
        const moment = chooseMoment(from, to, seed);
        if (to - from < 2n) expect(moment).toBeUndefined();
        else expect(moment !== undefined && moment > from && moment < to).toBe(true);
      }),
    );
  });

  it('spreads over the whole span, also for seeds that differ little', () => {
    const tenths = new Set(Array.from({ length: 300 }, (_, i) => Math.floor(fractionOf(`seed/${i}`) * 10)));
    expect(tenths.size).toBe(10);
  });
});

describe('the read budget of a day', () => {
  const budget = { percent: 20, repositoryBytes: 1000, neededBytes: 100, now: 10 * DAY };
  it.for([
    { why: 'the first of a day always runs', past: [], needed: 900, waits: false },
    { why: 'what fits runs', past: [[9.5, 100]], needed: 100, waits: false },
    { why: 'what does not fit waits', past: [[9.5, 101]], needed: 100, waits: true },
    { why: 'yesterday is over', past: [[8.9, 1000]], needed: 100, waits: false },
  ] as const)('$why', ({ past, needed, waits }) => {
    const read = past.map(([day, storedBytes]) => ({ startedAt: day * DAY, storedBytes }));
    const why = exceededBudget({ ...budget, neededBytes: needed, past: read });
    expect(why !== undefined).toBe(waits);
  });

  it('without a budget nothing waits', () => {
    const past = [{ startedAt: 9.9 * DAY, storedBytes: 10_000 }];
    expect(exceededBudget({ ...budget, percent: undefined, past })).toBeUndefined();
  });
});
