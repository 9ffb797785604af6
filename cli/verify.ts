import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import { Command, Option } from 'commander';
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import type { Verification } from '../core/verification.ts';
import {
  verificationWorkflowId,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type RestoreVerificationInput,
} from '../workflows/interface.ts';
import { foreseen } from './backup.ts';
import { EXIT } from './exit-codes.ts';
import { withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { formatBytes, note, printable } from './output.ts';
import { createProgressBar, progressOf } from './progress.ts';
import type { TemporalClient } from './temporal-client.ts';
import { checksOf, targetOf, verifyHere, type VerifyFlags } from './verify-here.ts';

/** `walkeep verify CLUSTER` */
export function verifyCommand(): Command {
  return new Command('verify')
    .summary('prove a backup by restoring it')
    .description(
      'Restores a backup into scratch space, replays WAL, starts PostgreSQL there in isolation, checks it, and removes it.\n' +
        'It runs as the workflow restoreVerification; with --here, or while Temporal is away, on this host.\n' +
        'Exit 0 only when it is verified; 10 when it is damaged, 1 when it could not be tried.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .option('--backup <which>', "latest (the default), oldest, random, stalest, or a backup's id or name")
    .option('--rules <name>', 'the rules of this ScheduledVerification; what is given besides wins')
    .addOption(
      new Option('--target <which>', 'the end of the archive, or a random moment').choices(['end', 'random']),
    )
    .option('--target-time <time>', 'as of `restore`')
    .option('--target-lsn <lsn>', 'as of `restore`')
    .option('--target-xid <xid>', 'as of `restore`')
    .option('--target-name <name>', 'as of `restore`')
    .option('--target-immediate', 'as of `restore`')
    .option('--target-timeline <timeline>', "a number, 'latest' or 'current'")
    .option('--exclusive', 'stop just before the target instead of just after it')
    .addOption(new Option('--amcheck <how>', 'check tables and indexes, too').choices(['sample', 'full']))
    .option(
      '--query <json>',
      'a question: {"database":"app","sql":"select …","expect":"t"}',
      collectQuery,
      [],
    )
    .option('--scratch <directory>', "where the copy goes (default: below the worker's state directory)")
    .option('--queue <queue>', 'task queue of the worker that restores (default: the cluster’s)')
    .option('--here', 'without Temporal, on this host')
    .option(
      '--min-free <percent>',
      'with --here: of the scratch file system, what has to stay free, like 20%',
    )
    .option('--deadline <duration>', 'with --here: like 6h')
    .option('--postgres-bin <directory>', "with --here: where PostgreSQL's programs are")
    .addOption(outputOption(['json']))
    .addOption(stateOption())
    .addHelpText('after', EXAMPLES)
    .action(async (argument: string, flags: VerifyFlags) => {
      const reference = parseClusterArgument(argument);
      const namespace = reference.namespace ?? flags.namespace;
      await withHost(flags, async (host) => {
        const verification = await verify(host, { ...flags, namespace }, reference.cluster);
        if (flags.output === 'json') process.stdout.write(`${JSON.stringify(verification)}\n`);
        else process.stdout.write(describeVerification(verification));
        process.exitCode = EXIT_BY_RESULT[verification.result];
      });
    });
}

const EXIT_BY_RESULT = { verified: EXIT.ok, damaged: EXIT.damaged, 'not-tried': EXIT.failed } as const;

const EXAMPLES = `
Examples:
  walkeep verify production-postgres
  walkeep verify production-postgres --backup stalest --target random --amcheck sample --scratch /srv/scratch
  walkeep verify production-postgres --here --scratch /srv/scratch -o json

The same by Temporal alone:
  temporal workflow start --type restoreVerification --task-queue walkeep -w verification/default/production-postgres/by-hand \\
      --input '{"cluster":"production-postgres"}'
`;

async function verify(host: Host, flags: VerifyFlags, cluster: string): Promise<Verification> {
  if (flags.here) return verifyHere(host, flags, cluster);
  let temporal: TemporalClient;
  try {
    temporal = await host.temporal();
  } catch (error) {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    note(`walkeep: ${error.message}; the verification is done on this host`);
    return verifyHere(host, flags, cluster);
  }
  return verifyByTemporal(temporal, flags, cluster);
}

// ---- by Temporal -----------------------------------------------------------------------------------------------------

async function verifyByTemporal(
  temporal: TemporalClient,
  flags: VerifyFlags,
  cluster: string,
): Promise<Verification> {
  const target = targetOf(flags);
  const checks = checksOf(flags);
  const input: RestoreVerificationInput = {
    cluster,
    namespace: flags.namespace,
    ...(flags.rules !== undefined && { scheduledVerification: flags.rules }),
    ...(flags.backup !== undefined && { backup: flags.backup }),
    ...(target !== undefined && { target }),
    ...(checks !== undefined && { checks }),
    ...(flags.queue !== undefined && { queue: flags.queue }),
    ...(flags.scratch !== undefined && { scratchDirectory: flags.scratch }),
  };
  const name = `manual-${new Date().toISOString().replaceAll(/[-:T]/g, '').slice(0, 14)}-${randomUUID().slice(0, 4)}`;
  const handle = await temporal.call('start the verification', (client) =>
    client.workflow.start(WORKFLOW.restoreVerification, {
      workflowId: verificationWorkflowId(flags.namespace, cluster, name),
      taskQueue: WORKFLOW_QUEUE,
      args: [input],
      staticSummary: `verification of ${flags.namespace}/${cluster}`,
    }),
  );
  if (flags.output !== 'json') note(`started ${handle.workflowId}; it goes on without this command`);
  return follow(temporal, handle);
}

const POLL_MS = 700;

/** Shows progress until the run has closed, and gives its result. An outage of Temporal only interrupts the show. */
async function follow(temporal: TemporalClient, handle: WorkflowHandle): Promise<Verification> {
  const bar = createProgressBar();
  let away = false;
  try {
    for (;;) {
      try {
        const description = await temporal.call('look at the verification', () => handle.describe());
        away = false;
        if (description.status.name !== 'RUNNING') break;
        const report = await progressOf(temporal.client, description);
        if (report) bar.update(report);
      } catch (error) {
        if (!isBackupError(error, 'temporal-unavailable')) throw error;
        if (!away)
          note(
            `walkeep: ${error.message}; the verification goes on, this command waits until Temporal is back`,
          );
        away = true;
      }
      await delay(POLL_MS);
    }
    return await temporal.call('read the result', () => handle.result() as Promise<Verification>);
  } catch (error) {
    throw error instanceof WorkflowFailedError ? foreseen(error) : error;
  } finally {
    bar.end();
  }
}

// ---- arguments -------------------------------------------------------------------------------------------------------

function collectQuery(text: string, before: VerifyFlags['query']): VerifyFlags['query'] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // said below
  }
  const fields = typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  const { database, sql, expect } = fields;
  if (typeof database === 'string' && typeof sql === 'string' && typeof expect === 'string')
    return [...before, { database, sql, expect }];
  throw new BackupError('usage', `not a question: ${text.slice(0, 200)}`, {
    hint: `write it like --query '{"database":"app","sql":"select count(*) > 0 from orders","expect":"t"}'`,
  });
}

// ---- what people read ------------------------------------------------------------------------------------------------

/** A verification for the terminal. */
function describeVerification(found: Verification): string {
  const target = [found.target.kind, found.target.value].filter(Boolean).join(' ');
  const reached = [
    found.reachedLsn,
    found.reachedTime,
    found.timeline === undefined ? '' : `timeline ${found.timeline}`,
  ];
  const rows: [string, string | undefined][] = [
    ['backup', [found.backupId, found.backupName].filter(Boolean).join(', ')],
    ['target', target],
    ['reached', reached.filter(Boolean).join(', ')],
    [
      'restored',
      found.contentBytes === undefined
        ? ''
        : `${formatBytes(found.contentBytes)}, and ${found.walSegments ?? 0} WAL segments, with PostgreSQL ${found.postgresVersion ?? '?'}`,
    ],
    [
      'time to recover',
      found.rtoSeconds === undefined
        ? ''
        : `${found.rtoSeconds} s: fetch ${found.fetchSeconds ?? 0}, replay ${found.replaySeconds ?? 0}, start ${found.startSeconds ?? 0}`,
    ],
    ['would be lost', found.rpoSeconds === undefined ? '' : `the last ${found.rpoSeconds} s`],
    ...found.checks.map((check): [string, string] => [
      check.name,
      [check.result, check.object, check.detail].filter(Boolean).join(': '),
    ]),
    ['error', found.error],
    ...found.warnings.map((warning): [string, string] => ['note', warning]),
  ];
  const lines = rows.filter(([, text]) => text !== undefined && text !== '');
  const width = Math.min(24, Math.max(...lines.map(([label]) => label.length)));
  return printable(
    `verification ${found.id} of ${found.namespace}/${found.cluster}: ${found.result}\n` +
      lines.map(([label, text]) => `  ${label.padEnd(width)}  ${text ?? ''}\n`).join(''),
  );
}
