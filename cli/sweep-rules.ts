import { BackupError } from '../core/errors.ts';
import { readBesides } from '../operations/declared.ts';
import { DeclarationWatch, type DeclaredRules } from '../operations/sweep-declared.ts';
import { requireCluster } from '../operations/state-directory.ts';
import type { Host } from './host.ts';
import { askKeeper, type KeeperAnswer } from './keeper-answer.ts';

export interface Asked {
  readonly namespace: string;
  readonly cluster: string;
}

/** What is declared about a cluster, and who says so. */
export interface Declared {
  readonly desire: DeclaredRules;
  readonly doubt?: string;
  /** What its keeper was told to take back. */
  readonly removed?: readonly string[];
  readonly keeper: KeeperAnswer['keeper'];
  /** Where its keeper says so: holds what it says later against it. */
  readonly watch?: DeclarationWatch;
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
 * @param now in ms, from any beginning: how long a keeper has been silent
 * @throws BackupError when it is not known what may be deleted; nothing was
 */
export async function requireDeclared(
  host: Host,
  asked: Asked,
  local: boolean,
  now?: () => number,
): Promise<Declared> {
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
  return declaredBy(answer, host, asked, now);
}

async function declaredBy(
  answer: KeeperAnswer,
  host: Host,
  asked: Asked,
  now?: () => number,
): Promise<Declared> {
  const { namespace, cluster } = asked;
  if (answer.keeper === 'answers') {
    const { doubt, removed, unplaced: _held, ...desire } = answer.desire;
    const watch = new DeclarationWatch(desire, now);
    return {
      desire,
      keeper: 'answers',
      watch,
      ...(doubt !== undefined && { doubt }),
      ...(removed && { removed }),
    };
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

/**
 * Why what a sweep began with does not hold any more. A keeper that can't be reached in the middle of it tells nothing
 * new, for some minutes.
 *
 * @returns a whole phrase; `undefined`: go on
 */
export async function whatChanged(
  host: Host,
  asked: Asked,
  { watch }: Pick<Declared, 'watch'>,
): Promise<string | undefined> {
  const answer = await askKeeper(host, asked.namespace, asked.cluster);
  const { keeper } = answer;
  if (watch === undefined) {
    return keeper === 'answers' || keeper === 'silent'
      ? 'the cluster has a keeper again, and its rules count; sweep again'
      : undefined;
  }
  if (keeper === 'answers') return watch.whatChanged(answer.desire);
  return watch.whatChanged(keeper === 'none' ? 'gone' : 'silent');
}
