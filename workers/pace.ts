import type { Pace } from '../activities/cluster.ts';
import { parseDuration } from '../core/duration.ts';
import type { PolicySpec } from '../manifests/desire.ts';

/** How often things happen when nobody says otherwise. Seconds. */
const PACE: Pace = {
  heartbeat: 60,
  backoff: 60,
  backoffMaximum: 30 * 60,
  deadline: 12 * 3600,
  attempts: 5,
  walDeadline: 15 * 60,
  archivingReport: 3600,
};

/**
 * How often things happen: by default, by the cluster's BackupPolicy, and, which wins, by `WALKEEP_PACE` (JSON,
 * seconds), which changes single values: for tests, and for people who know why.
 */
export function paceFrom(environment: NodeJS.ProcessEnv, policy?: PolicySpec): Pace {
  const declared = policy ? { ...PACE, ...attemptsOf(policy) } : PACE;
  const given = overrides(environment);
  const known = Object.entries(given).filter(
    ([name, value]) => name in PACE && typeof value === 'number' && value > 0,
  );
  return { ...declared, ...Object.fromEntries(known) };
}

/** What `WALKEEP_PACE` says about the keeper; only tests do. */
export function keeperPaceFrom(environment: NodeJS.ProcessEnv): Pick<Pace, 'sweep' | 'audit' | 'missed'> {
  const given = Object.entries(overrides(environment)).filter(
    ([name, value]) => ['sweep', 'audit', 'missed'].includes(name) && typeof value === 'number' && value > 0,
  );
  return Object.fromEntries(given);
}

function overrides(environment: NodeJS.ProcessEnv): object {
  const text = environment['WALKEEP_PACE'];
  if (!text) return {};
  const given: unknown = JSON.parse(text);
  return typeof given === 'object' && given !== null ? given : {};
}

function attemptsOf({ attempts }: PolicySpec): Pick<Pace, 'attempts' | 'backoff' | 'deadline'> {
  return {
    attempts: attempts.maximum,
    backoff: Math.max(1, parseDuration(attempts.backoff) / 1000),
    deadline: Math.max(1, parseDuration(attempts.deadline) / 1000),
  };
}
