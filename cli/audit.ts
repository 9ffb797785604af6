import { WorkflowFailedError } from '@temporalio/client';
import { Command, Option } from 'commander';
import { join, resolve } from 'node:path';
import { isWhole, openDamages, type AuditReport } from '../core/audit.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { auditArchive, type AuditProgress } from '../operations/audit-archive.ts';
import { openArchiveTarget } from '../operations/cluster-archive.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { repairWal } from '../operations/repair-wal.ts';
import { readControlData } from '../postgres/control-data.ts';
import type { Repository } from '../repository/repository.ts';
import { auditWorkflowId, WORKFLOW, WORKFLOW_QUEUE, type WalAuditInput } from '../workflows/interface.ts';
import { intervalRows, type Row } from './audit-rows.ts';
import { foreseen } from './backup.ts';
import { EXIT } from './exit-codes.ts';
import { findCluster, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { formatBytes, note, printable } from './output.ts';
import { createProgressBar } from './progress.ts';

interface AuditFlags {
  readonly namespace: string;
  readonly read: 'none' | 'new' | 'all';
  readonly repair?: true;
  readonly pgdata?: string;
  readonly state?: string;
  readonly output?: 'json';
}

/** `walkeep audit CLUSTER` */
export function auditCommand(): Command {
  return new Command('audit')
    .summary('what of the archive can be restored to, and what is missing or damaged')
    .description(
      'Looks at the whole archive. It needs the repository and its keys only; with --repair it starts the workflow walAudit,\n' +
        'which sends again what is broken from the pg_wal of the instances. Exit code 10 when something is missing or damaged.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .addOption(
      new Option(
        '--read <what>',
        'how much WAL is read and decoded: what is new since the last audit, or all',
      )
        .choices(['none', 'new', 'all'])
        .default('new'),
    )
    .option('--repair', 'send again what is missing or damaged, from the pg_wal of the instances')
    .option('--pgdata <directory>', 'with --repair: from this data directory on this host, without Temporal')
    .addOption(stateOption())
    .addOption(outputOption(['json']))
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep audit production-postgres\n  walkeep audit production-postgres --read all\n' +
        '  walkeep audit production-postgres --repair\n' +
        '  walkeep audit production-postgres --repair --pgdata /var/lib/postgresql/15/main\n\n' +
        'The same by Temporal alone:\n' +
        '  temporal workflow start --type walAudit --task-queue walkeep -w audit/default/production-postgres \\\n' +
        '      --input \'{"cluster":"production-postgres"}\'\n',
    )
    .action(async (argument: string, flags: AuditFlags) => {
      const reference = parseClusterArgument(argument);
      const namespace = reference.namespace ?? flags.namespace;
      await withHost(flags, async (host) => {
        const report =
          flags.repair && flags.pgdata === undefined
            ? await auditByWorkflow(host, namespace, reference.cluster, flags)
            : await auditHere(host, namespace, reference.cluster, flags);
        process.stdout.write(
          flags.output === 'json'
            ? `${JSON.stringify(report, undefined, 2)}\n`
            : printable(formatAudit(report)),
        );
        if (!isWhole(report)) process.exitCode = EXIT.damaged;
      });
    });
}

/** From the repository alone; and from one data directory of this host, when it is named. */
async function auditHere(
  host: Host,
  namespace: string,
  cluster: string,
  flags: AuditFlags,
): Promise<AuditReport> {
  const { manifest } = await findCluster(host, namespace, cluster);
  const repository = await openClusterRepository(manifest, host.resolver);
  const bar = createProgressBar();
  const signal = new AbortController().signal;
  const onProgress = ({ phase, segmentsRead, storedBytesRead }: AuditProgress) =>
    bar.update({ phase: `${phase} (${segmentsRead} read)`, doneBytes: storedBytesRead, totalBytes: 0 });
  try {
    const found = await auditArchive(repository, { read: flags.read }, { signal, onProgress });
    bar.end();
    if (!flags.repair || flags.pgdata === undefined || openDamages(found.damages).length === 0) return found;
    return await repairHere(host, manifest, repository, { found, pgdata: resolve(flags.pgdata), signal });
  } finally {
    bar.end();
    await repository.close();
  }
}

async function repairHere(
  host: Host,
  manifest: ClusterManifest,
  repository: Repository,
  { found, pgdata, signal }: { found: AuditReport; pgdata: string; signal: AbortSignal },
): Promise<AuditReport> {
  const { repository: target, storage } = await openArchiveTarget(manifest, host.resolver);
  try {
    const repairs = await repairWal(
      {
        ...storage,
        instance: pgdata,
        repository: () => Promise.resolve(target),
        pgWalDirectory: join(pgdata, 'pg_wal'),
        identity: () => readControlData(pgdata),
        alert: (message) => note(`walkeep: ${message}`),
      },
      openDamages(found.damages),
      { signal },
    );
    // Only this data directory was asked; another instance may have what is missing here.
    const unasked = [{ instance: 'other instances', reason: 'only this data directory was looked at' }];
    return await auditArchive(
      repository,
      { read: 'none', round: { repairs, unasked }, readBefore: found.segmentsRead },
      { signal },
    );
  } finally {
    await target.close();
  }
}

async function auditByWorkflow(
  host: Host,
  namespace: string,
  cluster: string,
  { read }: AuditFlags,
): Promise<AuditReport> {
  const temporal = await host.temporal();
  const input: WalAuditInput = { cluster, namespace, read, repair: true };
  const handle = await temporal.call('start the audit', (client) =>
    client.workflow.start(WORKFLOW.walAudit, {
      workflowId: auditWorkflowId(namespace, cluster),
      taskQueue: WORKFLOW_QUEUE,
      args: [input],
      // One that runs answers the same question.
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: `WAL audit of ${namespace}/${cluster}`,
    }),
  );
  note(`waiting for ${handle.workflowId}; it goes on without this command`);
  try {
    return (await handle.result()) as AuditReport;
  } catch (error) {
    throw error instanceof WorkflowFailedError ? foreseen(error) : error;
  }
}

/** The report for people. Pure. */
export function formatAudit(report: AuditReport): string {
  const { newestBackup: backup, newestVerified: verified, newestSegment: segment } = report;
  const lines: Row[] = [
    [
      'Archive',
      `${report.segments} segments, ${formatBytes(report.walBytes)}; ${report.segmentsRead} were read and decoded`,
    ],
    ['Newest segment', segment ? `${segment.name}, stored ${segment.storedAt}` : 'none'],
    [
      'Backups',
      backup
        ? `${report.backups} that can be restored; the newest, ${backup.backupId}, ended ${backup.endedAt}`
        : 'none that can be restored',
    ],
    ...(verified ? [['Proven', `${verified.id}, ${verified.at}`] satisfies Row] : []),
    ...intervalRows(report, 20),
  ];
  const width = Math.max(...lines.map(([label]) => label.length)) + 2;
  const table = lines.map(([label, text]) => `${(label ? `${label}:` : '').padEnd(width)}${text}\n`).join('');
  const notes = report.warnings.map((text) => `note: ${text}\n`).join('');
  return `${table}${notes}\n${verdict(report)}\n`;
}

function verdict(report: AuditReport): string {
  const open = openDamages(report.damages);
  const files = open.reduce((sum, { count }) => sum + count, 0);
  const broken = files === 1 ? '1 file is' : `${files} files are`;
  const found = open.length === 0 ? 'The archive is whole.' : `${broken} missing or damaged.`;
  if (report.needsBackup)
    return `${found} No backup leads to the newest WAL any more: walkeep backup CLUSTER --wait begins a new window.`;
  const canTry = open.some(({ repair }) => repair === undefined || repair === 'not-tried');
  return canTry ? `${found} --repair sends again what the instances still have.` : found;
}
