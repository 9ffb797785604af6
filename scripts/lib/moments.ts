import { toMicros, formatMicros, parseTargetTime } from '../../core/target-time.ts';
import { chooseMoment } from '../../core/verification-choice.ts';
import type { VerifyOutcome, VerifyRequest } from '../../operations/verify-backup.ts';

/** A commit of a canary: one writer that commits one row after the other, numbered from 1. Times in ms since 1970. */
export interface KnownCommit {
  readonly id: number;
  /** Before COMMIT was sent, and after it was acknowledged: the commit record's time lies between. */
  readonly sentAt: number;
  readonly acknowledgedAt: number;
}

/** A moment between two commits of the canary. */
export interface Moment {
  /** RFC 3339, to the microsecond. */
  readonly time: string;
  /** The canary's last commit before it. */
  readonly after: number;
}

/**
 * Random moments within the canary's life, chosen as a verification chooses its own; each lies in a gap in which it is
 * known what was committed and what was not.
 *
 * @param from when the backup ended
 */
export function chooseMoments(
  commits: readonly KnownCommit[],
  from: Date,
  count: number,
  seed: string,
): Moment[] {
  const last = commits.at(-1);
  if (!last) throw new Error('the canary has not committed anything');
  const moments: Moment[] = [];
  for (let draw = 0; moments.length < count; draw += 1) {
    if (draw > count * 1000) throw new Error('there are too few gaps between the commits of the canary');
    const micros = chooseMoment(
      toMicros(from) + 1_000_000n,
      toMicros(new Date(last.sentAt)),
      `${seed}/${draw}`,
    );
    if (micros === undefined) throw new Error('the canary has not committed anything since the backup');
    const at = Number(micros) / 1000;
    const before = commits.findLast(({ acknowledgedAt }) => acknowledgedAt < at);
    const next = before && commits[before.id];
    // A commit that was on its way at this moment may be on either side.
    if (before && next && next.sentAt > at) moments.push({ time: formatMicros(micros), after: before.id });
  }
  return moments;
}

/** What is asked of a verification to that moment: the canary's rows, exactly. */
export function requestFor(
  moment: Moment,
  base: Omit<VerifyRequest, 'target' | 'checks'>,
  checks: Partial<VerifyRequest['checks']> = {},
): VerifyRequest {
  return {
    ...base,
    target: { targetTime: moment.time },
    checks: {
      manifest: false,
      pageChecksums: false,
      amcheck: false,
      ...checks,
      queries: [
        {
          database: 'postgres',
          sql: 'select count(*), min(id), max(id) from canary',
          expect: `${moment.after}|1|${moment.after}`,
        },
      ],
    },
  };
}

/** Why a verification did not stop inside the right gap; `undefined` when it did. */
export function missed(moment: Moment, { verification }: VerifyOutcome): string | undefined {
  const { result, error, reachedTime, checks } = verification;
  if (result !== 'verified') return `${moment.time}: ${result}: ${error ?? ''}`;
  if (!checks.some(({ name, result: outcome }) => name === 'target' && outcome === 'passed'))
    return `${moment.time}: the target was not checked`;
  if (reachedTime === undefined || parseTargetTime(reachedTime) > parseTargetTime(moment.time))
    return `${moment.time}: it went to ${reachedTime ?? 'nobody knows where'}`;
  return undefined;
}
