import type { InstanceFacts } from '../activities/cluster.ts';
import type { BackupTarget } from './interface.ts';

/**
 * In which order to ask instances for a base backup. `prefer-standby` spares the primary, `primary` takes nothing
 * else. Within a role the order of names decides, so that the choice is the same every time.
 */
export function backupCandidates(instances: readonly InstanceFacts[], target: BackupTarget): InstanceFacts[] {
  const rank = (facts: InstanceFacts) => RANKS[target][facts.role];
  return instances
    .filter((facts) => rank(facts) !== undefined)
    .toSorted((a, b) => (rank(a) ?? 0) - (rank(b) ?? 0) || compare(a.instance, b.instance));
}

/** Whether an instance, as it is at this moment, may take the backup. */
export function mayTakeBackup(facts: InstanceFacts, target: BackupTarget): boolean {
  return facts.role === 'primary' || (facts.role === 'standby' && target === 'prefer-standby');
}

/** The instance whose archiver counts: the primary; without one whoever might be it. */
export function archivingInstance(instances: readonly InstanceFacts[]): string | undefined {
  const order = ['primary', 'unknown', 'standby', 'absent'];
  return instances.toSorted(
    (a, b) => order.indexOf(a.role) - order.indexOf(b.role) || compare(a.instance, b.instance),
  )[0]?.instance;
}

// `unknown` is asked too: it may have been starting when it reported. `absent` has nothing to back up.
const RANKS: Record<BackupTarget, Partial<Record<InstanceFacts['role'], number>>> = {
  'prefer-standby': { standby: 0, primary: 1, unknown: 2 },
  primary: { primary: 0, unknown: 1, standby: 2 },
};

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
