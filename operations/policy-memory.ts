import type { SweepReport } from '../core/sweep-report.ts';
import type { Repository } from '../repository/repository.ts';
import { readSweptBy, writeSweptBy } from '../repository/swept-by.ts';
import type { SweepRules } from './gather-retention.ts';
import { rulesOf, type DeclaredRules } from './sweep-declared.ts';

/** What is declared, why nothing may be decided by it, and what was taken back by name: `Kind/name`. */
export interface DeclaredNow {
  readonly desire: DeclaredRules;
  readonly doubt?: string;
  readonly removed?: readonly string[];
}

/** The rules of a sweep of this repository: in doubt also when it was swept by a policy that is not declared any more. */
export async function rulesFor(
  r: Repository,
  declared: DeclaredNow,
  signal: AbortSignal,
): Promise<SweepRules> {
  const doubt = declared.doubt ?? (await missedPolicy(r, declared, signal));
  return rulesOf({ desire: declared.desire, ...(doubt !== undefined && { doubt }) });
}

/**
 * Why nothing may be deleted without the BackupPolicy that the last sweep went by. Temporal's state may be lost, and the
 * only worker that held the policy away: then the window of the Cluster alone would delete what the policy keeps.
 *
 * @returns a whole phrase; `undefined`: none is missing, or it was taken back
 */
async function missedPolicy(
  r: Repository,
  { desire, removed = [] }: DeclaredNow,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (desire.policy) return undefined;
  const name = (await readSweptBy(r, signal))?.policy;
  if (name === undefined || removed.includes(`BackupPolicy/${name}`)) return undefined;
  return `the last sweep went by the BackupPolicy "${name}", which nobody declares any more: apply it again; if it is not wanted, take it back then (walkeep delete backuppolicy ${name})`;
}

/** For the next one. A sweep that was refused says nothing about what is declared. */
export async function rememberPolicy(
  r: Repository,
  { desire: { policy } }: DeclaredNow,
  { refused }: SweepReport,
  signal: AbortSignal,
): Promise<void> {
  if (refused !== undefined) return;
  await writeSweptBy(r, { version: 1, ...(policy && { policy: policy.metadata.name }) }, signal);
}
