import { WorkflowFailedError } from '@temporalio/client';
import { Command } from 'commander';
import { createInterface } from 'node:readline/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import { policyOf, type Desire } from '../manifests/desire.ts';
import { readBesides } from '../operations/declared.ts';
import { sweepRules, type SweepRules } from '../operations/gather-retention.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { planSweep, sweep, type PlannedSweep } from '../operations/sweep.ts';
import type { Repository } from '../repository/repository.ts';
import {
  clusterWorkflowId,
  desireQuery,
  sweepWorkflowId,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type RetentionSweepInput,
} from '../workflows/interface.ts';
import { foreseen } from './backup.ts';
import { EXIT } from './exit-codes.ts';
import { findCluster, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { note, printable } from './output.ts';
import { describeSweep, summary } from './sweep-tables.ts';
import type { TemporalClient } from './temporal-client.ts';

interface SweepFlags {
  readonly namespace: string;
  readonly state?: string;
  readonly dryRun?: true;
  readonly yes?: true;
  readonly local?: true;
  readonly output?: 'json';
}

interface Asked {
  readonly namespace: string;
  readonly cluster: string;
}

/** `walkeep sweep CLUSTER` */
export function sweepCommand(): Command {
  return new Command('sweep')
    .summary('delete the backups and WAL that no rule keeps; --dry-run shows what and why')
    .description(
      'Decides for every backup whether a rule keeps it, and says why. What nothing keeps is marked, and deleted by a\n' +
        'later sweep when the grace period is over and still nothing keeps it, with the WAL that only it needed.\n' +
        'With Temporal it starts the workflow retentionSweep and follows it; without, it sweeps from this host.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .option('--dry-run', 'only show what would be done; needs the repository alone')
    .option('--yes', 'do not ask before deleting')
    .option('--local', 'sweep from this host, also when Temporal answers')
    .addOption(outputOption(['json']))
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep sweep production-postgres --dry-run\n  walkeep sweep production-postgres --yes\n' +
        '  walkeep sweep production-postgres --dry-run -o json | jq \'.backups[] | select(.decision != "keep")\'\n',
    )
    .action(async (argument: string, flags: SweepFlags) => {
      const { cluster, namespace = flags.namespace } = parseClusterArgument(argument);
      process.exitCode = await withHost(flags, (host) => run(host, { namespace, cluster }, flags));
    });
}

async function run(host: Host, asked: Asked, flags: SweepFlags): Promise<number> {
  const { report: plan, hasWork } = await planAnywhere(host, asked);
  const mayEnd = flags.dryRun || !hasWork;
  // What is shown before the question; JSON is for programs, which want one document.
  if (mayEnd || flags.output !== 'json') print(plan, flags.output);
  if (mayEnd) {
    if (!flags.dryRun && flags.output !== 'json') note('nothing to do');
    return plan.refused === undefined ? EXIT.ok : EXIT.refused;
  }
  await confirm(plan, flags);
  const temporal = flags.local ? undefined : await temporalOrNote(host);
  const report = temporal ? await follow(temporal, asked) : await sweepHere(host, asked);
  if (flags.output === 'json') print(report, flags.output);
  else process.stdout.write(printable(summary(report)));
  return report.refused === undefined ? EXIT.ok : EXIT.refused;
}

async function confirm({ counts }: SweepReport, { yes, output }: SweepFlags): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY || output === 'json') {
    throw new BackupError('usage', 'a sweep deletes, and nobody is here to be asked', {
      hint: 'add --yes, or --dry-run to only see what it would do',
    });
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const what = `${counts.deletedBackups} backups and ${counts.deletedWal} WAL segments are deleted, ${counts.marked} backups marked`;
  const answer = await terminal.question(`${what}. Go on? [y/N] `).finally(() => terminal.close());
  if (!/^y(es)?$/i.test(answer.trim())) {
    throw new BackupError('usage', 'nothing was deleted', { hint: 'answer y to go on' });
  }
}

// ---- from this host ------------------------------------------------------------------------------------------------

async function planHere(host: Host, asked: Asked): Promise<PlannedSweep> {
  return here(host, asked, (repository, rules) =>
    planSweep(repository, rules, { signal: untilInterrupted() }),
  );
}

async function sweepHere(host: Host, asked: Asked): Promise<SweepReport> {
  return here(host, asked, (repository, rules) =>
    sweep(repository, rules, {
      signal: untilInterrupted(),
      holder: `walkeep sweep ${asked.namespace}/${asked.cluster}`,
    }),
  );
}

async function here<Result>(
  host: Host,
  asked: Asked,
  work: (repository: Repository, rules: SweepRules) => Promise<Result>,
): Promise<Result> {
  const desire = await findDesire(host, asked);
  const repository = await openClusterRepository(desire.cluster, host.resolver);
  try {
    return await work(repository, sweepRules(desire.cluster, policyOf(desire), desire.policy !== undefined));
  } finally {
    await repository.close();
  }
}

/**
 * What is declared about a cluster: as its keeper holds it, which is what counts, else as this host keeps it.
 *
 * @throws BackupError `config-invalid` when a policy of this host can't be read: it may keep more than all others say
 */
async function findDesire(
  host: Host,
  { namespace, cluster }: Asked,
): Promise<Pick<Desire, 'cluster' | 'policy'>> {
  const told = await host
    .temporal()
    .then((temporal) =>
      temporal.call(
        'ask the keeper',
        (client) => client.workflow.getHandle(clusterWorkflowId(namespace, cluster)).query(desireQuery),
        5_000,
      ),
    )
    .catch(() => undefined);
  if (told) return told;
  const { manifest } = await findCluster(host, namespace, cluster);
  const damaged = (await host.state.backupPolicies.list(namespace)).find(({ applied }) => !applied);
  if (damaged) {
    throw new BackupError(
      'config-invalid',
      `the BackupPolicy ${damaged.namespace}/${damaged.name} of this host can't be read: ${damaged.problem ?? ''}`,
      { hint: 'apply it again; nothing is deleted while it is not known what it keeps' },
    );
  }
  const { policy } = await readBesides(host.state, namespace, cluster);
  return { cluster: manifest, ...(policy && { policy }) };
}

let interrupted: AbortController | undefined;
function untilInterrupted(): AbortSignal {
  if (!interrupted) {
    const controller = (interrupted = new AbortController());
    const stop = () => controller.abort(new Error('the sweep was interrupted; the next one goes on'));
    process.once('SIGINT', stop).once('SIGTERM', stop);
  }
  return interrupted.signal;
}

// ---- by the workflow -----------------------------------------------------------------------------------------------

/** What this host can't reach its worker may. */
const NOT_FROM_HERE = [
  'secret-missing',
  'access-denied',
  'bucket-missing',
  'store-unavailable',
  'config-invalid',
] as const;

async function planAnywhere(host: Host, asked: Asked): Promise<PlannedSweep> {
  try {
    return await planHere(host, asked);
  } catch (error) {
    if (!isBackupError(error, ...NOT_FROM_HERE)) throw error;
    const temporal = await host.temporal().catch(() => undefined);
    if (!temporal) throw error;
    note(`walkeep: not from this host (${messageOf(error)}): asking its worker`);
    const report = await follow(temporal, { ...asked, dryRun: true });
    return { report, hasWork: report.refused === undefined };
  }
}

async function temporalOrNote(host: Host): Promise<TemporalClient | undefined> {
  try {
    return await host.temporal();
  } catch (error) {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    note(`walkeep: ${error.message}; sweeping from this host`);
    return undefined;
  }
}

const POLL_MS = 700;

/** Starts the sweep, or joins the one that runs, and waits for its end. */
async function follow(temporal: TemporalClient, input: RetentionSweepInput): Promise<SweepReport> {
  const { cluster, namespace = 'default', dryRun = false } = input;
  const workflowId = `${sweepWorkflowId(namespace, cluster)}${dryRun ? '/dry-run' : ''}`;
  const handle = await temporal.call('start the sweep', (client) =>
    client.workflow.start(WORKFLOW.retentionSweep, {
      workflowId,
      taskQueue: WORKFLOW_QUEUE,
      args: [input],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: `${dryRun ? 'dry run of a ' : ''}sweep of ${namespace}/${cluster}`,
    }),
  );
  try {
    for (;;) {
      const { status } = await temporal.call('look at the sweep', () => handle.describe());
      if (status.name !== 'RUNNING') break;
      await delay(POLL_MS);
    }
    return await temporal.call('read the result', () => handle.result() as Promise<SweepReport>);
  } catch (error) {
    if (isBackupError(error, 'temporal-unavailable')) {
      throw new BackupError(
        'temporal-unavailable',
        `${error.message}; the sweep ${workflowId} goes on without this command`,
      );
    }
    throw error instanceof WorkflowFailedError ? foreseen(error) : error;
  }
}

// ---- for people ----------------------------------------------------------------------------------------------------

function print(report: SweepReport, output: SweepFlags['output']): void {
  if (output === 'json') process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
  else process.stdout.write(describeSweep(report));
}
