import type { WorkflowExecutionInfo } from '@temporalio/client';
import { Command } from 'commander';
import { BackupError } from '../core/errors.ts';
import { clusterWorkflowId, walArchivingWorkflowId, WORKFLOW } from '../workflows/interface.ts';
import { namespaceOption, outputOption, parseClusterArgument } from './options.ts';
import { printable } from './output.ts';
import { connectTemporal, type TemporalClient } from './temporal-client.ts';

interface LogsOptions {
  readonly namespace: string;
  readonly runs: string;
  readonly output?: 'json';
}

/** One thing that happened in one run. */
interface LogLine {
  readonly time: string;
  readonly workflow: string;
  readonly what: string;
}

/** `walkeep logs CLUSTER` */
export function logsCommand(): Command {
  return new Command('logs')
    .summary("what a cluster's workflows have done")
    .description(
      "Prints what the workflows of a cluster have done, oldest first, from Temporal's histories. The worker's own log is\n" +
        'on its standard error (journalctl -u walkeep-worker@CLUSTER, where it runs as that service).',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .option('--runs <number>', 'how many of the newest backups and restores', '10')
    .addOption(outputOption(['json']))
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep logs production-postgres\n  walkeep logs production-postgres --runs 1\n',
    )
    .action(async (argument: string, options: LogsOptions) => {
      const reference = parseClusterArgument(argument);
      const temporal = await connectTemporal();
      try {
        const lines = await readLogs(
          temporal,
          reference.namespace ?? options.namespace,
          reference.cluster,
          options,
        );
        const print = options.output === 'json' ? (line: LogLine) => JSON.stringify(line) : formatLine;
        for (const line of lines) process.stdout.write(`${print(line)}\n`);
      } finally {
        await temporal.close();
      }
    });
}

function formatLine(line: LogLine): string {
  return printable(`${line.time}  ${line.workflow}  ${line.what}`.replaceAll('\n', ' '));
}

async function readLogs(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  options: LogsOptions,
): Promise<LogLine[]> {
  const most = Number(options.runs);
  if (!Number.isInteger(most) || most < 0 || most > 1000) {
    throw new BackupError('usage', `--runs takes a number from 0 to 1000, got "${options.runs}"`);
  }
  const runs = await temporal.call('list the runs', async (client) => {
    const found: WorkflowExecutionInfo[] = [];
    const query =
      `WorkflowId IN ('${clusterWorkflowId(namespace, cluster)}', '${walArchivingWorkflowId(namespace, cluster)}')` +
      ` OR (WalkeepNamespace = '${namespace}' AND WalkeepCluster = '${cluster}')`;
    const byType = `WorkflowType IN ('${Object.values(WORKFLOW).join("','")}')`;
    const kept = new Map<string, number>();
    for await (const run of client.workflow.list({ query: `(${query}) AND ${byType}` })) {
      const count = (kept.get(run.type) ?? 0) + 1;
      kept.set(run.type, count);
      // The keeper and archiving continue as new for ever: their newest run is enough.
      const limit = run.type === WORKFLOW.baseBackup || run.type === WORKFLOW.restore ? most : 1;
      if (count <= limit) found.push(run);
    }
    return found;
  });
  if (runs.length === 0) {
    throw new BackupError(
      'cluster-unknown',
      `Temporal knows no workflow of the cluster "${namespace}/${cluster}"`,
    );
  }
  const lines: LogLine[] = [];
  for (const run of runs) {
    const history = await temporal.call('read a history', (client) =>
      client.workflow.getHandle(run.workflowId, run.runId).fetchHistory(),
    );
    lines.push(...linesOf(run.workflowId, history.events ?? []));
  }
  return lines.toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
}

type HistoryEvents = NonNullable<
  Awaited<ReturnType<ReturnType<TemporalClient['client']['workflow']['getHandle']>['fetchHistory']>>['events']
>;

/** What people want to read of a history: steps, failures, ends. */
function linesOf(workflow: string, events: HistoryEvents): LogLine[] {
  const steps = new Map<string, string>();
  const lines: LogLine[] = [];
  for (const event of events) {
    const say = (what: string) => lines.push({ time: timeOf(event.eventTime), workflow, what });
    const activity = (id: unknown) => steps.get(String(id)) ?? 'an activity';
    if (event.workflowExecutionStartedEventAttributes) say('started');
    const scheduled = event.activityTaskScheduledEventAttributes;
    if (scheduled) steps.set(String(event.eventId), scheduled.activityType?.name ?? 'an activity');
    const completed = event.activityTaskCompletedEventAttributes;
    if (completed) say(`${activity(completed.scheduledEventId)} completed`);
    const failed = event.activityTaskFailedEventAttributes;
    if (failed) say(`${activity(failed.scheduledEventId)} failed: ${failed.failure?.message ?? ''}`);
    const timedOut = event.activityTaskTimedOutEventAttributes;
    if (timedOut) say(`${activity(timedOut.scheduledEventId)} timed out: ${timedOut.failure?.message ?? ''}`);
    const canceled = event.activityTaskCanceledEventAttributes;
    if (canceled) say(`${activity(canceled.scheduledEventId)} stopped: cancelled`);
    const signaled = event.workflowExecutionSignaledEventAttributes;
    if (signaled && signaled.signalName !== 'instance') say(`signal ${signaled.signalName ?? ''}`);
    const updated = event.workflowExecutionUpdateAcceptedEventAttributes;
    if (updated) say(`update ${updated.acceptedRequest?.input?.name ?? ''}`);
    if (event.workflowExecutionCompletedEventAttributes) say('completed');
    const ended = event.workflowExecutionFailedEventAttributes;
    if (ended) say(`failed: ${ended.failure?.message ?? ''}`);
    if (event.workflowExecutionCanceledEventAttributes) say('cancelled');
    const terminated = event.workflowExecutionTerminatedEventAttributes;
    if (terminated) say(`terminated: ${terminated.reason ?? ''}`);
    if (event.workflowExecutionContinuedAsNewEventAttributes) say('continued as new');
  }
  return lines;
}

function timeOf(time: HistoryEvents[number]['eventTime']): string {
  const ms = Number(time?.seconds ?? 0) * 1000 + Math.floor((time?.nanos ?? 0) / 1e6);
  return new Date(ms).toISOString();
}
