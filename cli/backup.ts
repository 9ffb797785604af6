import {
  WorkflowExecutionAlreadyStartedError,
  WorkflowFailedError,
  type WorkflowHandle,
} from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { Command, Option } from 'commander';
import { setTimeout as delay } from 'node:timers/promises';
import type { BackupStatus } from '../core/backup-status.ts';
import { BackupError, ERRORS, messageOf, type ErrorCode } from '../core/errors.ts';
import {
  backupWorkflowId,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type BackupTarget,
  type BaseBackupInput,
} from '../workflows/interface.ts';
import { namespaceOption, outputOption, parseClusterArgument } from './options.ts';
import { formatDuration, note } from './output.ts';
import { createProgressBar, progressOf } from './progress.ts';
import { connectTemporal, type TemporalClient } from './temporal-client.ts';

interface BackupOptions {
  readonly namespace: string;
  readonly name?: string;
  readonly wait?: true;
  readonly target?: BackupTarget;
  readonly immediateCheckpoint?: true;
  readonly output?: 'json' | 'name';
}

/** `walkeep backup CLUSTER` */
export function backupCommand(): Command {
  return new Command('backup')
    .summary('take a base backup of a cluster now')
    .description(
      'Starts the workflow baseBackup. With --wait it shows the progress and ends when the backup has.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .option('--name <name>', "the Backup's name (default: CLUSTER-YYYYMMDDhhmmss)")
    .addOption(new Option('--target <instance>', 'which instance').choices(['primary', 'prefer-standby']))
    .option('--immediate-checkpoint', 'let PostgreSQL write its checkpoint at once instead of spreading it')
    .option('--wait', 'wait until the backup has ended; exit 0 only if it completed')
    .addOption(outputOption(['json', 'name']))
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep backup production-postgres --wait\n' +
        '  walkeep backup production-postgres --name before-migration --immediate-checkpoint --wait -o json\n\n' +
        'The same by Temporal alone:\n' +
        '  temporal workflow start --type baseBackup --task-queue walkeep -w backup/default/by-hand \\\n' +
        '      --input \'{"cluster":"production-postgres"}\'\n',
    )
    .action(async (argument: string, options: BackupOptions) => {
      const reference = parseClusterArgument(argument);
      const namespace = reference.namespace ?? options.namespace;
      const temporal = await connectTemporal();
      try {
        await takeBackup(temporal, { ...options, namespace }, reference.cluster);
      } finally {
        await temporal.close();
      }
    });
}

async function takeBackup(temporal: TemporalClient, options: BackupOptions, cluster: string): Promise<void> {
  const name = options.name ?? `${cluster}-${compactTime(new Date())}`;
  const input: BaseBackupInput = {
    cluster,
    namespace: options.namespace,
    name,
    ...(options.target !== undefined && { target: options.target }),
    ...(options.immediateCheckpoint !== undefined && { immediateCheckpoint: true }),
  };
  const workflowId = backupWorkflowId(options.namespace, name);
  const handle = await temporal.call('start the backup', (client) =>
    client.workflow
      .start(WORKFLOW.baseBackup, {
        workflowId,
        taskQueue: WORKFLOW_QUEUE,
        args: [input],
        workflowIdConflictPolicy: 'FAIL',
        staticSummary: `base backup of ${options.namespace}/${cluster}`,
      })
      .catch((error: unknown) => {
        if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
        throw new BackupError('already-exists', `a Backup "${name}" is running already`, {
          hint: `follow it with: walkeep describe backup ${name} -n ${options.namespace}`,
        });
      }),
  );
  if (!options.wait) {
    process.stdout.write(
      options.output === 'json' ? `${JSON.stringify({ name, workflowId })}\n` : `backup/${name} started\n`,
    );
    if (options.output === undefined) {
      note(`it goes on without this command; see: walkeep get backups -n ${options.namespace} -w`);
    }
    return;
  }
  printEnd(await waitForBackup(temporal, handle), name, options.output);
}

const POLL_MS = 700;

/** Shows progress until the run has closed, and gives its result. An outage of Temporal only interrupts the show. */
async function waitForBackup(temporal: TemporalClient, handle: WorkflowHandle): Promise<BackupStatus> {
  const bar = createProgressBar();
  let away = false;
  try {
    for (;;) {
      try {
        const description = await temporal.call('look at the backup', () => handle.describe());
        away = false;
        if (description.status.name !== 'RUNNING') break;
        const report = await progressOf(temporal.client, description);
        if (report) bar.update(report);
      } catch (error) {
        if (!(error instanceof BackupError) || error.code !== 'temporal-unavailable') throw error;
        if (!away)
          note(`walkeep: ${error.message}; the backup goes on, this command waits until Temporal is back`);
        away = true;
      }
      await delay(POLL_MS);
    }
    bar.end();
    return await temporal.call('read the result', () => handle.result() as Promise<BackupStatus>);
  } catch (error) {
    bar.end();
    throw error instanceof WorkflowFailedError ? foreseen(error) : error;
  }
}

/** A failed run as the failure that ended it. */
export function foreseen(error: WorkflowFailedError): BackupError | Error {
  for (let cause: unknown = error.cause; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof ApplicationFailure && cause.type && cause.type in ERRORS) {
      const [hint] = cause.details ?? [];
      return new BackupError(cause.type as ErrorCode, cause.message, {
        cause: error,
        ...(typeof hint === 'string' && { hint }),
      });
    }
  }
  return new Error(`the backup did not complete: ${messageOf(error.cause)}`, { cause: error });
}

function printEnd(status: BackupStatus, name: string, output: BackupOptions['output']): void {
  if (output === 'json') process.stdout.write(`${JSON.stringify(status)}\n`);
  else process.stdout.write(`backup/${name} ${status.phase}${summaryOf(status)}\n`);
}

function summaryOf(status: BackupStatus): string {
  const took =
    status.startedAt && status.stoppedAt
      ? formatDuration(Date.parse(status.stoppedAt) - Date.parse(status.startedAt))
      : '';
  const parts = [
    status.backupId ? `id ${status.backupId}` : '',
    took ? `in ${took}` : '',
    status.beginLSN && status.endLSN ? `WAL ${status.beginLSN} to ${status.endLSN}` : '',
  ].filter(Boolean);
  return parts.length > 0 ? `: ${parts.join(', ')}` : '';
}

/** `YYYYMMDDhhmmss` in UTC, as `kubectl cnpg backup` names them. */
function compactTime(time: Date): string {
  return time.toISOString().replaceAll(/[-:T]/g, '').slice(0, 14);
}
