import { BackupError } from './errors.ts';

/** How long CNPG's `retentionPolicy` keeps backups: a recovery window. */
export interface RetentionWindow {
  readonly count: number;
  readonly unit: 'd' | 'w' | 'm';
  readonly windowMs: number;
}

/** As barman counts them: a month is 31 days, so that no window is shorter than its calendar month. */
const DAYS = { d: 1, w: 7, m: 31 } as const;
const DAY_MS = 86_400_000;
/** Ten thousand years of days: more is a typing mistake, and would leave the range of dates. */
const MOST_DAYS = 3_652_500;

export function isRetentionPolicy(text: string): boolean {
  const match = /^([1-9][0-9]*)([dwm])$/.exec(text);
  return match !== null && Number(match[1]) * DAYS[unitOf(match[2])] <= MOST_DAYS;
}

/** @throws BackupError `format-invalid` unless `text` is a number from 1 and `d`, `w` or `m`, such as `30d` */
export function parseRetentionPolicy(text: string): RetentionWindow {
  const match = /^([1-9][0-9]*)([dwm])$/.exec(text);
  if (!match || !isRetentionPolicy(text)) {
    throw new BackupError('format-invalid', `not a retention policy: "${text}"`, {
      hint: 'write a number and d, w or m: 30d, 4w, 6m',
    });
  }
  const count = Number(match[1]);
  const unit = unitOf(match[2]);
  return { count, unit, windowMs: count * DAYS[unit] * DAY_MS };
}

function unitOf(letter: string | undefined): 'd' | 'w' | 'm' {
  return letter === 'w' || letter === 'm' ? letter : 'd';
}

/** What may let backups of a cluster go. */
export interface DeletionRules {
  /** `retentionPolicy`. */
  readonly window: string | undefined;
  /** Whether a BackupPolicy is declared: what either keeps is kept. */
  readonly hasPolicy: boolean;
}

/** Whether another `retentionPolicy` lets backups go that are kept by the one before. A BackupPolicy's own rules are not looked at. */
export function keepsLess(before: DeletionRules, after: DeletionRules): boolean {
  if (before.window === after.window) return false;
  if (before.window === undefined) {
    // Without any rule nothing is deleted; beside a policy a window keeps more.
    return !before.hasPolicy;
  }
  // Then the policy alone decides; without one nothing is deleted any more.
  if (after.window === undefined) return after.hasPolicy;
  return parseRetentionPolicy(after.window).windowMs < parseRetentionPolicy(before.window).windowMs;
}
