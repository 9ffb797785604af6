import { isBackupError, messageOf } from '../core/errors.ts';
import { ownKey } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';

/** Turns end after a minute, and probes after some. */
const OLD_MS = 60 * 60_000;
/** At a time. A key that may not delete leaves a few an hour; the next sweep goes on. */
const MOST = 10_000;
const AT_ONCE = 1000;

export interface SweepTrialsOptions {
  /** The store's time, or the host's where that is not known; ms. */
  readonly now: number;
  /** Asked before each deletion: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Removes what creations and probes left below `walkeep/turns/` and `walkeep/probe/`, where they were killed or their key may
 * not delete.
 *
 * @returns why something was left, as whole phrases
 */
export async function sweepTrials(
  r: Repository,
  { now, mayGoOn, signal }: SweepTrialsOptions,
): Promise<string[]> {
  const before = now - OLD_MS;
  const warnings: string[] = [];
  for (const folder of ['turns', 'probe']) {
    const prefix = `${ownKey(r.server, folder)}/`;
    const old: string[] = [];
    try {
      for await (const { key, modifiedAt } of r.store.list(prefix, { signal })) {
        if (modifiedAt.getTime() < before) old.push(key);
        if (old.length >= MOST) break;
      }
      while (old.length > 0) {
        await mayGoOn();
        await r.store.delete(old.splice(0, AT_ONCE), { signal });
      }
    } catch (error) {
      if (signal.aborted || !isBackupError(error, 'access-denied', 'store-unavailable')) throw error;
      warnings.push(`what lies below ${prefix} stays: ${messageOf(error)}`);
    }
  }
  return warnings;
}
