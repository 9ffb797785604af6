import { WorkflowNotFoundError, WorkflowUpdateFailedError, type WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { Command } from 'commander';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, ERRORS, type ErrorCode } from '../core/errors.ts';
import { parseRate } from '../core/rate.ts';
import {
  backupWorkflowId,
  pauseUpdate,
  resumeUpdate,
  SEARCH_ATTRIBUTE,
  throttleUpdate,
  WORKFLOW,
  type ControlState,
} from '../workflows/interface.ts';
import { namespaceOption, outputOption } from './options.ts';
import { formatBytes } from './output.ts';
import { connectTemporal, type TemporalClient } from './temporal-client.ts';

interface ControlOptions {
  readonly namespace: string;
  readonly output?: 'json';
}

/** An update answers when the copy was told, at the latest after a quarter of a minute. */
const UPDATE_MS = 30_000;

/** `walkeep pause BACKUP` */
export function pauseCommand(): Command {
  return controlling('pause', 'hold a running backup', (name, options) =>
    control(name, options, 'pause', (handle) => handle.executeUpdate(pauseUpdate)),
  ).description(
    'Nothing more is read until the backup is resumed. PostgreSQL stays in backup mode, and the deadline comes nearer.',
  );
}

/** `walkeep resume BACKUP` */
export function resumeCommand(): Command {
  return controlling('resume', 'let a paused backup go on', (name, options) =>
    control(name, options, 'resume', (handle) => handle.executeUpdate(resumeUpdate)),
  );
}

/** `walkeep throttle BACKUP RATE` */
export function throttleCommand(): Command {
  return new Command('throttle')
    .summary('give a running backup another rate')
    .description(
      "Holds for this backup until it ends; a BackupPolicy's limits.maxRate is what others begin with.",
    )
    .argument('<backup>', "the Backup's name")
    .argument('<rate>', 'bytes a second that are read, such as 20MiB/s; "none" for no limit')
    .addOption(namespaceOption())
    .addOption(outputOption(['json']))
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep throttle before-migration 20MiB/s\n  walkeep throttle before-migration none\n',
    )
    .action(async (name: string, rate: string, options: ControlOptions) => {
      const maxRate = rate === 'none' ? null : requireRate(rate);
      await control(name, options, 'throttle', (handle) =>
        handle.executeUpdate(throttleUpdate, { args: [{ maxRate }] }),
      );
    });
}

/** `walkeep cancel BACKUP` */
export function cancelCommand(): Command {
  return new Command('cancel')
    .summary('end a running backup')
    .description(
      'PostgreSQL leaves backup mode, what was uploaded is removed, and the Backup is recorded as failed: cancelled.',
    )
    .argument('<backup>', "the Backup's name")
    .addOption(namespaceOption())
    .option('--wait', 'until it has ended and all is cleaned up')
    .action(async (name: string, options: ControlOptions & { readonly wait?: true }) => {
      await withBackup(name, options, async (temporal, handle) => {
        await temporal.call('cancel the backup', () => handle.cancel());
        if (options.wait) await untilClosed(temporal, handle);
        process.stdout.write(`backup/${name} ${options.wait ? 'cancelled' : 'is being cancelled'}\n`);
      });
    });
}

function controlling(
  name: string,
  summary: string,
  action: (name: string, options: ControlOptions) => Promise<void>,
): Command {
  return new Command(name)
    .summary(summary)
    .argument('<backup>', "the Backup's name")
    .addOption(namespaceOption())
    .addOption(outputOption(['json']))
    .action(action);
}

async function control(
  name: string,
  options: ControlOptions,
  what: string,
  update: (handle: WorkflowHandle) => Promise<ControlState>,
): Promise<void> {
  await withBackup(name, options, async (temporal, handle) => {
    const state = await temporal.call(`${what} the backup`, () => update(handle), UPDATE_MS);
    process.stdout.write(
      options.output === 'json' ? `${JSON.stringify(state)}\n` : `backup/${name} ${stateText(state)}\n`,
    );
  });
}

/** What is wanted of a backup now, for people. */
export function stateText({ paused, maxBytesPerSecond }: ControlState): string {
  const rate =
    maxBytesPerSecond === undefined
      ? ''
      : maxBytesPerSecond === null
        ? ', no rate limit'
        : `, at most ${formatBytes(maxBytesPerSecond)}/s`;
  return `${paused ? 'paused' : 'running'}${rate}`;
}

function requireRate(text: string): string {
  parseRate(text);
  return text;
}

async function withBackup(
  name: string,
  { namespace }: ControlOptions,
  work: (temporal: TemporalClient, handle: WorkflowHandle) => Promise<void>,
): Promise<void> {
  const temporal = await connectTemporal();
  try {
    await work(temporal, await findRunning(temporal, namespace, name));
  } catch (error) {
    throw foreseen(error, namespace, name);
  } finally {
    await temporal.close();
  }
}

/** By its id; a run that a person started under another id is found by its search attributes. */
async function findRunning(
  temporal: TemporalClient,
  namespace: string,
  name: string,
): Promise<WorkflowHandle> {
  const handle = temporal.client.workflow.getHandle(backupWorkflowId(namespace, name));
  const runs = await temporal
    .call('look for the backup', () => handle.describe())
    .then(
      ({ status }) => status.name === 'RUNNING',
      (error: unknown) => {
        if (error instanceof WorkflowNotFoundError) return false;
        throw error;
      },
    );
  if (runs) return handle;
  const other = await temporal.call('look for the backup', async (client) => {
    const query = `WorkflowType = '${WORKFLOW.baseBackup}' AND ExecutionStatus = 'Running'`;
    for await (const run of client.workflow.list({ query })) {
      const attributes = run.typedSearchAttributes;
      if (attributes.get(SEARCH_ATTRIBUTE.backup) !== name) continue;
      if (attributes.get(SEARCH_ATTRIBUTE.namespace) === namespace) return run.workflowId;
    }
    return undefined;
  });
  if (other === undefined) throw notRunning(namespace, name);
  return temporal.client.workflow.getHandle(other);
}

function notRunning(namespace: string, name: string): BackupError {
  return new BackupError('backup-unknown', `no Backup "${name}" runs in namespace ${namespace}`, {
    hint: `see: walkeep get backups -n ${namespace}`,
  });
}

function foreseen(error: unknown, namespace: string, name: string): unknown {
  if (error instanceof WorkflowNotFoundError) return notRunning(namespace, name);
  const cause = error instanceof WorkflowUpdateFailedError ? error.cause : undefined;
  if (!(cause instanceof ApplicationFailure) || !cause.type || !(cause.type in ERRORS)) return error;
  const [hint] = cause.details ?? [];
  return new BackupError(cause.type as ErrorCode, cause.message, {
    cause: error,
    ...(typeof hint === 'string' && { hint }),
  });
}

async function untilClosed(temporal: TemporalClient, handle: WorkflowHandle): Promise<void> {
  for (;;) {
    const { status } = await temporal.call('look at the backup', () => handle.describe());
    if (status.name !== 'RUNNING') return;
    await delay(500);
  }
}
