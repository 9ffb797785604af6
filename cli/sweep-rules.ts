import { BackupError } from '../core/errors.ts';
import { fingerprint } from '../core/fingerprint.ts';
import { policyOf, type Desire } from '../manifests/desire.ts';
import { readBesides } from '../operations/declared.ts';
import { sweepRules, type SweepRules } from '../operations/gather-retention.ts';
import { requireCluster } from '../operations/state-directory.ts';
import type { Host } from './host.ts';
import { askKeeper, type KeeperAnswer } from './keeper-answer.ts';

export interface Asked {
  readonly namespace: string;
  readonly cluster: string;
}

/** What is declared about a cluster, and who says so. */
export interface Declared {
  readonly desire: Pick<Desire, 'cluster' | 'policy'>;
  readonly doubt?: string;
  readonly keeper: KeeperAnswer['keeper'];
  /** For people: why it may be out of date. */
  readonly caution?: string;
}

/**
 * What is declared about a cluster, as its keeper says; where none answers, as the files of this host have it: enough to
 * show what would be done.
 *
 * @throws BackupError `cluster-unknown` | `config-invalid` when this host does not have it or can't read a policy, which
 *   may keep more than all others say
 */
export async function findDeclared(host: Host, asked: Asked): Promise<Declared> {
  return declaredBy(await askKeeper(host, asked.namespace, asked.cluster), host, asked);
}

/**
 * The same for a deletion, for which the files of this host are not good enough: they may be old. Only where nobody can
 * know better do they count, and then only when that was asked for.
 *
 * @throws BackupError when it is not known what may be deleted; nothing was
 */
export async function requireDeclared(host: Host, asked: Asked, local: boolean): Promise<Declared> {
  const answer = await askKeeper(host, asked.namespace, asked.cluster);
  const { keeper } = answer;
  if (keeper === 'silent') {
    throw new BackupError('worker-missing', `${answer.why}: nothing was deleted, only it says what may be`, {
      hint: 'start walkeep worker, or try again; --dry-run shows what the files of this host would say',
    });
  }
  if (keeper === 'none' && !local) {
    throw new BackupError(
      'cluster-unknown',
      `no keeper of ${asked.namespace}/${asked.cluster} runs, so nobody declares any more what may be deleted, ` +
        'and what this host keeps of it may be old: nothing was deleted',
      { hint: 'apply the Cluster again, or add --local to delete by the files of this host' },
    );
  }
  if (keeper === 'away' && !local) {
    throw new BackupError(
      answer.code,
      `${answer.why}: nothing was deleted, only the keeper says what may be, and the files of this host may be old`,
      { hint: 'start Temporal or set TEMPORAL_ADDRESS; or add --local to delete by the files of this host' },
    );
  }
  return declaredBy(answer, host, asked);
}

async function declaredBy(answer: KeeperAnswer, host: Host, asked: Asked): Promise<Declared> {
  const { namespace, cluster } = asked;
  if (answer.keeper === 'answers') {
    const { doubt, ...desire } = answer.desire;
    return { desire, keeper: 'answers', ...(doubt !== undefined && { doubt }) };
  }
  const { manifest } = await requireCluster(host.state, namespace, cluster);
  const { policy } = await readBesides(host.state, namespace, cluster);
  const why = answer.keeper === 'none' ? `no keeper of ${namespace}/${cluster} runs` : answer.why;
  return {
    desire: { cluster: manifest, ...(policy && { policy }) },
    keeper: answer.keeper,
    caution: `${why}; this goes by the files of this host, which may be out of date`,
  };
}

/** What decides by it. */
export function rulesOf({ desire, doubt }: Declared): SweepRules {
  return {
    ...sweepRules(desire.cluster, policyOf(desire), desire.policy !== undefined),
    ...(doubt !== undefined && { doubt }),
  };
}

/**
 * Why what a sweep began with does not hold any more. Whoever can't be reached in the middle of it tells nothing new.
 *
 * @returns a whole phrase; `undefined`: go on
 */
export async function whatChanged(host: Host, asked: Asked, before: Declared): Promise<string | undefined> {
  const answer = await askKeeper(host, asked.namespace, asked.cluster);
  const { keeper } = answer;
  if (before.keeper !== 'answers') {
    return keeper === 'answers' || keeper === 'silent'
      ? 'the cluster has a keeper again, and its rules count; sweep again'
      : undefined;
  }
  if (keeper === 'none') return 'the Cluster was deleted meanwhile';
  if (keeper !== 'answers') return undefined;
  if (answer.desire.doubt !== undefined) return answer.desire.doubt;
  return printOf(answer.desire) === printOf(before.desire)
    ? undefined
    : 'what is declared has changed meanwhile; the next sweep goes by it';
}

/** Of all that decides what stays. */
function printOf({ cluster, policy }: Pick<Desire, 'cluster' | 'policy'>): string {
  return fingerprint({ cluster, policy });
}
