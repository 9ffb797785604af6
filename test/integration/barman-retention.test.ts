import { beforeAll, expect, it, test } from 'vitest';
import { planRetention, type RetentionPlan, type RetentionRules } from '../../core/retention.ts';
import {
  readSweepArchive,
  readSweepCatalogue,
  retentionFacts,
  segmentSizeOf,
  type SweepRules,
} from '../../operations/gather-retention.ts';
import { shareRepository, signal, type SharedRepository } from '../support/barman-cases.ts';
import { idOf, makeRepository, type MadeBackup, type MadeRepository } from '../support/made-repository.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { describeWith } from '../support/tools.ts';

const DAY = 86_400_000;

/** Both tools on one repository, each asked what it would delete. */
interface Asked {
  readonly window?: number;
  /** barman's `REDUNDANCY`, our `keepLast`. */
  readonly redundancy?: number;
  readonly minimum?: number;
}

interface Case extends MadeRepository, Asked {
  readonly why: string;
  /** Days before now of the backups that both delete. */
  readonly both: readonly number[];
  /** Of those that only barman deletes, each with what our plan says about it. */
  readonly oursKeeps?: Readonly<Record<number, RegExp>>;
}

const daily = (
  ages: readonly number[],
  more: Readonly<Record<number, Partial<MadeBackup>>> = {},
): MadeBackup[] => ages.map((ago, index) => ({ ago, at: 2 + index * 2, ...more[ago] }));

const CASES: readonly Case[] = [
  {
    why: 'a window: what is in it, and the newest before it',
    backups: daily([20, 12, 9, 8, 5, 1]),
    wal: [[1, 1, 20]],
    window: 7,
    both: [20, 12, 9],
  },
  {
    why: 'a window without any backup in it: the newest stays',
    backups: daily([20, 12, 9]),
    wal: [[1, 1, 20]],
    window: 7,
    both: [20, 12],
  },
  {
    why: 'a window with the minimum: the newest that many stay',
    backups: daily([40, 30, 20, 12, 9]),
    wal: [[1, 1, 20]],
    window: 7,
    minimum: 3,
    both: [40, 30],
  },
  {
    why: 'redundancy is keepLast; what is kept uses up a place',
    backups: daily([40, 30, 20, 12, 9, 2], { 9: { keep: 'full' } }),
    wal: [[1, 1, 20]],
    redundancy: 3,
    both: [40, 30, 20],
  },
  {
    why: 'keep full and keep standalone',
    backups: daily([50, 40, 30, 20, 9, 1], { 50: { keep: 'standalone' }, 30: { keep: 'full' } }),
    wal: [[1, 1, 20]],
    window: 7,
    both: [40, 20],
  },
  {
    why: 'failed ones and those without an end: neither counted nor touched',
    backups: daily([30, 25, 20, 15, 10, 9, 1], {
      30: { status: 'FAILED' },
      20: { status: 'STARTED' },
      9: { status: 'FAILED' },
      1: { status: 'STARTED' },
    }),
    wal: [[1, 1, 20]],
    window: 7,
    both: [25, 15],
  },
  {
    why: 'two timelines, one the continuation of the other',
    backups: daily([30, 20, 12, 8, 1], { 8: { timeline: 2 }, 1: { timeline: 2 } }),
    wal: [
      [1, 1, 7],
      [2, 7, 20],
    ],
    histories: { 2: '1\t0/790000\tno recovery target specified\n' },
    window: 7,
    both: [30, 20, 12],
  },
  {
    why: 'ours keeps more: a timeline that branched off before the newest old backup has its own',
    backups: daily([30, 20, 12, 3], { 3: { timeline: 2 } }),
    wal: [
      [1, 1, 10],
      [2, 5, 20],
    ],
    histories: { 2: '1\t0/550000\tbefore 2026-11-22 22:25:31+00\n' },
    window: 7,
    both: [30],
    oursKeeps: { 20: /opens the recovery window: .* on the way to timeline 2/ },
  },
  {
    why: 'ours keeps more: a backup whose WAL is missing opens no window',
    backups: daily([30, 20, 12, 3]),
    wal: [
      [1, 1, 5],
      [1, 7, 20],
    ],
    window: 7,
    both: [30],
    oursKeeps: { 20: /opens the recovery window/ },
  },
  {
    why: 'ours keeps more: in a copied repository the time of the copy counts as well',
    backups: daily([30, 20, 12, 3], { 30: { storedAgo: 2 }, 20: { storedAgo: 2 }, 12: { storedAgo: 2 } }),
    wal: [[1, 1, 20]],
    window: 7,
    both: [],
    oursKeeps: {
      30: /ended in the recovery window.*by the time it was stored/,
      20: /ended in the recovery window.*by the time it was stored/,
    },
  },
  {
    why: 'ours keeps more: nothing goes while an unknown timeline is there',
    backups: daily([30, 20, 12, 3]),
    wal: [
      [1, 1, 20],
      [4, 6, 9],
    ],
    window: 7,
    both: [],
    oursKeeps: { 30: /in doubt/, 20: /in doubt/ },
  },
];

describeWith(['versitygw', 'barman'], 'what may be deleted, by barman-cloud and by walkeep', () => {
  let s3: S3Server;
  beforeAll(async () => {
    s3 = await startS3();
  });

  /** Lines for the report of the test: what each would do, and why. */
  const table: string[] = [];

  async function compare(
    name: string,
    made: MadeRepository,
    asked: Asked,
  ): Promise<{ barman: string[]; ours: string[]; plan: RetentionPlan; now: number }> {
    const shared = shareRepository(s3, name);
    const now = Math.floor(Date.now() / 1000) * 1000;
    await makeRepository(shared, made, now, signal);
    const barman = await deletedByBarman(shared, asked);
    const plan = await planned(shared, asked, now);
    const ours = plan.backups.filter(({ decision }) => decision === 'delete').map(({ backupId }) => backupId);
    return { barman, ours: ours.toSorted(), plan, now };
  }

  test.for(CASES.map((one, index) => ({ ...one, name: `case-${index}` })))(
    'E5, D4: $why',
    async ({ name, both, oursKeeps = {}, ...made }) => {
      const { barman, ours, plan, now } = await compare(name, made, made);
      const ids = (ages: readonly number[]) => ages.map((ago) => idOf({ ago }, now)).toSorted();
      const more = Object.keys(oursKeeps).map(Number);
      expect(barman).toEqual(ids([...both, ...more]));
      expect(ours).toEqual(ids(both));
      for (const [ago, reason] of Object.entries(oursKeeps)) {
        const [id = ''] = ids([Number(ago)]);
        const reasons = reasonsOf(plan, id);
        expect(reasons).toMatch(reason);
        table.push(
          `${made.why}: ${id} stays: ${reasons}${plan.refused === undefined ? '' : ` (${plan.refused})`}`,
        );
      }
      requireWalOfBackups(plan);
    },
  );

  it('E5, D4: on generated repositories ours deletes what barman deletes, or says why it keeps more', async () => {
    const random = numbersFrom(7);
    for (let round = 0; round < 6; round++) {
      const made = someRepository(random);
      const window = 3 + Math.floor(random() * 20);
      const { barman, ours, plan } = await compare(`generated-${round}`, made, { window });
      for (const id of ours) expect(barman, `${id}: ${reasonsOf(plan, id)}`).toContain(id);
      for (const id of barman.filter((one) => !ours.includes(one))) {
        expect(reasonsOf(plan, id)).not.toBe('');
        table.push(`generated ${round}, window of ${window} days: ${id} stays: ${reasonsOf(plan, id)}`);
      }
      table.push(`generated ${round}: both delete ${ours.length} of ${plan.backups.length}`);
      requireWalOfBackups(plan);
    }
  });

  it('the list: what ours keeps more, and why', () => {
    console.log(`walkeep and barman-cloud-backup-delete --dry-run:\n${table.join('\n')}`);
    expect(table.length).toBeGreaterThan(8);
  });
});

/** The backups whose records `barman-cloud-backup-delete --dry-run` says it would delete. */
async function deletedByBarman(
  shared: SharedRepository,
  { window, redundancy, minimum }: Asked,
): Promise<string[]> {
  const policy = redundancy === undefined ? `RECOVERY WINDOW OF ${window} DAYS` : `REDUNDANCY ${redundancy}`;
  const least = minimum === undefined ? [] : ['-m', String(minimum)];
  const options = ['--dry-run', '--retention-policy', policy, ...least];
  const outcome = await shared.barman('barman-cloud-backup-delete', options);
  expect(outcome, outcome.stderr).toMatchObject({ code: 0 });
  const records = `${outcome.stdout}${outcome.stderr}`.matchAll(/\/base\/(\d{8}T\d{6})\/backup\.info/g);
  return [...new Set([...records].map((match) => match[1] ?? ''))].toSorted();
}

async function planned(
  { repository }: SharedRepository,
  { window, redundancy, minimum }: Asked,
  now: number,
): Promise<RetentionPlan> {
  const none: RetentionRules = {
    minimum: 1,
    schedules: {},
    onlyWithProvenSuccessor: false,
    timezone: 'Etc/UTC',
  };
  const policy =
    redundancy === undefined && minimum === undefined
      ? undefined
      : { ...none, keepLast: redundancy ?? 0, minimum: minimum ?? 1 };
  const catalogue = await readSweepCatalogue(repository, signal);
  const archive = await readSweepArchive(repository, segmentSizeOf(catalogue), now, signal);
  const rules: SweepRules = { graceMs: 0, deadlineMs: 12 * 3_600_000 };
  const facts = retentionFacts(catalogue, archive, rules, { now });
  return planRetention({ ...facts, policy, windowMs: window === undefined ? undefined : window * DAY });
}

function reasonsOf(plan: RetentionPlan, id: string): string {
  return plan.backups.find(({ backupId }) => backupId === id)?.reasons.join('; ') ?? '';
}

/** Every archived segment has a fate and a reason. */
function requireWalOfBackups(plan: RetentionPlan): void {
  expect(plan.wal.length).toBeGreaterThan(0);
  for (const { reason } of plan.wal) expect(reason).not.toBe('');
}

/** Numbers from 0 to 1, the same in every run. */
function numbersFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function someRepository(random: () => number): MadeRepository {
  const backups: MadeBackup[] = [];
  let at = 2;
  let timeline = 1;
  let begins = 1;
  const wal: [number, number, number][] = [];
  const histories: Record<number, string> = {};
  const way: string[] = [];
  for (let ago = 20 + Math.floor(random() * 30); ago > 0.5; ago -= 0.5 + random() * 6) {
    const dice = random();
    if (dice < 0.25) {
      // a failover, or the restore of an earlier moment: the next timeline begins in the middle of a segment
      wal.push([timeline, begins, at - 1]);
      if (dice < 0.12) at = Math.max(begins, at - 5);
      way.push(`${timeline}\t0/${at.toString(16).toUpperCase()}80000\tno recovery target specified\n`);
      timeline++;
      begins = at;
      histories[timeline] = way.join('');
      at++;
    } else if (dice < 0.45) {
      // a segment was never archived
      wal.push([timeline, begins, at - 1]);
      begins = at + 1;
    }
    const status = random() < 0.15 ? (random() < 0.5 ? 'FAILED' : 'STARTED') : 'DONE';
    const keep = status === 'DONE' && random() < 0.15 ? (random() < 0.5 ? 'full' : 'standalone') : undefined;
    backups.push({ ago, at, endsAt: at + Math.floor(random() * 2), timeline, status, ...(keep && { keep }) });
    at += 2 + Math.floor(random() * 2);
  }
  wal.push([timeline, begins, Math.max(begins, at)]);
  return { backups, wal, histories };
}
