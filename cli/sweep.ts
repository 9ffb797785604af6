import { WorkflowFailedError } from '@temporalio/client';
import { Command } from 'commander';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { rememberPolicy, rulesFor } from '../operations/policy-memory.ts';
import { planSweep, sweep, type PlannedSweep } from '../operations/sweep.ts';
import type { Repository } from '../repository/repository.ts';
import {
  sweepWorkflowId,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type RetentionSweepInput,
} from '../workflows/interface.ts';
import { foreseen } from './backup.ts';
import { requireYes } from './confirm.ts';
import { EXIT } from './exit-codes.ts';
import { withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { note, printable } from './output.ts';
import { findDeclared, requireDeclared, whatChanged, type Asked, type Declared } from './sweep-rules.ts';
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

/** `walkeep sweep CLUSTER` */
export function sweepCommand(): Command {
  return new Command('sweep')
    .summary('delete the backups and WAL that no rule keeps; --dry-run shows what and why')
    .description(
      'Decides for every backup whether a rule keeps it, and says why. What nothing keeps is marked, and deleted by a\n' +
        'later sweep when the grace period is over and still nothing keeps it, with the WAL that only it needed.\n' +
        'It starts the workflow retentionSweep and follows it: what may be deleted is what the keeper of the cluster\n' +
        'declares. Where nobody declares it any more, or Temporal is away, --local deletes by the files of this host.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .option('--dry-run', 'only show what would be done; the repository alone will do')
    .option('--yes', 'do not ask before deleting')
    .option(
      '--local',
      'delete from this host; where no keeper can be asked, by what this host keeps, which may be old',
    )
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
  const local = flags.local ?? false;
  const declared = flags.dryRun ? await findDeclared(host, asked) : await requireDeclared(host, asked, local);
  const { report: plan, hasWork } = await planAnywhere(host, asked, declared);
  // With the plan it is about: a failure is told in one line.
  if (declared.caution !== undefined) note(`walkeep: ${declared.caution}`);
  const mayEnd = flags.dryRun || !hasWork;
  // What is shown before the question; JSON is for programs, which want one document.
  if (mayEnd || flags.output !== 'json') print(plan, flags.output);
  if (mayEnd) {
    if (!flags.dryRun && flags.output !== 'json') note('nothing to do');
    return plan.refused === undefined ? EXIT.ok : EXIT.refused;
  }
  await confirm(plan, flags);
  const report = local ? await sweepHere(host, asked, declared) : await follow(await host.temporal(), asked);
  if (flags.output === 'json') print(report, flags.output);
  else process.stdout.write(printable(summary(report)));
  return report.refused === undefined ? EXIT.ok : EXIT.refused;
}

async function confirm({ counts }: SweepReport, { yes, output }: SweepFlags): Promise<void> {
  const { deletedBackups, deletedWal, marked } = counts;
  const question = {
    what: `${deletedBackups} backups and ${deletedWal} WAL segments are deleted, ${marked} backups marked`,
    unasked: 'a sweep deletes, and nobody is here to be asked',
    hint: 'add --yes, or --dry-run to only see what it would do',
    declined: 'nothing was deleted',
  };
  await requireYes(question, yes ?? false, output !== 'json');
}

// ---- from this host ------------------------------------------------------------------------------------------------

async function planHere(host: Host, declared: Declared): Promise<PlannedSweep> {
  const signal = untilInterrupted();
  return withRepository(host, declared, async (repository) =>
    planSweep(repository, await rulesFor(repository, declared, signal), { signal }),
  );
}

async function sweepHere(host: Host, asked: Asked, before: Declared): Promise<SweepReport> {
  // Once more: whoever was asked may have taken its time to say yes. The files of this host count only if they did then.
  const declared = await requireDeclared(host, asked, before.keeper !== 'answers');
  const signal = untilInterrupted();
  return withRepository(host, declared, async (repository) => {
    const report = await sweep(repository, await rulesFor(repository, declared, signal), {
      signal,
      holder: `walkeep sweep ${asked.namespace}/${asked.cluster}`,
      stillDeclared: () => whatChanged(host, asked, declared),
    });
    await rememberPolicy(repository, declared, report, signal);
    return report;
  });
}

async function withRepository<Result>(
  host: Host,
  { desire }: Declared,
  work: (repository: Repository) => Promise<Result>,
): Promise<Result> {
  const repository = await openClusterRepository(desire.cluster, host.resolver);
  try {
    return await work(repository);
  } finally {
    await repository.close();
  }
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

async function planAnywhere(host: Host, asked: Asked, declared: Declared): Promise<PlannedSweep> {
  try {
    return await planHere(host, declared);
  } catch (error) {
    if (!isBackupError(error, ...NOT_FROM_HERE)) throw error;
    const temporal = await host.temporal().catch(() => undefined);
    if (!temporal) throw error;
    note(`walkeep: not from this host (${messageOf(error)}): asking its worker`);
    const report = await follow(temporal, { ...asked, dryRun: true });
    return { report, hasWork: report.refused === undefined };
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
